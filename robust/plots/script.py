"""What the scripts of `figures/` share: reading cells, naming files, one message for a user's mistake."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from robust.atomic import Folder, open_folder
from robust.errors import RobustError, StoreError
from robust.plots.saving import save_both
from robust.study.store import CellRun, StudyStore, read_study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

T = TypeVar("T")
StoreFolder = Annotated[str, typer.Argument(help="A study or run folder, or its address.", metavar="STORE")]
Out = Annotated[str, typer.Option(help="Folder for PDF and PNG.")]
Dpi = Annotated[int, typer.Option(help="Dots per inch of the PNG.", min=20, max=1200)]
OUT = "figures/out"


def run(main: Callable[..., None]) -> None:
    """Runs a script; a user's mistake ends in one message and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    try:
        app()
    except RobustError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def done_cells(store: StudyStore, kind: str, how: str) -> list[CellRun]:
    """The finished cells of a kind.

    Args:
        store: From `read_study`.
        kind: `curve`, `change`...
        how: The command that makes such runs, for the error.

    Raises:
        StoreError: If there is none.
    """
    found = [cell for cell in store.cells(kind=kind) if cell.state == "done"]
    if not found:
        counts = Counter(f"{cell.kind} {cell.state}" for cell in store.cells())
        held = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no cells"
        raise StoreError(f"{store.folder} holds no finished run of kind {kind!r}, as `{how}` leaves; it holds {held}.")
    return found


@contextmanager
def whole(cell: CellRun) -> Iterator[None]:
    """Within it, an entry that a run lacks is a `StoreError` that names the run."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, RobustError):
            raise
        raise StoreError(
            f"{cell.folder} is no whole run of kind {cell.kind!r} ({type(error).__name__}: {error}); make it again."
        ) from error


def table_of(cell: CellRun, columns: Sequence[str]) -> pd.DataFrame:
    """The table of a run, which has these columns and a row.

    Raises:
        StoreError: If it cannot be read, is empty or lacks a column.
    """
    table = cell.table()
    lacking = [name for name in columns if name not in table]
    if lacking or table.empty:
        what = f"lacks the columns {', '.join(lacking)}" if lacking else "has no rows"
        raise StoreError(f"The table of {cell.folder} {what}; make the run again.")
    return table


def grouped(cells: Iterable[T], name: str, by: Sequence[str]) -> dict[str, list[T]]:
    """File name -> its cells: one file for each value of the attributes `by`, named after those that differ."""
    groups: dict[tuple[Any, ...], list[T]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell, part) for part in by), []).append(cell)
    differing = [place for place in range(len(by)) if len({key[place] for key in groups}) > 1]
    return {
        file_name(name, *(f"seed{key[place]}" if by[place] == "seed" else key[place] for place in differing)): members
        for key, members in groups.items()
    }


def file_name(*words: object) -> str:
    """Words joined into a name that every file system takes."""
    return "-".join(re.sub(r"[^\w.+-]+", "_", str(word)) for word in words if str(word))


def save_all(figures: dict[str, Figure], out: str, dpi: int) -> None:
    """Writes each as PDF and PNG, once all are drawn, and prints the paths."""
    folder: Folder = open_folder(out)
    for name, figure in figures.items():
        for path in save_both(figure, folder, name, dpi=dpi):
            print(path)


__all__ = [
    "OUT",
    "Dpi",
    "Out",
    "StoreFolder",
    "done_cells",
    "file_name",
    "grouped",
    "read_study",
    "run",
    "save_all",
    "table_of",
    "whole",
]
