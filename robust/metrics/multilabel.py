"""Scores of a multi-label classifier as AudioSet reports them: mAP, mAUC and d', and the table of all classes.

Everything is computed in float64 from logits. float16 sigmoids saturate, and thousands of ties then turn a ranking into
chance in rare classes (methods.md 3.2, caution ii). Equal scores are handled exactly: they stand at one threshold
together, and a positive and a negative of equal score count half in the AUC.

d' = sqrt(2) * Phi^-1(AUC) (methods.md 1.1) is negative below an AUC of 0.5 and infinite at 0 and 1, where it is None
here, because neither JSON nor a mean has room for infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust.errors import DataError
from robust.metrics.classification import Score

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
CELLS = 2**22
"""Values that a batch of bootstrap draws may hold at once (32 MB)."""


@dataclass(frozen=True)
class MultilabelScores:
    """What AudioSet tables report, each with a 95 % bootstrap interval over clips.

    Attributes:
        mean_ap: Macro average precision (mAP).
        mean_auc: Macro area under the ROC curve (mAUC).
        d_prime: sqrt(2) * Phi^-1(mAUC); None where mAUC is 0 or 1 (infinite) or no class can be rated.
        d_prime_low, d_prime_high: The ends of mAUC's interval as d'; None where infinite.
        classes: Number of classes rated: those with both a positive and a negative clip.
        clips: Number of clips.
    """

    mean_ap: Score
    mean_auc: Score
    d_prime: float | None
    d_prime_low: float | None
    d_prime_high: float | None
    classes: int
    clips: int


class Ranking:
    """Clips ranked once by each class, to be scored under any number of bootstrap weights.

    Args:
        logits: (N, K) finite or infinite scores; any increasing map of them gives the same result.
        labels: (N, K) multi-hot truth.

    Raises:
        DataError: If the shapes differ, or a score is NaN.
    """

    def __init__(self, logits: ArrayLike, labels: ArrayLike) -> None:
        scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels) > 0
        if scores.ndim != 2 or scores.shape != truth.shape:
            raise DataError(
                f"Multi-label scores need logits and labels of one shape (clips, classes); given {scores.shape} and "
                f"{truth.shape}."
            )
        bad = int(np.isnan(scores).any(axis=1).sum())
        if bad:
            raise DataError(
                f"The logits of {bad} of {len(scores)} clips are NaN and cannot be ranked; look for the cause."
            )
        self.truth = truth
        self.rated = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
        self._classes = [_Ranked.of(scores[:, place], truth[:, place]) for place in self.rated]

    @property
    def clips(self) -> int:
        """Number of clips."""
        return len(self.truth)

    def scores(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Average precision and AUC of each rated class.

        Args:
            weights: (D, N) how often each clip counts in each of D draws; once in one draw when None.

        Returns:
            Two (D, R) arrays; NaN where a draw has no positive or no negative clip of a class.
        """
        counts = np.ones((1, self.clips)) if weights is None else np.asarray(weights, dtype=np.float64)
        columns = np.ascontiguousarray(counts.T)
        ap, auc = np.empty((2, len(counts), len(self.rated)))
        for place, ranked in enumerate(self._classes):
            ap[:, place], auc[:, place] = ranked.areas(columns)
        return ap, auc

    def macro(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Macro AP and AUC in each draw, (D,) each, over the classes that the draw can rate; NaN where none."""
        ap, auc = self.scores(weights)
        return _mean_over_classes(ap), _mean_over_classes(auc)


def bootstrap_weights(clips: int, resamples: int, seed: int) -> list[Floats]:
    """Batches of (D, N) weights: how often each clip is drawn in each of `resamples` bootstrap samples."""
    generator = np.random.default_rng(seed)
    size = max(1, CELLS // max(clips, 1))
    even = np.full(clips, 1 / clips) if clips else np.empty(0)
    return [
        generator.multinomial(clips, even, size=min(size, resamples - first)).astype(np.float64)
        for first in range(0, resamples, size)
    ]


def multilabel_scores(logits: ArrayLike, labels: ArrayLike, *, resamples: int = 200, seed: int = 0) -> MultilabelScores:
    """mAP, mAUC and d', macro over the classes that occur with both outcomes.

    Args:
        logits: (N, K) scores; any increasing map of them gives the same result.
        labels: (N, K) multi-hot truth.
        resamples: Bootstrap draws of whole clips; a class that a draw lacks is left out of that draw's mean.
        seed: Of the draws, so that intervals are reproducible.

    Raises:
        DataError: If the shapes differ, or a logit is NaN.
    """
    ranking = Ranking(logits, labels)
    point = [float(value[0]) for value in ranking.macro()]
    draws = [ranking.macro(weights) for weights in bootstrap_weights(ranking.clips, resamples, seed)]
    named = []
    for place, metric in enumerate(("mAP", "mAUC")):
        spread = np.concatenate([draw[place] for draw in draws]) if draws else np.empty(0)
        low, high = percentile_interval(spread, (0.0, 1.0))
        named.append(Score(point[place], low, high, metric, ranking.clips))
    mean_ap, mean_auc = named
    return MultilabelScores(
        mean_ap,
        mean_auc,
        d_prime(mean_auc.score),
        d_prime(mean_auc.low),
        d_prime(mean_auc.high),
        classes=len(ranking.rated),
        clips=ranking.clips,
    )


def class_table(logits: ArrayLike, labels: ArrayLike, names: Sequence[str] | None = None) -> pd.DataFrame:
    """One row for each class: `class`, `positives` (clips), `ap`, `auc`, `d_prime`.

    Classes without both outcomes have NaN scores; d' is NaN too where the AUC is 0 or 1.

    Args:
        logits: (N, K) scores.
        labels: (N, K) multi-hot truth.
        names: K class names; their numbers when None.

    Raises:
        DataError: If the shapes differ, there are not K names, or a logit is NaN.
    """
    import pandas as pd

    ranking = Ranking(logits, labels)
    count = ranking.truth.shape[1]
    if names is not None and len(names) != count:
        raise DataError(f"{len(names)} names for {count} classes.")
    ap, auc = np.full((2, count), np.nan)
    ap[ranking.rated], auc[ranking.rated] = (value[0] for value in ranking.scores())
    primes = [d_prime(value) for value in auc]
    return pd.DataFrame(
        {
            "class": list(names) if names is not None else [str(place) for place in range(count)],
            "positives": ranking.truth.sum(axis=0),
            "ap": ap,
            "auc": auc,
            "d_prime": [math.nan if value is None else value for value in primes],
        }
    )


def d_prime(auc: float) -> float | None:
    """sqrt(2) * Phi^-1(auc): negative below 0.5; None where it is infinite (0 and 1) or `auc` is NaN."""
    from scipy.special import ndtri

    return math.sqrt(2) * float(ndtri(auc)) if 0 < auc < 1 else None


def percentile_interval(spread: Floats, unknown: tuple[float, float]) -> tuple[float, float]:
    """The middle 95 % of bootstrap values that are numbers; `unknown` where none is."""
    finite = spread[np.isfinite(spread)]
    if finite.size == 0:
        return unknown
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class _Ranked:
    """Clips from the highest score of one class down; equal scores make one group.

    Attributes:
        order: (N,) clips.
        cuts: Places in `order` where a group with a positive clip begins or ends, ascending, the first 0.
        first, last: (G,) for each such group, which cut it begins at, and which it ends at (may be the end of all).
        positives: (P,) positive clips in order.
        group: (P,) to which of the groups each belongs.
    """

    order: NDArray[np.intp]
    cuts: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    positives: NDArray[np.intp]
    group: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Floats, truth: NDArray[np.bool_]) -> _Ranked:
        order = np.argsort(-scores, kind="stable")
        falling, found = scores[order], np.flatnonzero(truth[order])
        # Compared and not subtracted: two infinities of one sign are equal, and their difference is NaN.
        begins = np.append(0, np.flatnonzero(falling[1:] != falling[:-1]) + 1)
        groups, member = np.unique(np.searchsorted(begins, found, side="right") - 1, return_inverse=True)
        starts, ends = begins[groups], np.append(begins, len(order))[groups + 1]
        cuts = np.unique(np.concatenate([[0], starts, ends[ends < len(order)]]))
        first, last = np.searchsorted(cuts, starts), np.searchsorted(cuts, ends)
        return cls(order, cuts, first, last, order[found], member)

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """(D,) average precision (area under the precision-recall steps) and area under the ROC curve.

        Only the groups with a positive clip add to either, so that clips between them need only be counted.

        Args:
            weights: (N, D) how often each clip counts in each draw; draws side by side, for speed.
        """
        gained = np.zeros((len(self.first), weights.shape[1]))
        np.add.at(gained, self.group, weights[self.positives])
        counted = np.cumsum(np.add.reduceat(weights[self.order], self.cuts, axis=0), axis=0)
        taken = np.concatenate([np.zeros((1, weights.shape[1])), counted])  # before each cut, and in all
        hits = np.cumsum(gained, axis=0)
        above, through, total = taken[self.first], taken[self.last], taken[-1]
        # A draw may hold none of the clips so far: then `gained` is 0 too, whatever the precision.
        precision = hits / np.maximum(through, 1.0)
        positives, negatives = hits[-1], total - hits[-1]
        beside = through - above - gained
        # Each positive beats the negatives below it, and by half those beside it.
        beaten = (total - through) - (positives - hits) + beside / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            ap = (gained * precision).sum(axis=0) / positives
            auc = (gained * beaten).sum(axis=0) / (positives * negatives)
        undefined = (positives == 0) | (negatives == 0)
        return np.where(undefined, np.nan, ap), np.where(undefined, np.nan, auc)


def _mean_over_classes(values: Floats) -> Floats:
    """(D,) mean over the classes that are numbers."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
