"""From point-wise thresholds to shares, medians and tests.

Radii that were not found within the largest one are right-censored: medians are order statistics, and a median among
the censored is None ("above the largest radius"). Fusion counts as weaker than its part on a clip only where the two
radii are further apart than the factor to which they were searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.paired import sign_flip_p
from robust.evaluation.summary import finite
from robust.metrics.classification import accuracy

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


def threshold_summary(
    frame: pd.DataFrame, largest: Mapping[str, float], tolerance: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each part (`A`, `V`) and for the clips on which the parts predict the same (`agree`), otherwise, and `all`.

    Args:
        frame: As in `robust.evaluation.thresholds.Thresholds`.
        largest: `A` and `V` -> largest radius tried.
        tolerance: Factor within which radii are ties.

    Returns:
        Per part and group, JSON-ready:
        `clips`: how many the part has right at first;
        `weaker`: share of these where the fused victim breaks at a smaller radius, those it has wrong at once among
        them (case s < t of the theorem), with Wilson's interval;
        `both_right`: the same of the clips that the fused victim has right at first too: `clips`, `weaker`,
        `stronger`, `p` (exact sign test of weaker against stronger), and the medians of both radii, `alone` and
        `fused`, each with its interval and the number of `censored`.
    """
    agree = frame["agree"].to_numpy(dtype=bool)
    groups = {"all": np.ones(len(frame), dtype=bool), "agree": agree, "disagree": ~agree}
    return {
        sense: {name: _group(frame[rows], sense, largest[sense], tolerance) for name, rows in groups.items()}
        for sense in ("A", "V")
    }


def weaker(one: Floats, other: Floats, largest: float, tolerance: float) -> NDArray[np.bool_]:
    """(N,) whether `one` is surely below `other`, both searched to a factor `tolerance` and censored at `largest`."""
    return one * tolerance < np.minimum(other, largest)


def median_radius(radii: Floats) -> dict[str, Any]:
    """Median of right-censored radii (infinite: not broken) with a 95 % interval, all order statistics.

    The median is the least radius that breaks at least half; None where it lies among the censored. The interval is
    the exact binomial one.
    """
    from scipy.stats import binom

    ordered, count = np.sort(radii), len(radii)
    told: dict[str, Any] = {"median": None, "low": None, "high": None}
    if count:
        # Ranks between which the median lies with at least 95 %; the ends of the sample where there are too few.
        first = int(binom.ppf(0.025, count, 0.5))
        places = {"median": (count - 1) // 2, "low": max(first - 1, 0), "high": min(count - first, count - 1)}
        told = {name: finite(float(ordered[place])) for name, place in places.items()}
    return {**told, "clips": count, "censored": int(np.isinf(radii).sum())}


def _group(frame: pd.DataFrame, sense: str, largest: float, tolerance: float) -> dict[str, Any]:
    """One part on one group of clips."""
    frame = frame[frame[f"right_{sense}"]]
    both = frame[frame["right_AV"]]
    alone, fused = (both[column].to_numpy(dtype=float) for column in (f"eps_{sense}", f"eps_{sense}_to_AV"))
    below, above = weaker(fused, alone, largest, tolerance), weaker(alone, fused, largest, tolerance)
    through, direct = (frame[column].to_numpy(dtype=float) for column in (f"eps_{sense}_to_AV", f"eps_{sense}"))
    return {
        "clips": len(frame),
        "weaker": _share(weaker(through, direct, largest, tolerance), "fusion weaker"),
        "both_right": {
            "clips": len(both),
            "weaker": _share(below, "fusion weaker"),
            "stronger": _share(above, "fusion stronger"),
            "p": sign_flip_p(below.astype(np.int64) - above.astype(np.int64)),
            "alone": median_radius(alone),
            "fused": median_radius(fused),
        },
    }


def _share(hits: NDArray[np.bool_], metric: str) -> dict[str, Any]:
    """A share with its interval; None where there is nothing to share."""
    found = asdict(replace(accuracy(hits), metric=metric))
    return {**found, "score": found["score"] if math.isfinite(found["score"]) else None}
