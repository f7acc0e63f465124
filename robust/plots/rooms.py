"""Rooms: the RT60 that was asked for, and the one that is measured of the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, blank, looks, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robust.plots.style import Look

BAND = 0.25
"""How far a measured RT60 may be from the nominal one, relatively..."""

BAND_SECONDS = (0.2, 0.8)
"""...and where that is promised."""

SPLITS = ("train", "held-out")


def draw_rt60(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Measured against nominal RT60 with the diagonal, and below it the deviation in per cent.

    Training rooms are filled, held-out rooms hollow; the promised band is shaded.

    Args:
        tables: Name of a set -> rows as in `RoomBank.table`: `split`, `rt60_s` and `rt60_s_measured` in seconds. Rows
            without a nominal RT60 are left out.

    Raises:
        StoreError: If no row has a nominal RT60.
    """
    points = {name: _points(rows) for name, rows in tables.items()}
    points = {name: own for name, own in points.items() if any(len(places) for places in own.values())}
    if not points:
        raise StoreError("No room has a nominal RT60 to be drawn: take a set with a range of RT60, e.g. generic.")
    everything = np.concatenate([places for own in points.values() for places in own.values()])
    edge = 1.05 * float(everything.max())
    with styled():
        figure = blank(COLUMN_INCHES, 4.2)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        _band(above, below)
        above.plot([0, edge], [0, edge], color="0.4", linewidth=0.7, zorder=1)
        below.axhline(0, color="0.4", linewidth=0.7, zorder=1)
        for look, (name, own) in zip(looks(list(points)).values(), points.items(), strict=True):
            _scatter(above, below, own, look, name)
        deviation = 100 * np.abs(everything[:, 1] / everything[:, 0] - 1).max()
        reach = max(30.0, 1.1 * float(deviation))
        above.set(xlim=(0, edge), ylim=(0, edge), ylabel="measured RT60 (s, T30)")
        below.set(ylim=(-reach, reach), xlabel="nominal RT60 (s)", ylabel="deviation (%)")
        above.legend(loc="upper left", handletextpad=0.3)
    return figure


def _points(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Split -> (N, 2) nominal and measured seconds."""
    return {
        split: np.array(
            [
                (row["rt60_s"], row["rt60_s_measured"])
                for row in rows
                if row["split"] == split and row["rt60_s"] is not None
            ],
            dtype=np.float64,
        ).reshape(-1, 2)
        for split in SPLITS
    }


def _band(above: Axes, below: Axes) -> None:
    seconds = np.array(BAND_SECONDS)
    shade: dict[str, Any] = {"color": "0.9", "linewidth": 0, "zorder": 0}
    words = f"±{100 * BAND:.0f} %"
    above.fill_between(seconds, (1 - BAND) * seconds, (1 + BAND) * seconds, label=words, **shade)
    below.fill_between(seconds, -100 * BAND, 100 * BAND, **shade)


def _scatter(above: Axes, below: Axes, points: Mapping[str, NDArray[np.float64]], look: Look, name: str) -> None:
    for split, places in points.items():
        if not len(places):
            continue
        hollow = split != SPLITS[0]
        mark: dict[str, Any] = {
            "linestyle": "none",
            "marker": look.marker,
            "markersize": 3.4 if hollow else 2.4,
            "markerfacecolor": "white" if hollow else look.colour,
            "markeredgecolor": look.colour,
            "markeredgewidth": 0.7 if hollow else 0.2,
            "zorder": 4 if hollow else 3,
        }
        nominal, measured = places.T
        above.plot(nominal, measured, label=f"{name}, {split}: {len(places)} rooms", **mark)
        below.plot(nominal, 100 * (measured / nominal - 1), **mark)


__all__ = ["draw_rt60"]
