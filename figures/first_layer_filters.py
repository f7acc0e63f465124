"""What the first layer of a raw-waveform network hears: filters in frequency, by their peaks (thesis, figure 3.2).

    python figures/first_layer_filters.py --model m18
    python figures/first_layer_filters.py --model m18 --weights m18.safetensors --weights m18-srf.safetensors

Reads the embedded weights of `m3`, `m5`, `m11`, `m18` or `m34-res`, or checkpoints of `robust train`, a panel for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust.errors import VictimError
from robust.plots import script
from robust.plots.first_layer_filters import draw_first_layer_filters
from robust.plots.script import OUT, Dpi, Out
from robust.victims.loading import load_victim
from robust.victims.raw_waveform import LAYOUTS, RawWaveform

NAME = "first_layer_filters"

Model = Annotated[str, typer.Option(help="A raw-waveform network.")]
Weights = Annotated[list[str] | None, typer.Option(help="Its weights; repeatable. The embedded ones unless told.")]


def main(model: Model = "m18", weights: Weights = None, out: Out = OUT, dpi: Dpi = 300) -> None:
    """A panel for each network."""
    banks = {}
    given: list[str | None] = [*weights] if weights else [None]
    for path in given:
        victim = load_victim(model, weights=path, device="cpu", gradients=False)
        if not isinstance(victim, RawWaveform):
            raise VictimError(f"The victim {model!r} has no filters on waveforms; {', '.join(LAYOUTS)} do.")
        banks[Path(path).stem if path else model] = (victim.filters().numpy(), victim.spec.sample_rate)
    script.save_all({NAME: draw_first_layer_filters(banks)}, out, dpi)


if __name__ == "__main__":
    script.run(main)
