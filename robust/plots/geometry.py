"""Geometry of victims: measures as lying intervals, and scatters of one number of each victim against another."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.bars import ordered
from robust.plots.style import COLUMN_INCHES, PAGE_INCHES, Look, blank, log_ticks, looks, number, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
TALLEST_INCHES = 9.2
"""Of a page; what does not fit goes on the next."""
ROW_INCHES, AROUND_INCHES = 0.14, 0.78
ACROSS = 6
"""Entries in a line of a legend, a page wide."""
DECADES = 1.3
"""Positive numbers that span more are drawn on a logarithmic axis."""
UNITS = {"knn-log-density": "nats", "knn-class-log-density": "nats", "knn-compactness": "nats",
         "sample-log-density": "nats"}  # fmt: skip
FILLS: tuple[dict[str, Any], ...] = (
    {"fillstyle": "full"},
    {"fillstyle": "none"},
    {"fillstyle": "left", "markerfacecoloralt": "white"},
    {"fillstyle": "top", "markerfacecoloralt": "white"},
    {"fillstyle": "right", "markerfacecoloralt": "white"},
    {"fillstyle": "bottom", "markerfacecoloralt": "white"},
)


@dataclass(frozen=True)
class Interval:
    """One number with its ends.

    Attributes:
        panel: Where it is drawn: group and space; panels appear in the order of their first intervals.
        measure: What it is, the word below the panel.
        row: In which row: a victim, or a class.
        series: Whose marker it has: a family of victims.
        value, low, high: The number and its 95 % interval; NaN ends for none.
    """

    panel: str
    measure: str
    row: str
    series: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class ScatterPanel:
    """Points of one pair of numbers.

    Attributes:
        xlabel, ylabel: What the axes are.
        x, y: (N,) the numbers.
        families: N names: the marker of each point.
        defenses: N names: how each is filled.
        title: One or two lines above: the correlation.
        percent: Whether y is a share, shown in per cent from 0 to 100.
    """

    xlabel: str
    ylabel: str
    x: Floats
    y: Floats
    families: Sequence[str]
    defenses: Sequence[str]
    title: str = ""
    percent: bool = True


def draw_measures(intervals: Sequence[Interval], *, columns: int = 4) -> list[Figure]:
    """Small panels, one for each measure; a row for each victim, with a marker for each of its seeds.

    Args:
        intervals: In the order of panels and of rows.
        columns: Panels side by side.

    Returns:
        As many pages as it takes.

    Raises:
        StoreError: If there is nothing to draw.
    """
    known = [one for one in intervals if math.isfinite(one.value)]
    if not known:
        raise StoreError("There are no measures to draw.")
    panels: dict[tuple[str, str], list[Interval]] = {}
    for one in known:
        panels.setdefault((one.panel, one.measure), []).append(one)
    rows, styles = ordered(one.row for one in known), looks(ordered(one.series for one in known))
    height = ROW_INCHES * len(rows) + AROUND_INCHES
    lines = max(1, int((TALLEST_INCHES - 0.3) / height))
    groups = list(panels.values())
    step = lines * columns
    return [
        _page(groups[first : first + step], rows, styles, min(columns, len(groups)), height)
        for first in range(0, len(groups), step)
    ]


def _page(
    panels: Sequence[Sequence[Interval]], rows: Sequence[str], styles: dict[str, Look], columns: int, height: float
) -> Figure:
    with styled():
        lines = -(-len(panels) // columns)
        legend = 0.25 if len(styles) > 1 else 0.0
        figure = blank(PAGE_INCHES if columns > 1 else COLUMN_INCHES, lines * height + legend)
        grid = figure.subplots(lines, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            _measure_panel(axes, panels[place], rows, styles)
            if place % columns:
                axes.set_yticklabels([])
        if len(styles) > 1:
            entries = [_handle(name, style, FILLS[0]) for name, style in styles.items()]
            _legend(figure, _lines(entries, ACROSS))
    return figure


def _measure_panel(axes: Axes, own: Sequence[Interval], rows: Sequence[str], styles: dict[str, Look]) -> None:
    ends = np.array([[one.value, one.low, one.high] for one in own])
    logarithmic = _scaled(axes, ends[np.isfinite(ends)])
    places = {row: place for place, row in enumerate(rows)}
    beside = {row: [one for one in own if one.row == row] for row in rows}
    for one in own:
        group = beside[one.row]
        up = places[one.row] + (group.index(one) - (len(group) - 1) / 2) * min(0.25, 0.6 / max(len(group), 1))
        style = styles[one.series]
        if math.isfinite(one.low) and math.isfinite(one.high):
            axes.plot([one.low, one.high], [up, up], color=style.colour, linewidth=0.8, zorder=2)
        axes.plot([one.value], [up], **_marked(style, FILLS[0]), markersize=3.4, zorder=3)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    unit = UNITS.get(own[0].measure)
    words = measure_words(own[0].measure) + (f" ({unit})" if unit else "")
    axes.set_xlabel(_wrapped(words, 16))  # narrow: a power of ten stands on the right
    axes.set_title(own[0].panel)
    if not logarithmic:
        _few_ticks(axes.xaxis, 4)


def draw_scatter(panels: Sequence[ScatterPanel]) -> Figure:
    """One panel for each pair of numbers; the marker says the family, its filling the defense.

    Raises:
        StoreError: If there are no panels, or more defenses than can be told apart.
    """
    if not panels:
        raise StoreError("There are no pairs of a measure and a score to draw.")
    families = looks(ordered(name for panel in panels for name in panel.families))
    defenses = ordered(name for panel in panels for name in panel.defenses)
    if len(defenses) > len(FILLS):
        raise StoreError(f"{len(defenses)} defenses cannot be told apart by how points are filled; {len(FILLS)} can.")
    fills = dict(zip(defenses, FILLS, strict=False))
    with styled():
        columns = min(3, len(panels))
        lines = -(-len(panels) // columns)
        legend = _scatter_legend(families, fills, ACROSS if columns > 1 else ACROSS // 2)
        figure = blank(PAGE_INCHES if columns > 1 else COLUMN_INCHES, lines * 2.4 + 0.17 * (len(legend) + 1))
        grid = figure.subplots(lines, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(panels):
                _scatter_panel(axes, panels[place], families, fills)
            else:
                axes.set_visible(False)
        _legend(figure, legend)
    return figure


def _scatter_panel(
    axes: Axes, panel: ScatterPanel, families: dict[str, Look], fills: dict[str, dict[str, Any]]
) -> None:
    shares = 100 * panel.y if panel.percent else panel.y
    if not _scaled(axes, panel.x[np.isfinite(panel.x)]):
        _few_ticks(axes.xaxis, 5)
    for x, y, family, defense in zip(panel.x, shares, panel.families, panel.defenses, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            axes.plot([x], [y], **_marked(families[family], fills[defense]), markersize=4.4, zorder=3, clip_on=False)
    if panel.percent:
        axes.set_ylim(0, 100)
        axes.set_yticks(np.arange(0, 101, 20))
    else:
        _few_ticks(axes.yaxis, 5)
    axes.set(xlabel=_wrapped(panel.xlabel, 28), ylabel=_wrapped(panel.ylabel, 28))
    axes.set_title(panel.title, fontsize=7)


def _scatter_legend(families: dict[str, Look], fills: dict[str, dict[str, Any]], across: int) -> list[list[Artist]]:
    """Lines of families by marker, then of defenses by filling; neither where there is one alone."""
    grey = Look("#444444", "-", "o", "")
    kin = [_handle(name, style, FILLS[0]) for name, style in families.items()] if len(families) > 1 else []
    trained = [_handle(name, grey, fill) for name, fill in fills.items()] if len(fills) > 1 else []
    return [*_lines(kin, across), *_lines(trained, across)]


def _lines(entries: list[Artist], across: int) -> list[list[Artist]]:
    return [entries[first : first + across] for first in range(0, len(entries), across)]


def _legend(figure: Figure, lines: list[list[Artist]]) -> None:
    """A legend above that keeps its lines: matplotlib's own fills columns first."""
    from matplotlib.lines import Line2D

    if not lines:
        return
    across = max(map(len, lines))
    blank_entry = Line2D([], [], linestyle="none", label=" ")
    padded = [line + [blank_entry] * (across - len(line)) for line in lines]
    handles = [line[place] for place in range(across) for line in padded]
    figure.legend(handles=handles, loc="outside upper center", ncols=across)


