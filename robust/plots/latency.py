"""Where the time of a victim goes, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, blank, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TOP = 15
LONGEST = 28
"""Characters of a layer's name that fit beside the bars."""


def draw_latency(table: pd.DataFrame, *, title: str, total_milliseconds: float, top: int = TOP) -> Figure:
    """The layers of most own time as lying bars, the rest together in the last.

    Args:
        table: `layer`, `operation`, `milliseconds` (own time), `low`, `high` (quartiles), `share` (of the whole).
        title: Above the plot; the total and the share of the layers shown follow.
        total_milliseconds: Of one forward pass.
        top: How many layers have a bar of their own.

    Raises:
        StoreError: If the table is empty.
    """
    if table.empty:
        raise StoreError("The table of layers is empty.")
    ordered = table.sort_values(["milliseconds", "layer"], ascending=[False, True])
    shown, rest = ordered.head(top), ordered.iloc[top:]
    names = [_short(layer, operation) for layer, operation in zip(shown["layer"], shown["operation"], strict=True)]
    times, shares = shown["milliseconds"].tolist(), shown["share"].tolist()
    if len(rest):
        names.append(f"{len(rest)} other layers")
        times.append(float(rest["milliseconds"].sum()))
        shares.append(float(rest["share"].sum()))
    with styled():
        figure = blank(COLUMN_INCHES, 0.75 + 0.155 * len(names))
        axes = figure.subplots()
        places = np.arange(len(names))
        colours = ["#33208c"] * len(shown) + ["0.75"] * (len(names) - len(shown))
        axes.barh(places, times, height=0.72, color=colours)
        middle = shown["milliseconds"].to_numpy()
        ends = np.stack([middle - shown["low"].to_numpy(), shown["high"].to_numpy() - middle]).clip(min=0)
        for colour, width in (("white", 1.8), ("black", 0.8)):
            axes.errorbar(middle, places[: len(shown)], xerr=ends, fmt="none", ecolor=colour, elinewidth=width)
        reach = max(max(times), float(shown["high"].max()))
        for place, (time, share) in enumerate(zip(times, shares, strict=True)):
            end = max(time, float(shown["high"].iloc[place])) if place < len(shown) else time
            axes.text(end + 0.015 * reach, place, f"{100 * share:.1f} %", va="center", fontsize=7)
        axes.set_yticks(places, names)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, reach * 1.38))
        axes.set_xlabel("own time (ms, median and quartiles)", loc="right")
        axes.tick_params(axis="y", length=0)
        covered = 100 * float(shown["share"].sum())
        figure.suptitle(f"{title}\n{total_milliseconds:.3g} ms in all; {len(shown)} layers take {covered:.0f} %")
    return figure


def _short(layer: str, operation: str) -> str:
    """The end of a layer's path, which tells more than its beginning, and what it does."""
    path, room = layer or "(victim)", max(LONGEST - len(operation) - 2, 8)
    parts = path.split(".")
    while len(parts) > 1 and len(".".join(parts)) > room:
        parts = parts[1:]
    kept = ".".join(parts)
    kept = kept if len(kept) <= room else f"{kept[: room - 1]}…"
    return f"{kept if path.startswith(kept[:-1]) else '…' + kept} {operation[:LONGEST]}"


__all__ = ["draw_latency"]
