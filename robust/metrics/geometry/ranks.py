"""Do two measures rank victims alike? Correlations with bootstrap intervals and permutation tests, by family or not.

Values of sharpness cannot be compared across architectures (parameters rescale, networks differ in depth; methods.md
3.3), so a correlation over all victims may be nothing but the difference between families: `family_correlation` gives
that within them beside it.

Sources: Spearman 1904; tau-b - Kendall 1945; percentile bootstrap - Efron & Tibshirani 1993; permutation p with the
observed order counted as one draw - Phipson & Smyth 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations as orders_of

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust.errors import DataError, unknown
from robust.metrics.geometry.estimate import RESAMPLES, Estimate
from robust.metrics.multilabel import percentile_interval

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
FEWEST = 4
"""Pairs below which no interval is given, and members below which a family has no say."""
PERMUTATIONS = 4999
CELLS = 2**22
"""Values held at once (32 MB)."""
ROUNDING = 1e-12
"""Coefficients that differ by less are one and the same."""


@dataclass(frozen=True)
class Correlation:
    """A coefficient between -1 and 1, and how often chance alone gives one as far from 0.

    Attributes:
        method: `spearman`, `kendall` (tau-b) or `pearson`.
        estimate: The coefficient with its percentile bootstrap interval over pairs, NaN throughout where one side is
            constant or fewer than 2 pairs are known; the ends are NaN below 4 pairs. Below some 10 pairs percentile
            intervals are too narrow: trust `p` first, which is exact up to 7.
        p: Two-sided permutation p; NaN where the coefficient is.
    """

    method: str
    estimate: Estimate
    p: float

    def __str__(self) -> str:
        return f"{self.estimate}, p = {self.p:.2g}, n = {self.estimate.count}"


@dataclass(frozen=True)
class FamilyCorrelation:
    """The same question over everything, and among relatives alone.

    Attributes:
        across: Over all pairs, whatever their family.
        within: Mean of the coefficients of the families in `by_family`; pairs are resampled and permuted inside their
            own family. NaN where no family is large enough.
        by_family: Family -> its own correlation, for families of 4 pairs or more with both sides varying.
        left_out: Families too small or constant, which `within` does not hear.
    """

    across: Correlation
    within: Correlation
    by_family: Mapping[str, Correlation]
    left_out: tuple[str, ...]


def correlation(
    first: ArrayLike,
    second: ArrayLike,
    *,
    method: str = "spearman",
    over: str = "pairs",
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Correlation:
    """How alike two measures rank the same things.

    Args:
        first: (N,) float; pairs with a NaN are left out, infinities rank at the ends (Pearson's refuses them).
        second: (N,) float.
        method: `spearman`, `kendall` (tau-b) or `pearson`.
        over: What a pair is: `victims`, `classes`, `clips`.
        resamples: Bootstrap draws.
        permutations: Random orders tried for p; where there are no more orders than that, each is tried once.
        seed: Of both.

    Raises:
        DataError: If the two differ in length, or the method is unknown.
    """
    return _joined([_pairs(first, second, method)], method, over, resamples, permutations, seed)


def family_correlation(
    first: ArrayLike,
    second: ArrayLike,
    families: Sequence[Hashable],
    *,
    method: str = "spearman",
    over: str = "victims",
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> FamilyCorrelation:
    """`correlation` over all pairs, in every family, and the mean within families.

    Args:
        first: (N,) float.
        second: (N,) float.
        families: N names: to which family each pair belongs.
        method: As for `correlation`, and so are the rest.
        over: What a pair is.
        resamples: Bootstrap draws.
        permutations: Random orders tried for p.
        seed: Of both.

    Raises:
        DataError: As for `correlation`, or if there is not one family for each pair.
    """
    pairs, names = _pairs(first, second, method, drop=False), np.array([str(name) for name in families])
    if names.shape != (pairs.shape[1],):
        raise DataError(f"Every pair needs its family: given {len(names)} families for {pairs.shape[1]} pairs.")
    options = (method, over, resamples, permutations, seed)
    groups = {str(name): _known(pairs[:, names == name]) for name in np.unique(names)}
    heard = {name: group for name, group in groups.items() if group.shape[1] >= FEWEST and _varies(group)}
    return FamilyCorrelation(
        across=_joined([_known(pairs)], *options),
        within=_joined(list(heard.values()), *options),
        by_family={name: _joined([group], *options) for name, group in heard.items()},
        left_out=tuple(name for name in groups if name not in heard),
    )


def pearson_rows(first: Floats, second: Floats) -> Floats:
    """(R,) product-moment correlation of each row of two (R, N) arrays; NaN where one is constant."""
    # The mean of equal values may round to another: their own first value takes its place.
    x, y = (side - side[:, :1] for side in (first, second))
    x, y = (side - side.mean(axis=1, keepdims=True) for side in (x, y))
    return _ratio((x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1))


def spearman_rows(first: Floats, second: Floats) -> Floats:
    """(R,) Pearson's of the mean ranks."""
    from scipy.stats import rankdata

    return pearson_rows(rankdata(first, axis=1), rankdata(second, axis=1))


def kendall_rows(first: Floats, second: Floats) -> Floats:
    """(R,) tau-b: concordant less discordant pairs over those untied in each (Kendall 1945)."""
    step = max(1, CELLS // max(first.shape[1] ** 2, 1))
    parts = [_kendall(first[at : at + step], second[at : at + step]) for at in range(0, len(first), step)]
    return np.concatenate(parts) if parts else np.empty(0)


METHODS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "spearman": spearman_rows,
    "kendall": kendall_rows,
    "pearson": pearson_rows,
}


def _kendall(first: Floats, second: Floats) -> Floats:
    # Compared and not subtracted: two infinities of one sign are tied, and their difference is NaN.
    x, y = (
        (side[:, :, None] > side[:, None, :]).astype(np.int8) - (side[:, :, None] < side[:, None, :])
        for side in (first, second)
    )
    sums = (np.einsum("rij,rij->r", a.astype(np.float64), b.astype(np.float64)) for a, b in ((x, y), (x, x), (y, y)))
    return _ratio(*sums)


def _ratio(shared: Floats, own: Floats, other: Floats) -> Floats:
    """Shared variation over the geometric mean of both sides' own; NaN where a side has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = shared / np.sqrt(own * other)
    return np.where((own > 0) & (other > 0), np.clip(ratio, -1.0, 1.0), np.nan)


def _pairs(first: ArrayLike, second: ArrayLike, method: str, *, drop: bool = True) -> Floats:
    """(2, N) the pairs, checked; without those that hold a NaN if `drop`."""
    if method not in METHODS:
        raise DataError(unknown("correlation", method, METHODS))
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError(f"A correlation needs two lists of one length; given shapes {x.shape} and {y.shape}.")
    pairs = np.stack([x, y])
    if method == "pearson" and np.isinf(pairs).any():
        raise DataError("Pearson's correlation needs finite values; take 'spearman' or 'kendall', which rank infinity.")
    return _known(pairs) if drop else pairs


def _known(pairs: Floats) -> Floats:
    return pairs[:, ~np.isnan(pairs).any(axis=0)]


def _varies(pairs: Floats) -> bool:
    return all(len(np.unique(side)) > 1 for side in pairs)


def _joined(groups: list[Floats], method: str, over: str, resamples: int, permutations: int, seed: int) -> Correlation:
    """Mean coefficient of groups of pairs (2, N), each resampled and permuted by itself."""
    count = sum(group.shape[1] for group in groups)
    if not groups or not all(_varies(group) for group in groups):
        return Correlation(method, Estimate(math.nan, math.nan, math.nan, over, count), math.nan)
    measure = METHODS[method]
    value = float(np.mean([measure(group[:1], group[1:])[0] for group in groups]))
    low = high = math.nan
    if all(group.shape[1] >= FEWEST for group in groups):
        spread = _resampled(groups, measure, resamples, np.random.default_rng([seed, 0]))
        low, high = percentile_interval(spread, (math.nan, math.nan))
    chance = _permuted(groups, measure, permutations, np.random.default_rng([seed, 1]))
    return Correlation(method, Estimate(value, low, high, over, count), _p_value(value, *chance))


def _resampled(
    groups: list[Floats], measure: Callable[[Floats, Floats], Floats], resamples: int, generator: np.random.Generator
) -> Floats:
    """(R,) mean coefficient of the groups with pairs drawn again; NaN where a draw is constant in one of them."""
    total = np.zeros(resamples)
    for group in groups:
        count = group.shape[1]
        for rows in _blocks(resamples, count):
            draws = generator.integers(0, count, (len(rows), count))
            total[rows] += measure(group[0][draws], group[1][draws])
    return total / len(groups)


def _permuted(
    groups: list[Floats], measure: Callable[[Floats, Floats], Floats], permutations: int, generator: np.random.Generator
) -> tuple[Floats, bool]:
    """Mean coefficients with one side in other orders, and whether these are all the orders there are."""
    if len(groups) == 1 and math.factorial(groups[0].shape[1]) <= permutations + 1:
        (group,) = groups
        orders = np.array(list(orders_of(range(group.shape[1]))))
        return measure(np.broadcast_to(group[0], orders.shape), group[1][orders]), True
    total = np.zeros(permutations)
    for group in groups:
        count = group.shape[1]
        for rows in _blocks(permutations, count):
            orders = generator.permuted(np.tile(np.arange(count), (len(rows), 1)), axis=1)
            total[rows] += measure(np.broadcast_to(group[0], orders.shape), group[1][orders])
    return total / len(groups), False


def _blocks(rows: int, count: int) -> Iterator[Places]:
    """Rows to work on at once, so that memory stays bounded."""
    step = max(1, CELLS // max(count, 1))
    for at in range(0, rows, step):
        yield np.arange(at, min(at + step, rows))


def _p_value(value: float, chance: Floats, every: bool) -> float:
    """Share of orders whose coefficient is as far from 0; the observed one is among them, or counted in."""
    extreme = int((np.abs(chance) >= abs(value) - ROUNDING).sum())
    return extreme / len(chance) if every else (extreme + 1) / (len(chance) + 1)


__all__ = [
    "FEWEST",
    "METHODS",
    "PERMUTATIONS",
    "Correlation",
    "FamilyCorrelation",
    "correlation",
    "family_correlation",
]
