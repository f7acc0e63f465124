"""Universal perturbations: one for a whole data set, fitted on some clips and applied to others.

After every update the perturbation is projected on its ball, so that its realised norm never exceeds the radius; the
author's algorithm without that projection is in `attacks/legacy.py`.

Sources: Moosavi-Dezfooli et al. 2017; Shafahi et al. 2020 (projected ascent on the loss summed over clips; clipping it,
as they do, made no difference here); methods.md 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.audit import Bound
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, find_loss
from attacks.region import check_range
from attacks.threat import Ball
from attacks.universal_delta import (
    Batches,
    Clips,
    apply_universal,
    delta_region,
    fitting_ranges,
    follows,
    random_universal,
)


@dataclass(frozen=True)
class Universal:
    """Settings of the fit.

    Attributes:
        epochs: Passes over the fitting clips.
        rel_step: First step over the radius; it falls to 0 by a cosine over the epochs.
        momentum: Decay of the accumulated gradient.
        clips_per_step: Clips whose gradients are averaged for one update, however they are batched; what is left over
            at the end of an epoch makes a shorter step in proportion.
        loss: A name from `attacks.losses.LOSSES`; when None `margin` for one label a clip, `label-margin` for many.
        clamp_delta: Keep the perturbation so small that no fitting clip leaves its data range (the author's "delta
            force", methods.md 1.3 step 7); otherwise each clip is clamped when the perturbation is applied.
        random_start: Start at a random point of the ball, not at zero: from zero a log front end has no gradient where
            clips are digitally silent.
        sparsity: Share of coordinates moved by an L1 step.
    """

    epochs: int = 20
    rel_step: float = 1.0
    momentum: float = 0.9
    clips_per_step: int = 32
    loss: str | None = None
    clamp_delta: bool = False
    random_start: bool = True
    sparsity: float = 0.05

    def __post_init__(self) -> None:
        if self.loss is not None:
            find_loss(self.loss)
        for name in ("epochs", "clips_per_step"):
            if getattr(self, name) < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {getattr(self, name)}.")
        for name in ("rel_step", "sparsity"):
            if not getattr(self, name) > 0:
                raise ThreatModelError(f"{name} must be above 0; given {getattr(self, name)}.")
        if not 0 <= self.momentum < 1:
            raise ThreatModelError(f"momentum must be from 0 to below 1; given {self.momentum}.")


@dataclass(frozen=True)
class UniversalResult:
    """One perturbation for all clips, by modality.

    Attributes:
        delta: Modality -> float32 in the shape of one example; add it with `apply_universal`.
        norm: Modality -> norm of its budget.
        radius: Modality -> nominal radius, input units.
        realised: Modality -> norm that it has, float64.
        trace: Mean loss over the fitting clips in each epoch, while it was being fitted.
        forwards, backwards: Passes spent, summed over clips.
        legacy: Made by the author's algorithm, which does not keep to the radius (`attacks/legacy.py`).
    """

    delta: dict[str, Tensor]
    norm: dict[str, str]
    radius: dict[str, float]
    realised: dict[str, float]
    trace: list[float]
    forwards: int
    backwards: int
    legacy: bool = False


def fit_universal(
    victim: Victim,
    batches: Batches,
    threat: Mapping[str, Ball],
    *,
    config: Universal | None = None,
    generator: torch.Generator | None = None,
) -> UniversalResult:
    """Fits one perturbation, of one or several modalities, to all clips of `batches`.

    The result does not depend on how clips are batched, and memory holds one batch at a time.

    Args:
        victim: Maps modalities to logits (B, K), differentiably.
        batches: Called once for each epoch (once more with `clamp_delta`); every call gives the same clips.
        threat: Modality -> budget; one radius for all clips, in any unit but `snr_db`. A support holds.
        config: Settings.
        generator: Of the random start, on the CPU; seeded 0 when absent.

    Raises:
        ThreatModelError: If there are no clips, or a budget cannot hold for them.
    """
    config = config or Universal()
    limits = fitting_ranges(batches, threat) if config.clamp_delta else None
    fit: _Fit | None = None
    with frozen(victim):
        for epoch in range(config.epochs):
            for inputs, goal, valid in batches():
                if len(goal.labels) == 0:
                    continue
                if fit is None:
                    fit = _Fit(victim, inputs, threat, config, limits, generator)
                fit.learn(inputs, goal, valid, epoch)
            if fit is None:
                raise ThreatModelError("A universal perturbation needs clips to be fitted to; there are none.")
            fit.end_epoch(epoch)
    assert fit is not None  # there was an epoch
    return fit.result()


class _Fit:
    """The perturbation as it stands, and gradients gathered for its next update."""

    def __init__(
        self,
        victim: Victim,
        inputs: Mapping[str, Tensor],
        threat: Mapping[str, Ball],
        config: Universal,
        limits: Mapping[str, tuple[Tensor, Tensor]] | None,
        generator: torch.Generator | None,
    ) -> None:
        self.victim, self.config, self.threat = victim, config, threat
        for name in threat:
            if name not in inputs:
                raise ThreatModelError(unknown("modality in the threat model", name, inputs))
        self.regions = {
            name: delta_region(ball, inputs[name], None if limits is None else limits[name])
            for name, ball in threat.items()
        }
        source = generator or torch.Generator().manual_seed(0)
        self.delta = {
            name: region.sample([source]) if config.random_start else region.clean.clone()
            for name, region in self.regions.items()
        }
        self.velocity = {name: torch.zeros_like(delta) for name, delta in self.delta.items()}
        self.gathered = {name: torch.zeros_like(delta, dtype=torch.float64) for name, delta in self.delta.items()}
        self.count, self.losses, self.seen = 0, 0.0, 0
        self.trace: list[float] = []
        self.forwards = self.backwards = 0

    def learn(self, inputs: Mapping[str, Tensor], goal: Goal, valid: Mapping[str, Tensor], epoch: int) -> None:
        """Gathers the gradients of a batch, and updates whenever enough clips are in."""
        total, start = len(goal.labels), 0
        while start < total:
            rows = torch.arange(start, min(total, start + self.config.clips_per_step - self.count))
            rows = rows.to(goal.labels.device)
            self._gather(_rows(inputs, rows), goal.select(rows), _rows(valid, rows))
            start += len(rows)
            if self.count == self.config.clips_per_step:
                self._update(epoch, share=1.0)

    def _gather(self, inputs: Mapping[str, Tensor], goal: Goal, valid: Mapping[str, Tensor]) -> None:
        rows = torch.arange(len(goal.labels), device=goal.labels.device)
        oracle = Oracle(self.victim, len(rows), rows.device)
        loss = find_loss(self.config.loss or ("label-margin" if goal.multilabel else "margin"))
        for name in self.delta:
            check_range(inputs[name], *self._range(name))
        points = {
            name: apply_universal(inputs[name], delta[0], *self._range(name), valid=valid.get(name))
            for name, delta in self.delta.items()
        }
        _, losses, gradients = oracle.gradients({**inputs, **points}, goal, loss, rows, self.delta)
        for name, gradient in gradients.items():
            useful = gradient * follows(inputs[name], self.delta[name], *self._range(name), valid.get(name))
            self.gathered[name] += useful.double().sum(dim=0, keepdim=True)
        self.count += len(rows)
        self.seen += len(rows)
        self.losses += float(losses.nan_to_num(0.0, 0.0, 0.0).double().sum())
        self.forwards += int(oracle.forwards.sum())
        self.backwards += int(oracle.backwards.sum())

    def _update(self, epoch: int, share: float) -> None:
        """One step along the mean gradient, of a share of its length, and projection on the ball."""
        decay = 0.5 * (1 + math.cos(math.pi * epoch / self.config.epochs))
        for name, region in self.regions.items():
            mean = (self.gathered[name] / self.count).to(region.clean.dtype)
            size = mean.abs().mean().clamp_min(1e-30)
            velocity = self.config.momentum * self.velocity[name] + share * mean / size
            self.velocity[name] = velocity
            step = share * decay * self.config.rel_step * region.radius
            sparsity = torch.full((1,), self.config.sparsity, device=region.clean.device)
            self.delta[name] = region.ascend(self.delta[name], velocity, step, sparsity)
            self.gathered[name].zero_()
        self.count = 0

    def end_epoch(self, epoch: int) -> None:
        """Uses what is left over, and notes the mean loss."""
        if self.count:
            self._update(epoch, share=self.count / min(self.config.clips_per_step, self.seen))
        self.trace.append(self.losses / self.seen)
        self.losses, self.seen = 0.0, 0

    def _range(self, name: str) -> tuple[Bound, Bound]:
        return self.threat[name].low, self.threat[name].high

    def result(self) -> UniversalResult:
        """What has been fitted."""
        return UniversalResult(
            delta={name: delta[0] for name, delta in self.delta.items()},
            norm={name: region.norm for name, region in self.regions.items()},
            radius={name: float(region.radius) for name, region in self.regions.items()},
            realised={name: float(region.size(self.delta[name])) for name, region in self.regions.items()},
            trace=self.trace,
            forwards=self.forwards,
            backwards=self.backwards,
        )


def _rows(values: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in values.items()}


__all__ = ["Batches", "Clips", "Universal", "UniversalResult", "apply_universal", "fit_universal", "random_universal"]
