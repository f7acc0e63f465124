"""Certified accuracy against L2 radius: smoothings as lines, each with its ceiling and the attack above it.

    python figures/certified_curves.py STORE --sigma 0.25

Reads cells of kind `certificate` (a study), or runs of `robust certify --out`: the folder that holds them side by side,
or one of them. Several data sets or seeds: a figure for each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from robust.errors import StoreError
from robust.plots import script
from robust.plots.certificates import CertificateLine, certificate_line, draw_certificates
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "certified_curves"
LONG, LINE_INCHES = 14, 0.15


def main(
    store: StoreFolder,
    out: Out = OUT,
    sigma: Annotated[float | None, typer.Option(help="Smoothings by this noise alone; all of them if absent.")] = None,
    dpi: Dpi = 300,
) -> None:
    """Steps with bands, hollow marks for the attack, a thin line for each ceiling."""
    cells = script.done_cells(script.read_study(store), "certificate", "robust certify --out")
    groups = script.grouped(_of_sigma(cells, sigma), NAME, ("data", "seed"))
    script.save_all({name: _figure(_lines(own)) for name, own in groups.items()}, out, dpi)


def _of_sigma(cells: Sequence[CellRun], sigma: float | None) -> list[CellRun]:
    """The runs with noise of this level."""
    levels = []
    for cell in cells:
        with script.whole(cell):
            levels.append(float(cell.summary["sigma"]))
    found = [cell for cell, level in zip(cells, levels, strict=True) if sigma is None or math.isclose(level, sigma)]
    if not found:
        there = ", ".join(f"{level:g}" for level in sorted(set(levels)))
        raise StoreError(f"No run has noise of sigma {sigma:g}; those there are have {there}.")
    return found


def _figure(lines: Sequence[CertificateLine]) -> Figure:
    """Names that are too long for two columns stand in one."""
    figure = draw_certificates(lines)
    if max(len(line.label) for line in lines) > LONG:
        told = figure.legends.pop()
        handles, names = told.legend_handles, [text.get_text() for text in told.get_texts()]
        figure.set_figheight(figure.get_figheight() + LINE_INCHES * (len(names) // 2))
        with styled():
            figure.legend(handles, names, loc="outside upper center", ncols=1)
    return figure


def _lines(cells: Sequence[CellRun]) -> list[CertificateLine]:
    """One for each run, named after its smoothing, and its folder where two have the same."""
    several = len({cell.victim for cell in cells}) > 1
    names = []
    for cell in cells:
        with script.whole(cell):
            names.append(_name(cell, several))
    counts = Counter(names)
    lines = []
    for cell, name in zip(cells, names, strict=True):
        with script.whole(cell):
            label = name if counts[name] == 1 else f"{name} ({cell.folder.name})"
            lines.append(certificate_line(label, cell.records(), cell.summary))
    return lines


def _name(cell: CellRun, several: bool) -> str:
    told = cell.summary
    denoiser = told.get("denoiser") or {}
    after = f", {denoiser.get('domain', denoiser['name'])} denoiser" if denoiser else ""
    return f"{f'{cell.victim}, ' if several else ''}σ {told['sigma']:g}{after}"


if __name__ == "__main__":
    script.run(main)
