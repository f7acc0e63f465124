"""What a masked autoencoder makes of a spectrogram: the original, what was left of it, and how it was filled in.

After thesis figure 7.7: a column for each clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, MAP, PAGE_INCHES, blank, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Field = NDArray[np.float32]
"""(frames, mels) decibels; NaN is not drawn."""
WAYS = {"scattered": "patches anywhere", "structured": "whole times and bands"}
"""What was hidden, by the names in the file."""
NOTHING = "#ffffff"
"""Of patches that the model does not see; the colour map is nowhere white."""
ROWS = ("original", "seen", "filled in")


def draw_reconstructions(pictures: Mapping[str, Any], way: str) -> Figure:
    """Three rows for each clip.

    Args:
        pictures: What `robust pretrain` leaves beside its checkpoint, see `robust.pretraining.pictures`.
        way: `scattered` or `structured`.

    Raises:
        StoreError: If the file lacks something, or its parts do not fit each other.
    """
    columns = _columns(pictures, way)
    share = float(np.mean(pictures[f"hidden_{way}"]))
    finite = np.concatenate([part[np.isfinite(part)] for _, rows in columns for part in rows])
    low, high = np.percentile(finite, [1, 99.8])
    seconds = float(pictures["seconds_per_frame"]) * len(columns[0][1][0])
    with styled():
        width = COLUMN_INCHES if len(columns) <= 2 else PAGE_INCHES
        figure = blank(width, 4.2)
        figure.suptitle(f"{share:.0%} hidden: {WAYS[way]}")
        grid = figure.subplots(len(ROWS), len(columns), sharex=True, sharey=True, squeeze=False)
        for place, (label, fields) in enumerate(columns):
            for row, field in enumerate(fields):
                picture = _spectrogram(grid[row, place], field, seconds, (low, high))
            grid[0, place].set_title(label)
            grid[-1, place].set_xlabel("time (s)")
        for row, name in enumerate(ROWS):
            grid[row, 0].set_ylabel(f"{name}\nmel band")
        bar = figure.colorbar(picture, ax=grid, location="bottom", aspect=50, pad=0.02)
        bar.set_label("mel energy (dB)")
    return figure


def _columns(pictures: Mapping[str, Any], way: str) -> list[tuple[str, tuple[Field, Field, Field]]]:
    """Label of each clip, and its three spectrograms."""
    needed = ("labels", "seconds_per_frame", "original", f"hidden_{way}", f"told_{way}")
    lacking = [name for name in needed if name not in pictures]
    if way not in WAYS or lacking:
        what = ", ".join(lacking) or way
        raise StoreError(f"These are no reconstructions of `robust pretrain`: {what} is not there.")
    original, told, hidden = pictures["original"], pictures[f"told_{way}"], pictures[f"hidden_{way}"]
    if original.shape != told.shape or len(hidden) != len(original) or not len(original):
        raise StoreError(
            f"These reconstructions are damaged: originals {original.shape}, filled in {told.shape}, hidden "
            f"{hidden.shape}. Run `robust pretrain` again."
        )
    height, width = (whole // parts for whole, parts in zip(original.shape[1:], hidden.shape[1:], strict=True))
    away = hidden.repeat(height, axis=1).repeat(width, axis=2)
    seen = np.where(away, np.nan, original)
    return [(str(label), (original[place], seen[place], told[place])) for place, label in enumerate(pictures["labels"])]


def _spectrogram(axes: Axes, field: Field, seconds: float, limits: tuple[float, float]) -> Any:
    """One field, low bands below."""
    from matplotlib import colormaps

    colours = colormaps[MAP].with_extremes(bad=NOTHING)
    return axes.imshow(
        np.ma.masked_invalid(field.T),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=(0.0, seconds, 0.0, float(field.shape[1])),
    )
