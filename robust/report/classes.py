"""Scores class by class, and what the victim takes for what, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.condition_summary import condition_score
from robust.evaluation.paired import clean_view
from robust.evaluation.summary import clean_score, robust_score
from robust.metrics.multilabel import Ranking, bootstrap_weights, percentile_interval
from robust.report.formats import interval, number, percent
from robust.report.levels import axis_words, median_level, searched
from robust.report.reading import Run

if TYPE_CHECKING:
    import pandas as pd

MOST_CELLS = 20
"""Up to so many classes the confusion is shown whole, beyond that its largest pairs."""
PAIRS = {True: 8, False: 20}
"""How many pairs are told beside the whole confusion, and in place of it."""
CHANGED = 20
BOOTSTRAP_VALUES = 500_000
"""Clips times classes up to which the intervals of all classes are computed: a second or two of work."""


@dataclass(frozen=True)
class Row:
    """One class; `before` and `after` are shares to sort by, the rest is text."""

    name: str
    clips: int
    before: float
    before_text: str
    before_interval: str
    after: float
    after_text: str
    after_interval: str


@dataclass(frozen=True)
class ClassTable:
    """Scores by class: `metric`, the heading of the last column, the rows, how many were left out, and a remark.

    `kept` says which rows those are, where some were left out.
    """

    metric: str
    after: str
    rows: list[Row]
    left_out: int = 0
    remark: str = ""
    kept: str = "that lose most"


@dataclass(frozen=True)
class Confusion:
    """What was taken for what.

    Attributes:
        labels: Names of rows (truth) and columns (answer) of the two tables; empty where there are too many classes.
        before, after: (K, K) rows of counts.
        pairs: The pairs of truth and wrong answer that grew most: both names, count before, count after.
    """

    labels: list[str]
    before: list[list[int]]
    after: list[list[int]]
    pairs: list[tuple[str, str, int, int]]


def class_table(run: Run, most: int) -> ClassTable | None:
    """The table of a run with records; None where there are none.

    Args:
        run: The run.
        most: Rows at most; those that lose most are kept, of a search those that break first.
    """
    records = run.records
    if records is None or run.kind not in ("attack", "change", "universal", "curve"):
        return None
    if run.task == "multilabel":
        table = _multilabel(run, records)
    else:
        table = _radii(records, run) if run.kind == "curve" else _multiclass(records, run.kind)
    if table is None or len(table.rows) <= most:
        return table
    levels = run.kind == "curve" and run.task != "multilabel"
    falling = levels and run.summary["axis"].get("harder") == "down"

    def rank(row: Row) -> tuple[bool, float, str]:
        # A level has nothing to do with the clean score; where levels fall, the highest comes first.
        value = row.after - row.before if not levels else -row.after if falling else row.after
        return math.isnan(value), value, row.name

    rows = sorted(sorted(table.rows, key=rank)[:most], key=lambda row: row.name)
    kept = "that break first" if levels else table.kept
    return replace(table, rows=rows, left_out=len(table.rows) - most, kept=kept)


def _multiclass(records: pd.DataFrame, kind: str) -> ClassTable:
    score = robust_score if kind == "attack" else condition_score
    rows = []
    for name, part in records.groupby("label_name", sort=True):
        before, after = clean_score(part, "multiclass"), score(part, "multiclass")
        shown = [(one.score, percent(one.score), interval(one.low, one.high)) for one in (before, after)]
        rows.append(Row(str(name), len(part), *shown[0], *shown[1]))
    return ClassTable("accuracy", "changed" if kind == "change" else "robust", rows)


def _radii(records: pd.DataFrame, run: Run) -> ClassTable | None:
    """Of a search: the clean score and the median of the smallest levels that break a clip."""
    if not searched(records):
        return None
    rows = []
    for name, part in records.groupby("label_name", sort=True):
        before, median = clean_score(part, "multiclass"), median_level(part, run.summary)
        ends = interval(before.low, before.high)
        rows.append(Row(str(name), len(part), before.score, percent(before.score), ends, median, number(median, 3), ""))
    name, unit = axis_words(run.summary["axis"])
    return ClassTable("accuracy", f"median {name} that breaks a clip{f' ({unit})' if unit else ''}", rows)


def _multilabel(run: Run, records: pd.DataFrame) -> ClassTable | None:
    """Average precision; what the run stored, with intervals from its records where that is not too much work."""
    labels = run.labels
    if "logits" not in records or "clean_logits" not in records or not labels:
        return None
    truth = np.stack(records["label"].tolist()) > 0
    sides = [_precision(view, truth) for view in (clean_view(records), records)]
    rows = []
    for place, name in enumerate(labels):
        before, after = (side[place] for side in sides)
        if truth[:, place].any():
            rows.append(Row(name, int(truth[:, place].sum()), *before, *after))
    remark = "" if truth.size <= BOOTSTRAP_VALUES else "Intervals by class were left out: there are too many clips."
    return ClassTable("average precision", "changed" if run.kind == "change" else "robust", rows, remark=remark)


def _precision(records: pd.DataFrame, truth: NDArray[np.bool_], resamples: int = 200) -> list[tuple[float, str, str]]:
    """For each class: average precision as a number and as text, and its bootstrap interval."""
    ranking = Ranking(np.stack(records["logits"].tolist()), truth)
    point = ranking.scores()[0][0]
    draws = None
    if truth.size <= BOOTSTRAP_VALUES:
        weights = bootstrap_weights(ranking.clips, resamples, 0)
        draws = np.concatenate([ranking.scores(batch)[0] for batch in weights])
    found = [(math.nan, percent(None), "")] * truth.shape[1]
    for rated, place in enumerate(ranking.rated.tolist()):
        ends = "" if draws is None else interval(*percentile_interval(draws[:, rated], (0.0, 1.0)))
        found[place] = (float(point[rated]), percent(float(point[rated])), ends)
    return found


def confusion(run: Run) -> Confusion | None:
    """Truth against answer before and after; None with many labels a clip, or without records."""
    records = run.records
    if records is None or run.task == "multilabel" or run.kind not in ("attack", "change", "universal"):
        return None
    labels = run.labels
    if not labels:
        return None
    before, after = (_counts(records, column, len(labels)) for column in ("clean_prediction", "prediction"))
    grown = after - before
    np.fill_diagonal(grown, 0)
    seen = before + after
    present = [place for place in range(len(labels)) if seen[place].any() or seen[:, place].any()]
    whole = len(present) <= MOST_CELLS
    order = np.argsort(-grown, axis=None, kind="stable")[: PAIRS[whole]]
    places = [np.unravel_index(place, grown.shape) for place in order.tolist() if grown.flat[place] > 0]
    pairs = [(labels[row], labels[column], int(before[row, column]), int(after[row, column])) for row, column in places]
    if not whole:
        return Confusion([], [], [], pairs)
    block = np.ix_(present, present)
    return Confusion([labels[place] for place in present], before[block].tolist(), after[block].tolist(), pairs)


def _counts(records: pd.DataFrame, column: str, classes: int) -> NDArray[np.int64]:
    found = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(found, (records["label"].to_numpy(dtype=int), records[column].to_numpy(dtype=int)), 1)
    return found


def label_changes(run: Run) -> list[tuple[str, int, int, int, int]]:
    """With many labels a clip: how often each is told (logit above 0), rightly and wrongly, before and after.

    Returns:
        The labels that changed most: name, right before, right after, wrong before, wrong after.
    """
    records = run.records
    if records is None or run.task != "multilabel" or not run.labels or "logits" not in records:
        return []
    truth = np.stack(records["label"].tolist()) > 0
    told = [np.stack(records[name].tolist()) > 0 for name in ("clean_logits", "logits")]
    counts = np.stack([*((side & truth).sum(axis=0) for side in told), *((side & ~truth).sum(axis=0) for side in told)])
    change = np.abs(counts[1] - counts[0]) + np.abs(counts[3] - counts[2])
    order = [place for place in np.argsort(-change, kind="stable")[:CHANGED].tolist() if change[place] > 0]
    return [(run.labels[place], *_four(counts[:, place])) for place in order]


def _four(values: Sequence[Any] | NDArray[np.int64]) -> tuple[int, int, int, int]:
    first, second, third, fourth = (int(value) for value in values)
    return first, second, third, fourth
