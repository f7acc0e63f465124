"""Camera stickers: the sheet, frames before and after, and success beside random dots.

    python figures/sticker_sheet.py STORE

Reads run folders of `robust sticker --out`; a figure for each.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from robust.errors import StoreError
from robust.plots import script
from robust.plots.bars import Bar
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.stickers import Picture, draw_stickers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.atomic import Folder
    from robust.study.store import CellRun

NAME = "sticker_sheet"
VIEWS = {"jittered": "jittered", "still": "still"}
SERIES = {"rate": "stickers", "random": "random dots"}


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Sheet, frames and bars with intervals."""
    cells = script.done_cells(script.read_study(store), "stickers", "robust sticker --out")
    names = [script.file_name(NAME, cell.folder.name) for cell in cells] if len(cells) > 1 else [NAME]
    script.save_all({name: _figure(cell) for name, cell in zip(names, cells, strict=True)}, out, dpi)


def _figure(cell: CellRun) -> Figure:
    with script.whole(cell):
        told = cell.summary
        bars = _bars(cell)
        title = f"{cell.victim}, {told['source']}" + (f" to {told['target']}" if told.get("target") else "")
    return draw_stickers(_picture(cell.folder / "sheet.png"), _frames(cell.folder / "video"), bars, title=title)


def _bars(cell: CellRun) -> list[Bar]:
    """A group for each view and aim."""
    told, bars = cell.summary, []
    for view, words in VIEWS.items():
        for aim in ("targeted", "untargeted"):
            if aim in told[view]:
                what = told["target"] if aim == "targeted" else "any other"
                for name, series in SERIES.items():
                    score = told[view][aim][name]
                    if score["score"] is not None:
                        bars.append(Bar(f"{words},\n{what}", series, score["score"], score["low"], score["high"]))
    return bars


def _frames(folder: Folder) -> list[tuple[Picture, Picture]]:
    """The first frame of each clip, before and after."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found: dict[str, str] = {}
    for name in names:
        if told := re.fullmatch(r"(.+)-original-\d+\.png", name):
            found.setdefault(told[1], name)
    after = {stem: f"{stem}-stickers-{name.rsplit('-', 1)[1]}" for stem, name in found.items()}
    return [
        (_picture(folder / name), _picture(folder / after[stem]))
        for stem, name in found.items()
        if after[stem] in names
    ]


def _picture(path: Folder) -> Picture:
    try:
        return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), dtype=np.uint8)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}; make the run again.") from error


if __name__ == "__main__":
    script.run(main)
