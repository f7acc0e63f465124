"""Bars in groups with 95 % intervals: a score for each series (victim) in each group (modality, region, pattern)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.errors import StoreError
from robust.plots.style import (
    COLUMN_INCHES,
    PAGE_INCHES,
    Look,
    bar_looks,
    blank,
    luminance,
    percent_limits,
    styled,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUP_SHARE = 0.82
"""How much of the room of a group its bars take."""


@dataclass(frozen=True)
class Bar:
    """One score.

    Attributes:
        group: Under which it stands.
        series: Whose it is: one look.
        score, low, high: Shares: the value, and the ends of its interval (None: no whisker).
        clean: Score without anything done, drawn as a tick; None for no tick.
    """

    group: str
    series: str
    score: float
    low: float | None = None
    high: float | None = None
    clean: float | None = None


def draw_bars(
    bars: Sequence[Bar],
    *,
    ylabel: str,
    xlabel: str = "",
    groups: Sequence[str] | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Groups side by side, standing bars; the legend is above.

    Args:
        bars: Series appear in the order of their first bars.
        ylabel: With its unit.
        xlabel: What the groups are.
        groups: Their order; that of their first bars when None.
        metric: `accuracy` shows 0 to 100 %, others as far as they go.

    Raises:
        StoreError: If there are no bars.
    """
    if not bars:
        raise StoreError("There are no bars to draw.")
    styles = bar_looks(ordered(bar.series for bar in bars))
    with styled():
        rows = -(-len(styles) // 3)
        width = COLUMN_INCHES if len(bars) <= 24 else PAGE_INCHES
        figure = blank(width, 2.15 + 0.16 * (rows + 1))
        axes = figure.subplots()
        groups = list(groups or ordered(bar.group for bar in bars))
        place_bars(axes, bars, groups, styles)
        axes.set_xticks(range(len(groups)), groups)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.55, len(groups) - 0.45)
        tops = [100 * value for bar in bars for value in (bar.score, bar.high, bar.clean) if value is not None]
        percent_limits(axes, metric, max(tops))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        handles = bar_handles(styles, clean=any(bar.clean is not None for bar in bars))
        figure.legend(handles=handles, loc="outside upper center", ncols=min(3 if width == COLUMN_INCHES else 7, 7))
    return figure


def place_bars(
    axes: Axes, bars: Sequence[Bar], groups: Sequence[str], styles: Mapping[str, Look], *, lying: bool = False
) -> None:
    """Draws bars around the whole numbers, one for each group; a group's bars stand close, absent ones leave no gap.

    Args:
        axes: Where.
        bars: Those whose group is in `groups`.
        groups: In the order of their places, 0 first.
        styles: Series -> look.
        lying: Bars lie, groups run along y.
    """
    members = {group: [bar for bar in bars if bar.group == group] for group in groups}
    thickness = GROUP_SHARE / max(max(map(len, members.values()), default=1), 1)
    draw = axes.barh if lying else axes.bar
    for place, group in enumerate(groups):
        own = members[group]
        for rank, bar in enumerate(own):
            middle = place + (rank - (len(own) - 1) / 2) * thickness
            size: dict[str, Any] = {"height" if lying else "width": thickness * 0.92}
            draw([middle], [100 * bar.score], **size, **bar_look(styles[bar.series]), zorder=2)
            if bar.low is not None and bar.high is not None:
                error = whiskers([bar.score], [bar.low], [bar.high])
                _whisker(axes, middle, 100 * bar.score, error, lying=lying)
            if bar.clean is not None:
                ends = [middle - thickness * 0.46, middle + thickness * 0.46]
                level = [100 * bar.clean] * 2
                axes.plot(
                    *(level, ends) if lying else (ends, level),
                    color="0.25",
                    linewidth=1.1,
                    solid_capstyle="butt",
                    zorder=3,
                )


def bar_look(style: Look) -> dict[str, Any]:
    """Arguments of a bar: its colour, and a hatch that shows on it."""
    dark = luminance(style.colour) < 0.4
    return {
        "facecolor": style.colour,
        "edgecolor": "black",
        "linewidth": 0.5,
        "hatch": style.hatch,
        "hatchcolor": "white" if dark else "black",
    }


def bar_handles(styles: Mapping[str, Look], *, clean: bool = False, interval: bool = True) -> list[Artist]:
    """Entries of a legend for bars."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Artist] = [Patch(**bar_look(style), label=name) for name, style in styles.items()]
    if clean:
        entries.append(Line2D([], [], color="0.25", linewidth=1.1, label="clean"))
    if interval:
        stem: dict[str, Any] = {"marker": "|", "markersize": 8, "markeredgewidth": 0.8, "color": "black"}
        entries.append(Line2D([], [], linestyle="none", **stem, label="95 % interval"))
    return entries


def ordered(names: Any) -> list[str]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(names))


def _whisker(axes: Axes, middle: float, score: float, error: np.ndarray, *, lying: bool) -> None:
    """Black with a white rim, so that it shows on black bars and on white paper."""
    where = (score, middle) if lying else (middle, score)
    for colour, width, order in (("white", 2.0, 4), ("black", 0.8, 5)):
        ends: dict[str, Any] = {"xerr" if lying else "yerr": error}
        axes.errorbar(*where, **ends, fmt="none", ecolor=colour, elinewidth=width, zorder=order)
