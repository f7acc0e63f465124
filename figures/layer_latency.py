"""Where the time of a forward pass goes: own time of the slowest layers, the rest together.

    python figures/layer_latency.py STORE

Reads cells of kind `latency`; a figure for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robust.plots import script
from robust.plots.latency import draw_latency
from robust.plots.script import OUT, Dpi, Out, StoreFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "layer_latency"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Own time per layer."""
    cells = script.done_cells(script.read_study(store), "latency", "a study with condition `latency`")
    groups = script.grouped(cells, NAME, ("victim", "condition", "data", "seed"))
    script.save_all({name: _figure(own[0]) for name, own in groups.items()}, out, dpi)


def _figure(cell: CellRun) -> Figure:
    table = script.table_of(cell, ("layer", "operation", "milliseconds", "low", "high", "share"))
    with script.whole(cell):
        told = cell.summary
        threads = f"{told['threads']} thread{'' if told['threads'] == 1 else 's'}"
        title = f"{cell.victim}: {told['batch_size']} × {told['clip_seconds']:g} s, {told['device']}, {threads}"
        return draw_latency(table, title=title, total_milliseconds=float(told["total_milliseconds"]))


if __name__ == "__main__":
    script.run(main)
