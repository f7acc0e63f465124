"""The examples that an attack still works on, and where each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from attacks.losses import Goal
from attacks.projections import per_example
from attacks.threat import Region


@dataclass
class Walk:
    """The active examples of a batch; every tensor has one row for each.

    Attributes:
        rows: (A,) int64 places of the active examples in the batch.
        goal: What is wanted of each.
        regions: Modality -> where the attacker may go.
        fixed: Modality -> input that is not attacked.
        point: Modality -> (A, ...) where each example stands.
        gradient: Modality -> (A, ...) gradient of the loss there.
        loss: (A,) loss there.
        best_loss: (A,) highest loss so far.
        best_point, best_gradient: Modality -> where that was and the gradient there; empty unless a schedule goes back.
    """

    rows: Tensor
    goal: Goal
    regions: dict[str, Region]
    fixed: dict[str, Tensor]
    point: dict[str, Tensor]
    gradient: dict[str, Tensor]
    loss: Tensor
    best_point: dict[str, Tensor]
    best_gradient: dict[str, Tensor]
    best_loss: Tensor

    @classmethod
    def begin(
        cls,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        regions: dict[str, Region],
        start: dict[str, Tensor],
        rows: Tensor,
        *,
        remember: bool,
    ) -> Walk:
        """A walk of the examples `rows` of a batch, standing at `start` (one row for each of them).

        Remembering the best point costs a few per cent of a step; only schedules that go back to it need to.
        """
        worst = torch.full((len(rows),), -torch.inf, device=rows.device)
        return cls(
            rows=rows,
            goal=goal.select(rows),
            regions={name: region.select(rows) for name, region in regions.items()},
            fixed={name: value[rows] for name, value in inputs.items() if name not in regions},
            point=start,
            gradient={name: torch.zeros_like(value) for name, value in start.items()},
            loss=worst,
            best_point=dict(start) if remember else {},
            best_gradient={name: torch.zeros_like(value) for name, value in start.items()} if remember else {},
            best_loss=worst,
        )

    def inputs(self) -> dict[str, Tensor]:
        """What the victim sees now, in every modality."""
        return {**self.fixed, **self.point}

    def arrive(self, loss: Tensor, gradient: dict[str, Tensor]) -> None:
        """Notes the loss and gradient at the present point, and whether it is the best so far."""
        better = loss > self.best_loss
        self.loss, self.gradient = loss, gradient
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best_point = _replace(self.best_point, self.point, better)
        self.best_gradient = _replace(self.best_gradient, gradient, better)

    def return_to_best(self, which: Tensor) -> None:
        """Sends the examples marked in `which` (A,) back to their best point."""
        self.point = _replace(self.point, self.best_point, which)
        self.gradient = _replace(self.gradient, self.best_gradient, which)
        self.loss = torch.where(which, self.best_loss, self.loss)

    def select(self, index: Tensor) -> Walk:
        """The walk of the examples at `index` alone."""
        return Walk(**{field.name: take(getattr(self, field.name), index) for field in fields(self)})

    def __len__(self) -> int:
        return len(self.rows)


def take(state: Any, index: Tensor) -> Any:
    """Rows `index` of a tensor, of anything with `select`, or of every value of a mapping."""
    if isinstance(state, dict):
        return {name: take(value, index) for name, value in state.items()}
    if isinstance(state, Tensor):
        return state[index]
    return state.select(index)


def _replace(old: dict[str, Tensor], new: dict[str, Tensor], which: Tensor) -> dict[str, Tensor]:
    return {name: torch.where(per_example(which, old[name]), new[name], old[name]) for name in old}
