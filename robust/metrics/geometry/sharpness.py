"""What all measures of sharpness in weight space share: their result, their mean over batches, their radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from robust.errors import VictimError
from robust.metrics.geometry.estimate import Estimate, Floats, bootstrapped

FEWEST_BATCHES = 8
"""Batches from which an interval is taken over them."""


class Outcomes(NamedTuple):
    """What a model with certain weights makes of each clip.

    Attributes:
        losses: (N,) float64.
        errors: (N,) float64: 1 where the prediction is wrong (one label a clip), or the share of wrong labels.
    """

    losses: Floats
    errors: Floats


@dataclass(frozen=True)
class Sharpness:
    """How much worse a model gets near its weights.

    Attributes:
        loss: Rise of the mean loss.
        error: Rise of the share of wrong predictions (of wrong labels where clips have many).
        per_clip: (N,) rise of each clip's loss, in the order of the batches.
    """

    loss: Estimate
    error: Estimate
    per_clip: Floats = field(kw_only=True, default_factory=lambda: np.empty(0), compare=False, repr=False)


def mean_rise(before: Sequence[Outcomes], after: Sequence[Outcomes]) -> Sharpness:
    """Sharpness of batches that were each disturbed in their own way: the mean over batches.

    The interval is over batches where there are `FEWEST_BATCHES` of them, and otherwise over clips, with the
    disturbances as they are.
    """
    found = []
    for name in Outcomes._fields:
        rises = [getattr(end, name) - getattr(start, name) for start, end in zip(before, after, strict=True)]
        if len(rises) >= FEWEST_BATCHES:
            found.append(bootstrapped([float(rise.mean()) for rise in rises], over="batches"))
        else:
            total = sum(len(rise) for rise in rises)
            weighted = [rise * (total / (len(rises) * len(rise))) for rise in rises]  # each batch counts alike
            found.append(bootstrapped(np.concatenate(weighted), over="clips"))
    losses = [end.losses - start.losses for start, end in zip(before, after, strict=True)]
    return Sharpness(*found, per_clip=np.concatenate(losses))


def check_radius(rho: float) -> None:
    """Refuses a radius that is not a positive number.

    Raises:
        VictimError: Then.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise VictimError(f"The radius rho must be a number above 0; given {rho}.")


__all__ = ["FEWEST_BATCHES", "Outcomes", "Sharpness", "check_radius", "mean_rise"]
