"""A measured number with its 95 % interval, and what it was taken over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust.metrics.multilabel import percentile_interval

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95 % interval.

    Attributes:
        value: The number.
        low, high: Ends of the interval; NaN where nothing varies that it could be taken over.
        over: What was resampled: `clips`, `batches`, `draws`, `probes`, `pairs`, `seeds`.
        count: How many of them there were.
    """

    value: float
    low: float
    high: float
    over: str
    count: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrapped(
    values: ArrayLike,
    *,
    over: str = "clips",
    statistic: Callable[[Floats], float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic of independent observations with its percentile bootstrap (Efron & Tibshirani 1993).

    Args:
        values: (N,) or (N, M) float, one row for each observation; rows stay whole. Rows of NaN are left out.
        over: What an observation is.
        statistic: Takes rows and gives a number; the mean when None.
        resamples: Bootstrap draws.
        seed: Of the draws, so that the interval is reproducible.

    Returns:
        NaN throughout for no observations; NaN ends for one.
    """
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[~np.isnan(rows).reshape(len(rows), -1).any(axis=1)] if len(rows) else rows
    count = len(rows)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, over, 0)
    generator = np.random.default_rng(seed)
    if statistic is None:
        point = float(rows.mean())
        spread = np.array([rows[generator.integers(0, count, count)].mean() for _ in range(resamples)])
    else:
        point = float(statistic(rows))
        spread = np.array([statistic(rows[generator.integers(0, count, count)]) for _ in range(resamples)])
    low, high = percentile_interval(spread, (math.nan, math.nan)) if count > 1 else (math.nan, math.nan)
    return Estimate(point, low, high, over, count)


__all__ = ["RESAMPLES", "Estimate", "bootstrapped"]
