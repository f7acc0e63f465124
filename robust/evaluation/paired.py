"""Paired comparisons: two victims, or one victim under two conditions, on the same clips.

One label a clip: the exact McNemar test, which asks only the clips on which the two differ, and Newcombe's interval of
the difference. Many labels: the paired bootstrap of mAP. Several seeds: clips are the sampling unit and a clip's
results under all seeds stay together, because they are not independent; what is said then holds for new clips and
these seeds.

Sources: McNemar 1947; Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions
based on paired data", method 10; Efron & Tibshirani 1993.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.metrics.classification import Z95, wilson
from robust.metrics.multilabel import Ranking, bootstrap_weights, percentile_interval
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd

Records: TypeAlias = "pd.DataFrame | Sequence[pd.DataFrame]"
"""The records of one run, or of several seeds of it."""


@dataclass(frozen=True)
class Comparison:
    """A score under A minus the score under B, on the same clips.

    Attributes:
        metric: `accuracy` or `mAP`.
        a, b: The two scores, means over seeds.
        difference: a - b.
        low, high: Ends of its 95 % interval.
        p: Two-sided p-value of no difference.
        test: How p was found.
        clips, seeds: How many of each.
        only_a, only_b: Pairs (clip and seed) that A alone, or B alone, has right; None for mAP.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    clips: int
    seeds: int
    only_a: int | None = None
    only_b: int | None = None

    def __str__(self) -> str:
        interval = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"{100 * self.difference:+.1f} points {interval}, p = {self.p:.2g} ({self.test})"


