"""Purifiers beside each other: clean accuracy, under an attack that does not know them, and under an adaptive suite.

    python figures/purifier_bars.py STORE

Reads cells of kind `purify` (a study) or runs of `robust attack --purify --out`; a panel for each radius, a figure for
each victim and data set.
"""

from __future__ import annotations

from robust.plots import script
from robust.plots.purification import draw_purifiers
from robust.plots.purifier_cells import cell_points, purifier_cells
from robust.plots.script import OUT, Dpi, Out, StoreFolder

NAME = "purifier_bars"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Bars with intervals."""
    groups = script.grouped(purifier_cells(script.read_study(store)), NAME, ("victim", "data", "seed"))
    points = {name: [point for cell in cells for point in cell_points(cell)] for name, cells in groups.items()}
    script.save_all({name: draw_purifiers(own) for name, own in points.items()}, out, dpi)


if __name__ == "__main__":
    script.run(main)
