"""From runs of `robust geometry` and a study's correlations to what `robust.plots.geometry` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.errors import StoreError, unknown
from robust.metrics.geometry.ranks import correlation
from robust.plots.geometry import Interval, ScatterPanel, measure_words
from robust.plots.style import modality_word
from robust.study.correlation_files import SYMBOLS, measure_name, read_correlations
from robust.study.correlations import PRIMARY, correlate, strongest
from robust.study.kinship import UNDEFENDED
from robust.study.points import MEASURE, SUBJECT, Points, class_points, victim_points
from robust.study.store import CellRun, StudyStore, read_table

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 30
"""Rows of a figure of classes."""
PANELS = 9
WEIGHTS = "weights"


def place_words(group: str, space: str) -> str:
    """`density, audio`; `sharpness` alone, which is of the weights."""
    return group if space == WEIGHTS else f"{group}, {modality_word(space)}"


def victim_intervals(cells: Sequence[CellRun], families: Mapping[str, str] | None = None) -> list[Interval]:
    """Every measure of every run; rows are victims, and runs of one victim share its row.

    Raises:
        StoreError: If a run has no table.
    """
    own = [(cell, read_table(cell, "table")) for cell in cells]
    places = dict.fromkeys(tuple(row) for _, table in own for row in table[list(MEASURE)].itertuples(index=False))
    found = []
    for group, space, measure in places:
        for cell, table in own:
            same = (table[list(MEASURE)] == [group, space, measure]).all(axis=1)
            family = (families or {}).get(cell.victim, str(cell.summary["victim"]))
            panel = place_words(group, space)
            for row in table[same].to_dict("records"):
                found.append(Interval(panel, measure, cell.victim, family, row["value"], row["low"], row["high"]))
    return found


def class_intervals(cell: CellRun, measures: Sequence[str] = ("convexity", "local-purity")) -> list[Interval]:
    """Measures by class of one run; none where there are more classes than a figure has rows for."""
    table = read_table(cell, "classes")
    own = table[table["measure"].isin(measures)]
    if own["label"].nunique() > MOST_CLASSES:
        return []
    return [
        Interval(
            place_words(row["group"], row["space"]),
            row["measure"],
            row["label"],
            "",
            row["value"],
            row["low"],
            row["high"],
        )
        for row in own.to_dict("records")
    ]


def class_counts(cell: CellRun) -> dict[str, int]:
    """Label -> clips that have it, of those that geometry was measured on."""
    classes = read_table(cell, "classes")
    counted = classes[classes["over"] == "clips"]
    if len(counted):
        return {str(label): int(count) for label, count in counted.groupby("label", sort=False)["count"].max().items()}
    labels = read_table(cell, "clips")["label"]
    return {str(label): int(count) for label, count in labels.value_counts().items() if label in set(classes["label"])}


def correlations_of(study: StudyStore, over: str) -> pd.DataFrame:
    """The table that the study wrote, or the same computed now.

    Args:
        study: With geometry.
        over: A key of `robust.study.correlations.OVERS` that must have rows.

    Raises:
        StoreError: If it has none: no scores of the victims whose geometry was measured.
    """
    table = read_correlations(study)
    if table is None:
        table = correlate(study).table
    if not (table["over"] == over).any():
        what = "scores with records (attack, noise)" if over == "classes" else "scores (attack, curve, noise)"
        raise StoreError(f"{study.folder} holds no {what} of the victims whose geometry it has.")
    return table


def best_pairs(table: pd.DataFrame, over: str, most: int = PANELS) -> pd.DataFrame:
    """Of every group of measures and kind of score, the pair that holds best within families; strongest first."""
    rows = strongest(table, over)
    rows = rows[rows["kind"] != "clean"] if (rows["kind"] != "clean").any() else rows
    return rows.drop_duplicates(["data", "group", "kind"])[:most]


def asked_pairs(table: pd.DataFrame, over: str, names: Sequence[str]) -> pd.DataFrame:
    """The pairs `MEASURE:SCORE`, e.g. `density.fused.local-purity:linf@0.002`, of every data set.

    Raises:
        StoreError: If one is not there.
    """
    import pandas as pd

    rows = strongest(table, over)
    known = [f"{measure_name(row)}:{row['number']}" for row in rows.to_dict("records")]
    for name in names:
        if name not in known:
            raise StoreError(unknown("pair MEASURE:SCORE", name, known))
    return pd.concat([rows[np.array(known) == name] for name in names])


def scatter_panels(study: StudyStore, rows: pd.DataFrame, over: str) -> list[ScatterPanel]:
    """The points behind rows of a table of correlations."""
    found = victim_points(study) if over == "victims" else class_points(study)
    return [_panel(found, row, over) for row in rows.to_dict("records")]


def frequency_panels(
    cells: Sequence[CellRun], kin: Mapping[str, Mapping[str, str]], measure: str = "convexity"
) -> list[ScatterPanel]:
    """A measure by class against how many clips a class has, a panel for each space.

    Args:
        cells: Runs of `robust geometry` on the same clips.
        kin: Victim -> its `model` and `defense`, where a study knows.
        measure: One that classes have.

    Raises:
        StoreError: If no run has it.
    """
    import pandas as pd

    parts = []
    for cell in cells:
        told = kin.get(cell.victim, {})
        family = told.get("model", cell.summary["victim"])
        part = read_table(cell, "classes")
        own = {"family": family, "defense": told.get("defense", UNDEFENDED)}
        parts.append(part.assign(clips=part["label"].map(class_counts(cell)), **own))
    table = pd.concat(parts)
    own = table[table["measure"] == measure]
    if own.empty:
        raise StoreError(unknown("measure by class", measure, table["measure"].unique().tolist()))
    return [
        ScatterPanel(
            "clips of the class",
            f"{measure_words(measure)} of {modality_word(str(space))} (%)",
            part["clips"].to_numpy(dtype=np.float64),
            part["value"].to_numpy(dtype=np.float64),
            part["family"].tolist(),
            part["defense"].tolist(),
            _frequency_title(part),
        )
        for space, part in own.groupby("space", sort=False)
    ]


def _frequency_title(part: pd.DataFrame) -> str:
    """Spearman's of class means with log frequency, which is that with the frequency."""
    means = part.groupby("label", sort=False)[["clips", "value"]].mean()
    found = correlation(means["clips"], means["value"], over="classes").estimate
    return f"ρ of means {interval_words(found.value, found.low, found.high)}\n{found.count} classes"


