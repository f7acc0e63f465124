"""Where clips lie in the latents of a victim, clean and adversarial: panels for sound, sight and both.

    python figures/latent_projections.py STORE

Reads cells of kind `latents`; a figure for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robust.plots import script
from robust.plots.latents import STATES, draw_latents
from robust.plots.script import OUT, Dpi, Out, StoreFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "latent_projections"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Projections of latents, before and after an attack."""
    cells = script.done_cells(script.read_study(store), "latents", "a study with condition `latents`")
    groups = script.grouped(cells, NAME, ("victim", "condition", "data", "seed"))
    script.save_all({name: _figure(own[0]) for name, own in groups.items()}, out, dpi)


def _figure(cell: CellRun) -> Figure:
    table = script.table_of(cell, ("label_name", "latent", "state", "x", "y"))
    labels, notes = {}, {}
    with script.whole(cell):
        word = {"pca": "PC", "lda": "LD"}.get(str(cell.summary["method"]).lower(), "component")
        for latent in table["latent"].unique():
            shares = (cell.summary.get("explained") or {}).get(latent)
            both = [f"{word} {axis}" for axis in (1, 2)]
            if isinstance(shares, list) and len(shares) == 2:
                of = "between classes" if word == "LD" else "of variance"
                both = [f"{name} ({100 * share:.0f} % {of})" for name, share in zip(both, shares, strict=True)]
            labels[latent] = (both[0], both[1])
            silhouette = (cell.summary.get("silhouette") or {}).get(latent, {})
            if all(silhouette.get(state) is not None for state in STATES):
                ends = [f"{silhouette[state]:.2f}".replace("-", "−") for state in STATES]
                notes[latent] = f"silhouette {ends[0]} → {ends[1]}"
    return draw_latents(table, axis_labels=labels, notes=notes)


if __name__ == "__main__":
    script.run(main)
