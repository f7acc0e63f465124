"""Runs against purifiers as the figures take them: cells of a study, or run folders."""

from __future__ import annotations

from robust.plots.purification import Point, points_of
from robust.plots.script import done_cells, whole
from robust.study.store import CellRun, StudyStore

KINDS = ("purify", "purification")
"""Of a study's cells and `robust.purified_curve`; of `robust attack --purify`."""


def purifier_cells(store: StudyStore) -> list[CellRun]:
    """The finished runs against purifiers.

    Raises:
        StoreError: If there is none.
    """
    found = [cell for kind in KINDS for cell in store.cells(kind=kind) if cell.state == "done"]
    return found or done_cells(store, KINDS[0], "robust attack --purify --out")


def cell_points(cell: CellRun) -> list[Point]:
    """Its scores, a point for each radius, under the names that the study has for victim and data.

    Raises:
        StoreError: If the run is not whole.
    """
    with whole(cell):
        return points_of({**cell.summary, "victim": cell.victim, "data": {"name": cell.data}})


__all__ = ["cell_points", "purifier_cells"]
