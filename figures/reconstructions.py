"""What masked pre-training learnt: spectrograms, what was left of them, and what the model filled in (thesis 7.7).

    python figures/reconstructions.py checkpoints/pretrained-events.safetensors

Reads the `.pictures.npz` that `robust pretrain` leaves beside its checkpoint; a figure for patches hidden anywhere and
one for whole times and bands. Where pre-training normalises patches, their level and spread are those of the original.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from robust.errors import StoreError
from robust.plots import script
from robust.plots.reconstructions import WAYS, draw_reconstructions
from robust.plots.script import OUT, Dpi, Out

NAME = "reconstructions"

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint of robust pretrain.", metavar="CHECKPOINT")]


def main(checkpoint: Checkpoint, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Original, seen and filled in, below each other."""
    pictures = read_pictures(checkpoint.with_suffix(".pictures.npz"))
    figures = {script.file_name(NAME, way): draw_reconstructions(pictures, way) for way in WAYS}
    script.save_all(figures, out, dpi)


def read_pictures(path: Path) -> dict[str, Any]:
    """The arrays in a file of reconstructions.

    Raises:
        StoreError: If there is none, or it cannot be read.
    """
    if not path.is_file():
        raise StoreError(f"There are no reconstructions at {path}; `robust pretrain --out` leaves them there.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Run `robust pretrain` again.") from error


if __name__ == "__main__":
    script.run(main)
