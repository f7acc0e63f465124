"""The (C_epsilon, A)-sharpness of Keskar et al.: the highest loss in a box around the weights, by L-BFGS-B.

Source: Keskar et al. 2017, "On large-batch training for deep learning", metric 2.1:
phi = 100 * (max_{z in C_eps} L(w + A z) - L(w)) / (1 + L(w)), C_eps = {z: |z_i| <= eps * (|(A^+ w)_i| + 1)}.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robust.errors import VictimError
from robust.metrics.geometry.estimate import Estimate, bootstrapped
from robust.metrics.geometry.sharpness import check_radius
from robust.metrics.geometry.weights import Floats, WeightLoss

ITERATIONS = 10
MOST_BYTES = 4 * 2**30
"""Of the projection matrix."""


def keskar_sharpness(
    loss: WeightLoss,
    *,
    epsilon: float = 1e-3,
    dimensions: int | None = None,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Estimate:
    """Phi in per cent, over all clips together.

    Args:
        loss: How clips are batched does not matter.
        epsilon: Relative half-width of the box; the source uses 1e-3 and 5e-4.
        dimensions: Search in the span of so many random columns of unit length (the source takes 100) rather than in
            all weights (A = I). Their matrix takes 4 bytes for each weight and column.
        iterations: Of L-BFGS-B, which starts at the weights: where the gradient is exactly 0 it stays there.
        seed: Of the columns.

    Returns:
        Never below 0: the weights themselves belong to the box. The interval is over clips, at the point found.

    Raises:
        VictimError: If a setting is out of range, or the matrix of columns would not fit.
    """
    check_radius(epsilon)
    if iterations < 1 or (dimensions is not None and dimensions < 1):
        raise VictimError(f"iterations and dimensions must be 1 or more; given {iterations} and {dimensions}.")
    columns = None if dimensions is None else _random_columns(loss.weights, dimensions, seed)
    found = _highest(loss, columns, epsilon, iterations)
    pairs = np.stack([loss.outcomes(found).losses, loss.outcomes().losses], axis=1)
    return bootstrapped(pairs, over="clips", statistic=_phi, seed=seed)


def _phi(pairs: Floats) -> float:
    """From (N, 2) losses at the point found and at the weights."""
    highest, here = pairs.mean(axis=0)
    return float(100 * (highest - here) / (1 + here))


def _highest(loss: WeightLoss, columns: Tensor | None, epsilon: float, iterations: int) -> Tensor:
    """(P,) the weights with the highest loss that L-BFGS-B meets in the box."""
    from scipy.optimize import minimize

    weights = loss.weights
    centre = weights if columns is None else _coordinates(columns, weights)
    reach = epsilon * (centre.double().abs().cpu().numpy() + 1)
    best_value, best_point = loss.value(), weights

    def falling(z: Floats) -> tuple[float, Floats]:
        nonlocal best_value, best_point
        step = torch.as_tensor(z, dtype=weights.dtype, device=weights.device)
        point = weights + (step if columns is None else columns @ step)
        value, gradient = loss.gradient(point)
        if value > best_value:
            best_value, best_point = value, point
        slope = gradient if columns is None else columns.T @ gradient
        return -value, -slope.double().cpu().numpy()

    minimize(
        falling,
        np.zeros(len(reach)),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([-reach, reach], axis=1),
        options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},  # the rise may be tiny beside the loss
    )
    return best_point


def _random_columns(weights: Tensor, dimensions: int, seed: int) -> Tensor:
    """(P, p) random columns of unit length."""
    size = len(weights) * dimensions * weights.element_size()
    if size > MOST_BYTES:
        fitting = MOST_BYTES // (len(weights) * weights.element_size())
        raise VictimError(
            f"{dimensions} random columns for {len(weights)} weights take {size / 2**30:.1f} GiB, more than "
            f"{MOST_BYTES / 2**30:.0f}; use {max(fitting, 1)} dimensions or fewer, or None for all weights."
        )
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(len(weights), dimensions, generator=generator, dtype=weights.dtype)
    columns /= torch.linalg.vector_norm(columns, dim=0)
    return columns.to(weights.device)


def _coordinates(columns: Tensor, weights: Tensor) -> Tensor:
    """(p,) A^+ w by the normal equations: random columns are far from dependent, and A^T A is small."""
    gram, image = (columns.T @ columns).double().cpu(), (columns.T @ weights).double().cpu()
    return torch.as_tensor(np.linalg.lstsq(gram.numpy(), image.numpy(), rcond=None)[0])


__all__ = ["ITERATIONS", "keskar_sharpness"]
