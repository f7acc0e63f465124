"""Over the air: success of random noise, PGD and PGD with EOT, without a channel, in training and in held-out rooms.

    python figures/over_the_air.py STORE

Reads cells of kind `air`; a panel for each victim, a figure for each condition and data set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robust.evaluation.air_summary import success_by_room
from robust.evaluation.store import Store
from robust.plots import script
from robust.plots.air import PLACES, VERSIONS, AirPanel, draw_air
from robust.plots.bars import Bar
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.style import NORMS

if TYPE_CHECKING:
    from robust.study.store import CellRun

NAME = "over_the_air"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Bars with intervals, dots for rooms."""
    cells = script.done_cells(script.read_study(store), "air", "experiments/ch08_over_the_air.yaml")
    groups = script.grouped(cells, NAME, ("condition", "data", "seed"))
    figures = {name: draw_air([_panel(cell) for cell in own]) for name, own in groups.items()}
    script.save_all(figures, out, dpi)


def _panel(cell: CellRun) -> AirPanel:
    records = Store.read(cell.folder).records()
    bars, rooms = [], {}
    with script.whole(cell):
        told = cell.summary
        for place, group in PLACES.items():
            for version, series in VERSIONS.items():
                score = (told[version] if version in told else told["controls"][version])[place]["success"]
                if score["score"] is not None:
                    bars.append(Bar(group, series, score["score"], score["low"], score["high"]))
                if place != "no_channel":
                    rooms[group, series] = success_by_room(records, version, place)
        threat = next(iter(told["threat"].values()))
        title = (
            f"{cell.victim}, {cell.data}: {NORMS.get(threat['norm'], threat['norm'])} {threat['radius_amplitude']:g}"
        )
    return AirPanel(title, bars, rooms)


if __name__ == "__main__":
    script.run(main)
