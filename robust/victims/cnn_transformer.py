"""`cnn-transformer`: convolutions, a transformer, frame probabilities, pooling ("TAL-trans").

Sources: thesis chapter 6.3 (ten convolutions, five pools, two transformer layers of eight heads, attention pooling) and
chapter 4 (pooling functions); AudioSetDoneRight's `TransformerEncoder`, whose checkpoints load strictly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from robust.types import Inputs, Task, VictimSpec
from robust.victims.attention import Transformer
from robust.victims.audioset_done_right import build_author, load_upstream
from robust.victims.base import Victim
from robust.victims.hearing import FRAME_LEVEL_RECIPE, Hearing, HearingSettings
from robust.victims.pooling import FrameHead
from robust.victims.registry import register
from robust.victims.trunk import ConvTrunk


@dataclass(frozen=True)
class CnnTransformerSettings(HearingSettings):
    """Configuration.

    Attributes:
        embedding: Size of a step's latent; 1024 in the thesis.
        conv_layers, pool_layers: Of the trunk; 10 and 5 in the thesis.
        transformer_layers, heads: 2 and 8 in the thesis.
        pooling: One of the five of `robust.victims.pooling`.
        dropout: In the transformer and before the head, in training.
    """

    embedding: int = 1024
    conv_layers: int = 10
    pool_layers: int = 5
    transformer_layers: int = 2
    heads: int = 8
    pooling: str = "attention"
    dropout: float = 0.1


SMALL: dict[str, Any] = {"embedding": 160, "conv_layers": 5}


class CnnTransformer(Victim):
    """The audio branch of the audio-visual victims, with a head of its own."""

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: CnnTransformerSettings) -> None:
        hearing = Hearing(settings)
        super().__init__(
            VictimSpec(
                name="cnn-transformer",
                labels=labels,
                task=task,
                modalities=(hearing.modality,),
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                shapes={} if hearing.modality == "audio" else {hearing.modality: hearing.shape},
                bounds={hearing.modality: hearing.bounds},
            )
        )
        self.hearing = hearing
        self.trunk = ConvTrunk(settings.embedding, settings.conv_layers, settings.pool_layers, bins=settings.n_mels)
        self.transformer = Transformer(
            settings.embedding, settings.transformer_layers, heads=settings.heads, dropout=settings.dropout
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.frame_head = FrameHead(settings.embedding, len(labels), settings.pooling)
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every four frames."""
        features = self.hearing(inputs[self.hearing.modality])
        steps = self.transformer(self.trunk(features[:, None]))
        return {"audio": steps, "fused": steps}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.frame_head(self.dropout(fused))
        return logits


@register(
    "cnn-transformer",
    summary="convolutions + transformer + any of five poolings (thesis 6.3); AudioSetDoneRight files load strictly",
    family="convolution-transformer",
    parity="upstream keys and outputs (fixture)",
    small=SMALL,
    recipe=FRAME_LEVEL_RECIPE,
    pretrained=load_upstream,
)
def build_cnn_transformer(
    *, labels: tuple[str, ...], task: Task = "multiclass", published: bool = False, **config: Any
) -> Victim:
    """Builds an untrained network; `config` is that of `CnnTransformerSettings`, or `AuthorSettings` if published."""
    if published:
        return build_author("cnn-transformer", labels, task, config)
    return CnnTransformer(labels=labels, task=task, settings=CnnTransformerSettings(**config))
