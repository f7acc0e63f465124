"""`talnet`: ten convolutions, five pools, a bidirectional GRU, frame probabilities, any of five poolings.

Sources: Wang, Li & Metze, "A comparison of five multiple instance learning pooling functions for sound event detection
with weak labeling", ICASSP 2019; thesis chapter 4 and figure 6.1 (B). The checkpoints of its author and those of
AudioSetDoneRight (`TALNet`) load strictly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.errors import CheckpointError, VictimError
from robust.types import Inputs, Task
from robust.victims.base import Victim
from robust.victims.hearing import FRAME_LEVEL_RECIPE
from robust.victims.pooling import FrameHead
from robust.victims.registry import register
from robust.victims.spectrogram import (
    SMALL_FRONT_END,
    SpectrogramSettings,
    SpectrogramVictim,
    check_bins,
    load_renamed,
    read_upstream,
    without_doubles,
)
from robust.victims.trunk import ConvTrunk
from robust.victims.upstream import labels_beside

NAME = "talnet"


@dataclass(frozen=True)
class TalNetSettings(SpectrogramSettings):
    """Configuration; the defaults are the published network.

    Attributes:
        embedding: Size of a step's latent, even: half of it for each direction of the GRU.
        conv_layers: Convolutions.
        pool_layers: Max-pools among them; the first two halve time and frequency, the others frequency alone.
        pooling: One of the five of `robust.victims.pooling`.
        dropout: Before and after the GRU, in training.
    """

    embedding: int = 1024
    conv_layers: int = 10
    pool_layers: int = 5
    pooling: str = "linear"
    dropout: float = 0.0


SMALL: dict[str, Any] = {**SMALL_FRONT_END, "embedding": 160, "conv_layers": 5, "dropout": 0.1}


class TalNet(SpectrogramVictim):
    """Convolutions, GRU and frame classifier; the latent is that of every fourth frame, (B, S, D).

    Logits are pooled without upstream's clamp of probabilities at 1e-7.
    """

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: TalNetSettings) -> None:
        if settings.embedding % 2:
            raise VictimError(f"embedding={settings.embedding} must be even: the GRU runs in two directions.")
        super().__init__(NAME, labels=labels, task=task, settings=settings)
        self.trunk = ConvTrunk(settings.embedding, settings.conv_layers, settings.pool_layers, bins=settings.n_mels)
        self.gru = nn.GRU(settings.embedding, settings.embedding // 2, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.frame_head = FrameHead(settings.embedding, len(labels), settings.pooling)
        for name, parameter in self.gru.named_parameters():
            (nn.init.zeros_ if name.startswith("bias") else nn.init.orthogonal_)(parameter)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every four frames."""
        steps = self.dropout(self.trunk(self.features(inputs)[:, None]))
        # cuDNN's GRU has no backward pass in evaluation, where attacks need one.
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and self.training):
            steps, _ = self.gru(steps)
        return {"audio": steps, "fused": steps}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.frame_head(self.dropout(fused))
        return logits


def load_talnet(path: str) -> Victim:
    """Loads a checkpoint of TALNet on 64 mel bands, of its author's or of AudioSetDoneRight.

    Sizes are read off the entries, and the pooling is `attention` where there are weights for it, else `linear`, as
    published. The features are normalised as AudioSetDoneRight's; other statistics go with the checkpoint nowhere
    upstream, and may be given as `mean` and `std` of the configuration. Labels come from a
    `class_labels_indices.csv` in the same folder, or are `class 0`, `class 1`, ...

    Args:
        path: A `.pt` or `.pth` file with `{"model": state_dict}` or a state dict, or the same as `.safetensors`.

    Raises:
        CheckpointError: If the file cannot be read safely or is not such a network, whole.
    """
    needed = ("conv1.conv.weight", "gru.weight_ih_l0", "fc_prob.weight")
    state = without_doubles(read_upstream(path, NAME, needed=needed), path)
    channels = [len(state[key]) for key in state if re.fullmatch(r"conv\d+\.conv\.weight", key)]
    embedding = state["fc_prob.weight"].shape[-1]
    if embedding % 2 or len(channels) % len(set(channels)):
        raise CheckpointError(f"{path} is no {NAME} checkpoint: {len(channels)} convolutions of {channels} channels.")
    check_bins(path, round(2 * embedding / channels[0]))
    settings = TalNetSettings(
        embedding=embedding,
        conv_layers=len(channels),
        pool_layers=len(set(channels)),  # channels double with every pool
        pooling="attention" if "fc_att.weight" in state else "linear",
    )
    labels = labels_beside(Path(path), len(state["fc_prob.weight"]))
    try:
        victim = TalNet(labels=labels, task="multilabel", settings=settings)
    except VictimError as error:
        raise CheckpointError(f"{path} is no {NAME} checkpoint: {error}") from error
    return load_renamed(victim, {_our_key(name): value for name, value in state.items()}, path, NAME)


def _our_key(name: str) -> str:
    """Upstream's name of a parameter as ours."""
    name = re.sub(r"^conv(\d+)\.", lambda found: f"trunk.conv.{int(found[1]) - 1}.", name)
    return f"frame_head.{name}" if name.startswith("fc_") else name


@register(
    NAME,
    summary="TALNet (Wang 2019, thesis 4): convolutions + biGRU + any of five poolings; upstream checkpoints load",
    family="recurrent",
    parity="upstream keys and outputs (fixture)",
    small=SMALL,
    recipe=FRAME_LEVEL_RECIPE,
    pretrained=load_talnet,
)
def build_talnet(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained TALNet; `config` is that of `TalNetSettings`."""
    return TalNet(labels=labels, task=task, settings=TalNetSettings(**config))
