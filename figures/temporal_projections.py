"""What the blocks of Keyword-MLP mix over time (figure 5 of Morshed et al., PMLR 166, 2022).

    python figures/temporal_projections.py --weights checkpoints/kwmlp-speechcommands.safetensors

Reads the weights of a gated MLP: the embedded ones, a checkpoint of `robust train`, or one of the authors'.
"""

from __future__ import annotations

from typing import Annotated

import typer

from robust.errors import VictimError
from robust.plots import script
from robust.plots.script import OUT, Dpi, Out
from robust.plots.temporal_projections import draw_temporal_projections
from robust.victims.gated_mlp import GatedMlpVictim
from robust.victims.loading import load_victim

NAME = "temporal_projections"

Model = Annotated[str, typer.Option(help="A victim of gated MLP blocks.")]
Weights = Annotated[str | None, typer.Option(help="Its weights; the embedded ones unless told.")]
Blocks = Annotated[list[int] | None, typer.Option("--block", help="A block, from 1; may be repeated. All unless told.")]


def main(model: Model = "kwmlp", weights: Weights = None, block: Blocks = None, out: Out = OUT, dpi: Dpi = 300) -> None:
    """A matrix for each block."""
    victim = load_victim(model, weights=weights, device="cpu", gradients=False)
    if not isinstance(victim, GatedMlpVictim):
        raise VictimError(f"The victim {model!r} has no temporal projections; kwmlp and audio-mlp-autoencoder do.")
    found = victim.temporal_projections().numpy()
    wanted = block or range(1, len(found) + 1)
    if wrong := [number for number in wanted if not 1 <= number <= len(found)]:
        raise VictimError(f"The victim {model!r} has blocks 1 to {len(found)}; given --block {wrong[0]}.")
    seconds = victim.sizes.frames * victim.sizes.hop_length / victim.sizes.sample_rate
    figure = draw_temporal_projections({number: found[number - 1] for number in wanted}, seconds)
    script.save_all({NAME: figure}, out, dpi)


if __name__ == "__main__":
    script.run(main)
