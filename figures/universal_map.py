"""A universal perturbation of log-mel features over time and bands, and what regions alone suffice to break.

    python figures/universal_map.py STORE

Reads cells of kind `universal` (`robust universal --modality logmel --out`) and, of the same victim, data, seed and
norm, cells of kind `attack` that were confined to a region (`--window`, `--band`, `--mels`) or cut to it (`--cut`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robust.errors import StoreError
from robust.plots import script
from robust.plots.bars import Bar
from robust.plots.heatmap import draw_universal_map
from robust.plots.regions import region_words
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.style import NORMS, metric_word, modality_word

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from robust.study.store import CellRun, StudyStore

NAME, FEATURES = "universal_map", "logmel"
INSIDE, CUT = "optimised inside", "cut afterwards"


def main(store: StoreFolder, out: Out = OUT, dpi: Dpi = 300) -> None:
    """Universal perturbation over (time, mel) and ablation by bands and time."""
    study = script.read_study(store)
    cells = script.done_cells(study, "universal", f"robust universal --modality {FEATURES} --out")
    groups = script.grouped(cells, NAME, ("victim", "condition", "data", "seed"))
    script.save_all({name: _figure(study, own[0]) for name, own in groups.items()}, out, dpi)


def _figure(study: StudyStore, cell: CellRun) -> Figure:
    delta = _delta(cell)
    with script.whole(cell):
        norm, metric = cell.summary["threat"][FEATURES]["norm"], str(cell.summary["robust"]["metric"])
        seconds = cell.manifest["victim"]["config"].get("clip_seconds")
    regions, note = _regions(study, cell, norm)
    return draw_universal_map(
        delta,
        regions=regions,
        seconds=seconds,
        metric=metric,
        score_label=f"robust {metric_word(metric)} (%)",
        note=note,
    )


def _delta(cell: CellRun) -> NDArray[np.floating]:
    """(frames, mels)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = cell.folder / "delta.safetensors"
    try:
        held = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    if FEATURES not in held:
        raise StoreError(
            f"{cell.folder} perturbs {', '.join(held)}; a map needs log-mel features: `robust universal --modality "
            f"{FEATURES}`."
        )
    delta: NDArray[np.floating] = held[FEATURES]
    return delta


def _regions(study: StudyStore, cell: CellRun, norm: str) -> tuple[list[Bar], str]:
    """Attacks confined to a region, and, for comparison, the same attack everywhere; and at which radii.

    Regions keep the study's order, those of features before those of the waveform.
    """
    confined: list[tuple[tuple[Any, ...], Bar]] = []
    everywhere: list[tuple[tuple[Any, ...], Bar]] = []
    for run in study.cells(kind="attack", victim=cell.victim, data=cell.data):
        if run.state != "done" or run.seed != cell.seed:
            continue
        with script.whole(run):
            budgets, score = run.manifest["threat"], run.summary["robust"]
            if len(budgets) != 1:
                continue
            (modality, ball), *_ = budgets.items()
            cut, support = run.manifest.get("cut"), ball.get("support")
            place = (modality, str(ball["radius"]), ball["unit"])
            words = _words(cut or support, modality)
            bar = Bar(words, CUT if cut else INSIDE, score["score"], score["low"], score["high"])
            if ball["norm"] == norm:
                (confined if cut or support else everywhere).append((place, bar))
    places = {place for place, _ in confined}
    chosen = sorted(
        [(place, bar) for place, bar in everywhere if place in places] + confined,
        key=lambda one: (one[0][0] != FEATURES, one[0]),
    )
    radii = [f"{modality_word(name)} {float(radius):g}" for name, radius, _ in sorted(places, reverse=True)]
    return [bar for _, bar in chosen], f"{NORMS.get(norm, norm)} radius {', '.join(radii)}"


def _words(support: str | None, modality: str) -> str:
    """A region, and of which input where that does not go without saying."""
    words = region_words(support) if support else "everywhere"
    return words if words.endswith("Hz") or words.startswith("mel") else f"{words} ({modality_word(modality)})"


if __name__ == "__main__":
    script.run(main)
