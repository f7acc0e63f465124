"""Conditions: what is done to a victim's inputs before it is asked again.

A condition is anything with a `name`, a JSON-ready `describe()` and `apply(victim, batch, clean_logits, seed)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from attacks.gradients import Victim
from attacks.losses import Goal
from attacks.pgd import PGD, AttackResult, pgd
from attacks.threat import Ball
from robust.evaluation.seeds import generators_for
from robust.types import Batch, Outcome


class Condition(Protocol):
    """Something done to inputs under a declared budget."""

    @property
    def name(self) -> str:
        """Short name, part of every derived seed."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON; hashed to tell whether a run can be resumed."""

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The changed inputs, and columns for the records."""


@dataclass(frozen=True)
class Attack:
    """PGD within a budget for each modality; only clips that the victim has right are attacked (multiclass).

    Attributes:
        threat: Modality -> budget.
        config: Settings of the attack.
        target: Index of the class the attacker wants to see; clips already of it are left out. None: any wrong one.
    """

    threat: Mapping[str, Ball]
    config: PGD = field(default_factory=PGD)
    target: int | None = None
    name: str = "attack"

    def describe(self) -> dict[str, Any]:
        """Budget and settings."""
        config = {**asdict(self.config), "search_dtype": str(self.config.search_dtype)}
        budgets = {
            name: {"norm": ball.norm, "radius": torch.as_tensor(ball.radius).tolist(), "unit": ball.unit}
            for name, ball in self.threat.items()
        }
        return {"condition": self.name, "threat": budgets, "config": config, "target": self.target}

    def goal(self, labels: Tensor) -> Goal:
        """The goal of a batch with these labels."""
        if self.target is None:
            return Goal(labels)
        if labels.ndim == 1:
            return Goal(labels, torch.full_like(labels, self.target))
        wanted = torch.zeros_like(labels)
        wanted[:, self.target] = 1
        return Goal(labels, wanted)

    def eligible(self, labels: Tensor, clean_logits: Tensor) -> Tensor:
        """(B,) bool: clips worth attacking: right at first, and not of the target class."""
        if labels.ndim == 2:
            return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        right = clean_logits.argmax(dim=1) == labels
        return right if self.target is None else right & (labels != self.target)

    def run(self, victim: Victim, batch: Batch, rows: Tensor, seed: int) -> AttackResult:
        """Attacks the clips `rows` of a batch."""
        chosen = [batch.ids[row] for row in rows.tolist()]
        return pgd(
            victim,
            {name: value[rows] for name, value in batch.inputs.items()},
            self.goal(batch.labels).select(rows),
            {name: _rows_of(ball, rows) for name, ball in self.threat.items()},
            config=self.config,
            valid={name: mask[rows] for name, mask in batch.valid.items()},
            generators=generators_for(seed, chosen, self.name),
        )

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """Adversarial inputs with their audit; clips that were not attacked stay as they are."""
        count, inputs = len(batch), dict(batch.inputs)
        attacked = self.eligible(batch.labels, clean_logits)
        rows = attacked.nonzero()[:, 0]
        forwards, backwards = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        late_gain, success = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
        if len(rows):
            result = self.run(victim, batch, rows, seed)
            for name in self.threat:
                inputs[name] = inputs[name].index_copy(0, rows, result.inputs[name])
            place = rows.cpu()
            forwards[place], backwards[place] = result.forwards.cpu(), result.backwards.cpu()
            late_gain[place], success[place] = _late_gain(result.trace).cpu(), result.broken.cpu()
        columns: dict[str, Any] = {
            "attacked": attacked.cpu().tolist(),
            "success": success.tolist(),
            "forwards": forwards.tolist(),
            "backwards": backwards.tolist(),
            "late_gain": late_gain.tolist(),
            **self._audited(batch, inputs),
        }
        return Outcome(inputs, columns)

    def _audited(self, batch: Batch, inputs: Mapping[str, Tensor]) -> dict[str, list[Any]]:
        """Realised sizes by modality, measured anew from what the attack returned."""
        columns: dict[str, list[Any]] = {}
        violated = torch.zeros(len(batch), dtype=torch.bool)
        reasons: set[str] = set()
        for name, ball in self.threat.items():
            region = ball.around(batch.inputs[name], batch.valid.get(name))
            found = region.audit(inputs[name])
            for size in ("linf", "l2", "l1", "snr_db", "ratio"):
                columns[f"{size}_{name}"] = getattr(found, size).cpu().tolist()
            columns[f"radius_{name}"] = region.radius.cpu().tolist()
            kept = batch.inputs[name] * batch.valid[name]
            columns[f"energy_{name}"] = kept.flatten(1).double().norm(dim=1).cpu().tolist()
            columns[f"valid_{name}"] = batch.valid[name].expand_as(kept).flatten(1).sum(dim=1).cpu().tolist()
            violated |= found.violated.cpu()
            reasons |= {f"{name}: {reason}" for reason in found.reasons}
        columns["violated"] = violated.tolist()
        columns["violation"] = ["; ".join(sorted(reasons)) if bad else "" for bad in violated.tolist()]
        return columns


def with_radius(attack: Attack, factor: float) -> Attack:
    """The same attack with every radius times `factor` in input units."""
    scaled = {}
    for name, ball in attack.threat.items():
        shift = {"dbfs": 20.0, "snr_db": -20.0}.get(ball.unit)
        if shift is not None and factor > 0:
            radius = torch.as_tensor(ball.radius) + shift * torch.log10(torch.tensor(factor))
            scaled[name] = replace(ball, radius=radius)
        elif shift is not None:
            scaled[name] = replace(ball, radius=0.0, unit="amplitude")
        else:
            scaled[name] = replace(ball, radius=torch.as_tensor(ball.radius) * factor)
    return replace(attack, threat=scaled)


def _rows_of(ball: Ball, rows: Tensor) -> Ball:
    radius = torch.as_tensor(ball.radius)
    return ball if radius.ndim == 0 else replace(ball, radius=radius[rows.cpu()])


def _late_gain(trace: Tensor) -> Tensor:
    """(B,) share of all the loss gained that came in the last ten steps; 0 where nothing was gained."""
    total = (trace[:, -1] - trace[:, 0]).double()
    late = (trace[:, -1] - trace[:, max(trace.shape[1] - 11, 0)]).double()
    return torch.where(total > 0, late / total.clamp_min(1e-12), 0.0)
