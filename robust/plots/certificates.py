"""Certified accuracy against L2 radius: steps with their bands, the ceiling of the votes, and the attack above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.metrics.classification import wilson
from robust.plots.style import COLUMN_INCHES, Look, blank, looks, number, percent, styled, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
STEPS = 200


@dataclass(frozen=True)
class CertificateLine:
    """What is drawn of one smoothing.

    Attributes:
        label: In the legend.
        radii: (N,) radius up to which each clip is certified right; below 0 for clips that are not right at 0.
        norms: (N,) L2 norm of each clip, for the axis of SNR.
        ceiling: The largest radius that the votes could show.
        attacked: (G, 4) radius, share that stands the attack, and the ends of its interval; empty without an attack.
    """

    label: str
    radii: Array
    norms: Array
    ceiling: float
    attacked: Array


def certificate_line(label: str, records: pd.DataFrame, summary: Mapping[str, Any]) -> CertificateLine:
    """The line of a run of `robust.certify`, from its records and summary.

    Raises:
        StoreError: If it was asked of one radius alone, which makes no curve.
    """
    if summary["radius"] is not None:
        raise StoreError(f"{label} is a run at the one radius {summary['radius']:g}; certify without --radius.")
    told = summary["attacked"] or {"radii": [], "scores": []}
    attacked = [
        (radius, one["score"], one["low"], one["high"])
        for radius, one in zip(told["radii"], told["scores"], strict=True)
    ]
    radii = np.where(records["right"], records["radius"], -1.0)
    return CertificateLine(
        label,
        np.asarray(radii, dtype=float),
        records["norm"].to_numpy(dtype=float),
        float(summary["ceiling"]),
        np.array(attacked, dtype=float).reshape(-1, 4),
    )


def certified_curve(radii: Array, levels: Array) -> tuple[Array, Array, Array]:
    """Shares of clips certified to at least each level, with the ends of Wilson's intervals."""
    counts = (radii[None, :] >= levels[:, None]).sum(axis=1)
    ends = np.array([wilson(int(count), len(radii)) for count in counts])
    return counts / len(radii), ends[:, 0], ends[:, 1]


def draw_certificates(lines: Sequence[CertificateLine], *, title: str = "") -> Figure:
    """All smoothings in one panel; the upper axis tells radii as SNR of the median clip.

    Raises:
        StoreError: If there is nothing to draw.
    """
    if not lines or any(len(line.radii) == 0 for line in lines):
        raise StoreError("There are no certificates to draw.")
    styles = looks([line.label for line in lines])
    most = max(max(line.ceiling, *line.attacked[:, 0], 0.0) for line in lines) or 1.0
    with styled():
        handles = _legend(lines, styles)
        figure = blank(COLUMN_INCHES, 2.45 + 0.15 * -(-len(handles) // 2))
        axes = figure.subplots()
        for line in lines:
            _line(axes, line, styles[line.label], most)
        axes.set(xlim=(0, 1.04 * most), ylim=(-2, 102), xlabel="L₂ radius", ylabel="accuracy (%)", title=title)
        axes.set_yticks(range(0, 101, 20))
        _snr_axis(axes, lines, most)
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _line(axes: Axes, line: CertificateLine, style: Look, most: float) -> None:
    """Certified steps with their band, ceiling, and marks of the attack."""
    levels = np.unique(np.concatenate([np.linspace(0, most, STEPS), line.radii[line.radii > 0]]))
    shares, low, high = certified_curve(line.radii, levels)
    axes.fill_between(levels, percent(low), percent(high), color=style.colour, alpha=0.14, linewidth=0, zorder=2)
    axes.plot(
        levels,
        percent(shares),
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markevery=max(1, len(levels) // 6),
        markersize=3.6,
        markeredgewidth=0,
        clip_on=False,
        zorder=3,
    )
    axes.axvline(line.ceiling, color=style.colour, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    if len(line.attacked):
        at, share, below, above = line.attacked.T
        axes.errorbar(
            at,
            percent(share),
            yerr=whiskers(share, below, above),
            color=style.colour,
            linewidth=0.6,
            linestyle=style.dashes,
            elinewidth=0.6,
            capsize=1.5,
            capthick=0.6,
            marker=style.marker,
            markersize=3.8,
            markerfacecolor="white",
            markeredgewidth=0.8,
            clip_on=False,
            zorder=4,
        )


def _snr_axis(axes: Axes, lines: Sequence[CertificateLine], most: float) -> None:
    """Radii as SNR above the panel, at the ticks below it."""
    norm = float(np.median(np.concatenate([line.norms for line in lines])))
    ticks = [tick for tick in axes.get_xticks() if 0 < tick <= 1.04 * most]
    if norm <= 0 or not ticks:
        return
    upper = axes.secondary_xaxis("top")
    upper.set_xticks(ticks, [number(round(20 * np.log10(norm / tick), 1)) for tick in ticks])
    upper.set_xlabel("SNR of the median clip (dB)")


def _legend(lines: Sequence[CertificateLine], styles: Mapping[str, Look]) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Artist] = [
        Line2D(
            [],
            [],
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=3.6,
            markeredgewidth=0,
            label=f"{label}, certified",
        )
        for label, style in styles.items()
    ]
    if any(len(line.attacked) for line in lines):
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "0.35", "markersize": 3.8}
        entries.append(Line2D([], [], color="0.35", linewidth=0.6, marker="o", **hollow, label="under attack"))
    entries.append(Line2D([], [], color="0.35", linewidth=0.6, linestyle=(0, (1, 2)), label="ceiling of the votes"))
    entries.append(Patch(facecolor="0.85", label="95 % interval"))
    return entries


__all__ = ["CertificateLine", "certificate_line", "certified_curve", "draw_certificates"]
