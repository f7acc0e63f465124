"""A study on the page: what of its geometry and of its scores goes together, in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from robust.plots.architectures import architecture_intervals, architecture_panels
from robust.plots.geometry import draw_measures, draw_scatter
from robust.plots.geometry_cells import best_pairs, interval_words, scatter_panels, victim_intervals
from robust.report.formats import count, number
from robust.report.geometry import Picture, picture
from robust.report.reading import Run
from robust.study.correlation_files import SYMBOLS, counted, measure_name, read_correlations
from robust.study.correlations import OVERS, PRIMARY, strongest
from robust.study.store import CellRun, StudyStore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROWS = 15
"""Of each table of correlations; the rest is in the study's own file."""
FIGURES = 4
"""Pages of measures at most."""


@dataclass(frozen=True)
class Part:
    """Correlations over victims, classes or scores: title, sentences, heads, rows, how many are not shown.

    A value has its interval beside it, or nothing.
    """

    title: str
    sentences: list[str]
    heads: list[str]
    rows: list[list[tuple[str, str]]]
    more: int


@dataclass(frozen=True)
class StudyGeometry:
    """What goes with what: parts of the table, figures, remarks on what is missing, and whether there is geometry."""

    parts: list[Part] = field(default_factory=list)
    scatter: list[Picture] = field(default_factory=list)
    measures: list[Picture] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    measured: bool = True


def study_geometry(study: StudyStore, runs: Sequence[Run]) -> StudyGeometry | None:
    """What a study's geometry goes with, or else its scores; None of a study without geometry and correlations.

    Args:
        study: As read.
        runs: Its finished runs.
    """
    cells = [run.cell for run in runs if run.kind == "geometry"]
    table = read_correlations(study)
    if not cells:
        return None if table is None else _of_scores(study, table)
    measures, missing = _measure_pictures(study, cells)
    if table is None:
        told = (
            "No correlations lie in the study's folder: it has no scores of these victims, or was not run to its end."
        )
        return StudyGeometry(measures=measures, missing=[*missing, told])
    parts = [_part(table, over) for over in OVERS if (table["over"] == over).any()]
    return StudyGeometry(parts, _scatter(study, table), measures, missing)


def _of_scores(study: StudyStore, table: pd.DataFrame) -> StudyGeometry:
    """Victims by architecture: their scores, and whether noise ranks them as attacks do."""
    parts = [_part(table, over) for over in OVERS if (table["over"] == over).any()]
    victims = ", ".join(dict.fromkeys(cell.victim for cell in study.every))
    scores = [
        picture(page, f"Scores of {victims}", "A row for each victim, by architecture; a marker for each of its seeds.")
        for page in draw_measures(architecture_intervals(study))[:FIGURES]
    ]
    panels = architecture_panels(study)
    caption = "Noise against attacks: a point is a victim, the mean of its seeds, its marker the kind of architecture."
    ranks = [picture(draw_scatter(panels), "Scores in noise against scores under attack", caption)] if panels else []
    return StudyGeometry(parts, ranks, scores, measured=False)


def _measure_pictures(study: StudyStore, cells: Sequence[CellRun]) -> tuple[list[Picture], list[str]]:
    """All measures of all victims, a set of pages for each condition and data set."""
    kin = {name: str(told["model"]) for name, told in (study.told.get("victims") or {}).items()}
    groups: dict[tuple[str, str], list[CellRun]] = {}
    for cell in cells:
        groups.setdefault((cell.condition, cell.data), []).append(cell)
    pages: list[tuple[str, Figure]] = []
    for (condition, data), own in groups.items():
        name = f"{condition} on {data}"
        pages += [(name, page) for page in draw_measures(victim_intervals(own, kin))]
    victims = ", ".join(dict.fromkeys(cell.victim for cell in cells))
    found = [
        picture(
            page,
            f"Measures of {victims}: {name}",
            f"{name}: a row for each victim, a marker for each of its seeds, the line its 95\u00a0% interval; the "
            "shape of the marker is the model.",
        )
        for name, page in pages[:FIGURES]
    ]
    more = len(pages) - FIGURES
    told = f"{count(more, 'page')} of measures had no room here; `python figures/geometry.py` draws all."
    return found, [told] if more > 0 else []


def _scatter(study: StudyStore, table: pd.DataFrame) -> list[Picture]:
    """The best pair of each group of measures and kind of score."""
    rows = best_pairs(table, "victims")
    if rows.empty:
        return []
    names = "; ".join(f"{measure_name(row)} against {row['number']}" for row in rows.to_dict("records"))
    caption = (
        "Of every group of measures and kind of score, the pair that holds best within families: the best of many, so "
        "the table comes first. A point is a victim under one seed, its marker the model, its filling the training "
        "defense; τ is Kendall's, within families and of all points."
    )
    return [picture(draw_scatter(scatter_panels(study, rows, "victims")), f"Scatter of victims: {names}", caption)]


def _part(table: pd.DataFrame, over: str) -> Part:
    rows, main = strongest(table, over), PRIMARY[over]
    symbol = SYMBOLS[main]
    scopes = {"within": "within victims" if over == "classes" else "within families"}
    scopes |= {} if over == "classes" else {"recipes": "recipes"}
    scopes["across"] = "class means" if over == "classes" else "all victims"
    scopes |= {} if over == "classes" else {"means": "all recipes"}
    heads = ["Measure", "Score", "Data"]
    for words in scopes.values():
        heads += [f"{symbol}, {words}", "q"]
    shown = [
        [
            *((words, "") for words in (measure_name(row), str(row["number"]), str(row["data"]))),
            *(cell for scope in scopes for cell in _coefficient(row, main, scope)),
            (number(float(row["n"])), ""),
        ]
        for row in rows[:ROWS].to_dict("records")
    ]
    last = "Classes" if over == "classes" else "Points"
    return Part(OVERS[over], counted(rows, over), [*heads, last], shown, max(0, len(rows) - ROWS))


def _coefficient(row: Mapping[str, Any], method: str, scope: str) -> list[tuple[str, str]]:
    """A coefficient with its interval, unless a handful of recipes would give one of no width; then its q."""
    value, low, high = (float(row[f"{method}_{scope}{end}"]) for end in ("", "_low", "_high"))
    shown, _, ends = interval_words(value, low, high).partition(" ")
    return [(shown, "" if scope in ("recipes", "means") else ends), (number(float(row[f"q_{scope}"]), 2), "")]


__all__ = ["StudyGeometry", "study_geometry"]
