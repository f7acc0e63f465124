"""A wake-word detector under adversarial music, plain music, white noise and silence: F1 against how loud they are.

    python figures/wake_word_music.py STORE

Reads run folders of `robust music --out`; a figure for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robust.plots import script
from robust.plots.music import draw_music
from robust.plots.script import OUT, Dpi, Out, StoreFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "wake_word_music"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Lines with intervals."""
    cells = script.done_cells(script.read_study(store), "music", "robust music --out")
    names = [script.file_name(NAME, cell.folder.name) for cell in cells] if len(cells) > 1 else [NAME]
    script.save_all({name: _figure(cell) for name, cell in zip(names, cells, strict=True)}, out, dpi)


def _figure(cell: CellRun) -> Figure:
    with script.whole(cell):
        told = cell.summary
        return draw_music(told["cells"], title=f"{cell.victim}, “{told['wake']}”")


if __name__ == "__main__":
    script.run(main)