def _handle(name: str, style: Look, fill: dict[str, Any]) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], **_marked(style, fill), markersize=4.4, label=name)


def _marked(style: Look, fill: dict[str, Any]) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": style.marker,
        "color": style.colour,
        "markeredgecolor": style.colour,
        "markeredgewidth": 0.7,
        **fill,
    }


def _scaled(axes: Axes, values: Floats) -> bool:
    """Makes the axis below logarithmic where positive numbers span decades; says whether it did."""
    if len(values) < 2 or values.min() <= 0 or math.log10(values.max() / values.min()) < DECADES:
        return False
    low, high = float(values.min()), float(values.max())
    room = (high / low) ** 0.06
    axes.set(xscale="log", xlim=(low / room, high * room))
    log_ticks(axes.xaxis, low / room, high * room)
    return True


def _few_ticks(axis: Axis, most: int) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))

    class OnePower(ScalarFormatter):
        """As many digits as tell ticks apart, and one power of ten for all of them."""

        def get_offset(self) -> str:
            told = super().get_offset().replace("−", "-")  # "1e-3", or nothing
            return f"× {number(float(told))}" if told else ""

    formatter = OnePower(useOffset=False)
    formatter.set_powerlimits((-2, 4))
    axis.set_major_formatter(formatter)


def _wrapped(words: str, width: int) -> str:
    """In lines that fit below a panel."""
    return "\n".join(textwrap.wrap(words, width, break_long_words=False))


def measure_words(measure: str) -> str:
    """`knn log density` for `knn-log-density`."""
    return {"linf": "L∞", "l2": "L₂", "l1": "L₁"}.get(measure) or " ".join(
        {"linf": "L∞", "l2": "L₂", "l1": "L₁", "knn": "kNN", "sam": "SAM", "asam": "ASAM"}.get(word, word)
        for word in measure.split("-")
    )


__all__ = ["FILLS", "Interval", "ScatterPanel", "draw_measures", "draw_scatter", "measure_words"]
