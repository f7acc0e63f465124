"""The margin over the direction of an attack and a random one: mean over clips, or one clip.

    python figures/loss_surface.py STORE --clip CLIP

Reads cells of kind `surface`; a figure for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from robust.errors import StoreError, unknown
from robust.plots import script
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.surface import draw_surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "loss_surface"


def main(
    store: StoreFolder,
    out: Out = OUT,
    clip: Annotated[str | None, typer.Option(help="Id of one clip; the mean over all if absent.")] = None,
    dpi: Dpi = 300,
) -> None:
    """Surface of the margin around a clip."""
    cells = script.done_cells(script.read_study(store), "surface", "a study with condition `surface`")
    groups = script.grouped(cells, NAME, ("victim", "condition", "data", "seed"))
    figures = {script.file_name(name, clip or ""): _figure(own[0], clip) for name, own in groups.items()}
    script.save_all(figures, out, dpi)


def _figure(cell: CellRun, clip: str | None) -> Figure:
    table = script.table_of(cell, ("clip", "x", "y", "margin"))
    clips = sorted(table["clip"].unique())
    if clip is not None:
        if clip not in clips:
            raise StoreError(unknown("clip", clip, clips))
        table = table[table["clip"] == clip]
    shown = f"mean of {len(clips)} clips" if clip is None and len(clips) > 1 else f"clip {clip or clips[0]}"
    field = table.pivot_table(index="y", columns="x", values="margin", aggfunc="mean")
    with script.whole(cell):
        told = cell.summary
        return draw_surface(
            field.columns.to_numpy(dtype=np.float64),
            field.index.to_numpy(dtype=np.float64),
            field.to_numpy(dtype=np.float64),
            title=f"{cell.victim}, {shown}",
            norm=told["norm"],
            modality=told["modality"],
            eps=float(told["eps"]),
        )


if __name__ == "__main__":
    script.run(main)
