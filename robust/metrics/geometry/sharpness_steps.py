"""m-sharpness by one ascent step on each batch: the disturbance of sharpness-aware training, as a measure.

Sources: SAM - Foret et al. 2021, "Sharpness-aware minimization for efficiently improving generalization" (m-sharpness:
the worst case is taken for each batch of m clips, then averaged); ASAM - Kwon et al. 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust.metrics.geometry.sharpness import Sharpness, check_radius, mean_rise
from robust.metrics.geometry.weights import WeightLoss


def sam_sharpness(loss: WeightLoss, *, rho: float = 0.05) -> Sharpness:
    """L(w + e) - L(w) with e = rho * g / ||g||, of each batch with its own gradient g, averaged over batches.

    Args:
        loss: Its batches are the m-sized ones.
        rho: L2 length of the step, in units of the weights.

    Returns:
        Rise of loss and error, with an interval over batches (over clips where there is one batch).
    """
    return _stepped(loss, rho, adaptive=False)


def asam_sharpness(loss: WeightLoss, *, rho: float = 0.5) -> Sharpness:
    """The same with e = rho * w^2 g / || |w| g ||: unchanged by scaling one ReLU layer up and the next down.

    Args:
        loss: Its batches are the m-sized ones.
        rho: L2 length of e / |w|, without unit.
    """
    return _stepped(loss, rho, adaptive=True)


def ascent_step(weights: Tensor, gradient: Tensor, rho: float, *, adaptive: bool) -> Tensor:
    """(P,) the step of SAM, or of ASAM where `adaptive`; zero where the gradient is."""
    scale = weights.abs() if adaptive else torch.ones_like(weights)
    slope = scale * gradient
    largest = slope.abs().max()
    if not bool(largest > 0):
        return torch.zeros_like(weights)
    slope = slope / largest  # squares of small gradients would leave single precision
    step: Tensor = rho * scale * slope / torch.linalg.vector_norm(slope)
    return step


def _stepped(loss: WeightLoss, rho: float, *, adaptive: bool) -> Sharpness:
    check_radius(rho)
    before, after = [], []
    for part in loss.parts():
        _, gradient = part.gradient()
        before.append(part.outcomes())
        after.append(part.outcomes(part.weights + ascent_step(part.weights, gradient, rho, adaptive=adaptive)))
    return mean_rise(before, after)


__all__ = ["asam_sharpness", "ascent_step", "sam_sharpness"]
