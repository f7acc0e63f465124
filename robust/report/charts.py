"""Curves for the script that draws them, and the same numbers for tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robust.report.formats import Shown, interval, number, percent, shown
from robust.report.levels import axis_words
from robust.report.reading import Run
from robust.report.words import data_name


@dataclass(frozen=True)
class Line:
    """One curve: its name, its clean score, and rows of level, score and interval as numbers and as text."""

    name: str
    clean: Shown
    points: list[list[float | None]]
    rows: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Chart:
    """Curves over one axis, of one metric, on one data set; `marks` are levels with a word for each."""

    key: str
    title: str
    axis: str
    unit: str
    log: bool
    harder: str
    metric: str
    lines: list[Line]
    marks: list[tuple[float, str]] = field(default_factory=list)

    def drawn(self) -> dict[str, Any]:
        """What the script needs, as JSON."""
        lines = [{"name": line.name, "clean": line.clean.score, "points": line.points} for line in self.lines]
        names = ("key", "title", "axis", "unit", "log", "harder", "metric", "marks")
        return {**{name: getattr(self, name) for name in names}, "lines": lines}


def charts(runs: Sequence[Run]) -> list[Chart]:
    """One chart for each axis, metric and data set; its lines in the order of the runs."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.kind == "curve":
            axis = run.summary["axis"]
            key = (
                *(str(axis.get(name)) for name in ("name", "modality", "unit", "harder")),
                _metric(run),
                data_name(run),
            )
            groups.setdefault(key, []).append(run)
    return [_chart(place, members) for place, members in enumerate(groups.values(), start=1)]


def _metric(run: Run) -> str:
    return str(run.summary.get("metric", "accuracy"))


def _chart(place: int, runs: Sequence[Run]) -> Chart:
    axis = runs[0].summary["axis"]
    label, unit = axis_words(axis)
    metric, modality = _metric(runs[0]), axis.get("modality")
    where = f" in {modality}" if modality else ""
    lines = [_line(run, name) for run, name in zip(runs, _names(runs), strict=True)]
    levels = [point[0] for line in lines for point in line.points if point[0] is not None]
    return Chart(
        key=f"chart-{place}",
        title=f"{metric.replace('accuracy', 'Accuracy')} against {label}{where}, {data_name(runs[0])}",
        axis=label,
        unit=unit,
        log=bool(axis.get("log")) and all(level > 0 for level in levels),
        harder=str(axis.get("harder", "up")),
        metric=metric,
        lines=lines,
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """The victims, told apart where one occurs twice."""
    names = [run.victim for run in runs]
    if len(set(names)) == len(names):
        return names
    names = [run.name for run in runs]
    return (
        names if len(set(names)) == len(names) else [f"{name} ({place})" for place, name in enumerate(names, start=1)]
    )


def _line(run: Run, name: str) -> Line:
    told = run.summary
    columns = zip(told["radii"], told["scores"], told["low"], told["high"], strict=True)
    return _of_points(name, told["clean"], [list(row) for row in columns])


def scores_line(
    name: str, clean: Mapping[str, Any], levels: Sequence[Any], scores: Sequence[Mapping[str, Any] | None]
) -> Line:
    """A curve of scores as summaries have them, each at its level; where one is missing there is no point."""
    ends = [[(score or {}).get(part) for part in ("score", "low", "high")] for score in scores]
    rows = [[level, *own] for level, own in zip(levels, ends, strict=True) if own[0] is not None]
    return _of_points(name, clean, rows)


def _of_points(name: str, clean: Mapping[str, Any], columns: Sequence[Sequence[Any]]) -> Line:
    points = [[_finite(value) for value in row] for row in columns]
    rows = [(number(level, 3), percent(score), interval(low, high)) for level, score, low, high in points]
    return Line(name, shown("clean", clean), [point for point in points if None not in point[:2]], rows)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None
