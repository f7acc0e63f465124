"""Geometry of a model on the page: every measure with its interval, and how to read it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robust.evaluation.geometry_settings import GROUPS, WEIGHTS
from robust.metrics.geometry.ranks import correlation
from robust.plots.geometry import draw_measures, measure_words
from robust.plots.geometry_cells import (
    class_counts,
    class_intervals,
    interval_words,
)
from robust.plots.saving import rendered
from robust.report.formats import Shown, count, number, p_value
from robust.report.reading import Run
from robust.study.store import read_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = ("geometry",)
DPI = 130
READING: Mapping[str, str] = {
    "sharpness": "How much the loss rises near the weights: larger is sharper. Rows ending in “error” are rises of the "
    "error rate. Sharpness cannot be compared across architectures, only among differently trained copies of one.",
    "curvature": "The Hessian of the loss over the weights: its largest eigenvalues, the sum of all (trace) and the "
    "share of directions that bend down. Like sharpness, to be compared among copies of one architecture alone.",
    "input": "Around each clip: the size of the gradient, how far the loss leaves its tangent within the radius (local "
    "linearity), and its curvature. Larger is rougher; inputs of two modalities have different units.",
    "density": "How densely clips lie among the latents. Log densities are larger where clips crowd, and comparable "
    "between spaces of one dimension alone; local purity is the share of a clip's neighbours with a label in common; "
    "the intra/inter ratio is smaller where classes are tight and apart.",
    "convexity": "The share of points between two clips of a class that the model still takes for it. “Conditional” "
    "counts pairs whose two ends are recognised; “top” asks that the class stays the first.",
}
"""Group -> how its numbers are read."""
ONE = {"batches": "batch", "clips": "clip", "draws": "draw", "probes": "probe", "pairs": "pair", "classes": "class"}
"""What a measure is taken over, where there is one of them."""


@dataclass(frozen=True)
class Row:
    """One measure: where, what, its value as number and text, its interval, what that was taken over."""

    space: str
    measure: str
    value: float
    text: str
    interval: str
    over: str


@dataclass(frozen=True)
class Block:
    """The measures of a group, and how they are read."""

    name: str
    reading: str
    rows: list[Row]


@dataclass(frozen=True)
class Picture:
    """A figure within the page: its address, what it shows, and how it is read."""

    source: str
    words: str
    caption: str


@dataclass(frozen=True)
class GeometryView:
    """What the section of a run shows: blocks, what was left out and why, facts, and a figure of the classes."""

    blocks: list[Block]
    left_out: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    picture: Picture | None


def condition_words(run: Run) -> str:
    """What was done, in a few words."""
    return f"geometry ({', '.join(_groups(run)) or 'nothing'})"


def scores(run: Run) -> list[Shown]:
    """None: geometry is measured, not scored."""
    return []


def told_of(run: Run) -> list[str]:
    """Sentences: what was measured."""
    words = "; ".join(f"{name}: {GROUPS[name]}" for name in _groups(run) if name in GROUPS)
    return [
        "Nothing was attacked: what was measured is the shape of the model's loss and of its latent spaces, each "
        "number with a 95\u00a0% interval.",
        *([f"{words[:1].upper()}{words[1:]}."] if words else []),
    ]


def note(run: Run) -> str:
    """What the table of cells says instead of a score."""
    return count(len(read_table(run.cell, "table")), "measure")


def geometry_view(run: Run) -> GeometryView | None:
    """The section of a run of `robust geometry`; None of another kind.

    Args:
        run: Finished.
    """
    if run.kind != "geometry":
        return None
    table = read_table(run.cell, "table")
    blocks = [_block(str(group), rows) for group, rows in table.groupby("group", sort=False)]
    left_out = [(str(name), str(why)) for name, why in (run.summary.get("left_out") or {}).items()]
    return GeometryView(blocks, left_out, _facts(run), _class_picture(run))


def _groups(run: Run) -> list[str]:
    return list(read_table(run.cell, "table")["group"].unique())


def _block(group: str, rows: pd.DataFrame) -> Block:
    return Block(group, READING.get(group, ""), [_row(row) for row in rows.to_dict("records")])


def _row(row: Mapping[str, Any]) -> Row:
    ends = [number(float(row[name])) for name in ("low", "high")]
    known = row["low"] == row["low"] and row["high"] == row["high"]
    return Row(
        "weights" if row["space"] == WEIGHTS else str(row["space"]),
        measure_words(str(row["measure"])),
        float(row["value"]),
        number(float(row["value"])),
        f"{ends[0]} to {ends[1]}" if known else "",
        f"{row['count']:,} {ONE.get(row['over'], row['over']) if row['count'] == 1 else row['over']}",
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Does the convexity of a class go with how many clips it has? As the ICASSP 2022 paper asks (Pearson, log)."""
    import numpy as np

    classes, clips = read_table(run.cell, "classes"), class_counts(run.cell)
    found = []
    for space, own in classes[classes["measure"] == "convexity"].groupby("space", sort=False):
        counts = own["label"].map(clips).to_numpy(dtype=np.float64)
        logs = np.log(np.where(counts > 0, counts, np.nan))
        told = correlation(logs, own["value"], method="pearson", over="classes")
        if told.estimate.value == told.estimate.value:
            words = interval_words(told.estimate.value, told.estimate.low, told.estimate.high)
            found.append(
                (
                    f"Convexity of {space} against log clips of the class",
                    f"r = {words}, {p_value(told.p)}, {count(told.estimate.count, 'class')}",
                )
            )
    return found


def _class_picture(run: Run) -> Picture | None:
    """Of a run by itself: a study shows its victims beside each other instead."""
    intervals = [] if run.study else class_intervals(run.cell)
    if not any(one.value == one.value for one in intervals):
        return None
    (page, *_) = draw_measures(intervals)
    panels = ", ".join(dict.fromkeys(f"{measure_words(one.measure)} ({one.panel})" for one in intervals))
    return picture(
        page,
        f"By class, with intervals: {panels}",
        "Each class by itself, with 95\u00a0% intervals. Those of convexity are over pairs of clips, which share "
        "clips: as statements about new clips they are too narrow.",
    )


def picture(figure: Figure, words: str, caption: str) -> Picture:
    """A figure as the page holds it."""
    content = base64.b64encode(rendered(figure, "png", dpi=DPI)).decode()
    return Picture(f"data:image/png;base64,{content}", words, caption)


__all__ = [
    "KINDS",
    "GeometryView",
    "Picture",
    "condition_words",
    "geometry_view",
    "note",
    "picture",
    "scores",
    "told_of",
]
