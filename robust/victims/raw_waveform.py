"""`m3`, `m5`, `m11`, `m18`, `m34-res`: very deep fully convolutional networks on raw waveforms.

Reference: Dai et al., "Very deep convolutional neural networks for raw waveforms", ICASSP 2017; thesis, chapter 3. Its
variants are settings: `first_kernel` 8 and 320 are -srf and -lrf, `width` 1.5 of m3 and 2 of m5 are -big, `batch_norm`
False is -no-bn, `fully_connected` 1000 is -fc.
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
        first_kernel: Samples under the filters of the first layer; 80 are 10 ms at 8 kHz.
        batch_norm: Whether batch normalisation follows every layer; without it, layers have a bias.
        fully_connected: Width of two layers, each with batch normalisation and dropout, that stand in the place of the
            mean over time; 0 for the mean. They fit clips of `clip_seconds` alone.
        dropout: Behind those two layers, in training.
    """

    sample_rate: int = 8_000
    clip_seconds: float = 4.0
    width: float = 1.0
    standardise: bool = True
    first_kernel: int = 80
    batch_norm: bool = True
    fully_connected: int = 0
    dropout: float = 0.3

    def check(self) -> None:
        """Raises `VictimError` for sizes that leave nothing."""
        if self.first_kernel < FIRST_STRIDE or self.fully_connected < 0 or not 0 <= self.dropout < 1:
            raise VictimError(
                f"A raw-waveform network needs first_kernel of {FIRST_STRIDE} (its stride) or more, fully_connected of "
                f"0 or more and dropout in [0, 1); given first_kernel={self.first_kernel}, "
                f"fully_connected={self.fully_connected}, dropout={self.dropout}."
            )
        if self.width <= 0 or round(self.sample_rate * self.clip_seconds) < self.first_kernel:
            raise VictimError(
                f"A raw-waveform network needs width > 0 and clips of {self.first_kernel} samples or more; given width "
                f"{self.width} and {self.clip_seconds} s at {self.sample_rate} Hz."
            )


class RawWaveform(Victim):
    """A column of table 3.1: convolutions (batch normalisation, ReLU), max-pools, mean over time, one linear layer.

    The latent is the mean over time of the last feature maps, or what the fully connected layers make of them all.
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
        layout, norm = LAYOUTS[name], settings.batch_norm
        channels = _scaled(layout.first, settings.width)
        # Padded so that 32000 samples give 8000 frames, 2000 after the first pool, as the table has it.
        first = _convolution(1, channels, settings.first_kernel, stride=FIRST_STRIDE, batch_norm=norm)
        layers = [*first, nn.MaxPool1d(POOL, ceil_mode=True)]
        for row, (filters, repeats) in enumerate(layout.groups, start=2):
            for _ in range(repeats):
                wanted = _scaled(filters, settings.width)
                if layout.residual:
                    layers.append(ResidualBlock(channels, wanted, batch_norm=norm))
                else:
                    layers.extend(_convolution(channels, wanted, 3, batch_norm=norm))
                channels = wanted
            if row <= POOLED_ROWS:
                layers.append(nn.MaxPool1d(POOL, ceil_mode=True))
        self.layers = nn.Sequential(*layers)
        self.connected: nn.Sequential | None = None
        if settings.fully_connected:
            self.connected = _connected(channels * self._frames(), settings)
        self.classifier = nn.Linear(settings.fully_connected or channels, len(labels))
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
        maps = self.layers(audio.unsqueeze(1))
        latent = maps.mean(dim=2) if self.connected is None else self._through(self.connected, maps)
        return {"audio": latent, "fused": latent}

    def filters(self) -> Tensor:
        """The first layer's filters (filters, first_kernel), float32, detached, on the CPU."""
        first = self.layers[0]
        assert isinstance(first, nn.Conv1d)
        return first.weight.detach().squeeze(1).float().cpu()

    def _through(self, connected: nn.Sequential, maps: Tensor) -> Tensor:
        if maps.shape[2] != self._frames():
            raise VictimError(
                f"{self.spec.name} with fully_connected layers takes clips of {self.spec.clip_samples} samples (or so "
                f"many that {self._frames()} frames are left at its end); cut or pad them, or build it with another "
                "clip_seconds."
            )
        latent: Tensor = connected(maps.flatten(1))
        return latent

    def _frames(self) -> int:
        """Frames of the last feature maps of a clip."""
        frames = -(-self.spec.clip_samples // FIRST_STRIDE)
        for layer in self.layers:
            frames = -(-frames // POOL) if isinstance(layer, nn.MaxPool1d) else frames
        return frames

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(fused)
        return logits


class ResidualBlock(nn.Module):
    """Two layers and a skip connection, projected by a 1-wide convolution where the number of filters changes."""

    def __init__(self, channels_in: int, channels: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        first, second = (_convolution(count, channels, 3, batch_norm=batch_norm) for count in (channels_in, channels))
        self.body = nn.Sequential(*first, *second[:-1])  # the second ReLU stands behind the sum
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels:
            self.skip = nn.Sequential(*_convolution(channels_in, channels, 1, batch_norm=batch_norm)[:-1])

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


def _convolution(
    channels_in: int, channels: int, kernel: int, *, stride: int = 1, batch_norm: bool = True
) -> list[nn.Module]:
    """A convolution that keeps T / stride frames, batch normalisation, ReLU."""
    padding = (kernel - stride + 1) // 2
    convolution = nn.Conv1d(channels_in, channels, kernel, stride=stride, padding=padding, bias=not batch_norm)
    return [convolution, *([nn.BatchNorm1d(channels)] if batch_norm else []), nn.ReLU()]


def _connected(width_in: int, settings: RawWaveformSettings) -> nn.Sequential:
    """Two fully connected layers; batch normalisation stands after them whatever the convolutions have."""
    layers: list[nn.Module] = []
    for wide in (width_in, settings.fully_connected):
        width = settings.fully_connected
        layers += [nn.Linear(wide, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(settings.dropout)]
    return nn.Sequential(*layers)


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
