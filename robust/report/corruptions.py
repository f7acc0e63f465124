"""A run under named corruptions as tables: scores by category and severity, errors against a reference, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust.report.formats import NOTHING, decibels, interval, number, percent
from robust.report.reading import Run

MEASURES = {"snr_db": "SNR", "psnr_db": "PSNR"}
"""Levels of the damage that have a column of their own, the first that is known being shown."""


@dataclass(frozen=True)
class Tile:
    """A score on its colour: `share` of the score that is lost, 0 to 1; `ends` its interval, `level` the damage."""

    text: str
    ends: str
    level: str
    share: float


@dataclass(frozen=True)
class Line:
    """A corruption, or the mean of a category: a tile for each severity (None where not asked) and figures beside."""

    name: str
    tiles: list[Tile | None]
    figures: list[str]


@dataclass(frozen=True)
class Group:
    """A category: its means, and its corruptions."""

    mean: Line
    lines: list[Line]


@dataclass(frozen=True)
class CorruptionView:
    """What the section shows.

    Attributes:
        metric: Of the scores.
        severities: Headings of the columns of tiles.
        figures: Headings of the columns beside.
        groups: Categories in their order.
        total: Figures over all corruptions with their intervals: names and values.
        calibration: Severity, ECE and NLL, clean clips first.
        cells: Rows of the table of all cells.
    """

    metric: str
    severities: list[str]
    figures: list[str]
    groups: list[Group]
    total: list[tuple[str, str]]
    calibration: list[tuple[str, str, str]]
    cells: list[list[str]]


FIGURES = {
    "mean_error": "Mean error",
    "degradation": "Lost of the clean score",
    "ce": "CE",
    "relative_ce": "Relative CE",
}
TOTALS = {
    "mean_error": "Mean error",
    "degradation": "Lost of the clean score",
    "mce": "mCE",
    "relative_mce": "Relative mCE",
}
OF_CATEGORY = dict(zip(FIGURES, TOTALS, strict=True))
"""Figure of a corruption -> how its mean is called."""
CELLS = ("Corruption", "Severity", "Parameter", "Value", "Score", "Interval", "SNR", "PSNR", "ECE", "NLL")


def corruption_view(run: Run) -> CorruptionView | None:
    """The section of a run under corruptions; None of another kind."""
    if run.kind != "noise":
        return None
    told, cells = run.summary, run.summary["cells"]
    levels = sorted({cell["severity"] or 0 for cell in cells})
    rows = told.get("corruptions") or []
    known = [name for name in FIGURES if any(row.get(name) is not None for row in rows)]
    return CorruptionView(
        str(told["clean"].get("metric", "score")),
        [str(level) if level else "–" for level in levels],
        [FIGURES[name] for name in known],
        _groups(told, levels, known),
        [(words, _total(told, name)) for name, words in TOTALS.items() if told.get(name) is not None],
        _calibration(told, levels),
        [_cell(cell) for cell in cells],
    )


def _groups(told: Mapping[str, Any], levels: Sequence[int], known: Sequence[str]) -> list[Group]:
    figures = {row["corruption"]: row for row in told.get("corruptions") or []}
    categories: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for cell in told["cells"]:
        own = categories.setdefault(cell["category"], {}).setdefault(cell["corruption"], {})
        own[cell["severity"] or 0] = cell
    groups = []
    for category, corruptions in categories.items():
        lines = [
            Line(
                name.removeprefix("audiomentations:"),
                [_tile(cells[level]) if level in cells else None for level in levels],
                [_figure(key, figures.get(name, {}).get(key)) for key in known],
            )
            for name, cells in corruptions.items()
        ]
        means = (told.get("categories") or {}).get(category, {})
        beside = [_figure(key, means.get(OF_CATEGORY[key])) for key in known]
        tiles = [_mean([cells[level] for cells in corruptions.values() if level in cells]) for level in levels]
        groups.append(Group(Line(category, tiles, beside), lines))
    return groups


def _tile(cell: Mapping[str, Any]) -> Tile:
    score = cell["score"]
    ends = interval(cell.get("low"), cell.get("high"))
    return Tile(percent(score), ends, _level(cell), 0.0 if score is None else min(1.0, max(0.0, 1 - score)))


def _mean(cells: Sequence[Mapping[str, Any]]) -> Tile | None:
    """Of a category at a severity, over its corruptions; it has no interval of its own."""
    scores = [cell["score"] for cell in cells if cell["score"] is not None]
    if not scores:
        return None
    score = math.fsum(scores) / len(scores)
    return Tile(percent(score), "", "", min(1.0, max(0.0, 1 - score)))


def _level(cell: Mapping[str, Any]) -> str:
    for name, words in MEASURES.items():
        if cell.get(name) is not None:
            return f"{words} {decibels(cell[name])}"
    return ""


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    return number(value, 3) if name in ("ce", "relative_ce") else percent(value)


def _total(told: Mapping[str, Any], name: str) -> str:
    """A mean over corruptions with its interval, and over how many it is where some have none."""
    low, high, value = (told.get(f"{name}_low"), told.get(f"{name}_high"), told[name])
    if name in ("mean_error", "degradation"):
        ends = interval(low, high)
        text = percent(value)
    else:
        ends = "" if low is None or high is None else f"{number(low, 3)} to {number(high, 3)}"
        text = number(value, 3)
    counted, of = told.get(f"{name}_corruptions"), len(told.get("corruptions") or [])
    part = f", over {counted} of {of} corruptions" if counted is not None and counted < of else ""
    return text + (f" (95\u00a0% interval {ends})" if ends else "") + part


def _calibration(told: Mapping[str, Any], levels: Sequence[int]) -> list[tuple[str, str, str]]:
    """Expected calibration error and negative log likelihood: clean, and the mean over corruptions by severity."""
    parts = [("clean", [told["clean"]])]
    parts += [
        (f"severity {level}" if level else "–", [one for one in told["cells"] if (one["severity"] or 0) == level])
        for level in levels
    ]
    found = []
    for name, cells in parts:
        means = [_mean_of([cell.get(key) for cell in cells]) for key in ("ece", "nll")]
        if None not in means:
            found.append((name, percent(means[0]), number(means[1], 3)))
    return found


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _cell(cell: Mapping[str, Any]) -> list[str]:
    """A row of the table of all cells; see `CELLS`."""
    shares = [NOTHING if cell.get(name) is None else decibels(cell[name]) for name in MEASURES]
    return [
        str(cell["corruption"]),
        str(cell["severity"] or NOTHING),
        str(cell.get("parameter") or ""),
        number(cell.get("value"), 3),
        percent(cell["score"]),
        interval(cell.get("low"), cell.get("high")),
        *shares,
        percent(cell.get("ece")),
        number(cell.get("nll"), 3),
    ]
