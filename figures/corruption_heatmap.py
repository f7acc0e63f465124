"""A victim under named corruptions at five severities: a field of scores, every number written in it.

    python figures/corruption_heatmap.py STORE

Reads run folders of `robust noise --out`, and studies with conditions of kind `corruption`; a figure for each victim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust.corruptions import CORRUPTIONS
from robust.errors import StoreError
from robust.plots import script
from robust.plots.corruptions import draw_corruptions
from robust.plots.script import OUT, Dpi, Out, StoreFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun, StudyStore

NAME = "corruption_heatmap"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """A heat map with the mean error, and the error over that of the reference where there is one."""
    groups = script.grouped(_cells(script.read_study(store)), NAME, ("victim", "data", "seed"))
    script.save_all({name: _figure(cells) for name, cells in groups.items()}, out, dpi)


def _cells(study: StudyStore) -> list[CellRun]:
    """Runs of `robust noise`; of a study, its cells of one corruption each (its kind `noise` is another)."""
    done = [cell for cell in study.cells() if cell.state == "done"]
    whole = [cell for cell in done if cell.summary.get("kind") == "noise"]
    found = whole or [cell for cell in done if cell.kind == "corruption"]
    if not found:
        raise StoreError(
            f"{study.folder} holds no finished run of `robust noise --out`, nor a study's of the kind 'corruption'."
        )
    return found


def _figure(cells: Sequence[CellRun]) -> Figure:
    first = cells[0]
    with script.whole(first):
        if first.summary.get("kind") == "noise":
            return draw_corruptions({**first.summary, "cells": _by_category(first.summary["cells"])})
        return draw_corruptions(_gathered(cells))


def _by_category(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cells of a category together: one asked for after one of its corruptions would else come twice."""
    order = list(dict.fromkeys(cell["category"] for cell in cells))
    return sorted(cells, key=lambda cell: order.index(cell["category"]))


def _gathered(cells: Sequence[CellRun]) -> dict[str, Any]:
    """Cells of a study as the summary of one run; corruptions in the order of their categories."""
    rows = [_cell(cell.summary) for cell in cells]
    order = list(CORRUPTIONS)
    rows.sort(key=lambda row: (order.index(row["corruption"]) if row["corruption"] in order else 999, row["severity"]))
    errors: dict[str, list[float]] = {}
    for row in rows:
        errors.setdefault(row["corruption"], []).append(1 - row["score"])
    means = [{"corruption": name, "mean_error": sum(own) / len(own)} for name, own in errors.items()]
    return {"victim": cells[0].victim, "clean": cells[0].summary["clean"], "cells": rows, "corruptions": means}


def _cell(summary: Mapping[str, Any]) -> dict[str, Any]:
    told = summary["condition"]
    name = told["corruption"]
    category = CORRUPTIONS[name].category if name in CORRUPTIONS else "other"
    return {
        "corruption": name,
        "category": category,
        "severity": told["severity"],
        "score": summary["changed"]["score"],
    }


if __name__ == "__main__":
    script.run(main)
