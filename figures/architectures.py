"""Many architectures beside each other: their scores under attacks, noise and other changes, by family.

    python figures/architectures.py STORE

Reads a study such as `experiments/ch12_architectures.yaml`. `architectures-scores` has a row for each victim and a
marker for each seed; `architectures-ranks` holds noise against attacks, a point for each victim, with Kendall's tau.
"""

from __future__ import annotations

from robust.plots import script
from robust.plots.architectures import architecture_intervals, architecture_panels
from robust.plots.geometry import draw_measures, draw_scatter
from robust.plots.script import OUT, Dpi, Out, StoreFolder

NAME = "architectures"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Scores of every victim, and whether noise and attacks rank them alike."""
    study = script.read_study(store)
    pages = draw_measures(architecture_intervals(study))
    names = [f"{NAME}-scores" + (f"-{place + 1}" if len(pages) > 1 else "") for place in range(len(pages))]
    figures = dict(zip(names, pages, strict=True))
    panels = architecture_panels(study)
    if panels:
        figures[f"{NAME}-ranks"] = draw_scatter(panels)
    script.save_all(figures, out, dpi)


if __name__ == "__main__":
    script.run(main)
