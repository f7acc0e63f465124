"""The patterns of the occlusion battery (arXiv 2205.03268) and what each leaves of the score.

    python figures/occlusion_patterns.py STORE

Reads cells of kind `change` whose condition is an occlusion (`robust attack --occlude PATTERN`, or a study); a column
of bars for each modality hidden, a bar for each victim. Several data sets or seeds: a figure for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robust.errors import StoreError
from robust.plots import script
from robust.plots.bars import Bar
from robust.plots.occlusion import draw_occlusion
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.style import metric_word

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "occlusion_patterns"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Occlusion patterns with the score of each."""
    cells = script.done_cells(script.read_study(store), "change", "robust attack --occlude PATTERN --out")
    occluded = []
    for cell in cells:
        with script.whole(cell):
            if "pattern" in cell.summary["condition"]:
                occluded.append(cell)
    if not occluded:
        raise StoreError(
            f"{store} holds {len(cells)} changed conditions, but no occlusion; make one by `robust attack --occlude`."
        )
    groups = script.grouped(occluded, NAME, ("data", "seed"))
    script.save_all({name: _figure(own) for name, own in groups.items()}, out, dpi)


def _figure(cells: Sequence[CellRun]) -> Figure:
    panels: dict[str, list[Bar]] = {}
    metric = "accuracy"
    for cell in cells:
        with script.whole(cell):
            told, condition = cell.summary["changed"], cell.summary["condition"]
            metric, clean = str(told["metric"]), cell.summary["clean"]["score"]
            bar = Bar(condition["pattern"], cell.victim, told["score"], told["low"], told["high"], clean)
            panels.setdefault(condition["modality"], []).append(bar)
    return draw_occlusion(panels, score_label=f"{metric_word(metric)} (%)", metric=metric)


if __name__ == "__main__":
    script.run(main)
