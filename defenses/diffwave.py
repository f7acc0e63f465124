"""DiffWave's network as a diffusion model of waveforms; `defenses.diffwave_checkpoints` reads published weights.

The two published layouts differ in more than names: in the frequencies of the step embedding, in which half of a layer
is the gate, and in the authors' own the step embedding stays in the residual stream, because it is added in place.

Sources: Kong et al. 2021 (DiffWave, Figure 2 and appendix C); Wu et al. 2023 (AudioPure).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from defenses.diffusion import DiffusionModel, Schedule
from defenses.pointwise import Pointwise1d

USUAL_CYCLE, LONG_CYCLE = 10, 12
"""Layers after which dilations begin anew at 1; the models of 36 layers have the long one."""


@dataclass(frozen=True)
class DiffWaveSettings:
    """Sizes of a `DiffWave`.

    Attributes:
        layers: Residual layers.
        channels: Width of the residual stream.
        skip_channels: Width of what layers hand to the output.
        dilation_cycle: Dilations are 1, 2, 4... and begin anew after so many layers.
        embedded: Sines and cosines of a step, together.
        hidden: Widths of the two layers behind them.
        ascending: Frequencies of the embedding are 10^(4 i / 63), from 1 up (LMNT); else 10^(-4 i / 63), from 1 down.
        carries_step: The step embedding of a layer stays in the residual stream.
    """

    layers: int
    channels: int
    skip_channels: int
    dilation_cycle: int = USUAL_CYCLE
    embedded: int = 128
    hidden: tuple[int, int] = (512, 512)
    ascending: bool = False
    carries_step: bool = True


class DiffWave(DiffusionModel):
    """DiffWave's network: residual layers of dilated convolutions, all of which see the step.

    Args:
        settings: Sizes.
        schedule: Of the noise; 200 steps from 1e-4 to 0.02 unless told.
        sample_rate: Hz of the clips that it was trained on.
        samples: Length of the clips; the network takes any.
    """

    def __init__(
        self,
        settings: DiffWaveSettings,
        *,
        schedule: Schedule | None = None,
        sample_rate: int = 16_000,
        samples: int = 16_000,
    ) -> None:
        super().__init__(schedule or Schedule(), sample_rate, samples)
        self.settings = settings
        self.first = Pointwise1d(1, settings.channels, 1)
        self.steps_in = nn.Linear(settings.embedded, settings.hidden[0])
        self.steps_out = nn.Linear(*settings.hidden)
        self.layers = nn.ModuleList(
            _Layer(settings, 2 ** (place % settings.dilation_cycle)) for place in range(settings.layers)
        )
        self.skip = Pointwise1d(settings.skip_channels, settings.skip_channels, 1)
        self.last = Pointwise1d(settings.skip_channels, 1, 1)

    def predict_noise(self, noisy: Tensor, step: Tensor | int, labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise ThreatModelError("DiffWave checkpoints know no classes; leave the labels out.")
        given, dtype = noisy.dtype, self.first.weight.dtype
        steps = torch.as_tensor(step, device=noisy.device).expand(len(noisy))
        told = functional.silu(self.steps_in(self._embedded(steps).to(dtype)))
        told = functional.silu(self.steps_out(told))
        stream = functional.relu(self.first(noisy[:, None].to(dtype)))
        total = stream.new_zeros(())
        for layer in self.layers:
            stream, skipped = layer(stream, told)
            total = total + skipped
        found: Tensor = self.last(functional.relu(self.skip(total / math.sqrt(len(self.layers)))))
        return found[:, 0].to(given)

    def _embedded(self, steps: Tensor) -> Tensor:
        """(B, E) sines and cosines of steps counted from 0, rounded to float32 as they were in training."""
        half = self.settings.embedded // 2
        place = torch.arange(half, device=steps.device)
        if self.settings.ascending:
            frequency = 10.0 ** (place * 4.0 / (half - 1))
        else:
            frequency = torch.exp(place * (-math.log(10_000) / (half - 1)))
        turns = (steps - 1)[:, None] * frequency
        return torch.cat([turns.sin(), turns.cos()], dim=1)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "network": "diffwave", "layers": self.settings.layers}


class _Layer(nn.Module):
    """One residual layer: dilated convolution, gated tanh, a share onwards and a share to the output."""

    def __init__(self, settings: DiffWaveSettings, dilation: int) -> None:
        super().__init__()
        width = settings.channels
        self.width, self.carries_step = width, settings.carries_step
        self.step = nn.Linear(settings.hidden[1], width)
        self.dilated = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation)
        self.out = Pointwise1d(width, width + settings.skip_channels, 1)

    def forward(self, stream: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """The stream (B, C, T) behind the layer, and its share of the output."""
        stepped = stream + self.step(told)[:, :, None]
        shape, gate = self.dilated(stepped).chunk(2, dim=1)
        found = self.out(shape.tanh() * gate.sigmoid())
        onwards = (stepped if self.carries_step else stream) + found[:, : self.width]
        return onwards / math.sqrt(2), found[:, self.width :]


__all__ = ["LONG_CYCLE", "USUAL_CYCLE", "DiffWave", "DiffWaveSettings"]
