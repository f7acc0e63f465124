"""Conditions: what is done to a victim's inputs before it is asked again.

A condition is anything with a `name`, a JSON-ready `describe()` and `apply(victim, batch, clean_logits, seed)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from attacks.audit import ORDERS
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim, frozen
from attacks.inaudible import Inaudible, hide
from attacks.joint import Packing
from attacks.losses import Goal, label_appears, top_label_gone
from attacks.perturbations import truncate
from attacks.pgd import PGD, AttackResult, around, pgd
from attacks.projections import lengths
from attacks.supports import Support, out_of_support
from attacks.threat import Ball
from robust.channels import spec_of
from robust.evaluation.perception import heard
from robust.metrics.perceptual_extra import available
from robust.seeds import generators_for
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
class Unchanged:
    """Nothing is done: the score as it is."""

    name: str = "clean"

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"condition": self.name}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The inputs as they are."""
        return Outcome(batch.inputs, {})


SUCCESS = {
    "all-gone": "every true label falls below 0; the attack minds no other",
    "top-gone": "the true label the victim was surest of falls below 0",
    "appears": "the target label rises above 0 (the default with a target)",
    "only": "the target label rises above 0 and every other falls below",
}
"""When an attack on a clip with many labels has succeeded. With neither rule nor target the attack is on the ranking
of all labels (mAP), and success is told as `all-gone`."""