def _panel(found: Points, row: Mapping[str, Any], over: str) -> ScatterPanel:
    geometry, scores = found.geometry, found.scores
    measured = geometry[
        (geometry[["condition", "data", *MEASURE]]
         == [row[name] for name in ("geometry", "measured_on", *MEASURE)]).all(axis=1)
    ]  # fmt: skip
    scored = scores[(scores[["data", "number"]] == [row["data"], row["number"]]).all(axis=1)]
    keys = [*SUBJECT, *(["label"] if over == "classes" else [])]
    both = measured.merge(scored, on=keys, suffixes=("_x", "_y"), sort=False)
    main = PRIMARY[over]
    ends = [[row[f"{main}_{scope}{end}"] for end in ("", "_low", "_high")] for scope in ("within", "across")]
    names = ("within", "of means") if over == "classes" else ("within", "of all")
    told = [f"{SYMBOLS[main]} {name} {interval_words(*own)}" for name, own in zip(names, ends, strict=True)]
    return ScatterPanel(
        f"{place_words(row['group'], row['space'])}: {measure_words(row['measure'])}",
        f"{row['number']} (%)",
        both["value_x"].to_numpy(dtype=np.float64),
        both["value_y"].to_numpy(dtype=np.float64),
        both["family"].tolist(),
        both["defense"].tolist(),
        "\n".join(told),
    )


def interval_words(value: float, low: float, high: float) -> str:
    """`+0.42 [+0.10, +0.71]`, with true minuses; a dash where there is none."""
    if value != value:
        return "–"
    ends = "" if low != low else f" [{low:+.2f}, {high:+.2f}]"
    return f"{value:+.2f}{ends}".replace("-", "−")


__all__ = [
    "asked_pairs",
    "best_pairs",
    "class_counts",
    "class_intervals",
    "correlations_of",
    "frequency_panels",
    "interval_words",
    "place_words",
    "scatter_panels",
    "victim_intervals",
]
