"""Options that commands share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="A name from `robust victims`, or FILE.py:FACTORY for your own.")]
Weights = Annotated[str | None, typer.Option(help="Checkpoint, folder or hub id; the embedded weights if absent.")]
Data = Annotated[str, typer.Option(help="A name from `robust data`.")]
Root = Annotated[Path | None, typer.Option(help="Folder of a data set on disk.")]
Limit = Annotated[int | None, typer.Option(help="Number of clips, balanced over the classes.")]
Fold = Annotated[int | None, typer.Option(help="Test fold of a data set in folds.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")]
Seed = Annotated[int, typer.Option(help="All randomness is derived from it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def data_options(fold: int | None) -> dict[str, int]:
    """Options of data sets that were given."""
    return {} if fold is None else {"fold": fold}
