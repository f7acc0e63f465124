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

if TYPE_CHECKING:
    from robust.study.store import CellRun

NAME = "certified_curves"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Steps with bands, hollow marks for the attack, a thin line for each ceiling."""
    cells = script.done_cells(script.read_study(store), "certificate", "robust certify --out")
    groups = script.grouped(cells, NAME, ("data", "seed"))
    script.save_all({name: draw_certificates(_lines(own)) for name, own in groups.items()}, out, dpi)


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
    denoiser = f", {told['denoiser']['name']} denoiser" if told["denoiser"] else ""
    return f"{f'{cell.victim}, ' if several else ''}σ {told['sigma']:g}{denoiser}"


if __name__ == "__main__":
    script.run(main)