def compare(records_a: Records, records_b: Records, task: Task, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compares what two runs scored under their conditions; `clean_view` makes the clean scores such a run.

    Args:
        records_a: Records of A, or a sequence of them, one for each seed.
        records_b: Records of B, in the same order of seeds.
        task: `multiclass` compares accuracy, `multilabel` mAP.
        resamples: Bootstrap draws of clips, where a bootstrap is used.
        seed: Of the draws.

    Raises:
        StoreError: If the two are not of the same clips with the same labels, or not of equally many seeds.
    """
    pairs = _paired(records_a, records_b)
    if task == "multiclass":
        right = [(a["correct"].to_numpy(dtype=bool), b["correct"].to_numpy(dtype=bool)) for a, b in pairs]
        one, other = (np.stack(side, axis=1) for side in zip(*right, strict=True))
        return compare_accuracy(one, other, resamples=resamples, seed=seed)
    rankings = [(_ranking(a), _ranking(b)) for a, b in pairs]
    return _compare_map(rankings, resamples, seed)


def clean_view(records: pd.DataFrame) -> pd.DataFrame:
    """The same clips as if nothing had been done to them, for `compare`."""
    columns = ("prediction", "margin", "correct", "logits")
    return records.assign(**{name: records[f"clean_{name}"] for name in columns if f"clean_{name}" in records})


def compare_accuracy(
    right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Difference of two accuracies.

    Args:
        right_a: (N, S) whether A has clip n right under seed s.
        right_b: (N, S) the same of B.
        resamples: Bootstrap draws of clips for the interval, where S > 1; with one seed it is Newcombe's.
        seed: Of the draws.
    """
    clips, seeds = right_a.shape
    gain = right_a.astype(np.int64) - right_b.astype(np.int64)
    difference = float(gain.mean()) if gain.size else math.nan
    if seeds == 1:
        low, high = newcombe_interval(right_a[:, 0], right_b[:, 0])
    else:
        by_clip = gain.mean(axis=1)
        draws = [weights @ by_clip / max(clips, 1) for weights in bootstrap_weights(clips, resamples, seed)]
        low, high = percentile_interval(np.concatenate(draws), (-1.0, 1.0))
    return Comparison(
        metric="accuracy",
        a=float(right_a.mean()) if gain.size else math.nan,
        b=float(right_b.mean()) if gain.size else math.nan,
        difference=difference,
        low=low,
        high=high,
        p=sign_flip_p(gain.sum(axis=1)),
        test="exact McNemar" if seeds == 1 else "exact sign flips by clip",
        clips=clips,
        seeds=seeds,
        only_a=int((gain > 0).sum()),
        only_b=int((gain < 0).sum()),
    )


def sign_flip_p(gains: NDArray[np.int64]) -> float:
    """Exact two-sided p-value of no difference: were A and B alike, each clip's gain could as well have the other sign.

    With gains of -1, 0 and 1 this is McNemar's exact test; with several seeds a clip's gain is the sum over them.

    Args:
        gains: (N,) whole numbers.
    """
    from scipy.signal import convolve
    from scipy.stats import binom

    sizes, counts = np.unique(np.abs(gains[gains != 0]), return_counts=True)
    # Probability of each possible number of "positive" units; a sum of binomials, one for each size of gain.
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        one = np.zeros(size * count + 1)
        one[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = convolve(chances, one).clip(min=0.0) if len(chances) > 1 else one
    total = len(chances) - 1
    reached = np.abs(2 * np.arange(total + 1) - total) >= abs(int(gains.sum()))
    return min(1.0, float(chances[reached].sum()))


def newcombe_interval(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], z: float = Z95) -> tuple[float, float]:
    """Interval of the difference of two paired proportions: Newcombe 1998, method 10; (-1, 1) for no clips.

    Args:
        right_a: (N,) bool.
        right_b: (N,) bool.
        z: Quantile of the normal distribution; of a 95 % interval if absent.
    """
    count = len(right_a)
    if count == 0:
        return -1.0, 1.0
    a, b = int(right_a.sum()), int(right_b.sum())
    both = int((right_a & right_b).sum())
    neither = count - a - b + both
    (low_a, high_a), (low_b, high_b) = wilson(a, count, z), wilson(b, count, z)
    share_a, share_b = a / count, b / count
    spread = math.sqrt(a * (count - a) * b * (count - b))
    cross = float(both * neither - (a - both) * (b - both))
    if cross > 0:  # continuity correction of a positive correlation
        cross = max(cross - count / 2, 0.0)
    correlation = cross / spread if spread else 0.0
    below, above = (share_a - low_a, high_b - share_b), (high_a - share_a, share_b - low_b)
    down, up = (math.sqrt(x * x - 2 * correlation * x * y + y * y) for x, y in (below, above))
    difference = share_a - share_b
    return max(difference - down, -1.0), min(difference + up, 1.0)


def newcombe_p(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], margin: float) -> float:
    """Two-sided p-value of the difference being `margin`: that of the interval which just reaches it."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    difference = float(right_a.mean() - right_b.mean()) if len(right_a) else 0.0
    end = 0 if difference > margin else 1

    def beyond(z: float) -> float:
        return newcombe_interval(right_a, right_b, z)[end] - margin

    if beyond(1e-6) * beyond(40.0) >= 0:  # the estimate is the margin, or the margin is outside of [-1, 1]
        return 1.0 if abs(difference - margin) < 1e-3 else 0.0
    return float(2 * norm.sf(brentq(beyond, 1e-6, 40.0)))


def _compare_map(rankings: Sequence[tuple[Ranking, Ranking]], resamples: int, seed: int) -> Comparison:
    """mAP: the same draw of clips for both sides and all seeds."""
    clips = rankings[0][0].clips
    point = np.array([[float(side.macro()[0][0]) for side in pair] for pair in rankings]).mean(axis=0)
    draws = []
    for weights in bootstrap_weights(clips, resamples, seed):
        gains = [one.macro(weights)[0] - other.macro(weights)[0] for one, other in rankings]
        draws.append(np.mean(gains, axis=0))
    spread = np.concatenate(draws)
    spread = spread[np.isfinite(spread)]
    low, high = percentile_interval(spread, (-1.0, 1.0))
    # The draw that was observed counts too, so that no p is smaller than what so many draws can show.
    tail = min(int((spread <= 0).sum()), int((spread >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(spread) + 1))
    a, b = point.tolist()
    return Comparison("mAP", a, b, a - b, low, high, p, "paired bootstrap", clips, len(rankings))


def _ranking(records: pd.DataFrame) -> Ranking:
    return Ranking(np.stack(records["logits"].tolist()), np.stack(records["label"].tolist()))


def _paired(records_a: Records, records_b: Records) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Seed by seed, both sides in one order of clips, which is the same for all seeds."""
    import pandas as pd

    sides = [[side] if isinstance(side, pd.DataFrame) else list(side) for side in (records_a, records_b)]
    one, other = sides
    if len(one) != len(other) or not one:
        raise StoreError(
            f"A paired test needs equally many seeds on both sides, at least one; given {len(one)} and {len(other)}."
        )
    reference = one[0]
    return [(_ordered(a, reference), _ordered(b, reference)) for a, b in zip(one, other, strict=True)]


def _ordered(records: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """`records` in the order of `reference`, which must be of the same clips."""
    for side in (records, reference):
        if side["id"].duplicated().any():
            raise StoreError(f"The clip {side.loc[side['id'].duplicated(), 'id'].iloc[0]!r} occurs twice in one run.")
    ours, theirs = set(records["id"]), set(reference["id"])
    if ours != theirs:
        raise StoreError(
            f"A paired test needs the same clips on both sides: {len(ours - theirs)} are only in one and "
            f"{len(theirs - ours)} only in the other, {len(ours & theirs)} in both. Run both on the same data, split "
            "and limit."
        )
    ordered = records.set_index("id").loc[reference["id"]].reset_index()
    name = "label_name" if "label_name" in records and "label_name" in reference else "label"
    told = [[str(value) for value in side[name].map(_plain)] for side in (ordered, reference)]
    different = sum(one != other for one, other in zip(*told, strict=True))
    if different:
        raise StoreError(
            f"{different} of {len(ordered)} clips have another label in the other run; clips without a label take the "
            "victim's own answer as theirs and cannot be compared."
        )
    return ordered


def _plain(value: object) -> object:
    """Arrays as lists, so that labels read from disk and from memory look alike."""
    return [float(item) for item in value] if isinstance(value, (list, tuple, np.ndarray)) else value
