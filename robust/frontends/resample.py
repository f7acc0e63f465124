"""Another sample rate, differentiably: a band-limited interpolator as a bank of filters, one for each phase.

Source: Smith & Gossett, "A flexible sampling-rate conversion method", ICASSP 1984; Kaiser's window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

ZEROS = 32  # zero crossings of the sinc on either side: the transition from pass to stop is 5 % of the lower rate
ROLL_OFF = 0.95  # cut-off over the lower of the two Nyquist frequencies
KAISER_BETA = 9.0  # -90 dB beyond the transition


class Resampler(nn.Module):
    """Waveforms at `new_rate` from waveforms at `old_rate`; beyond their ends there is silence.

    Args:
        old_rate: Hz of what is given.
        new_rate: Hz of what is wanted.
    """

    filters: Tensor

    def __init__(self, old_rate: int, new_rate: int) -> None:
        super().__init__()
        shared = math.gcd(old_rate, new_rate)
        self.old, self.new = old_rate // shared, new_rate // shared
        cutoff = ROLL_OFF * min(self.new / self.old, 1.0)  # over the old rate's Nyquist frequency
        self.reach = math.ceil(ZEROS / cutoff)  # samples on either side
        phases = torch.arange(self.new, dtype=torch.float64)[:, None] * self.old / self.new
        samples = torch.arange(-self.reach, self.reach + self.old + 1, dtype=torch.float64)
        time = samples - phases  # (new, taps) in samples of the old rate, from where each new sample lies
        inside = (1 - (time / self.reach).square()).clamp(min=0.0)
        window = torch.special.i0(KAISER_BETA * inside.sqrt()) / torch.special.i0(torch.tensor(KAISER_BETA).double())
        filters = cutoff * torch.sinc(cutoff * time) * torch.where(inside > 0, window, 0.0)
        # Gain one at 0 Hz for every phase: no pattern of phases is heard on a constant.
        filters = filters / filters.sum(dim=1, keepdim=True)
        self.register_buffer("filters", filters.float().unsqueeze(1), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, ceil(T new_rate / old_rate)) of `audio` (B, T)."""
        if self.old == self.new:
            return audio
        length = math.ceil(audio.shape[-1] * self.new / self.old)
        with torch.autocast(audio.device.type, enabled=False):
            waveform = audio.to(self.filters.dtype)
            padded = functional.pad(waveform, (self.reach, self.reach + self.old)).unsqueeze(1)
            steps: Tensor = functional.conv1d(padded, self.filters, stride=self.old)  # (B, new, steps)
        return steps.transpose(1, 2).flatten(1)[:, :length]
