"""Certified accuracy against L2 radius: smoothings as lines, each with its ceiling and the attack above it.

    python figures/certified_curves.py STORE

Reads runs of `robust certify --out`: the folder that holds them side by side, or one of them. Several data sets or
seeds: a figure for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robust.plots import script
from robust.plots.certificates import CertificateLine, certificate_line, draw_certificates
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "certified_curves"
LONG, LINE_INCHES = 14, 0.15


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Steps with bands, hollow marks for the attack, a thin line for each ceiling."""
    cells = script.done_cells(script.read_study(store), "certificate", "robust certify --out")
    groups = script.grouped(cells, NAME, ("data", "seed"))
    script.save_all({name: _figure(_lines(own)) for name, own in groups.items()}, out, dpi)


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
    denoiser = f", {told['denoiser']['name']} denoiser" if told.get("denoiser") else ""
    return f"{f'{cell.victim}, ' if several else ''}σ {told['sigma']:g}{denoiser}"


if __name__ == "__main__":
    script.run(main)
