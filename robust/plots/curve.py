"""Robust score against radius, or score against noise and rooms: lines with their 95 % bands, a panel for each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.saving import save_figure
from robust.plots.style import (
    COLUMN_INCHES,
    NORMS,
    PAGE_INCHES,
    Look,
    blank,
    log_ticks,
    looks,
    metric_word,
    modality_word,
    percent,
    styled,
    upright,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ATTACKS = (*NORMS, "snr")
"""Names of axes along which a victim is attacked; along others it meets noise or rooms."""


class CurveLike(Protocol):
    """What can be drawn, e.g. `robust.evaluation.curve_summary.Curve`.

    Attributes:
        label: Name of the line.
        radii: (G,) levels in the unit of the axis, from easy to hard.
        scores, low, high: (G,) shares with the ends of their intervals.
        clean: Score without any attack.
        auc: Mean score over the axis.
        axis: `name`, `modality`, `unit`, `label`, `log` and `harder` (`up` or `down`).
        metric: `accuracy` or `mAP`.
    """

    @property
    def label(self) -> str: ...

    @property
    def radii(self) -> NDArray[np.float64]: ...

    @property
    def scores(self) -> NDArray[np.float64]: ...

    @property
    def low(self) -> NDArray[np.float64]: ...

    @property
    def high(self) -> NDArray[np.float64]: ...

    @property
    def clean(self) -> float: ...

    @property
    def auc(self) -> float: ...

    @property
    def axis(self) -> Mapping[str, Any]: ...

    @property
    def metric(self) -> str: ...


def draw_curves(curves: Sequence[CurveLike], *, threshold: float | None = None) -> Figure:
    """Lines with bands, one panel for each axis, harder to the right; the clean scores as hollow marks at the left.

    Args:
        curves: One or more; those with the same axis (name, modality, label) share a panel, those with the same label
            a look.
        threshold: Share, drawn as a thin line.

    Raises:
        StoreError: If there are no curves.
    """
    if not curves:
        raise StoreError("There are no curves to draw.")
    panels: dict[tuple[str, ...], list[CurveLike]] = {}
    for curve in curves:
        panels.setdefault(tuple(str(curve.axis[part]) for part in ("name", "modality", "label")), []).append(curve)
    styles = looks(list(dict.fromkeys(curve.label for curve in curves)))
    senses = {modality for _, modality, _ in panels}
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows, width = -(-len(panels) // columns), COLUMN_INCHES if columns == 1 else PAGE_INCHES
    with styled():
        handles = _legend(curves, styles, threshold, alone=len(panels) == 1)
        entry = 0.57 + 0.053 * max(len(str(handle.get_label())) for handle in handles)
        abreast = max(1, min(len(handles), int((width - 0.1) / entry)))
        figure = blank(width, rows * 2.05 + 0.15 * (1 + -(-len(handles) // abreast)))
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, group in zip(places, panels.values(), strict=False):
            _panel(axes, group, styles, threshold)
            if len(senses) > 1:
                axes.set_title(modality_word(str(group[0].axis["modality"])))
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        figure.legend(handles=handles, loc="outside upper center", ncols=abreast)
    return figure


def _panel(axes: Axes, curves: Sequence[CurveLike], styles: Mapping[str, Look], threshold: float | None) -> None:
    """All curves of one axis."""
    axis, metric = curves[0].axis, curves[0].metric
    levels = np.unique(np.concatenate([np.asarray(curve.radii, dtype=float) for curve in curves]))
    if axis["log"]:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, float(levels[0]), float(levels[-1]))
        reach = (levels[-1] / levels[0]) ** 0.05 if len(levels) > 1 else 1.5
        axes.set_xlim(levels[0] / reach, levels[-1] * reach)
    else:
        reach = 0.05 * (levels[-1] - levels[0]) if len(levels) > 1 else 1.0
        axes.set_xlim(levels[0] - reach, levels[-1] + reach)
    if axis["harder"] == "down":
        axes.invert_xaxis()
    if threshold is not None:
        axes.axhline(100 * threshold, color="0.35", linewidth=0.6, zorder=1)
    for curve in curves:
        _line(axes, curve, styles[curve.label])
    kind = f"robust {metric_word(metric)}" if axis["name"] in ATTACKS else metric_word(metric)
    axes.set(ylim=(-2, 102), xlabel=upright(str(axis["label"])), ylabel=f"{kind} (%)")
    axes.set_yticks(range(0, 101, 20))


def _line(axes: Axes, curve: CurveLike, style: Look) -> None:
    """One curve: band, line, and its clean score on the left spine."""
    axes.fill_between(
        curve.radii, percent(curve.low), percent(curve.high), color=style.colour, alpha=0.14, linewidth=0, zorder=2
    )
    axes.plot(
        curve.radii,
        percent(curve.scores),
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markevery=max(1, len(np.asarray(curve.radii)) // 7),
        markersize=3.6,
        markeredgewidth=0,
        clip_on=False,
        zorder=3,
    )
    axes.plot(
        [0],
        [100 * curve.clean],
        transform=axes.get_yaxis_transform(),
        linestyle="none",
        marker=style.marker,
        markersize=3.8,
        markerfacecolor="white",
        markeredgecolor=style.colour,
        markeredgewidth=0.8,
        clip_on=False,
        zorder=4,
    )


def _legend(
    curves: Sequence[CurveLike], styles: Mapping[str, Look], threshold: float | None, *, alone: bool
) -> list[Artist]:
    """Entries of the lines, and of what else is drawn; in one panel over the same levels also areas."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    spans = {(float(curve.radii[0]), float(curve.radii[-1])) for curve in curves}
    comparable = alone and len(spans) == 1
    areas = {curve.label: f", AUC {curve.auc:.2f}" for curve in curves} if comparable else {}
    entries: list[Artist] = [
        Line2D(
            [],
            [],
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=3.6,
            markeredgewidth=0,
            label=name + areas.get(name, ""),
        )
        for name, style in styles.items()
    ]
    hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "0.35", "markersize": 3.8}
    entries.append(Line2D([], [], linestyle="none", **hollow, label="clean"))
    entries.append(Patch(facecolor="0.85", label="95 % interval"))
    if threshold is not None:
        entries.append(Line2D([], [], color="0.35", linewidth=0.6, label=f"{100 * threshold:g} %"))
    return entries


__all__ = ["CurveLike", "draw_curves", "save_figure"]
