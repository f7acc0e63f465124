"""Robust score against radius."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.35
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}


def draw_curve(
    radii: NDArray[np.float64],
    scores: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    clean: float,
    norm: str,
    label: str,
) -> Figure:
    """A curve with its 95 % band, the clean score as a dashed line.

    Args:
        radii: (G,) ascending, in input units.
        scores: (G,) shares.
        low: (G,) lower ends of the intervals.
        high: (G,) upper ends.
        clean: Score at radius 0.
        norm: `linf`, `l2` or `l1`, for the axis.
        label: Name of the victim.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN_INCHES, 0.72 * COLUMN_INCHES), layout="constrained")
        axes = figure.subplots()
        axes.axhline(100 * clean, color="0.6", linestyle="--", linewidth=0.8)
        axes.annotate("clean", (radii[-1], 100 * clean), ha="right", va="bottom", color="0.4")
        axes.fill_between(radii, 100 * low, 100 * high, color="0.85", linewidth=0)
        axes.plot(radii, 100 * scores, color="black", marker="o", markersize=2.5, linewidth=1, label=label)
        name = {"linf": r"$L_\infty$", "l2": r"$L_2$", "l1": r"$L_1$"}[norm]
        axes.set(xscale="log", ylim=(-2, 102), xlabel=f"{name} radius (full scale = 1)", ylabel="robust accuracy (%)")
        axes.legend(frameon=False, loc="lower left")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all; the ending (`.pdf`, `.png`, `.svg`) says how.

    Raises:
        StoreError: If it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "pdf", dpi=300)
    write_atomically(path, buffer.getvalue())
