"""Can robustness be read off a model? Measures of geometry against scores under attack and in noise.

    python figures/geometry_scatter.py STORE
    python figures/geometry_scatter.py STORE --pair density.fused.local-purity:linf@0.002
    python figures/geometry_scatter.py STORE --over classes        # every class of every victim
    python figures/geometry_scatter.py STORE --over frequency      # convexity against clips of a class

Reads a study with conditions of kind `geometry` and its `correlations.csv`. Without --pair the pair of every group of
measures and kind of score that holds best within families is shown: the best of many, so read the table before them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from robust.plots import script
from robust.plots.geometry import ScatterPanel, draw_scatter
from robust.plots.geometry_cells import asked_pairs, best_pairs, correlations_of, frequency_panels, scatter_panels
from robust.plots.script import OUT, Dpi, Out, StoreFolder

NAME = "geometry_scatter"


class Over(StrEnum):
    """What a point is."""

    VICTIMS = "victims"
    CLASSES = "classes"
    FREQUENCY = "frequency"


def main(
    store: StoreFolder,
    over: Annotated[Over, typer.Option(help="A point is a victim, or a class of one.")] = Over.VICTIMS,
    pair: Annotated[
        list[str] | None, typer.Option(help="MEASURE:SCORE, as correlations.md names them; repeatable.")
    ] = None,
    out: Out = OUT,
    dpi: Dpi = 300,
) -> None:
    """Panels of points, markers by family and filling by defense."""
    study = script.read_study(store)
    cells = script.done_cells(study, "geometry", "robust geometry --out")
    panels: dict[str, list[ScatterPanel]] = {}
    if over == Over.FREQUENCY:
        for name, own in script.grouped(cells, NAME, ("condition", "data")).items():
            with script.whole(own[0]):
                panels[name] = frequency_panels(own, study.told.get("victims") or {})
    else:
        table = correlations_of(study, str(over))
        rows = asked_pairs(table, str(over), pair) if pair else best_pairs(table, str(over))
        several = rows["data"].nunique() > 1
        for data, chosen in rows.groupby("data", sort=False):
            panels[script.file_name(NAME, data if several else "")] = scatter_panels(study, chosen, str(over))
    script.save_all({name: draw_scatter(own) for name, own in panels.items()}, out, dpi)


if __name__ == "__main__":
    script.run(main)
