"""Attacks over the air: success without a channel, in training rooms and in rooms never seen, a dot for each room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.bars import GROUP_SHARE, Bar, bar_handles, ordered, place_bars
from robust.plots.style import COLUMN_INCHES, PAGE_INCHES, bar_looks, blank, percent_limits, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLACES = {"no_channel": "no channel", "train_rooms": "training\nrooms", "held_out_rooms": "held-out\nrooms"}
VERSIONS = {"random": "random noise", "plain": "PGD", "eot": "PGD with EOT"}


@dataclass(frozen=True)
class AirPanel:
    """What one victim's panel shows.

    Attributes:
        title: Above it.
        bars: Success by place (group, a value of `PLACES`) and attack (series, a value of `VERSIONS`).
        rooms: (group, series) -> (R,) success in each room.
    """

    title: str
    bars: Sequence[Bar]
    rooms: Mapping[tuple[str, str], NDArray[np.float64]]


def draw_air(panels: Sequence[AirPanel]) -> Figure:
    """Panels side by side under one legend.

    Raises:
        StoreError: If there are none.
    """
    if not panels:
        raise StoreError("There is nothing to draw: no run over the air.")
    with styled():
        wide = len(panels) > 1
        rows = -(-len(panels) // 2)
        figure = blank(PAGE_INCHES if wide else COLUMN_INCHES, 0.45 + 2.1 * rows)
        grid = figure.subplots(rows, 2 if wide else 1, sharey=True, squeeze=False)
        styles = bar_looks(ordered(bar.series for panel in panels for bar in panel.bars))
        for axes, panel in zip(grid.flat, panels, strict=False):
            _panel(axes, panel, list(styles))
            place_bars(axes, panel.bars, list(PLACES.values()), styles)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("attack success (%)")
        figure.legend(handles=[*bar_handles(styles), _dot_handle()], loc="outside upper center", ncols=5 if wide else 2)
    return figure


def _panel(axes: Axes, panel: AirPanel, series: Sequence[str]) -> None:
    """Axes and dots; bars are drawn around whole numbers as `place_bars` does."""
    axes.set_title(panel.title)
    groups = list(PLACES.values())
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    percent_limits(axes, "accuracy", 100)
    thickness = GROUP_SHARE / len(series)
    for (group, one), successes in panel.rooms.items():
        middle = groups.index(group) + (series.index(one) - (len(series) - 1) / 2) * thickness
        order = np.argsort(np.argsort(successes, kind="stable"))
        spread = (order / max(len(successes) - 1, 1) - 0.5) * thickness * 0.7
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.5}
        axes.scatter(middle + spread, 100 * successes, s=5, **look, zorder=4, clip_on=False)


def _dot_handle() -> Artist:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {
        "markerfacecolor": "white",
        "markeredgecolor": "black",
        "markeredgewidth": 0.5,
        "markersize": 2.5,
    }
    return Line2D([], [], linestyle="none", marker="o", **look, label="one room")
