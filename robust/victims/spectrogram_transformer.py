"""`transformer`: encoder layers on the frames of a log-mel spectrogram, without convolutions or patches.

Sources: thesis 6.3 (eight layers of eight heads, sinusoidal positions on the input scaled by the root of its size) and
table 6.2; AudioSetDoneRight's `Transformer`, whose checkpoints load strictly (it adds no positions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.types import Inputs, Task
from robust.victims.attention import EncoderLayer, positions
from robust.victims.base import Victim
from robust.victims.pooling import FrameHead
from robust.victims.registry import register
from robust.victims.spectrogram import (
    SMALL_FRONT_END,
    SpectrogramSettings,
    SpectrogramVictim,
    check_bins,
    load_renamed,
    read_upstream,
)
from robust.victims.upstream import labels_beside

NAME = "transformer"
STEP = 4
"""Frames of which the strongest in every channel are kept, as the convolutional networks' pools keep one of four."""


@dataclass(frozen=True)
class SpectrogramTransformerSettings(SpectrogramSettings):
    """Configuration; the defaults are the thesis's eight layers of eight heads (29 M parameters).

    Attributes:
        embedding: Width of the encoder, a multiple of `heads`. The thesis gives 28.5 M parameters, which 768 with
            `hidden` 768 comes nearest to.
        hidden: Width of the feed-forward layers; upstream's code has twice `embedding`.
        layers: Encoder layers.
        heads: Attention heads.
        add_positions: Scale the features by the root of `n_mels`, which is even, and add sinusoidal positions.
        pooling: One of the five of `robust.victims.pooling`.
        dropout: In the encoder, before and after it, in training.
    """

    embedding: int = 768
    hidden: int = 768
    layers: int = 8
    heads: int = 8
    add_positions: bool = True
    pooling: str = "attention"
    dropout: float = 0.1


SMALL: dict[str, Any] = {
    **SMALL_FRONT_END,
    "n_fft": 1024,
    "win_length": 1024,
    "hop_length": 400,
    "embedding": 96,
    "hidden": 192,
    "layers": 4,
}


class SpectrogramTransformer(SpectrogramVictim):
    """Frames through a linear layer and the encoder, pooled by fours; parameters are named as upstream names them."""

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: SpectrogramTransformerSettings) -> None:
        if settings.layers < 1 or (settings.add_positions and settings.n_mels % 2):
            raise VictimError(
                f"{NAME} needs a layer or more, and an even number of mel bands to add positions to; given "
                f"layers={settings.layers}, n_mels={settings.n_mels}."
            )
        super().__init__(NAME, labels=labels, task=task, settings=settings)
        self.add_positions = settings.add_positions
        self.linear_in = nn.Linear(settings.n_mels, settings.embedding)
        self.layer_norm_in = nn.LayerNorm(settings.embedding)
        self.layer_stack = nn.ModuleList(
            EncoderLayer(settings.embedding, settings.hidden, heads=settings.heads, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.frame_head = FrameHead(settings.embedding, len(labels), settings.pooling)
        nn.init.xavier_uniform_(self.linear_in.weight)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every four frames."""
        frames = self.features(inputs)
        if frames.shape[1] < STEP:
            raise VictimError(f"Clips of {frames.shape[1]} frames are too short; {STEP} are needed.")
        if self.add_positions:
            count, width = frames.shape[1:]
            frames = frames * math.sqrt(width) + positions(count, width, frames.device)
        steps = self.dropout(self.layer_norm_in(self.linear_in(frames)))
        for layer in self.layer_stack:
            steps = layer(steps)
        steps = functional.max_pool1d(self.dropout(steps).transpose(1, 2), STEP).transpose(1, 2)
        return {"audio": steps, "fused": steps}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.frame_head(fused)
        return logits


def load_transformer(path: str) -> Victim:
    """Loads a checkpoint of AudioSetDoneRight's `Transformer` on 64 mel bands, which adds no positions.

    Its eight heads are not in the file. Labels come from a `class_labels_indices.csv` in the same folder, or are
    `class 0`, `class 1`, ...

    Args:
        path: A `.pt` or `.pth` file with `{"model": state_dict}` or a state dict, or the same as `.safetensors`.

    Raises:
        CheckpointError: If the file cannot be read safely or is not such a network, whole.
    """
    first = "layer_stack.0.pos_ffn.w_1.weight"
    state = read_upstream(path, NAME, needed=("linear_in.weight", first, "fc_prob.weight"))
    check_bins(path, state["linear_in.weight"].shape[-1])
    settings = SpectrogramTransformerSettings(
        embedding=state["linear_in.weight"].shape[0],
        hidden=state[first].shape[0],
        layers=sum(key.endswith("pos_ffn.w_1.weight") for key in state),
        add_positions=False,
        pooling="attention" if "fc_att.weight" in state else "linear",
    )
    labels = labels_beside(Path(path), len(state["fc_prob.weight"]))
    victim = SpectrogramTransformer(labels=labels, task="multilabel", settings=settings)
    given = {f"frame_head.{name}" if name.startswith("fc_") else name: value for name, value in state.items()}
    return load_renamed(victim, given, path, NAME)


@register(
    NAME,
    summary="pure transformer on log-mel frames (thesis 6.3): 8 layers, 8 heads; AudioSetDoneRight files load",
    family="transformer",
    parity="upstream keys and outputs (fixture)",
    small=SMALL,
    recipe={"learning_rate": 1e-3, "weight_decay": 0.01, "mixup_alpha": 0.0, "warmup": 0.1},
    pretrained=load_transformer,
)
def build_transformer(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `SpectrogramTransformerSettings`."""
    return SpectrogramTransformer(labels=labels, task=task, settings=SpectrogramTransformerSettings(**config))
