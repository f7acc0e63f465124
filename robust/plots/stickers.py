"""Camera stickers: the sheet, frames before and after, and how often the class is taken for another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.bars import Bar, bar_handles, ordered, place_bars
from robust.plots.style import PAGE_INCHES, SMALLEST_POINTS, bar_looks, blank, percent_limits, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Picture = NDArray[np.uint8]
"""(H, W, 3)."""
MOST_FRAMES = 3


def draw_stickers(
    sheet: Picture, frames: Sequence[tuple[Picture, Picture]], bars: Sequence[Bar], *, title: str = ""
) -> Figure:
    """Three parts side by side.

    Args:
        sheet: The stickers on white.
        frames: Before and after, of a clip each; the first `MOST_FRAMES` are shown.
        bars: Success by view and aim (group) of the stickers and of the control (series).
        title: Above it.

    Raises:
        StoreError: If there are no bars or no frames.
    """
    if not bars or not frames:
        raise StoreError("There is nothing to draw: no rates, or no frames before and after.")
    with styled():
        figure = blank(PAGE_INCHES, 2.3)
        left, middle, right = figure.subfigures(1, 3, width_ratios=[1.0, 1.5, 1.6], squeeze=False)[0]
        figure.suptitle(title)
        _picture(left.subplots(), sheet, "the sheet")
        _frames(middle, frames[:MOST_FRAMES])
        _rates(right, bars)
    return figure


def _frames(part: SubFigure, frames: Sequence[tuple[Picture, Picture]]) -> None:
    """Columns of clips, before above after."""
    grid = part.subplots(2, len(frames), squeeze=False)
    for column, pair in enumerate(frames):
        for row, picture in enumerate(pair):
            _picture(grid[row, column], picture, "")
    for axes, words in zip(grid[:, 0], ("bare lens", "stickers"), strict=True):
        axes.set_ylabel(words)


def _picture(axes: Axes, picture: Picture, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.set_title(title)


def _rates(part: SubFigure, bars: Sequence[Bar]) -> None:
    axes = part.subplots()
    groups = ordered(bar.group for bar in bars)
    styles = bar_looks(ordered(bar.series for bar in bars))
    place_bars(axes, bars, groups, styles)
    axes.set_xticks(range(len(groups)), groups, fontsize=SMALLEST_POINTS)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    percent_limits(axes, "accuracy", 100)
    axes.set_ylabel("success (%)")
    part.legend(handles=bar_handles(styles), loc="outside upper center", ncols=2)
