"""A perturbation shared by all clips: where it may go, how it is added to a clip, a random one as a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from attacks.audit import Bound
from attacks.banded import confined
from attacks.errors import ThreatModelError, unknown
from attacks.losses import Goal
from attacks.projections import per_example
from attacks.region import Region, round_inward
from attacks.threat import Ball

Clips = tuple[Mapping[str, Tensor], Goal, Mapping[str, Tensor]]
"""Inputs, goal and masks of what is not padding (a modality without one is all valid) of a batch."""

Batches = Callable[[], Iterator[Clips]]
"""One pass over the fitting clips each time it is called."""


def apply_universal(
    clean: Tensor, delta: Tensor, low: Bound = -1.0, high: Bound = 1.0, valid: Tensor | None = None
) -> Tensor:
    """Adds one perturbation to every clip, within the data range and off the padding.

    No value moves by more than `delta` says, rounding included, so that no clip exceeds its norm.

    Args:
        clean: (B, ...) inputs in [low, high].
        delta: A perturbation in the shape of one example.
        low: Lower end of the data range.
        high: Upper end.
        valid: bool mask of what is not padding.
    """
    exact = clean.double() + delta.double()
    down, up = (round_inward(exact, clean.dtype, upward=upward) for upward in (False, True))
    point = torch.maximum(torch.where(delta > 0, down, up), torch.as_tensor(low).to(clean))
    point = torch.minimum(point, torch.as_tensor(high).to(clean))
    return torch.where(delta == 0 if valid is None else (delta == 0) | ~valid, clean, point)


def random_universal(shape: Sequence[int], ball: Ball, generator: torch.Generator) -> Tensor:
    """A random perturbation as large as the budget allows: the baseline that a fitted one must beat.

    Random signs (linf), a Gaussian direction (l2) or Laplace noise (l1), inside the support, scaled to the radius.

    Args:
        shape: Of one example.
        ball: The budget; one radius, in any unit but `snr_db`.
        generator: On the CPU.
    """
    region = delta_region(ball, torch.zeros(1, *shape))
    noise = torch.randn(tuple(shape), generator=generator)
    if ball.norm == "linf":
        noise = noise.sign()
    elif ball.norm == "l1":
        noise = noise.sign() * -torch.log1p(-torch.rand(tuple(shape), generator=generator))
    kept = region.restrict(noise[None])
    return region.project(kept * per_example(region.radius / region.size(kept).clamp_min(1e-30), kept))[0]


def delta_region(ball: Ball, like: Tensor, limits: tuple[Tensor, Tensor] | None = None) -> Region:
    """Where a universal perturbation may go: a ball around zero, as a batch of one.

    Args:
        ball: The budget.
        like: (B, ...) inputs that it is to be added to.
        limits: Range of the perturbation itself, from `fitting_ranges`; all that the data range admits when absent.

    Raises:
        ThreatModelError: If the budget differs from clip to clip.
    """
    if ball.unit == "snr_db" or torch.as_tensor(ball.radius).numel() != 1:
        raise ThreatModelError(
            "A universal perturbation has one radius for all clips; give one number in amplitude, dbfs, lsb16 or "
            "pixel255, not an SNR by clip."
        )
    zero = like.new_zeros(1, *like.shape[1:])
    low, high = (ball.low - ball.high, ball.high - ball.low) if limits is None else limits
    return confined(zero, None, ball.norm, ball.radius_amplitude(zero), low, high, ball.support)


def fitting_ranges(batches: Batches, threat: Mapping[str, Ball]) -> dict[str, tuple[Tensor, Tensor]]:
    """Modality -> how far down and up each value may move so that no fitting clip leaves its data range.

    `[low - min_i x_i, high - max_i x_i]` over all clips, elementwise (methods.md 1.3 step 7); 0 where all are padding.
    """
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    for inputs, _, valid in batches():
        for name in threat:
            if name not in inputs:
                raise ThreatModelError(unknown("modality in the threat model", name, inputs))
            clean = inputs[name]
            if len(clean) == 0:
                continue
            mask = valid.get(name, torch.ones((), dtype=torch.bool, device=clean.device)).expand_as(clean)
            least = clean.masked_fill(~mask, torch.inf).amin(dim=0)
            most = clean.masked_fill(~mask, -torch.inf).amax(dim=0)
            before = ends.get(name, (least, most))
            ends[name] = torch.minimum(before[0], least), torch.maximum(before[1], most)
    return {name: _room(threat[name], *found) for name, found in ends.items()}


def _room(ball: Ball, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    down = round_inward((ball.low - least.double()).clamp_max(0.0), least.dtype, upward=True)
    up = round_inward((ball.high - most.double()).clamp_min(0.0), most.dtype, upward=False)
    return down.masked_fill(least.isinf(), 0.0), up.masked_fill(most.isinf(), 0.0)


def follows(clean: Tensor, delta: Tensor, low: Bound, high: Bound, valid: Tensor | None) -> Tensor:
    """(B, ...) bool: values that follow the perturbation, being neither padding nor held at the data range."""
    moved = clean + delta
    free = (moved >= low) & (moved <= high)
    return free if valid is None else free & valid
