"""Attacks on the bare victim, kept: several purifiers before one victim meet the very same ones."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import fields
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attacks.losses import Goal
from attacks.pgd import AttackResult
from robust.evaluation.purifier_attacks import rows_of
from robust.types import Batch

TransferMemory: TypeAlias = MutableMapping[str, AttackResult]
"""Id of a clip -> what the transfer attack found for it alone. Of one victim, data set, budget, attack and seed."""


def recalled(
    memory: TransferMemory, batch: Batch, goal: Goal, run: Callable[[Batch, Goal], AttackResult]
) -> AttackResult:
    """The result of `run` on a batch, run only for clips that are not in `memory`, which takes them in."""
    new = [row for row, clip in enumerate(batch.ids) if clip not in memory]
    if new:
        rows = torch.tensor(new, device=goal.labels.device)
        found = run(rows_of(batch, rows), goal.select(rows))
        memory.update({batch.ids[row]: _row(found, place) for place, row in enumerate(new)})
    kept = [memory[clip] for clip in batch.ids]
    return AttackResult(**{one.name: _joined([getattr(each, one.name) for each in kept]) for one in fields(kept[0])})


def _row(found: AttackResult, place: int) -> AttackResult:
    """Of one example."""
    return AttackResult(**{one.name: _part(getattr(found, one.name), place) for one in fields(found)})


def _part(value: Any, place: int) -> Any:
    if isinstance(value, dict):
        return {name: _part(own, place) for name, own in value.items()}
    return value[place : place + 1].clone()


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _joined([value[name] for value in values]) for name in values[0]}
    joined: Tensor = torch.cat(values)
    return joined


__all__ = ["TransferMemory", "recalled"]
