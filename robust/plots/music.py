"""A detector under music: F1 against the speech-to-music ratio, a line for each masker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, blank, looks, percent, percent_limits, styled, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASKERS = {"adversarial": "adversarial music", "plain": "plain music", "noise": "white noise"}
"""In the order of their looks; silence is a level without a ratio."""
ASIDE_DB = 0.22
"""By how much lines stand apart, so that intervals do not cover each other."""


def draw_music(cells: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """One run of `robust music`.

    Args:
        cells: Of its summary: `masker`, `smr_db` (None of silence), `f1`, `low`, `high`.
        title: Above it.

    Raises:
        StoreError: If there is no masker that plays.
    """
    lines = {name: sorted((cell for cell in cells if cell["masker"] == name), key=_ratio) for name in MASKERS}
    there = [name for name, own in lines.items() if own]
    if not there:
        raise StoreError("There is nothing to draw: no masker that plays, as `robust music` leaves them.")
    with styled():
        figure = blank(COLUMN_INCHES, 2.55)
        axes = figure.subplots()
        silence = next((cell for cell in cells if cell["masker"] == "silence"), None)
        if silence is not None:
            _level(axes, silence)
        for place, (name, look) in enumerate(looks(there).items()):
            own = lines[name]
            scores, low, high = ([cell[key] for cell in own] for key in ("f1", "low", "high"))
            axes.errorbar(
                np.array([_ratio(cell) for cell in own]) + ASIDE_DB * (place - (len(there) - 1) / 2),
                percent(scores),
                yerr=whiskers(scores, low, high),
                color=look.colour,
                linestyle=look.dashes,
                marker=look.marker,
                elinewidth=0.8,
                capsize=1.8,
                label=MASKERS[name],
                clip_on=False,
                zorder=3,
            )
        axes.set_xticks(sorted({_ratio(cell) for name in there for cell in lines[name]}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axes.margins(x=0.06)
        percent_limits(axes, "accuracy", 100)
        axes.set(xlabel="speech-to-music ratio (dB)", ylabel="F1 of detection (%)", title=title)
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _level(axes: Axes, silence: Mapping[str, Any]) -> None:
    """The F1 when nothing plays, with its interval as a band."""
    low, middle, high = percent([silence[key] for key in ("low", "f1", "high")])
    axes.axhspan(low, high, facecolor="0.9", edgecolor="none", zorder=0)
    axes.axhline(middle, color="0.45", linewidth=0.9, zorder=1, label="silence")


def _ratio(cell: Mapping[str, Any]) -> float:
    return float(cell["smr_db"])
