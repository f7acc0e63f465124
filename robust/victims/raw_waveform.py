"""`m3`, `m5`, `m11`, `m18`, `m34-res`: very deep fully convolutional networks on raw waveforms.

Reference: Dai et al., "Very deep convolutional neural networks for raw waveforms", ICASSP 2017; thesis, table 3.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.registry import register

FIRST_KERNEL = 80
FIRST_STRIDE = 4
POOL = 4
POOLED_ROWS = 4  # a max-pool stands below each of the table's first four rows of layers
SILENCE_POWER = 1e-8  # -80 dBFS: what is quieter is not amplified to unit variance, and silence keeps finite gradients


@dataclass(frozen=True)
class Layout:
    """One column of table 3.1.

    Attributes:
        first: Filters of the first layer (80 samples wide, stride 4).
        groups: (filters, repeats) of each of the following rows.
        residual: Whether a repeat is a residual block of two layers instead of one layer.
    """

    first: int
    groups: tuple[tuple[int, int], ...]
    residual: bool = False


LAYOUTS = {
    "m3": Layout(256, ((256, 1),)),
    "m5": Layout(128, ((128, 1), (256, 1), (512, 1))),
    "m11": Layout(64, ((64, 2), (128, 2), (256, 3), (512, 2))),
    "m18": Layout(64, ((64, 4), (128, 4), (256, 4), (512, 4))),
    "m34-res": Layout(48, ((48, 3), (96, 4), (192, 6), (384, 3)), residual=True),
}
PUBLISHED = {"m3": "0.2 M", "m5": "0.5 M", "m11": "1.8 M", "m18": "3.7 M", "m34-res": "4 M"}
SMALL_WIDTH = {"m3": 0.5, "m5": 0.5, "m11": 0.5, "m18": 0.5, "m34-res": 0.45}


@dataclass(frozen=True)
class RawWaveformSettings:
    """Configuration; the defaults are the thesis's (4 s at 8 kHz).

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        width: Multiplier of every number of filters.
        standardise: Whether each clip is brought to zero mean and unit variance first.
    """

    sample_rate: int = 8_000
    clip_seconds: float = 4.0
    width: float = 1.0
    standardise: bool = True

    def check(self) -> None:
        """Raises `VictimError` for a width or length that leaves nothing."""
        if self.width <= 0 or round(self.sample_rate * self.clip_seconds) < FIRST_KERNEL:
            raise VictimError(
                f"A raw-waveform network needs width > 0 and clips of {FIRST_KERNEL} samples or more; given width "
                f"{self.width} and {self.clip_seconds} s at {self.sample_rate} Hz."
            )


class RawWaveform(Victim):
    """A column of table 3.1: convolutions (batch normalisation, ReLU), max-pools, mean over time, one linear layer.

    The latent is the mean over time of the last feature maps.
    """

    def __init__(self, name: str, *, labels: tuple[str, ...], task: Task, settings: RawWaveformSettings) -> None:
        settings.check()
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
        layout = LAYOUTS[name]
        channels = _scaled(layout.first, settings.width)
        # Padded so that 32000 samples give 8000 frames, 2000 after the first pool, as the table has it.
        layers = [*_convolution(1, channels, FIRST_KERNEL, stride=FIRST_STRIDE), nn.MaxPool1d(POOL, ceil_mode=True)]
        for row, (filters, repeats) in enumerate(layout.groups, start=2):
            for _ in range(repeats):
                wanted = _scaled(filters, settings.width)
                if layout.residual:
                    layers.append(ResidualBlock(channels, wanted))
                else:
                    layers.extend(_convolution(channels, wanted, 3))
                channels = wanted
            if row <= POOLED_ROWS:
                layers.append(nn.MaxPool1d(POOL, ceil_mode=True))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, len(labels))
        self.standardise = settings.standardise
        self.config = asdict(settings)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        audio = inputs["audio"]
        if self.standardise:
            audio = standardised(audio)
        latent = self.layers(audio.unsqueeze(1)).mean(dim=2)
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(fused)
        return logits


class ResidualBlock(nn.Module):
    """Two layers and a skip connection, projected by a 1-wide convolution where the number of filters changes."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(channels_in, channels, 3),
            nn.Conv1d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels),
        )
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels:
            self.skip = nn.Sequential(nn.Conv1d(channels_in, channels, 1, bias=False), nn.BatchNorm1d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, T) from (B, channels_in, T)."""
        return functional.relu(self.body(maps) + self.skip(maps))


def standardised(audio: Tensor) -> Tensor:
    """Each clip of `audio` (B, T) at zero mean and unit variance; silence stays silent, with finite gradients."""
    centred = audio - audio.mean(dim=-1, keepdim=True)
    power = centred.square().mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(power + SILENCE_POWER)


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


def _convolution(channels_in: int, channels: int, kernel: int, *, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps T / stride frames, batch normalisation, ReLU."""
    padding = (kernel - stride + 1) // 2
    convolution = nn.Conv1d(channels_in, channels, kernel, stride=stride, padding=padding, bias=False)
    return [convolution, nn.BatchNorm1d(channels), nn.ReLU()]


def _register(name: str) -> None:
    def build(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
        return RawWaveform(name, labels=labels, task=task, settings=RawWaveformSettings(**config))

    summary = f"raw-waveform CNN (Dai 2017, thesis table 3.1, {PUBLISHED[name]} parameters at width 1)"
    small = {"sample_rate": 16_000, "clip_seconds": 1.0, "width": SMALL_WIDTH[name]}
    recipe = {"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.2}
    parity = "layers and parameter counts of table 3.1"
    register(name, summary=summary, family="raw-waveform", parity=parity, small=small, recipe=recipe)(build)


for _name in LAYOUTS:
    _register(_name)
