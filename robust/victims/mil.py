"""`mil-cnn`, `mil-dnn`: multiple-instance learning on segments of a clip, each classified without the others.

Source: thesis chapter 4.2 and table 4.2. `mil-cnn` is the first three groups of VGG-16 with batch normalisation and two
fully connected layers on the log-mel and first delta of every second; `mil-dnn` is a small network on the embeddings
of such a convolutional network. The clip's probability is pooled from those of its segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.frontends.deltas import deltas
from robust.frontends.logmel import AUDIOSET_MEAN, AUDIOSET_STD, decibels
from robust.frontends.mel import MelSpectrogram
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.pooling import FrameHead
from robust.victims.registry import register

VGG_LAYERS = (2, 2, 3)  # convolutions in the first three groups of VGG-16


@dataclass(frozen=True)
class MilSettings:
    """Configuration; the defaults are the thesis's `mil-cnn`.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        segment_seconds: Length of an instance; a clip that ends within one is continued by silence.
        n_fft: Samples in the DFT.
        win_length: Samples in the window, 25 ms in the thesis.
        hop_length: Samples between frames, 10 ms in the thesis.
        n_mels: Mel filters.
        channels: Of the three groups of convolutions.
        grid: Steps and bands to which the maps of an instance are max-pooled before the fully connected layers. Not in
            the thesis: all 12 x 8 would give 80 M parameters where table 4.2 has 29 M; 4 x 8 gives 30 M.
        layers: Units of the fully connected layers.
        dnn_layers: Units of the layers on the embeddings, in `mil-dnn` alone.
        pooling: One of the five of `robust.victims.pooling`.
        dropout: Before each fully connected layer, in training.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 10.0
    segment_seconds: float = 1.0
    n_fft: int = 512
    win_length: int = 400
    hop_length: int = 160
    n_mels: int = 64
    channels: Sequence[int] = (64, 128, 256)
    grid: Sequence[int] = (4, 8)
    layers: Sequence[int] = (3072, 1024)
    dnn_layers: Sequence[int] = ()
    pooling: str = "max"
    dropout: float = 0.0

    @property
    def segment_samples(self) -> int:
        """Samples in an instance."""
        return round(self.sample_rate * self.segment_seconds)

    @property
    def segment_frames(self) -> int:
        """Frames in an instance."""
        return 1 + (self.segment_samples - self.n_fft) // self.hop_length

    def check(self, name: str) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        halved = 2 ** len(VGG_LAYERS)
        if len(self.channels) != len(VGG_LAYERS) or len(self.grid) != 2 or not self.layers:
            raise VictimError(
                f"{name} has {len(VGG_LAYERS)} groups of channels, a grid of two sizes, and a fully connected layer or "
                f"more; given channels={self.channels}, grid={self.grid}, layers={self.layers}."
            )
        if self.segment_samples < self.n_fft or min(self.segment_frames, self.n_mels) < halved:
            raise VictimError(
                f"{name} halves frames and bands three times, so that a segment needs {halved} of each; "
                f"segment_seconds={self.segment_seconds} gives {max(self.segment_frames, 0)} frames of {self.n_mels}."
            )


SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "segment_seconds": 0.25,
    "hop_length": 250,
    "channels": (8, 24, 48),
    "grid": (1, 8),
    "layers": (256, 128),
    "dropout": 0.1,
}
SMALL_DNN: dict[str, Any] = {**SMALL, "n_mels": 64, "layers": (256, 128, 64), "dnn_layers": (64, 64, 64, 32)}
DNN_DEFAULTS: dict[str, Any] = {"n_mels": 128, "layers": (3072, 1024, 512), "dnn_layers": (512, 512, 256, 128)}
"""How `mil-dnn` differs in the thesis: 128 bands, and embeddings of 512 values under four layers of its own."""


class Mil(Victim):
    """Instances one after the other, (B, S, D), then frame-wise classifier and pooling as in every other victim."""

    def __init__(self, name: str, *, labels: tuple[str, ...], task: Task, settings: MilSettings) -> None:
        settings.check(name)
        super().__init__(
            VictimSpec(
                name=name,
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.segment_samples = settings.segment_samples
        self.mel = MelSpectrogram(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            win_length=settings.win_length,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            pad_mode=None,
        )
        self.conv = _vgg(settings.channels)
        self.grid = nn.AdaptiveMaxPool2d((settings.grid[0], settings.grid[1]))
        flat = settings.channels[-1] * settings.grid[0] * settings.grid[1]
        self.connected = _connected([flat, *settings.layers], settings.dropout)
        self.dnn = _connected([settings.layers[-1], *settings.dnn_layers], settings.dropout)
        width = (*settings.layers, *settings.dnn_layers)[-1]
        self.frame_head = FrameHead(width, len(labels), settings.pooling)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every segment."""
        segments = self.segments(inputs["audio"])
        latent = self.dnn(self.embeddings(segments.flatten(0, 1))).unflatten(0, segments.shape[:2])
        return {"audio": latent, "fused": latent}

    def segments(self, audio: Tensor) -> Tensor:
        """Instances (B, S, samples) of `audio` (B, T)."""
        missing = -audio.shape[-1] % self.segment_samples
        return functional.pad(audio, (0, missing)).reshape(len(audio), -1, self.segment_samples)

    def embeddings(self, segments: Tensor) -> Tensor:
        """Output of the convolutional network (N, D) for instances (N, samples)."""
        level = (2 * decibels(self.mel(segments)) - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)
        maps = self.conv(torch.stack([level, deltas(level)], dim=1))
        latent: Tensor = self.connected(self.grid(maps).flatten(1))
        return latent

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.frame_head(fused)
        return logits


def _vgg(channels: Sequence[int]) -> nn.Sequential:
    """Groups of 3 x 3 convolutions with batch normalisation and ReLU, each with a max-pool at its end."""
    layers: list[nn.Module] = []
    channels_in = 2  # level and first delta
    for count, width in zip(VGG_LAYERS, channels, strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels_in = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _connected(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Fully connected layers with ReLU, from `widths[0]` to the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [nn.Dropout(dropout), layer, nn.ReLU()]
    return nn.Sequential(*layers)


RECIPE: dict[str, Any] = {"learning_rate": 2e-3, "weight_decay": 0.01, "mixup_alpha": 0.0}
PARITY = "layers of the thesis and sizes of table 4.2; deltas as librosa's"


@register(
    "mil-cnn",
    summary="multiple-instance VGG on one-second segments (thesis 4.2), max or any of five poolings",
    family="convolution",
    parity=PARITY,
    small=SMALL,
    recipe=RECIPE,
)
def build_mil_cnn(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `MilSettings`."""
    return Mil("mil-cnn", labels=labels, task=task, settings=MilSettings(**config))


@register(
    "mil-dnn",
    summary="multiple-instance network of 0.7 M parameters on convolutional embeddings of segments (thesis 4.2.3)",
    family="convolution",
    parity=PARITY,
    small=SMALL_DNN,
    recipe=RECIPE,
)
def build_mil_dnn(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network and the one that embeds for it; `config` as of `mil-cnn`, over `DNN_DEFAULTS`."""
    return Mil("mil-dnn", labels=labels, task=task, settings=MilSettings(**{**DNN_DEFAULTS, **config}))
