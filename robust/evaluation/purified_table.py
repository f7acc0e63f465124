"""The table of corruptions before and after a purifier: what it wins on each, and what it costs on clean clips.

The same corrupted clips go to the bare victim and through the purifier, so that differences are paired: McNemar's exact
test of accuracies, the paired bootstrap of mAP (`robust.evaluation.paired`). A p-value stands for its cell alone: it is
not corrected for how many cells there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust.evaluation.condition_summary import comparison_dict, score_dict
from robust.evaluation.corruption_cells import CLEAN, Cell
from robust.evaluation.corruption_reference import Reference
from robust.evaluation.corruption_table import RESAMPLES, Scored, corruption_summary
from robust.evaluation.paired import compare
from robust.evaluation.summary import finite
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("mean_error", "degradation", "mce", "relative_mce")
COLUMNS = ("prediction", "margin", "correct", "logits")


def purified_view(records: pd.DataFrame) -> pd.DataFrame:
    """The records as if the victim had heard everything through the purifier."""
    return records.assign(**{name: records[f"purified_{name}"] for name in COLUMNS})


def purified_summary(
    records: pd.DataFrame,
    task: Task,
    cells: Sequence[Cell],
    reference: Reference | None,
    purifier: Mapping[str, Any],
) -> dict[str, Any]:
    """What `robust noise --purify` adds to the summary of a run.

    Args:
        records: One row for each clip and cell, with the columns of `evaluate_cells` for a purifier.
        task: Of the victim.
        cells: All cells, in order.
        reference: Of mCE; it hears nothing through the purifier.
        purifier: What to say of it.

    Returns:
        JSON-ready: `purifier`; `clean` and each of `cells` with `before` and `after` (scores with 95 % intervals) and
        `difference` (after - before, paired, with interval, p and test); and for all together `before` and `after`:
        mean error, degradation, mCE and relative mCE with their intervals. The degradation behind the purifier is of
        the clean score behind it.
    """
    view = purified_view(records)
    before, after = Scored(records, task), Scored(view, task)

    def compared(key: tuple[str, int]) -> dict[str, Any]:
        difference = compare(after.groups[key], before.groups[key], task, resamples=RESAMPLES[task])
        scores = {"before": score_dict(before.scores[key]), "after": score_dict(after.scores[key])}
        return {**scores, "difference": comparison_dict(difference)}

    told = []
    for cell in cells:
        if cell.corruption is not None:
            own = {"corruption": cell.name, "severity": cell.severity or None}
            value = {"parameter": cell.corruption.parameter, "value": finite(cell.corruption.value(cell.severity))}
            told.append({**own, **value, **compared((cell.name, cell.severity))})
    return {
        "purifier": dict(purifier),
        "clean": compared((CLEAN, 0)),
        "cells": told,
        "before": _figures(corruption_summary(records, task, cells, reference, {})),
        "after": _figures(corruption_summary(view, task, cells, reference, {})),
    }


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures over all cells, with their intervals."""
    return {f"{name}{end}": summary[f"{name}{end}"] for name in FIGURES for end in ("", "_low", "_high")}


__all__ = ["purified_summary", "purified_view"]
