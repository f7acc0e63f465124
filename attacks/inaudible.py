"""Attacks that hide under what a clip masks: first break it, then make it quiet where an ear would notice.

Stage 1 is any attack inside a ball. Stage 2 stays in the ball and descends on the loss of the attack plus alpha times
the masking loss (`attacks.masking`); alpha grows while the clip is broken and falls while it is not, and of all points
at which it was broken the one that exceeds the masking threshold least is kept.

Source: Qin et al. 2019, section 3 and appendix; methods.md 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, margin
from attacks.masking import MaskingThreshold, masking_loss, threshold
from attacks.pgd import PGD, around, pgd
from attacks.projections import per_example
from attacks.region import Region
from attacks.threat import Ball

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam."""
LSB16 = 2.0**-15
"""A step of 16-bit audio."""


@dataclass(frozen=True)
class Inaudible:
    """Settings of stage 2; those of alpha are Qin's.

    Attributes:
        steps: Of Adam.
        rel_step: Step of Adam over the radius (a norm of the ball: with L2 and L1 give less); a tenth of it in the
            last quarter of the steps.
        confidence: The attack pulls until the margin of its goal is so many logits, and lets go.
        alpha: Weight of the masking loss at first.
        alpha_lowest: It does not fall below.
        raised, raise_every: Factor of alpha on clips that are broken at every so many steps.
        lowered, lower_every: The same on those that are not.
    """

    steps: int = 300
    rel_step: float = 0.02
    confidence: float = 0.5
    alpha: float = 0.05
    alpha_lowest: float = 0.0005
    raised: float = 1.2
    raise_every: int = 20
    lowered: float = 0.8
    lower_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "raise_every", "lower_every"):
            if getattr(self, name) < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {getattr(self, name)}.")
        for name in ("rel_step", "alpha", "alpha_lowest"):
            if not getattr(self, name) > 0:
                raise ThreatModelError(f"{name} must be above 0; given {getattr(self, name)}.")
        if not self.confidence >= 0:
            raise ThreatModelError(f"confidence must not be negative; given {self.confidence}.")
        if not self.raised >= 1 or not 0 < self.lowered <= 1:
            raise ThreatModelError(
                f"raised must be 1 or more and lowered above 0 up to 1; given {self.raised} and {self.lowered}."
            )


@dataclass(frozen=True)
class InaudibleResult:
    """What was found for each example of a batch.

    Attributes:
        inputs: Modality -> (B, ...) adversarial inputs; clips that stage 1 did not break are as it left them.
        broken: (B,) bool.
        broken_16_bit: (B,) bool: still so when the waveform is rounded to 16-bit audio.
        masking_before, masking_after: (B,) masking loss after stage 1 and at the end; never more than before.
        alpha: (B,) weight of the masking loss at the end.
        forwards, backwards: (B,) int64 passes spent; by `inaudible`, in both stages.
    """

    inputs: dict[str, Tensor]
    broken: Tensor
    broken_16_bit: Tensor
    masking_before: Tensor
    masking_after: Tensor
    alpha: Tensor
    forwards: Tensor
    backwards: Tensor


