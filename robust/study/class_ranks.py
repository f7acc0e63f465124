"""Do two measures rank the classes alike, within each victim? The same classes come back in every victim.

Points of one class in several victims are no independent ones: whatever makes a class hard makes it hard for all. So
classes are resampled and permuted jointly, in all victims at once, and n is the number of classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robust.metrics.geometry.estimate import RESAMPLES, Estimate
from robust.metrics.geometry.ranks import FEWEST, METHODS, PERMUTATIONS, Correlation
from robust.metrics.multilabel import percentile_interval

Floats = NDArray[np.float64]
ROUNDING = 1e-12
CELLS = 2**20
"""Values of one block of draws."""


def within_victims(
    first: Floats,
    second: Floats,
    *,
    method: str = "spearman",
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Correlation:
    """Mean over victims of the coefficient over their classes.

    Args:
        first: (V, K) a measure of each class in each victim, NaN where unknown.
        second: (V, K) another.
        method: A name of `robust.metrics.geometry.ranks.METHODS`.
        resamples: Bootstrap draws of classes.
        permutations: Random orders of classes; p counts the observed one in.
        seed: Of both.

    Returns:
        Over the classes that all victims know in whom both measures vary; victims that know fewer than half of the
        classes are left out. NaN throughout if none is left, NaN ends below 4 classes.
    """
    x, y = complete(first, second)
    count = x.shape[1]
    if not x.size:
        return Correlation(method, Estimate(math.nan, math.nan, math.nan, "classes", count), math.nan)
    value = float(_mean(x[None], y[None], method)[0])
    low = high = math.nan
    if count >= FEWEST:
        draws = np.random.default_rng([seed, 0]).integers(0, count, (resamples, count))
        spread = np.concatenate([_mean(_taken(x, rows), _taken(y, rows), method) for rows in _blocks(draws, x.size)])
        low, high = percentile_interval(spread, (math.nan, math.nan))
    generator = np.random.default_rng([seed, 1])
    orders = generator.permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
    extreme = int((np.abs(_chance(x, y, orders, method)) >= abs(value) - ROUNDING).sum())
    return Correlation(method, Estimate(value, low, high, "classes", count), (extreme + 1) / (permutations + 1))


def complete(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """The victims and classes that `within_victims` hears, as two (V, K) arrays; empty where there are none."""
    known = ~(np.isnan(first) | np.isnan(second))
    heard = known.mean(axis=1) >= 0.5 if known.size else np.zeros(len(known), dtype=bool)
    classes = known[heard].all(axis=0)
    x, y = (side[heard][:, classes] for side in (first, second))
    varying = np.array([len(np.unique(a)) > 1 and len(np.unique(b)) > 1 for a, b in zip(x, y, strict=True)], dtype=bool)
    return x[varying], y[varying]


def _chance(x: Floats, y: Floats, orders: NDArray[np.intp], method: str) -> Floats:
    """(R,) the mean coefficient with the classes of `y` in other orders."""
    if method == "kendall":
        parts = [
            _mean(np.broadcast_to(x, (len(rows), *x.shape)), _taken(y, rows), method)
            for rows in _blocks(orders, x.size)
        ]
        return np.concatenate(parts)
    from scipy.stats import rankdata

    # Ranks move with their classes, so the mean over victims is a sum of K products that need be made but once.
    scaled = [_scaled(rankdata(side, axis=1) if method == "spearman" else side) for side in (x, y)]
    shared = scaled[0].T @ scaled[1] / len(x)
    sums: Floats = shared[np.arange(x.shape[1]), orders].sum(axis=1)
    return sums


def _scaled(values: Floats) -> Floats:
    """Rows of mean 0 and length 1."""
    centred: Floats = values - values.mean(axis=1, keepdims=True)
    scaled: Floats = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return scaled


def _mean(x: Floats, y: Floats, method: str) -> Floats:
    """(R,) mean over victims of coefficients of (R, V, K) values; NaN where a draw is constant in every victim."""
    rows = METHODS[method](x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2])).reshape(x.shape[:2])
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, rows, 0.0).sum(axis=1) / known.sum(axis=1)
    return means


def _taken(values: Floats, rows: NDArray[np.intp]) -> Floats:
    """(R, V, K) the classes of each row, the same in every victim."""
    return values[:, rows].transpose(1, 0, 2)


def _blocks(rows: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    step = max(1, CELLS // max(size, 1))
    return [rows[at : at + step] for at in range(0, len(rows), step)]


__all__ = ["complete", "within_victims"]
