"""A victim under corruptions at five severities: a field of scores, rows by category, every number written in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.style import MAP, PAGE_INCHES, SMALLEST_POINTS, blank, luminance, metric_word, percent, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES, AROUND_INCHES = 0.165, 1.15
DARK = 0.5
"""Luminance under which numbers are white."""


def draw_corruptions(summary: Mapping[str, Any], *, title: str = "") -> Figure:
    """The heat map of one run of `robust noise`.

    Args:
        summary: Of the run; its `cells`, `corruptions` and `clean` are drawn. The mean error has a column of its own,
            and so has the error over that of the reference (CE), where there is one.
        title: The victim and its clean score when empty.

    Raises:
        StoreError: If the summary has no cells.
    """
    cells = summary.get("cells") or []
    if not cells:
        raise StoreError("There is nothing to draw: the summary holds no cells of `robust noise`.")
    severities = sorted({cell["severity"] or 0 for cell in cells})
    rows: dict[str, str] = {cell["corruption"]: cell["category"] for cell in cells}
    field = np.full((len(rows), len(severities)), np.nan)
    for cell in cells:
        if cell["score"] is not None:
            place = list(rows).index(cell["corruption"]), severities.index(cell["severity"] or 0)
            field[place] = percent(cell["score"])
    figures = {row["corruption"]: row for row in summary.get("corruptions") or []}
    sides = [("mean\nerror", [_percent(figures.get(name, {}).get("mean_error")) for name in rows])]
    if any(figures.get(name, {}).get("ce") is not None for name in rows):
        sides.append(("CE", [_ratio(figures.get(name, {}).get("ce")) for name in rows]))
    with styled():
        figure = blank(PAGE_INCHES * 0.72, AROUND_INCHES + ROW_INCHES * max(len(rows), 3))
        axes = figure.subplots()
        _field(axes, field)
        _labels(axes, list(rows.items()), severities)
        _beside(axes, sides)
        clean, metric = summary["clean"], metric_word(summary["clean"]["metric"])
        told = _percent(clean["score"])
        axes.set_title(title or f"{summary['victim']}: {metric} in %, {told} on clean clips", pad=24)
    return figure


def _field(axes: Axes, field: NDArray[np.float64]) -> None:
    """Colours, and a number on each."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colours = colormaps[MAP].with_extremes(bad="1.0")
    axes.imshow(np.ma.masked_invalid(field), cmap=colours, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(field):
        if np.isfinite(value):
            dark = luminance(to_hex(colours(value / 100))) < DARK
            axes.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=SMALLEST_POINTS,
            )


def _labels(axes: Axes, rows: Sequence[tuple[str, str]], severities: Sequence[int]) -> None:
    """Names, severities above, and a line and the category's name where a category begins."""
    axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows])
    axes.set_xticks(range(len(severities)), [str(one) if one else "–" for one in severities])
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("severity", labelpad=2)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    first = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place][1] != rows[first][1]:
            if place < len(rows):
                axes.axhline(place - 0.5, color="white", linewidth=2.5)
            axes.annotate(
                rows[first][1],
                (0, (first + place - 1) / 2),
                xycoords=("axes fraction", "data"),
                xytext=(-80, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=SMALLEST_POINTS,
                style="italic",
            )
            first = place


def _beside(axes: Axes, sides: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Columns of numbers to the right of the field."""

    def write(text: str, row: float, number: int, **how: Any) -> None:
        axes.annotate(
            text,
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(16 + 28 * number, 0),
            textcoords="offset points",
            ha="center",
            fontsize=SMALLEST_POINTS,
            **how,
        )

    for number, (name, values) in enumerate(sides):
        write(name, -0.6, number, va="bottom")
        for row, text in enumerate(values):
            write(text, row, number, va="center")


def _short(name: str, most: int = 26) -> str:
    plain = name.removeprefix("audiomentations:")
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


__all__ = ["draw_corruptions"]
