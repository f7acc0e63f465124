"""Point-wise modality thresholds: the radius that breaks a part against the one that, through it, breaks the fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, NORMS, PAGE_INCHES, blank, log_ticks, modality_word, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS: Mapping[bool, tuple[str, str, str]] = {
    True: ("parts agree", "#33208c", "o"),
    False: ("parts disagree", "#ec8a2c", "X"),
}
"""Whether both parts predict the same -> words, colour, marker."""


@dataclass(frozen=True)
class ThresholdPanel:
    """The thresholds of one sense.

    Attributes:
        modality: E.g. `audio`.
        sense: Its letter: `A` or `V`.
        alone: (N,) smallest radius that breaks the part alone, in input units; 0 where it is wrong at first, infinite
            where nothing up to `largest` breaks it.
        fused: (N,) the same of the fused victim, attacked in this sense alone.
        agree: (N,) whether the two parts predict the same.
        largest: Largest radius tried.
        weaker, stronger: Of how many clips that both have right the fused victim is weaker or stronger than the part by
            more than the tolerance of the search; None leaves them out.
    """

    modality: str
    sense: str
    alone: NDArray[np.float64]
    fused: NDArray[np.float64]
    agree: NDArray[np.bool_]
    largest: float
    weaker: int | None = None
    stronger: int | None = None


def draw_thresholds(panels: Sequence[ThresholdPanel], *, norm: str) -> Figure:
    """One panel for each sense, both axes logarithmic and alike, with the diagonal.

    Clips that stand at the largest radius tried are open triangles on the edge, towards where their radius lies. Clips
    that one of both victims has wrong at first have no radius; how many, the corner says.

    Args:
        panels: One or two.
        norm: Of the radii.

    Raises:
        StoreError: If there are no panels.
    """
    if not panels:
        raise StoreError("There are no thresholds to draw.")
    with styled():
        wide = len(panels) > 1
        figure = blank(PAGE_INCHES if wide else COLUMN_INCHES, 3.6)
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _panel(axes, panel, NORMS.get(norm, norm))
        figure.legend(handles=_legend(), loc="outside upper center", ncols=4 if wide else 2)
    return figure


def _panel(axes: Axes, panel: ThresholdPanel, norm: str) -> None:
    right = (panel.alone > 0) & (panel.fused > 0)
    alone, fused, agree = panel.alone[right], panel.fused[right], panel.agree[right]
    found = np.concatenate([radii[np.isfinite(radii)] for radii in (alone, fused)])
    least = float(found.min()) / 1.5 if len(found) else panel.largest / 100
    edge = panel.largest * (panel.largest / least) ** 0.09
    axes.set(xscale="log", yscale="log", xlim=(least, edge), ylim=(least, edge))
    for axis in (axes.xaxis, axes.yaxis):
        log_ticks(axis, least, panel.largest)
    axes.plot([least, panel.largest], [least, panel.largest], color="0.4", linewidth=0.7, zorder=1)
    for draw in (axes.axvline, axes.axhline):
        draw(panel.largest, color="0.75", linewidth=0.6, linestyle=(0, (2, 2)), zorder=1)
    for same, (_, colour, marker) in GROUPS.items():
        for x_open, y_open, shape in (
            (False, False, marker),
            (True, False, ">"),
            (False, True, "^"),
            (True, True, "D"),
        ):
            rows = (agree == same) & (np.isinf(alone) == x_open) & (np.isinf(fused) == y_open)
            if not rows.any():
                continue  # a line without points has no size, and the layout would have none either
            where = (np.where(x_open, edge, alone)[rows], np.where(y_open, edge, fused)[rows])
            axes.plot(*where, **_mark(colour, shape, hollow=x_open or y_open), clip_on=False, zorder=3)
    word, wrong = modality_word(panel.modality), int((~right).sum())
    axes.set_xlabel(f"ε* of {word} alone ({norm}, full scale = 1)")
    axes.set_ylabel(f"ε* of fusion through {word} ({norm}, full scale = 1)")
    axes.set_title(f"{word}: {len(alone)} clips" + (f" ({wrong} more wrong at first)" if wrong else ""))
    corners = ((0.03, 0.88, "left", "top", "stronger"), (0.88, 0.03, "right", "bottom", "weaker"))
    for across, up, side, end, word in corners:
        count = getattr(panel, word)
        if count is not None:
            text = axes.text(
                across, up, f"fusion {word}: {count}", transform=axes.transAxes, ha=side, va=end, bbox=_BACKING
            )
            text.set(in_layout=False, zorder=1.5)  # behind the points: a word may be covered, a clip may not


_BACKING = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def _mark(colour: str, shape: str, *, hollow: bool) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": shape,
        "markersize": 3.6 if shape == "D" else 4.2,
        "markerfacecolor": "white" if hollow else colour,
        "markeredgecolor": colour if hollow else "white",
        "markeredgewidth": 0.8 if hollow else 0.3,
    }


def _legend() -> list[Artist]:
    from matplotlib.lines import Line2D

    entries: list[Artist] = [
        Line2D([], [], **_mark(colour, marker, hollow=False), label=words) for words, colour, marker in GROUPS.values()
    ]
    entries.append(Line2D([], [], **_mark("0.3", "^", hollow=True), label="beyond the largest radius"))
    entries.append(Line2D([], [], **_mark("0.3", "D", hollow=True), label="both beyond"))
    return entries


__all__ = ["ThresholdPanel", "draw_thresholds"]
