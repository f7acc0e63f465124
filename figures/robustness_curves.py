"""Score against radius, SNR or reverberation: a panel for each axis, a line for each victim, bands of 95 %.

    python figures/robustness_curves.py STORE

Reads cells of kind `curve` (`robust curve --out`, or a study). Several data sets or seeds: a figure for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from robust.evaluation.curve_summary import from_summary
from robust.plots import script
from robust.plots.curve import CurveLike, draw_curves
from robust.plots.script import OUT, Dpi, Out, StoreFolder

if TYPE_CHECKING:
    from robust.study.store import CellRun

NAME = "robustness_curves"


def main(
    store: StoreFolder,
    out: Out = OUT,
    threshold: Annotated[
        float | None, typer.Option(help="Score drawn as a thin line, a share.", min=0.0, max=1.0)
    ] = None,
    dpi: Dpi = 300,
) -> None:
    """Robustness curves by norm, victims as lines."""
    cells = script.done_cells(script.read_study(store), "curve", "robust curve --out")
    groups = script.grouped(cells, NAME, ("data", "seed"))
    script.save_all({name: draw_curves(_lines(own), threshold=threshold) for name, own in groups.items()}, out, dpi)


def _lines(cells: Sequence[CellRun]) -> list[CurveLike]:
    """One line per cell, named after its victim, and its condition where a victim has two on one axis."""
    places = []
    for cell in cells:
        with script.whole(cell):
            axis = cell.summary["axis"]
            places.append((cell.victim, axis["name"], axis["modality"], axis["label"]))
    counts = Counter(places)
    lines: list[CurveLike] = []
    for cell, place in zip(cells, places, strict=True):
        with script.whole(cell):
            curve = from_summary(cell.summary)
        lines.append(curve.named(cell.victim if counts[place] == 1 else f"{cell.victim}, {cell.condition}"))
    return lines


if __name__ == "__main__":
    script.run(main)
