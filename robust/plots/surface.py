"""The margin around a clip: over the direction of an attack and a random one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, MAP, NORMS, blank, modality_word, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = 13
"""About so many contours."""


def draw_surface(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    margin: NDArray[np.float64],
    *,
    title: str = "",
    norm: str = "linf",
    modality: str = "audio",
    eps: float | None = None,
) -> Figure:
    """Filled contours of the margin with the border of the decision (margin 0) in bold.

    Args:
        x: (X,) ascending places along the attack, in perturbations found: 0 is the clip, 1 the adversarial example.
        y: (Y,) ascending places along a random direction of the same norm.
        margin: (Y, X) margins, logit of the right class over the best other; above 0 is right.
        title: Above the plot.
        norm: Of the radius.
        modality: Attacked.
        eps: The radius that the attack was allowed, in input units.

    Raises:
        StoreError: If there are fewer than two places along a direction, or the margins do not fit.
    """
    if len(x) < 2 or len(y) < 2 or margin.shape != (len(y), len(x)):
        raise StoreError(
            f"A surface needs two places or more along each direction and a margin at each; given {len(x)} by {len(y)} "
            f"places and margins of shape {margin.shape}."
        )
    from matplotlib.ticker import MaxNLocator

    with styled():
        figure = blank(COLUMN_INCHES, 2.75)
        axes = figure.subplots()
        levels = MaxNLocator(LEVELS).tick_values(float(margin.min()), float(margin.max()))
        field = axes.contourf(x, y, margin, levels=levels, cmap=MAP)
        axes.contour(x, y, margin, levels=levels, colors="black", linewidths=0.25, linestyles="solid", alpha=0.5)
        crossed = float(margin.min()) < 0 < float(margin.max())
        if crossed:
            for colour, width in (("white", 2.8), ("black", 1.5)):
                axes.contour(x, y, margin, levels=[0.0], colors=colour, linewidths=width, linestyles="solid")
        for place, marker, word, way in (((0, 0), "o", "clip", -1), ((1, 0), "X", "attack", 1)):
            axes.plot(*place, marker=marker, color="white", markeredgecolor="black", markersize=6, markeredgewidth=0.8)
            told: dict[str, Any] = {"ha": "left" if way > 0 else "right", "va": "center", "bbox": _BACKING}
            axes.annotate(word, place, xytext=(7 * way, 0), textcoords="offset points", **told)
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        axes.spines[:].set_visible(True)
        # The perturbation found may be smaller than the radius allows.
        budget = "" if eps is None else f" within {NORMS.get(norm, norm)} {eps:g}"
        axes.set_xlabel(f"along the attack on {modality_word(modality)}{budget}\n(× the perturbation found)")
        axes.set_ylabel("along a random direction (× same norm)")
        axes.set_title(title)
        bar = figure.colorbar(field, ax=axes, aspect=28, pad=0.03)
        bar.set_label("margin (logits)" + ("; bold: 0" if crossed else ""))
        bar.outline.set_linewidth(0.6)
        if crossed:
            bar.ax.axhline(0, color="black", linewidth=1.5)
    return figure


_BACKING = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}

__all__ = ["draw_surface"]
