"""Geometry of victims side by side: sharpness, slope around clips, density and convexity, each with its interval.

    python figures/geometry.py STORE
    python figures/geometry.py STORE --measures convexity,density

Reads cells of kind `geometry` (a study) or runs of `robust geometry --out`; a small panel for each measure, a row for
each victim, a marker for each of its seeds. What does not fit on a page goes on the next.
"""

from __future__ import annotations

from typing import Annotated

import typer

from robust.errors import StoreError, unknown
from robust.plots import script
from robust.plots.geometry import Interval, draw_measures
from robust.plots.geometry_cells import victim_intervals
from robust.plots.script import OUT, Dpi, Out, StoreFolder

NAME = "geometry"


def main(
    store: StoreFolder,
    measures: Annotated[
        str | None, typer.Option(help="Groups with commas between; all that there are if absent.")
    ] = None,
    out: Out = OUT,
    dpi: Dpi = 300,
) -> None:
    """Panels of intervals."""
    study = script.read_study(store)
    cells = script.done_cells(study, "geometry", "robust geometry --out")
    kin = {name: str(told["model"]) for name, told in (study.told.get("victims") or {}).items()}
    figures = {}
    for name, own in script.grouped(cells, NAME, ("condition", "data")).items():
        with script.whole(own[0]):
            pages = draw_measures(_chosen(victim_intervals(own, kin), measures))
        for place, page in enumerate(pages, start=1):
            figures[script.file_name(name, place if len(pages) > 1 else "")] = page
    script.save_all(figures, out, dpi)


def _chosen(intervals: list[Interval], measures: str | None) -> list[Interval]:
    """Those of the groups asked for."""
    if measures is None:
        return intervals
    known = list(dict.fromkeys(one.panel.partition(",")[0] for one in intervals))
    names = [name.strip() for name in measures.split(",")]
    for name in names:
        if name not in known:
            raise StoreError(unknown("group of measures", name, known))
    return [one for one in intervals if one.panel.partition(",")[0] in names]


if __name__ == "__main__":
    script.run(main)
