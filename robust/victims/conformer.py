"""`conformer`: Conformer blocks on the frames of a log-mel spectrogram, decided frame by frame.

Sources: Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", Interspeech 2020, section
2; Srivastava et al., "Conformer-Based Self-Supervised Learning for Non-Speech Audio Tasks", ICASSP 2022 (12 blocks,
768 wide, 12 heads, 88.1 M parameters); thesis 6.3 and table 6.2. The blocks are transformers' (`Wav2Vec2Conformer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robust.errors import VictimError
from robust.types import Inputs, Task
from robust.victims.base import Victim
from robust.victims.pooling import FrameHead
from robust.victims.registry import register
from robust.victims.spectrogram import SMALL_FRONT_END, SpectrogramSettings, SpectrogramVictim

if TYPE_CHECKING:
    from transformers import Wav2Vec2ConformerConfig

NAME = "conformer"
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class ConformerSettings(SpectrogramSettings):
    """Configuration; the defaults are the published 12 blocks of 12 heads (89 M parameters).

    Attributes:
        embedding: Width of the blocks, a multiple of twice `heads` (positions turn pairs).
        hidden: Width of the feed-forward layers. Not published: the 88.1 M parameters leave room for 1024.
        layers: Blocks.
        heads: Attention heads.
        kernel_size: Steps under the depthwise convolution, odd; 31 in the Conformer paper.
        stacked_frames: Frames that make one step.
        pooling: One of the five of `robust.victims.pooling`.
        dropout: Throughout the blocks and before the head, in training.
    """

    embedding: int = 768
    hidden: int = 1024
    layers: int = 12
    heads: int = 12
    kernel_size: int = 31
    stacked_frames: int = 4
    pooling: str = "attention"
    dropout: float = 0.1

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        if self.embedding % (2 * self.heads) or self.kernel_size % 2 == 0:
            raise VictimError(
                f"{NAME} needs embedding a multiple of twice heads, and an odd kernel_size; given "
                f"embedding={self.embedding}, heads={self.heads}, kernel_size={self.kernel_size}."
            )
        if min(self.layers, self.stacked_frames) < 1:
            raise VictimError(
                f"{NAME} needs one layer and one frame a step or more; given layers={self.layers}, "
                f"stacked_frames={self.stacked_frames}."
            )

    def transformers_config(self) -> Wav2Vec2ConformerConfig:
        """The blocks in transformers' words."""
        from transformers import Wav2Vec2ConformerConfig

        return Wav2Vec2ConformerConfig(
            hidden_size=self.embedding,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            conv_depthwise_kernel_size=self.kernel_size,
            hidden_act="swish",
            # Relative positions would add 0.6 M parameters a block, and leave 88.1 M behind.
            position_embeddings_type="rotary",
            hidden_dropout=self.dropout,
            activation_dropout=self.dropout,
            attention_dropout=self.dropout,
            conformer_conv_dropout=self.dropout,
            attn_implementation="eager",
        )


SMALL: dict[str, Any] = {
    **SMALL_FRONT_END,
    "embedding": 96,
    "hidden": 192,
    "layers": 4,
    "heads": 4,
    "kernel_size": 9,
}


class Conformer(SpectrogramVictim):
    """Stacked frames through a linear layer and the blocks; the latent is that of every step, (B, S, D)."""

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: ConformerSettings) -> None:
        from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoderLayer

        settings.check()
        super().__init__(NAME, labels=labels, task=task, settings=settings)
        self.stacked_frames = settings.stacked_frames
        self.projection = nn.Linear(settings.stacked_frames * settings.n_mels, settings.embedding)
        blocks = settings.transformers_config()
        self.layers = nn.ModuleList(Wav2Vec2ConformerEncoderLayer(blocks) for _ in range(settings.layers))
        self.head_width = settings.embedding // settings.heads
        self.dropout = nn.Dropout(settings.dropout)
        self.frame_head = FrameHead(settings.embedding, len(labels), settings.pooling)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every `stacked_frames` frames."""
        frames = self.features(inputs)
        batch, count, width = frames.shape
        steps = count // self.stacked_frames
        if steps == 0:
            raise VictimError(f"Clips of {count} frames are too short; {self.stacked_frames} are needed.")
        stacked = frames[:, : steps * self.stacked_frames].reshape(batch, steps, self.stacked_frames * width)
        latent = self.dropout(self.projection(stacked))
        turns = rotations(steps, self.head_width, latent)
        for layer in self.layers:
            latent = layer(latent, relative_position_embeddings=turns)
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.frame_head(self.dropout(fused))
        return logits


def rotations(count: int, width: int, like: Tensor) -> Tensor:
    """Rotary positions (2, count, 1, 1, width): cosines and sines by which halves of a head are turned.

    Computed anew for each batch: transformers' module keeps them by their number alone, whatever the device.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, section 3.2.2.
    """
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=like.device)
    places = torch.arange(count, dtype=torch.float32, device=like.device)
    angles = (places[:, None] * ROTARY_BASE ** (-pairs / width)).repeat(1, 2)[:, None, None]
    return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


@register(
    NAME,
    summary="Conformer on log-mel (Gulati 2020, Srivastava 2022, thesis 6.3): 12 blocks, 768 wide, 12 heads",
    family="convolution-transformer",
    parity="the paper's formulas, written anew (test); published size",
    small=SMALL,
    recipe={"learning_rate": 2e-3, "weight_decay": 0.01, "mixup_alpha": 0.0, "warmup": 0.1},
)
def build_conformer(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `ConformerSettings`."""
    return Conformer(labels=labels, task=task, settings=ConformerSettings(**config))
