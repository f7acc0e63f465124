"""A cell of a study with everything it names opened, and what several kinds make of its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attacks.inaudible import Inaudible
from attacks.pgd import PGD
from robust.atomic import Folder
from robust.evaluation.conditions import Attack
from robust.study import conditions as kinds
from robust.threats import posed, threat_model
from robust.types import Dataset
from robust.victims import Victim


@dataclass(frozen=True)
class Opened:
    """A cell with everything it names opened.

    Attributes:
        victim, data: What is tested on what.
        condition: By what.
        seed: Of all randomness.
        facts: Entries for the manifest.
        folder: Where the run goes.
        training: Opens clips of the train split, so many.
        others: Role -> further victims.
    """

    victim: Victim
    data: Dataset
    condition: kinds.Condition
    seed: int
    facts: Mapping[str, Any]
    folder: Folder
    training: Callable[[int], Dataset]
    others: Mapping[str, Victim] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """Which input is meant; the victim's first unless said."""
        return self.condition.modality or self.victim.spec.modalities[0]

    def attack(self, condition: kinds.SurfaceKind | kinds.LatentsKind) -> Attack:
        """The attack of a kind that needs one."""
        victim, _ = posed(self.victim, self.data, self.modality)
        threat = threat_model(victim, self.modality, condition.norm, condition.eps)
        return Attack(threat.balls, PGD(steps=condition.steps), packing=threat.packing)


def optimised(
    cell: Opened, asked: kinds.AttackKind | kinds.CurveKind | kinds.AirKind | kinds.PurifyKind
) -> dict[str, Any]:
    """What all attacks by PGD take alike."""
    return {
        "norm": asked.norm,
        "eps": asked.eps,
        "unit": asked.unit,
        "modality": cell.modality,
        "config": PGD(
            steps=asked.steps,
            restarts=asked.restarts,
            loss=asked.loss,
            schedule=asked.schedule,
            search_dtype=torch.bfloat16 if asked.precision == "bf16" else None,
        ),
        "checks": asked.checks,
        "seed": cell.seed,
        "out": cell.folder,
        "resume": True,
        "facts": cell.facts,
    }


def hiding(steps: int) -> Inaudible | None:
    """The second stage of an attack; none without steps."""
    return Inaudible(steps=steps) if steps else None
