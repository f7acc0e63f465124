"""Where clips lie in the latents of a victim, before and after an attack: one panel for each latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, PAGE_INCHES, blank, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASSES = (
    ("#000000", "o"),
    ("#33208c", "s"),
    ("#a61c3c", "^"),
    ("#2b8a7e", "D"),
    ("#ec8a2c", "v"),
    ("#5a9bd4", "P"),
    ("#7a7a7a", "X"),
    ("#c77cb5", "<"),
    ("#7f6a1e", ">"),
    ("#58b368", "p"),
)
"""Colour and marker of up to ten classes; the marker alone tells them apart."""
STATES = ("clean", "adversarial")


def draw_latents(
    table: pd.DataFrame,
    *,
    axis_labels: Mapping[str, tuple[str, str]] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Clean clips as filled marks, adversarial ones as hollow marks of the same shape.

    Args:
        table: `label_name`, `latent`, `state` (`clean` or `adversarial`), `x`, `y`: one row per clip, latent and state.
        axis_labels: Latent -> labels of both axes.
        notes: Latent -> words after its name in the title.

    Raises:
        StoreError: If the table is empty.
    """
    if table.empty:
        raise StoreError("The table of latents is empty.")
    latents = list(dict.fromkeys(table["latent"]))
    counts = table["label_name"].value_counts()
    shown = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[: len(CLASSES)])
    with styled():
        wide = len(latents) > 1
        width = PAGE_INCHES if wide else COLUMN_INCHES
        figure = blank(width, 2.95 if wide else 3.4)
        grid = figure.subplots(1, len(latents), squeeze=False)
        for axes, latent in zip(grid.flat, latents, strict=True):
            _panel(axes, table[table["latent"] == latent], shown)
            words = (axis_labels or {}).get(latent, ("component 1", "component 2"))
            axes.set(xlabel=words[0], ylabel=words[1])
            note = (notes or {}).get(latent)
            axes.set_title(latent if note is None else f"{latent}: {note}")
        handles = _legend(shown, others=len(counts) > len(shown))
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, int(width / (0.32 + 0.062 * longest)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.0, columnspacing=1.0)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, shown: Sequence[str]) -> None:
    looks = dict(zip(shown, CLASSES, strict=False))
    for state in reversed(STATES):
        part = rows[rows["state"] == state]
        rest = part[~part["label_name"].isin(shown)]
        axes.plot(rest["x"], rest["y"], **_mark("0.75", ".", state), zorder=1)
        for name, (colour, marker) in looks.items():
            own = part[part["label_name"] == name]
            axes.plot(own["x"], own["y"], **_mark(colour, marker, state), zorder=2 + STATES.index(state))
    axes.margins(0.06)
    axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=5, steps=[1, 2, 5, 10])


def _mark(colour: str, marker: str, state: str) -> dict[str, Any]:
    hollow = state == "adversarial"
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": 4.6 if marker in "PX" else 3.8,
        "markerfacecolor": "none" if hollow else colour,
        "markeredgecolor": colour if hollow else "white",
        "markeredgewidth": 0.7 if hollow else 0.25,
    }


def _legend(shown: Sequence[str], *, others: bool) -> list[Artist]:
    from matplotlib.lines import Line2D

    entries: list[Artist] = [Line2D([], [], **_mark("0.3", "o", state), label=state) for state in STATES]
    entries += [
        Line2D([], [], **_mark(colour, marker, "clean"), label=name)
        for name, (colour, marker) in zip(shown, CLASSES, strict=False)
    ]
    if others:
        entries.append(Line2D([], [], **_mark("0.75", ".", "clean"), label="other"))
    return entries


__all__ = ["draw_latents"]
