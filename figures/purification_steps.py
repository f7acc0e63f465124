"""Diffusion purifiers against the number of reverse steps n*: clean accuracy, and under attacks at several radii.

    python figures/purification_steps.py STORE

Reads cells of kind `purify` (a study) or runs of `robust attack --purify --out`. What an attack that does not know the
purifier leaves is dashed, the worst of attacks that do solid (hollow markers: their suite was not adaptive); a figure
for each kind of diffusion, a panel for each victim and data set.
"""

from __future__ import annotations

from robust.plots import script
from robust.plots.purification import Point, draw_steps
from robust.plots.purifier_cells import cell_points, purifier_cells
from robust.plots.script import OUT, Dpi, Out, StoreFolder

NAME = "purification_steps"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Lines over n*, one for each radius."""
    groups = script.grouped(purifier_cells(script.read_study(store)), NAME, ("seed",))
    figures = {}
    for name, cells in groups.items():
        points = [point for cell in cells for point in cell_points(cell)]
        families = _by_family(points)
        for family, own in families.items():
            figures[script.file_name(name, family if len(families) > 1 else "")] = draw_steps(own)
    script.save_all(figures, out, dpi)


def _by_family(points: list[Point]) -> dict[str, list[Point]]:
    """Kind of diffusion -> its points; all of them where none is of any, for the message."""
    families = dict.fromkeys(point.family for point in points if point.steps is not None)
    return {family: [point for point in points if point.family == family] for family in families} or {"": points}


if __name__ == "__main__":
    script.run(main)
