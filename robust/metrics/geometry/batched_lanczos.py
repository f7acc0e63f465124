"""Lanczos on many small spaces at once: one operator for each clip of a batch, one product for all.

Every new vector is made orthogonal to all before, twice; see `krylov` for one operator on one long vector.

Source: Lanczos with full reorthogonalisation and its residual bound - Parlett 1998.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.projections import per_example
from robust.metrics.geometry.input_loss import Parts, dot, length
from robust.metrics.geometry.krylov import Which

SPENT = 1e-5
"""A Krylov space is exhausted where the next vector is this small a share of the operator's norm: that is rounding."""
CAUTION = 4.0
"""The gap to the next Ritz value may be so many times wider than that to the next eigenvalue."""


def extreme_eigenvalues(
    times: Callable[[Parts], Parts], start: Parts, which: Which, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """An extreme eigenvalue of A symmetric operators, each in the Krylov space of its own vector.

    Args:
        times: Modality -> (A, ...) vectors, one for each operator, to their products.
        start: Modality -> (A, ...) vectors, none 0 where its operator is not.
        which: The `largest`, or that of largest `magnitude` (signed).
        tolerance: Relative, of the lesser of two bounds on the distance to an eigenvalue: the Ritz residual, and its
            square over a fourth of the gap to the next Ritz value.
        iterations: Products at most; as many copies of `start` are kept.

    Returns:
        (A,) float64 eigenvalues, NaN where a product is not finite; (A,) bool whether within the tolerance; (A,) int64
        products made.
    """
    vector = _unit(start, length(start))
    basis: list[Parts] = []
    count, device = len(next(iter(start.values()))), next(iter(start.values())).device
    matrix = torch.zeros(count, iterations, iterations, dtype=torch.float64, device=device)
    value = torch.zeros(count, dtype=torch.float64, device=device)
    converged, products = torch.zeros_like(value, dtype=torch.bool), torch.zeros_like(value, dtype=torch.int64)
    for step in range(iterations):
        basis.append(vector)
        image = times(vector)
        matrix[:, step, step] = dot(vector, image)
        rest = _orthogonal(_orthogonal(image, basis), basis)
        norm = length(rest)
        ritz, weight, gap, scale = _ritz(matrix[:, : step + 1, : step + 1], which)
        residual = norm * weight
        error = torch.minimum(residual, torch.where(gap > 0, CAUTION * residual.square() / gap, torch.inf))
        value = torch.where(converged, value, ritz)
        products = products + (~converged)
        converged = converged | (error <= tolerance * ritz.abs()) | (norm <= SPENT * scale)
        if step + 1 == iterations or bool((converged | ritz.isnan()).all()):
            break
        matrix[:, step, step + 1] = matrix[:, step + 1, step] = norm
        vector = _unit(rest, norm)
    return value, converged, products


def _ritz(matrix: Tensor, which: Which) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A,) wanted eigenvalue of tridiagonal matrices, last entry of its vector, gap to the next, largest magnitude.

    The gap is 0 where there is no other eigenvalue; a matrix that is not finite has NaN for its eigenvalue.
    """
    broken = ~matrix.isfinite().flatten(1).all(dim=1)
    values, vectors = torch.linalg.eigh(matrix.masked_fill(broken[:, None, None], 0.0))
    place = (values if which == "largest" else values.abs()).argmax(dim=1, keepdim=True)
    weight = vectors[:, -1].gather(1, place)[:, 0].abs()
    chosen = values.gather(1, place)
    others = (values - chosen).abs().scatter(1, place, torch.inf).amin(dim=1)
    gap = torch.where(others.isfinite(), others, 0.0)
    return chosen[:, 0].masked_fill(broken, math.nan), weight, gap, values.abs().amax(dim=1)


def _orthogonal(vector: Parts, basis: Sequence[Parts]) -> Parts:
    """`vector` without its parts along the basis; done twice, it is so to rounding."""
    for other in basis:
        along = dot(vector, other)
        vector = {name: value - per_example(along, value) * other[name] for name, value in vector.items()}
    return vector


def _unit(vector: Parts, norm: Tensor) -> Parts:
    return {name: value / per_example(norm.clamp_min(1e-30), value) for name, value in vector.items()}


__all__ = ["extreme_eigenvalues"]
