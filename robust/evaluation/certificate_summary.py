"""From certificates to the numbers of `robust certify`: certified accuracy against radius, and what attacks leave.

A clip counts as certified at a radius where all its answers are right and certified to at least that radius. With many
labels a clip, the same is told for each label by itself, too, over all pairs of clip and label and over those pairs
whose label is present; most labels are absent, and absent is what noise makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defenses.smoothing import ABSTAIN, ceiling, high_probability, radius_snr_db
from robust.evaluation.certificates import Certified
from robust.evaluation.summary import clean_score, finite
from robust.metrics.classification import Score, accuracy
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd

LEVELS = 9
RHO = 0.001
"""Probability with which the high-probability figure may be too high."""


def usual_radii(sigma: float, n: int, alpha: float) -> list[float]:
    """Nine radii from 0 to the largest that `n` votes can show, rounded to two digits of a sigma."""
    most = ceiling(sigma, n, alpha)
    if most == 0:
        return [0.0]
    step = most / (LEVELS - 1)
    digits = 1 - math.floor(math.log10(step))
    return sorted({round(step * level, digits) for level in range(LEVELS)})


def certified_at(records: pd.DataFrame, radius: float) -> NDArray[np.bool_]:
    """(N,) whether all answers of a clip are right, and certified to stay so up to `radius`."""
    return np.asarray(records["right"] & (records["radius"] >= radius), dtype=bool)


def stands_at(records: pd.DataFrame, level: int) -> NDArray[np.bool_]:
    """(N,) whether all answers of a clip are right and stand the attack at the radius in place `level`."""
    return np.array([all(stands[level]) for stands in records["stands"]], dtype=bool)


def decisions(records: pd.DataFrame, column: str) -> NDArray[Any]:
    """(N, decisions) a column that holds a list for each clip."""
    return np.stack([np.asarray(row) for row in records[column]])


def certificate_scores(records: pd.DataFrame, condition: Certified, task: Task) -> dict[str, Any]:
    """All figures of the summary that come from records."""
    radii = [condition.radius] if condition.radius is not None else list(condition.radii)
    sigma, n = condition.voter.sigma, condition.n
    alpha_each = condition.alpha / condition.decisions
    answers = decisions(records, "answers")
    certified = [_score(certified_at(records, radius), "certified accuracy") for radius in radii]
    told: dict[str, Any] = {
        "sigma": sigma,
        "n0": condition.n0,
        "n": n,
        "alpha": condition.alpha,
        "decisions": condition.decisions,
        "ceiling": ceiling(sigma, n, alpha_each),
        "radius": condition.radius,
        "clean": asdict(clean_score(records, task)),
        "smoothed": asdict(_score(records["right"].to_numpy(dtype=bool), "accuracy of the smoothed classifier")),
        "abstained": asdict(_score((answers == ABSTAIN).any(axis=1), "clips with an answer withheld")),
        "radii": radii,
        "certified": [asdict(score) for score in certified],
        "high_probability": [high_probability(one.score, one.clips, condition.alpha, RHO) for one in certified],
        "average_radius": _mean_radius(records) if condition.radius is None else None,
        "snr_db": [finite(float(np.median(radius_snr_db(records["norm"], radius)))) for radius in radii],
        "votes_per_clip": float(records["votes"].mean()) + condition.n0,
        "forwards_per_clip": float(records["votes"].mean()) + condition.n0,
    }
    told["radius_snr_db_median"] = finite(float(records["radius_snr_db"].median()))
    told["certified_in"] = sorted(str(way) for way in records["way"].unique())
    told["recast_share"] = float(records["recast"].sum() / max((records["votes"] + condition.n0).sum(), 1))
    if task == "multilabel":
        told["labels"] = _by_label(records, radii)
    return {**told, "attacked": _attacked(records, condition)}


def _mean_radius(records: pd.DataFrame) -> dict[str, float]:
    """Mean over clips of the radius within which they stay right, with a 95 % interval (normal)."""
    radii = records["radius"].to_numpy(dtype=float)
    mean, error = float(radii.mean()), float(radii.std(ddof=1) / math.sqrt(len(radii))) if len(radii) > 1 else 0.0
    return {"score": mean, "low": max(mean - 1.96 * error, 0.0), "high": mean + 1.96 * error}


def _by_label(records: pd.DataFrame, radii: Sequence[float]) -> dict[str, Any]:
    """Certified shares of pairs of clip and label; intervals by resampling clips, whose labels hang together."""
    right = decisions(records, "answers") == decisions(records, "truth")
    proved, present = decisions(records, "radii"), decisions(records, "truth") == 1
    found: dict[str, Any] = {"pairs": [], "present": []}
    for radius in radii:
        held = right & (proved >= radius)
        found["pairs"].append(_share(held, np.ones_like(held)))
        found["present"].append(_share(held, present))
    return found


def _share(held: NDArray[np.bool_], counted: NDArray[np.bool_], resamples: int = 1000) -> dict[str, Any]:
    won, of = (held & counted).sum(axis=1), counted.sum(axis=1)
    if of.sum() == 0:
        return {"score": None, "low": 0.0, "high": 1.0}
    draws = np.random.default_rng(0).integers(0, len(of), (resamples, len(of)))
    spread = won[draws].sum(axis=1) / np.maximum(of[draws].sum(axis=1), 1)
    low, high = np.percentile(spread, [2.5, 97.5])
    return {"score": float(won.sum() / of.sum()), "low": float(low), "high": float(high)}


def _attacked(records: pd.DataFrame, condition: Certified) -> dict[str, Any] | None:
    """The empirical curve above the certified one."""
    if condition.attack is None:
        return None
    shares = [_score(stands_at(records, level), "accuracy under attack") for level in range(len(condition.radii))]
    return {
        "radii": list(condition.radii),
        "scores": [asdict(share) for share in shares],
        "snr_db": [finite(float(np.median(radius_snr_db(records["norm"], radius)))) for radius in condition.radii],
        "violations": int(records["violations"].sum()),
        "steps": condition.attack.steps,
        "draws": condition.draws,
    }


def _score(true: NDArray[np.bool_], metric: str) -> Score:
    found = accuracy(true)
    return Score(found.score, found.low, found.high, metric, found.clips)


def certificate_summary(
    records: pd.DataFrame, scores: Mapping[str, Any], checks: Sequence[Any], task: Task, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What `robust certify --json` prints."""
    return {
        "kind": "certificate",
        **facts,
        "clips": len(records),
        "task": task,
        **scores,
        "checks": [asdict(check) for check in checks],
    }


__all__ = [
    "certificate_scores",
    "certificate_summary",
    "certified_at",
    "decisions",
    "stands_at",
    "usual_radii",
]
