"""Scores of a classifier, each with a 95 % interval.

Multiclass: accuracy with Wilson's interval. Multilabel: mAP (macro average precision over the classes that occur),
computed in float64 from logits - float16 sigmoids saturate and tie - with a bootstrap interval over clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """A score between 0 and 1 with the ends of its 95 % interval.

    Attributes:
        score: The value.
        low, high: Ends of the interval.
        metric: `accuracy` or `mAP`.
        clips: Number of clips it was taken over.
    """

    score: float
    low: float
    high: float
    metric: str
    clips: int

    def __str__(self) -> str:
        return f"{100 * self.score:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) for no observations."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == count else min(1.0, centre + half)


def accuracy(correct: NDArray[np.bool_]) -> Score:
    """Share of true values in `correct` (N,)."""
    correct = np.asarray(correct, dtype=bool)
    low, high = wilson(int(correct.sum()), correct.size)
    return Score(float(correct.mean()) if correct.size else float("nan"), low, high, "accuracy", correct.size)


def mean_average_precision(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, resamples: int = 200, seed: int = 0
) -> Score:
    """Macro average precision with a percentile bootstrap over clips.

    Args:
        scores: (N, K) logits; any increasing map of them gives the same result.
        labels: (N, K) multi-hot truth.
        resamples: Bootstrap draws.
        seed: Of the draws, so that the interval is reproducible.
    """
    exact, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels) > 0
    point = _macro(exact, truth)
    generator = np.random.default_rng(seed)
    draws = [generator.integers(0, len(exact), len(exact)) for _ in range(resamples)]
    spread = np.array([_macro(exact[draw], truth[draw]) for draw in draws])
    spread = spread[np.isfinite(spread)]
    low, high = np.percentile(spread, [2.5, 97.5]) if spread.size else (0.0, 1.0)
    return Score(point, float(low), float(high), "mAP", len(scores))


def _macro(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Mean of the average precision over the classes that occur."""
    from sklearn.metrics import average_precision_score

    rated = np.flatnonzero(truth.any(axis=0))
    if rated.size == 0:
        return float("nan")
    return float(average_precision_score(truth[:, rated], scores[:, rated], average="macro"))
