"""Figures as files, the same bytes for the same numbers: no dates, no versions of software in PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from robust.atomic import Folder, write_atomically
from robust.errors import StoreError, unknown
from robust.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA = {"pdf": {"CreationDate": None}, "png": {"Software": None}, "svg": {"Date": None}}
"""What would differ between two runs, by format."""


def rendered(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
    """A figure as a file of this kind.

    Args:
        figure: Of any size; it is not cropped.
        kind: `pdf`, `png` or `svg`.
        dpi: Dots per inch of PNG, and of fields of colour within PDF and SVG.

    Raises:
        StoreError: If the kind is none of these.
    """
    if kind not in METADATA:
        raise StoreError(unknown("kind of figure", kind, METADATA))
    buffer = io.BytesIO()
    with styled():
        _settle(figure)
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=METADATA[kind])
    return buffer.getvalue()


def _settle(figure: Figure) -> None:
    """Lays a figure out for good: a layout made anew for every file would differ a little between them."""
    if figure.get_layout_engine() is not None:
        for _ in range(2):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save_figure(figure: Figure, path: Folder, *, dpi: int = 300) -> None:
    """Writes a figure whole or not at all; the ending (`.pdf`, `.png`, `.svg`) says how.

    Raises:
        StoreError: If it cannot be written, or the ending is another.
    """
    write_atomically(path, rendered(figure, path.suffix.lstrip(".").lower() or "pdf", dpi=dpi))


def save_both(figure: Figure, folder: Folder, name: str, *, dpi: int = 300) -> list[Folder]:
    """Writes `name.pdf` and `name.png` into `folder`; nothing is written unless both can be drawn.

    Returns:
        The two paths.
    """
    drawn = {folder / f"{name}.{kind}": rendered(figure, kind, dpi=dpi) for kind in ("pdf", "png")}
    for path, content in drawn.items():
        write_atomically(path, content)
    return list(drawn)
