"""A universal perturbation over time and mel bands with its marginals, and what it takes to break in regions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.bars import Bar, bar_handles, ordered, place_bars
from robust.plots.style import (
    COLUMN_INCHES,
    MAP,
    PAGE_INCHES,
    bar_looks,
    blank,
    number,
    percent_limits,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

MARGINAL = 0.22
"""Size of the marginals over that of the map."""


def draw_universal_map(
    delta: NDArray[np.floating],
    *,
    regions: Sequence[Bar] = (),
    seconds: float | None = None,
    metric: str = "accuracy",
    score_label: str = "robust accuracy (%)",
    note: str = "",
) -> Figure:
    """The map with the mean of |delta| per frame above and per band at its side; bars of the regions beside it.

    Args:
        delta: (frames, mels) perturbation in the units of the features.
        regions: Scores of attacks confined to a region (group) in some way (series); none, no bars.
        seconds: Length of the clip, for a time axis in seconds; frames when None.
        metric: Of the regions' scores.
        score_label: Label of their axis.
        note: Second line of it: at which radii.

    Raises:
        StoreError: If `delta` is no map.
    """
    field: NDArray[np.float64] = np.asarray(delta, dtype=np.float64)
    if field.ndim != 2 or 0 in field.shape:
        raise StoreError(f"A map needs a perturbation of shape (frames, mels); given {tuple(delta.shape)}.")
    with styled():
        if not regions:
            figure = blank(COLUMN_INCHES, 3.1)
            _map(figure, field, seconds)
            return figure
        height = max(3.1, 0.85 + 0.2 * len(ordered(bar.group for bar in regions)))
        figure = blank(PAGE_INCHES, height)
        left, right = figure.subfigures(1, 2, width_ratios=(1.12, 1), squeeze=False)[0]
        _map(left, field, seconds)
        _regions(right, regions, metric, score_label, note)
    return figure


def _map(figure: Figure | SubFigure, delta: NDArray[np.float64], seconds: float | None) -> None:
    """Map, marginals and scale."""
    frames, mels = delta.shape
    long = frames if seconds is None else seconds
    grid = figure.add_gridspec(2, 2, width_ratios=(1, MARGINAL), height_ratios=(MARGINAL, 1), wspace=0.01, hspace=0.01)
    main = figure.add_subplot(grid[1, 0])
    above = figure.add_subplot(grid[0, 0], sharex=main)
    beside = figure.add_subplot(grid[1, 1], sharey=main)
    largest = float(np.abs(delta).max()) or 1.0
    picture = main.imshow(
        delta.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=MAP,
        vmin=-largest,
        vmax=largest,
        extent=(0, long, -0.5, mels - 0.5),
    )
    main.set(xlabel="time (frame)" if seconds is None else "time (s)", ylabel="mel band")
    main.spines[:].set_visible(True)
    per_frame, per_band = np.abs(delta).mean(axis=1), np.abs(delta).mean(axis=0)
    above.stairs(per_frame, np.linspace(0, long, frames + 1), fill=True, color="0.55")
    beside.stairs(per_band, np.arange(mels + 1) - 0.5, fill=True, color="0.55", orientation="horizontal")
    above.set(ylim=(0, per_frame.max() * 1.05 or 1), ylabel="mean\n|δ|")
    beside.set(xlim=(0, per_band.max() * 1.05 or 1), xlabel="mean |δ|")
    above.tick_params(labelbottom=False)
    beside.tick_params(labelleft=False)
    for axis in (above.yaxis, beside.xaxis):
        _two_ticks(axis, axis.get_view_interval()[1])
    bar = figure.colorbar(picture, ax=[main, beside], location="bottom", aspect=40, pad=0.03)
    bar.set_label("δ (normalised log-mel)")
    bar.set_ticks([-largest, -largest / 2, 0, largest / 2, largest])
    bar.ax.xaxis.set_major_formatter(lambda value, _: number(value))
    bar.outline.set_linewidth(0.6)


def _two_ticks(axis: object, top: float) -> None:
    """0 and one round number near the end."""
    from matplotlib.axis import Axis

    assert isinstance(axis, Axis)
    size = 10.0 ** np.floor(np.log10(top))
    round_one = next(size * part for part in (5, 2, 1, 0.5) if size * part <= top * 0.97)
    axis.set_ticks([0, round_one], ["0", f"{round_one:g}"])


def _regions(figure: Figure | SubFigure, regions: Sequence[Bar], metric: str, label: str, note: str) -> None:
    """Lying bars, the first region on top."""
    groups = ordered(bar.group for bar in regions)
    styles = bar_looks(ordered(bar.series for bar in regions))
    axes = figure.subplots()
    place_bars(axes, regions, groups, styles, lying=True)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    percent_limits(axes, metric, max(100 * (bar.high or bar.score) for bar in regions), axis="x")
    axes.set_xlabel("\n".join(line for line in (label, note) if line), loc="right" if note else "center")
    handles = bar_handles(styles)
    figure.legend(handles=handles, loc="outside upper center", ncols=2)


__all__ = ["draw_universal_map"]