@dataclass(frozen=True)
class Attack:
    """PGD within a budget for each modality; only clips that the victim has right are attacked (multiclass).

    Attributes:
        threat: Modality -> budget.
        config: Settings of the attack.
        target: Index of the class the attacker wants to see; clips already of it are left out. None: any wrong one.
        success: With many labels a clip, a name from `SUCCESS`.
        packing: How modalities were packed into `joint`, so that records tell of each.
        cut: Cut the perturbation of the one modality attacked down to this support afterwards (methods.md 1.4).
        rescale: After a cut, scale what is left up to the radius.
        inaudible: A second stage on the one waveform attacked: what broke a clip is hidden under what the clip masks.
        speech: Records hold PESQ and STOI, too.
    """

    threat: Mapping[str, Ball]
    config: PGD = field(default_factory=PGD)
    target: int | None = None
    name: str = "attack"
    success: str | None = None
    packing: Packing | None = None
    cut: Support | None = None
    rescale: bool = False
    inaudible: Inaudible | None = None
    speech: bool = False

    def __post_init__(self) -> None:
        if self.success is not None and self.success not in SUCCESS:
            raise ThreatModelError(unknown("success", self.success, SUCCESS))
        if self.success is not None and (self.success in ("appears", "only")) != (self.target is not None):
            raise ThreatModelError(
                f"success={self.success!r} {'needs' if self.target is None else 'goes without'} a target class."
            )
        if self.cut is not None and len(self.threat) > 1:
            raise ThreatModelError("A cut belongs to one modality; attack that one alone.")
        if self.speech and not available():
            raise ThreatModelError("PESQ and STOI need their libraries: pip install 'robust-audio[perceptual]'.")
        if self.inaudible is not None and (len(self.threat) > 1 or self.packing is not None or self.cut is not None):
            raise ThreatModelError("What is to be inaudible is one waveform, attacked alone and without a cut.")

    def describe(self) -> dict[str, Any]:
        """Budget and settings."""
        config = {**asdict(self.config), "search_dtype": str(self.config.search_dtype)}
        budgets = {name: described(ball) for name, ball in self.threat.items()}
        told = {"condition": self.name, "threat": budgets, "config": config, "target": self.target}
        if self.success is not None:
            told["success"] = self.success
        if self.packing is not None:
            told["scale"] = {name: self.packing.scale_of(name) for name in self.packing.shapes}
        if self.cut is not None:
            told |= {"cut": repr(self.cut), "rescale": self.rescale}
        if self.inaudible is not None:
            told["inaudible"] = asdict(self.inaudible)
        if self.speech:
            told["speech"] = True
        return told

    def goal(self, labels: Tensor, clean_logits: Tensor | None = None) -> Goal:
        """The goal of a batch with these labels; `top-gone` asks for the clean logits."""
        if labels.ndim == 1:
            if self.success is not None:
                raise ThreatModelError("success is for victims of many labels a clip; this one has one label a clip.")
            return Goal(labels, None if self.target is None else torch.full_like(labels, self.target))
        if self.target is None:
            if self.success is None:
                return Goal(labels)
            if self.success == "all-gone":
                present = labels > 0
                return Goal(labels, watched=present | ~present.any(dim=1, keepdim=True))
            if clean_logits is None:
                raise ThreatModelError("success 'top-gone' needs the clean logits to know which label is on top.")
            return top_label_gone(labels, clean_logits)
        if self.success != "only":
            return label_appears(labels, self.target)
        wanted = torch.zeros_like(labels)
        wanted[:, self.target] = 1
        return Goal(labels, wanted)

    def eligible(self, labels: Tensor, clean_logits: Tensor) -> Tensor:
        """(B,) bool: clips worth attacking: right at first, and not of the target class."""
        if labels.ndim == 2:
            if self.success is None and self.target is None:  # the score (mAP) goes on falling
                return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
            return ~self.goal(labels, clean_logits).broken(clean_logits)
        right = clean_logits.argmax(dim=1) == labels
        return right if self.target is None else right & (labels != self.target)

    def run(self, victim: Victim, batch: Batch, rows: Tensor, seed: int) -> AttackResult:
        """Attacks the clips `rows` of a batch."""
        chosen = [batch.ids[row] for row in rows.tolist()]
        inputs = {name: value[rows] for name, value in batch.inputs.items()}
        valid = {name: mask[rows] for name, mask in batch.valid.items()}
        oracle = Oracle(victim, len(rows), rows.device)
        every = torch.arange(len(rows), device=rows.device)
        clean = oracle.logits(inputs, every) if self.success == "top-gone" else None
        goal = self.goal(batch.labels[rows], clean)
        balls = {name: _rows_of(ball, rows) for name, ball in self.threat.items()}
        generators = generators_for(seed, chosen, self.name)
        found = pgd(victim, inputs, goal, balls, config=self.config, valid=valid, generators=generators)
        if self.inaudible is not None:
            self.hidden(Oracle(victim, len(rows), rows.device), victim, inputs, goal, balls, valid, found)
        if self.cut is not None:
            (name, ball), *_ = balls.items()
            kept = replace(ball, support=self.cut)
            found.inputs[name] = truncate(
                inputs[name], found.inputs[name], kept, valid=valid.get(name), rescale=self.rescale
            )
            found.broken = goal.broken(oracle.logits(found.inputs, every))
        return found

    def hidden(
        self,
        oracle: Oracle,
        victim: Victim,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        threat: Mapping[str, Ball],
        valid: Mapping[str, Tensor],
        found: AttackResult,
    ) -> None:
        """The second stage, on what the first one found; `found` is changed.

        Raises:
            ThreatModelError: If the victim does not say at what rate it hears.
        """
        modality = next(iter(threat))
        rate = spec_of(victim, "an inaudible attack").sample_rate
        region = around(inputs, threat, valid)[modality]
        with frozen(victim):
            result = hide(oracle, found.inputs, goal, region, rate, modality=modality, config=self.inaudible)
        found.inputs, found.broken = result.inputs, result.broken
        found.forwards, found.backwards = found.forwards + result.forwards, found.backwards + result.backwards

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
            **audited(self.threat, batch, inputs),
            **self._parts(batch, inputs),
            **heard(victim, batch, inputs, speech=self.speech),
        }
        return Outcome(inputs, columns)

    def _parts(self, batch: Batch, inputs: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Of a joint budget: what went into each modality, in its own units."""
        if self.packing is None:
            return {}
        before, after = self.packing.split(batch.inputs), self.packing.split(inputs)
        columns = {}
        for name in self.packing.shapes:
            delta = (after[name].double() - before[name].double()).flatten(1)
            for norm, order in ORDERS.items():
                columns[f"{norm}_{name}"] = lengths(delta, order).cpu().tolist()
        return columns


def described(ball: Ball) -> dict[str, Any]:
    """A budget as JSON."""
    radius = torch.as_tensor(ball.radius, dtype=torch.float64).tolist()
    support = {} if ball.support is None else {"support": repr(ball.support)}
    return {"norm": ball.norm, "radius": radius, "unit": ball.unit, **support}


def audited(threat: Mapping[str, Ball], batch: Batch, inputs: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Columns of realised sizes by modality, measured anew from what a condition returned."""
    return audited_within(threat, batch, inputs, torch.ones(len(batch), dtype=torch.float64))


def audited_within(
    threat: Mapping[str, Ball], batch: Batch, inputs: Mapping[str, Tensor], scale: Tensor
) -> dict[str, list[Any]]:
    """The same against `scale` (B,) times each budget."""
    columns: dict[str, list[Any]] = {}
    violated = torch.zeros(len(batch), dtype=torch.bool)
    reasons: set[str] = set()
    for name, ball in threat.items():
        valid = batch.valid.get(name)
        radius = ball.radius_amplitude(batch.inputs[name], valid)
        region = ball.region(batch.inputs[name], valid, radius * scale.to(radius))
        found = region.audit(inputs[name])
        for size in ("linf", "l2", "l1", "snr_db", "ratio"):
            columns[f"{size}_{name}"] = getattr(found, size).cpu().tolist()
        columns[f"radius_{name}"] = region.radius.cpu().tolist()
        kept = batch.inputs[name] * batch.valid[name]
        columns[f"energy_{name}"] = kept.flatten(1).double().norm(dim=1).cpu().tolist()
        columns[f"valid_{name}"] = batch.valid[name].expand_as(kept).flatten(1).sum(dim=1).cpu().tolist()
        if ball.support is not None:
            delta = inputs[name].double() - batch.inputs[name].double()
            columns[f"outside_{name}"] = out_of_support(delta, ball.support).cpu().tolist()
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
