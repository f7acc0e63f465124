"""The spectrum of a loss's Hessian in weight space: its top eigenvalues, their sum, and how they are spread.

Sources: the three together - Yao et al. 2020 (PyHessian); trace - Hutchinson 1990, with known directions taken out
first as in Meyer et al. 2021; density - stochastic Lanczos quadrature, Ghorbani et al. 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robust.errors import VictimError
from robust.metrics.geometry.curvature import make_product
from robust.metrics.geometry.eigenvalues import Eigenpairs, top_eigenvalues
from robust.metrics.geometry.estimate import RESAMPLES, Estimate, bootstrapped
from robust.metrics.geometry.hessian_products import Product
from robust.metrics.geometry.krylov import (
    Lanczos,
    beside_all,
    dot,
    normal,
)
from robust.metrics.geometry.weights import Floats, WeightLoss

PROBES, FEWEST_PROBES = 50, 10
RUNS, LANCZOS_STEPS = 4, 60
KERNEL_WIDTH = 0.01


@dataclass(frozen=True)
class Trace:
    """The sum of all eigenvalues.

    Attributes:
        value: With an interval over probes.
        standard_error: Over probes; NaN for one.
        samples: (R,) one unbiased estimate by each probe.
    """

    value: Estimate
    standard_error: float
    samples: Floats


@dataclass(frozen=True)
class SpectralDensity:
    """How eigenvalues are spread.

    Attributes:
        grid: (G,) eigenvalues.
        density: (G,) share of eigenvalues per unit, smoothed with a Gaussian kernel; its area is 1.
        low, high: (G,) ends of the 95 % interval over probes; NaN for one.
        nodes, weights: Of each run, (M,) points and shares that add up to 1.
        width: Standard deviation of the kernel.
    """

    grid: Floats
    density: Floats
    low: Floats
    high: Floats
    nodes: tuple[Floats, ...]
    weights: tuple[Floats, ...]
    width: float

    def share_below(self, value: float) -> Estimate:
        """Share of eigenvalues below `value`, without the kernel, over probes."""
        pairs = zip(self.nodes, self.weights, strict=True)
        return bootstrapped([float(weight[node < value].sum()) for node, weight in pairs], over="probes")

    def mean(self) -> Estimate:
        """Mean eigenvalue (the trace over the number of weights), over probes."""
        pairs = zip(self.nodes, self.weights, strict=True)
        return bootstrapped([float((weight * node).sum()) for node, weight in pairs], over="probes")


def hessian_trace(
    loss: WeightLoss,
    *,
    probes: int = PROBES,
    product: str | Product = "fastest",
    relative_error: float | None = None,
    directions: int = 0,
    seed: int = 0,
) -> Trace:
    """The sum of the Hessian's eigenvalues, from the quadratic forms of random signs.

    Args:
        loss: Whose Hessian.
        probes: Vectors of random signs (Rademacher), at most.
        product: A product, or the name of one (`make_product`).
        relative_error: Stop once the standard error over the value is below it, after ten probes at the earliest.
        directions: Steps of Lanczos to begin with. The share of the directions they find, those of the top eigenvalues
            foremost, is then exact, at a product for each, and probes estimate the rest alone: where a few eigenvalues
            outweigh all others, as in classifiers, a few probes then do the work of a hundred.
        seed: Of the signs, drawn on the CPU.

    Raises:
        VictimError: If there are no probes, or more directions than weights.
    """
    if probes < 1 or not 0 <= directions <= len(loss.weights):
        raise VictimError(
            f"The trace needs 1 probe or more and at most {len(loss.weights)} directions; given {probes} and "
            f"{directions}."
        )
    chosen = make_product(loss, product) if isinstance(product, str) else product
    known, sure = _known_part(chosen, normal(loss.weights, seed), directions)
    generator = torch.Generator().manual_seed(seed)
    samples: list[float] = []
    while len(samples) < probes:
        signs = _signs(loss.weights, generator)
        signs = beside_all(signs, known)
        samples.append(sure + dot(signs, chosen(signs)))
        enough = relative_error is not None and len(samples) >= FEWEST_PROBES
        if enough and _standard_error(samples) <= (relative_error or 0.0) * abs(float(np.mean(samples))):
            break
    return Trace(bootstrapped(samples, over="probes", seed=seed), _standard_error(samples), np.array(samples))


def _known_part(product: Product, start: Tensor, directions: int) -> tuple[Tensor, float]:
    """(k, P) orthonormal directions, and the sum of v^T H v over them."""
    if directions == 0:
        return start.new_zeros(0, len(start)), 0.0
    lanczos = Lanczos(product, start)
    while len(lanczos) < directions and not lanczos.exhausted:
        lanczos.advance()
    return lanczos.basis(), sum(lanczos.diagonal)


def spectral_density(
    loss: WeightLoss,
    *,
    runs: int = RUNS,
    steps: int = LANCZOS_STEPS,
    product: str | Product = "fastest",
    points: int = 512,
    width: float = KERNEL_WIDTH,
    seed: int = 0,
) -> SpectralDensity:
    """The density of the Hessian's eigenvalues by stochastic Lanczos quadrature.

    Args:
        loss: Whose Hessian.
        runs: Random first vectors; two or more for an interval.
        steps: Of Lanczos in each run; its vectors are held.
        product: A product, or the name of one (`make_product`).
        points: Of the grid.
        width: Standard deviation of the kernel over the range of eigenvalues.
        seed: Of the vectors.

    Raises:
        VictimError: If a setting is out of range.
    """
    if runs < 1 or steps < 1 or points < 2 or not width > 0:
        raise VictimError(
            f"runs and steps start at 1, points at 2, width above 0; given {runs}, {steps}, {points}, {width}."
        )
    chosen = make_product(loss, product) if isinstance(product, str) else product
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = [], []
    for _ in range(runs):
        lanczos = Lanczos(chosen, _signs(loss.weights, generator))
        while len(lanczos) < min(steps, len(loss.weights)) and not lanczos.exhausted:
            lanczos.advance()
        values, vectors = lanczos.ritz()
        nodes.append(values)
        weights.append(vectors[0] ** 2)
    return _smoothed(nodes, weights, points, width, seed)


def _smoothed(nodes: list[Floats], weights: list[Floats], points: int, width: float, seed: int) -> SpectralDensity:
    low, high = min(node.min() for node in nodes), max(node.max() for node in nodes)
    sigma = width * ((high - low) or abs(high) or 1.0)
    grid = np.linspace(low - 5 * sigma, high + 5 * sigma, points)
    curves = np.stack([_kernels(grid, node, weight, sigma) for node, weight in zip(nodes, weights, strict=True)])
    ends = np.full((2, points), np.nan)
    if len(curves) > 1:
        generator = np.random.default_rng(seed)
        draws = generator.integers(0, len(curves), (RESAMPLES, len(curves)))
        spread = np.stack([curves[draw].mean(axis=0) for draw in draws])
        ends = np.percentile(spread, [2.5, 97.5], axis=0)
    return SpectralDensity(grid, curves.mean(axis=0), ends[0], ends[1], tuple(nodes), tuple(weights), float(sigma))


def _kernels(grid: Floats, nodes: Floats, weights: Floats, sigma: float) -> Floats:
    heights = np.exp(-0.5 * ((grid[:, None] - nodes) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    curve: Floats = heights @ weights
    return curve


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2.0 * torch.randint(0, 2, like.shape, generator=generator) - 1.0).to(like)


def _standard_error(samples: list[float]) -> float:
    return float(np.std(samples, ddof=1) / math.sqrt(len(samples))) if len(samples) > 1 else math.nan


__all__ = [
    "Eigenpairs",
    "SpectralDensity",
    "Trace",
    "hessian_trace",
    "spectral_density",
    "top_eigenvalues",
]
