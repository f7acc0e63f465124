"""Average-case sharpness: the mean rise of the loss under Gaussian noise on the weights.

Source: Andriushchenko et al. 2023: E_{d ~ N(0, rho^2 diag(c^2))} L(w + d) - L(w), with c = |w| (adaptive) or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from robust.errors import VictimError
from robust.metrics.geometry.estimate import bootstrapped
from robust.metrics.geometry.sharpness import Sharpness, check_radius
from robust.metrics.geometry.weights import WeightLoss

DRAWS = 20


@dataclass(frozen=True)
class AverageSharpness(Sharpness):
    """Mean rises, with intervals over draws.

    Attributes:
        loss_standard_error, error_standard_error: Of the means over draws; NaN for one draw.
    """

    loss_standard_error: float
    error_standard_error: float


def average_sharpness(
    loss: WeightLoss, *, rho: float, adaptive: bool = True, draws: int = DRAWS, seed: int = 0
) -> AverageSharpness:
    """The mean rise of loss and error over Gaussian disturbances of the weights.

    Each draw counts d and -d, which costs two passes and removes what the slope of the loss adds to the noise: near a
    minimum the standard error falls far more than twice the draws would bring it down.

    Args:
        loss: How clips are batched does not matter.
        rho: Standard deviation of d / |w| when adaptive, of d otherwise.
        adaptive: Noise in proportion to each weight.
        draws: Pairs of disturbances; 20 or more for an interval worth the name.
        seed: Of the draws, which are made on the CPU, so that every device sees the same.

    Raises:
        VictimError: If a setting is out of range.
    """
    check_radius(rho)
    if draws < 1:
        raise VictimError(f"Average-case sharpness needs 1 draw or more (20 for an interval); given {draws}.")
    generator = torch.Generator().manual_seed(seed)
    weights, start = loss.weights, loss.outcomes()
    scale = weights.abs() if adaptive else torch.ones_like(weights)
    rises, clips = np.empty((draws, 2)), np.zeros(len(start.losses))
    for draw in range(draws):
        noise = torch.randn(weights.shape, generator=generator, dtype=weights.dtype).to(weights.device)
        step = rho * scale * noise
        sides = [loss.outcomes(weights + step), loss.outcomes(weights - step)]
        for column, name in enumerate(start._fields):
            ends = np.mean([getattr(side, name).mean() for side in sides])
            rises[draw, column] = ends - getattr(start, name).mean()
        clips += (sides[0].losses + sides[1].losses) / 2 - start.losses
    errors = rises.std(axis=0, ddof=1) / math.sqrt(draws) if draws > 1 else np.full(2, np.nan)
    return AverageSharpness(
        bootstrapped(rises[:, 0], over="draws", seed=seed),
        bootstrapped(rises[:, 1], over="draws", seed=seed),
        float(errors[0]),
        float(errors[1]),
        per_clip=clips / draws,
    )


__all__ = ["DRAWS", "AverageSharpness", "average_sharpness"]