def inaudible(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    sample_rate: int,
    *,
    first: PGD | None = None,
    config: Inaudible | None = None,
    valid: Mapping[str, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> InaudibleResult:
    """Both stages, the first by PGD.

    Args:
        victim: Maps modalities to logits (B, K), differentiably.
        inputs: Modality -> (B, ...) clean inputs.
        goal: Labels, and targets if the attack is targeted.
        threat: One modality, a waveform (B, T), -> budget; a band of frequencies as its support holds in both stages.
        sample_rate: Hz.
        first: Settings of stage 1.
        config: Settings of stage 2.
        valid: Modality -> bool mask of what is not padding.
        generators: One for each example, for stage 1.

    Raises:
        ThreatModelError: If the budget is not of one waveform, or cannot hold.
    """
    modality = _waveform(inputs, threat)
    found = pgd(victim, inputs, goal, threat, config=first, valid=valid, generators=generators)
    regions = around(inputs, threat, valid or {})
    oracle = Oracle(victim, len(goal.labels), goal.labels.device)
    with frozen(victim):
        result = hide(oracle, found.inputs, goal, regions[modality], sample_rate, modality=modality, config=config)
    result.forwards.add_(found.forwards)
    result.backwards.add_(found.backwards)
    return result


def hide(
    oracle: Oracle,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    region: Region,
    sample_rate: int,
    *,
    modality: str = "audio",
    config: Inaudible | None = None,
) -> InaudibleResult:
    """Stage 2, from wherever stage 1 ended.

    Args:
        oracle: Of a frozen victim, or of one heard through a channel (`attacks.eot.ExpectedOracle`), whose channel is
            then the one in which clips stay broken; masking is always by the clip as it was.
        inputs: Modality -> (B, ...) as stage 1 left them, inside the region.
        goal: Of the attack.
        region: Around the clean clips, whose waveforms mask; nothing leaves it.
        sample_rate: Hz.
        modality: The waveform.
        config: Settings.
    """
    config = config or Inaudible()
    heard = threshold(region.clean, sample_rate)
    rows = torch.arange(len(goal.labels), device=goal.labels.device)
    broken = goal.broken(oracle.logits(inputs, rows))
    best = {name: value.clone() for name, value in inputs.items()}
    before = masking_loss(best[modality] - region.clean, heard)
    after, alpha = before.clone(), torch.full_like(before, config.alpha)
    which = broken.nonzero()[:, 0]
    if len(which):
        descent = _Descent(oracle, best, goal, region, heard, which, modality, config)
        for step in range(config.steps):
            descent.step(step)
        best[modality][which], after[which], alpha[which] = descent.best, descent.least, descent.alpha
    rounded = {**best, modality: (best[modality] / LSB16).round().clamp(-(2**15), 2**15 - 1) * LSB16}
    return InaudibleResult(
        inputs=best,
        broken=broken,
        broken_16_bit=goal.broken(oracle.logits(rounded, rows)),
        masking_before=before,
        masking_after=after,
        alpha=alpha,
        forwards=oracle.forwards,
        backwards=oracle.backwards,
    )


class _Descent:
    """Stage 2 on the examples `which` of a batch, all of them broken at first."""

    def __init__(
        self,
        oracle: Oracle,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        region: Region,
        heard: MaskingThreshold,
        which: Tensor,
        modality: str,
        config: Inaudible,
    ) -> None:
        self.oracle, self.modality, self.config, self.which = oracle, modality, config, which
        self.inputs = {name: value[which] for name, value in inputs.items()}
        self.goal, self.region, self.heard = goal.select(which), region.select(which), heard.select(which)
        self.point = self.inputs[modality]
        self.best = self.point.clone()
        self.least = masking_loss(self.point - self.region.clean, self.heard)
        self.alpha = torch.full_like(self.least, config.alpha)
        self.mean, self.square = torch.zeros_like(self.point), torch.zeros_like(self.point)

    def step(self, step: int) -> None:
        """Looks where it stands, keeps it if it is the best, and moves on."""
        inputs = {**self.inputs, self.modality: self.point}
        logits, _, pull = self.oracle.gradients(inputs, self.goal, self._enough, self.which, (self.modality,))
        delta = (self.point - self.region.clean).requires_grad_()
        with torch.enable_grad():
            masking = masking_loss(delta, self.heard)
            (push,) = torch.autograd.grad(masking.sum(), delta)
        masking, broken = masking.detach(), self.goal.broken(logits)
        better = broken & (masking < self.least)
        self.best = torch.where(better[:, None], self.point, self.best)
        self.least = torch.where(better, masking, self.least)
        self._weigh(broken, step + 1)
        gradient = push * per_example(self.alpha, push) - pull[self.modality]
        self._move(self.region.restrict(gradient), step + 1)

    def _enough(self, logits: Tensor, goal: Goal) -> Tensor:
        """The margin, flat from where the goal is reached with confidence: then masking alone pulls."""
        return margin(logits, goal).clamp_max(self.config.confidence)

    def _weigh(self, broken: Tensor, count: int) -> None:
        if count % self.config.raise_every == 0:
            self.alpha = torch.where(broken, self.alpha * self.config.raised, self.alpha)
        if count % self.config.lower_every == 0:
            lower = (self.alpha * self.config.lowered).clamp_min(self.config.alpha_lowest)
            self.alpha = torch.where(broken, self.alpha, lower)

    def _move(self, gradient: Tensor, count: int) -> None:
        """One step of Adam (Kingma & Ba 2015), projected."""
        fast, slow = BETAS
        self.mean = fast * self.mean + (1 - fast) * gradient
        self.square = slow * self.square + (1 - slow) * gradient.square()
        adapted = (self.mean / (1 - fast**count)) / ((self.square / (1 - slow**count)).sqrt() + EPSILON)
        size = self.config.rel_step * (0.1 if count > 0.75 * self.config.steps else 1.0)
        length = per_example(self.region.radius * size, self.point)
        self.point = self.region.project(self.point - length * adapted)


def _waveform(inputs: Mapping[str, Tensor], threat: Mapping[str, Ball]) -> str:
    """The one modality attacked, which must be a waveform."""
    if len(threat) != 1:
        raise ThreatModelError(f"Masking is about one waveform; the threat model names {len(threat)} modalities.")
    (modality,) = threat
    if modality not in inputs:
        raise ThreatModelError(unknown("modality in the threat model", modality, inputs))
    if inputs[modality].ndim != 2:
        raise ThreatModelError(
            f"Masking is about waveforms (B, T); {modality!r} has shape {tuple(inputs[modality].shape)}."
        )
    return modality
