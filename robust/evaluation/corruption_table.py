"""From records under corruptions to what people quote: a table of cells, mCE, degradation, calibration.

With E the error (1 - accuracy, or 1 - mAP) at corruption c and severity s, and a small reference model:

    CE_c = sum_s E / sum_s E_reference                                     (Hendrycks & Dietterich 2019)
    relative CE_c = sum_s (E - E_clean) / sum_s (E_reference - E_reference,clean)
    degradation_c = (score_clean - mean_s score) / score_clean

and their means over corruptions. 1 is as bad as the reference. The reference moves these numbers, so that the mean
error, which needs none, always stands beside them. Intervals are of a bootstrap over clips, the same draw in all cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.corruptions.base import CATEGORIES
from robust.evaluation.condition_summary import score_dict
from robust.evaluation.corruption_cells import CLEAN, Cell
from robust.evaluation.corruption_reference import Reference
from robust.evaluation.summary import finite
from robust.metrics.calibration import calibration
from robust.metrics.classification import Score, accuracy
from robust.metrics.multilabel import Ranking, bootstrap_weights, percentile_interval
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
RESAMPLES: Mapping[Task, int] = {"multiclass": 1000, "multilabel": 200}


class Scored:
    """Every cell of a run scored, as it is and under bootstrap draws of clips.

    Attributes:
        groups: (corruption, severity) -> its records, in the order of clips.
        scores: (corruption, severity) -> score with its interval: Wilson's of an accuracy, bootstrap of mAP.
        draws: (corruption, severity) -> (D,) scores under the draws, which are the same in all cells.
    """

    def __init__(self, records: pd.DataFrame, task: Task, seed: int = 0) -> None:
        self.task = task
        self.groups = {
            (str(name), int(severity)): part.sort_values("clip", ignore_index=True)
            for (name, severity), part in records.groupby(["corruption", "severity"], sort=False)
        }
        clips = len(self.groups[CLEAN, 0])
        weights = bootstrap_weights(clips, RESAMPLES[task], seed)
        self.scores: dict[tuple[str, int], Score] = {}
        self.draws: dict[tuple[str, int], Floats] = {}
        for key, part in self.groups.items():
            self.scores[key], self.draws[key] = _score(part, task, weights)

    def errors(self, key: tuple[str, int]) -> Floats:
        """(1 + D,) the error of a cell, and under the draws."""
        return 1 - np.concatenate([[self.scores[key].score], self.draws[key]])

    def as_reference(self, told: Mapping[str, Any]) -> Reference:
        """These errors as those of a reference on the same clips; `told` says whose."""
        return Reference({key: self.errors(key) for key in self.groups}, told)


def corruption_summary(
    records: pd.DataFrame,
    task: Task,
    cells: Sequence[Cell],
    reference: Reference | None,
    facts: Mapping[str, Any],
    no_reference: str | None = None,
) -> dict[str, Any]:
    """What `robust noise --json` prints of one victim.

    Args:
        records: One row for each clip and cell, clean ones among them.
        task: Of the victim.
        cells: All cells, in order.
        reference: Errors of the reference model on the same clips.
        facts: Entries that come first: victim, data, run.
        no_reference: Why there is none.
    """
    scored = Scored(records, task)
    named = {cell.name: cell.corruption for cell in cells if cell.corruption}
    told = [_cell(scored, cell) for cell in cells if cell.corruption]
    rows = [_corruption(scored, name, _severities(cells, name), reference) for name in named]
    for row in rows:
        row["category"] = named[row["corruption"]].category
    return {
        "kind": "noise",
        **facts,
        "clips": len(scored.groups[CLEAN, 0]),
        "task": task,
        "clean": {**score_dict(scored.scores[CLEAN, 0]), **_calibrated(scored.groups[CLEAN, 0])},
        "cells": told,
        "corruptions": [_told(row) for row in rows],
        "categories": {
            category: _mean_of([row for row in rows if row["category"] == category])
            for category in (*CATEGORIES, "other")
            if any(row["category"] == category for row in rows)
        },
        **_mean_of(rows),
        "silent_clips": max((cell["silent"] for cell in told), default=0),
        "reference": reference.told if reference else None,
        "no_reference": None if reference else no_reference,
    }


def _severities(cells: Sequence[Cell], name: str) -> list[int]:
    return [cell.severity for cell in cells if cell.name == name]


def _score(part: pd.DataFrame, task: Task, weights: Sequence[Floats]) -> tuple[Score, Floats]:
    if task == "multiclass":
        right = part["correct"].to_numpy(dtype=bool)
        return accuracy(right), np.concatenate([batch @ right / len(right) for batch in weights])
    ranking = Ranking(np.stack(part["logits"].tolist()), np.stack(part["label"].tolist()))
    draws = np.concatenate([ranking.macro(batch)[0] for batch in weights])
    low, high = percentile_interval(draws, (0.0, 1.0))
    return Score(float(ranking.macro()[0][0]), low, high, "mAP", len(part)), draws


def _cell(scored: Scored, cell: Cell) -> dict[str, Any]:
    """One cell as JSON."""
    assert cell.corruption is not None
    part, score = scored.groups[cell.name, cell.severity], scored.scores[cell.name, cell.severity]
    return {
        "corruption": cell.name,
        "category": cell.corruption.category,
        "severity": cell.severity or None,
        "parameter": cell.corruption.parameter,
        "value": finite(cell.corruption.value(cell.severity)),
        **score_dict(score),
        "snr_db": _median(part["snr_db"]),
        "psnr_db": _median(part["psnr_db"]),
        "measure": cell.corruption.measure.name,
        "realised": _median(part["realised"]),
        "silent": int(part["silent"].sum()),
        "over_range": float(part["over_range"].mean()),
        **_calibrated(part),
    }


def _calibrated(part: pd.DataFrame) -> dict[str, float]:
    return asdict(calibration(np.stack(part["logits"].tolist()), np.stack(part["label"].tolist())))


def _median(values: pd.Series[float]) -> float | None:
    """Over the clips that have one."""
    known = values.to_numpy(dtype=np.float64)
    known = known[~np.isnan(known)]
    return finite(float(np.median(known))) if known.size else None


def _corruption(scored: Scored, name: str, severities: Sequence[int], reference: Reference | None) -> dict[str, Any]:
    """A corruption over its severities; arrays (1 + D,) hold the figure and its draws."""
    errors = np.stack([scored.errors((name, severity)) for severity in severities])
    clean = scored.errors((CLEAN, 0))
    row: dict[str, Any] = {
        "corruption": name,
        "mean_error": errors.mean(axis=0),
        "degradation": _ratio((errors - clean).mean(axis=0), 1 - clean),
        "ce": None,
        "relative_ce": None,
    }
    theirs = reference.errors(name, severities, len(clean) - 1) if reference else None
    if theirs is not None:
        row["ce"] = _ratio(errors.sum(axis=0), theirs[1:].sum(axis=0))
        row["relative_ce"] = _ratio((errors - clean).sum(axis=0), (theirs[1:] - theirs[0]).sum(axis=0))
    return row


def _ratio(over: Floats, under: Floats) -> Floats:
    """Infinite where the reference alone makes no errors (a denominator not above 0), NaN where neither makes any."""
    return np.where(under > 0, over / np.where(under > 0, under, 1.0), np.where(over > 0, np.inf, np.nan))


FIGURES = {"mean_error": "mean_error", "degradation": "degradation", "ce": "mce", "relative_ce": "relative_mce"}
"""Of a corruption -> as the mean over corruptions is called."""


def _mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over corruptions with their intervals; those without the figure are left out and counted.

    Where the reference alone loses nothing in too many draws of clips, a ratio has no upper end.
    """
    told: dict[str, Any] = {}
    for name, called in FIGURES.items():
        known = [row[name] for row in rows if row[name] is not None and math.isfinite(row[name][0])]
        means = np.mean(known, axis=0) if known else np.array([np.nan])
        low, high = percentile_interval(means[1:], (math.nan, math.nan))
        if np.isposinf(means[1:]).any():
            low, high = np.percentile(means[1:][~np.isnan(means[1:])], [2.5, 97.5], method="higher").tolist()
        told |= {called: finite(float(means[0])), f"{called}_low": finite(low), f"{called}_high": finite(high)}
        if name in ("ce", "relative_ce") and known:
            told[f"{called}_corruptions"] = len(known)
    return told


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A corruption as JSON."""
    figures = {name: finite(float(row[name][0])) if row[name] is not None else None for name in FIGURES}
    return {"corruption": row["corruption"], "category": row["category"], **figures}
