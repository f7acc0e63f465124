"""Is the fused victim weaker than its part? Smallest radii clip by clip, alone and through the fusion.

    python figures/threshold_scatter.py STORE

Reads cells of kind `thresholds`; a figure for each, one panel for the sound and one for the sight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.plots import script
from robust.plots.scatter import ThresholdPanel, draw_thresholds
from robust.plots.script import OUT, Dpi, Out, StoreFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from robust.study.store import CellRun

NAME = "threshold_scatter"
COLUMNS = ("agree", "eps_A", "eps_V", "eps_A_to_AV", "eps_V_to_AV")


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Scatter of eps*_A against eps*_{A->AV}, and of V."""
    cells = script.done_cells(script.read_study(store), "thresholds", "robust thresholds --out")
    groups = script.grouped(cells, NAME, ("victim", "condition", "data", "seed"))
    script.save_all({name: _figure(own[0]) for name, own in groups.items()}, out, dpi)


def _figure(cell: CellRun) -> Figure:
    table = script.table_of(cell, COLUMNS)
    with script.whole(cell):
        told = cell.summary
        senses = list(zip("AV", told["largest"], strict=True))
        panels = [_panel(table, sense, modality, told) for sense, modality in senses]
        norm = str(told["norm"])
    return draw_thresholds(panels, norm=norm)


def _panel(table: pd.DataFrame, sense: str, modality: str, told: Mapping[str, Any]) -> ThresholdPanel:
    both = told[modality]["all"]["both_right"]
    counts = {
        name: None if both[name]["score"] is None else round(both[name]["score"] * both[name]["clips"])
        for name in ("weaker", "stronger")
    }
    return ThresholdPanel(
        modality=modality,
        sense=sense,
        alone=table[f"eps_{sense}"].to_numpy(dtype=np.float64),
        fused=table[f"eps_{sense}_to_AV"].to_numpy(dtype=np.float64),
        agree=table["agree"].to_numpy(dtype=bool),
        largest=float(told["largest"][modality]),
        **counts,
    )


if __name__ == "__main__":
    script.run(main)
