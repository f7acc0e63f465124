"""The log-mel side of a waveform, and the way back: what is cleaned there becomes a gain on the clip's spectrogram.

A victim that hears waveforms can so be defended in the mel domain, without a vocoder: bands are turned up and down and
phases stay as they were, as in spectral subtraction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW, HOP = 512, 256  # samples; 32 and 16 ms at 16 kHz
FLOOR = 1e-5  # of power, -50 dB: what is quieter has no say, and silence keeps finite gradients
REACH = 12.0  # deviations from the mean that become -1 and 1: the first step's noise is then 3 dB in every band


class MelDomain(nn.Module):
    """Log-mel spectrograms (B, bands, frames) about 0.

    Args:
        sample_rate: Hz.
        samples: Length of a clip.
        bands: Mel bands (HTK scale, up to half the rate; transformers' filter bank).
        mean, std: Of natural logarithms of mel energies over the training clips.
    """

    window: Tensor
    filters: Tensor
    spread: Tensor

    def __init__(self, sample_rate: int, samples: int, bands: int, *, mean: float, std: float) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.mean, self.std = mean, std
        self.shape = (bands, 1 + samples // HOP)
        filters = torch.as_tensor(
            mel_filter_bank(WINDOW // 2 + 1, bands, 0.0, sample_rate / 2, sample_rate), dtype=torch.float32
        )
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        # Each bin follows the bands it is in, by weight; bins in none (0 Hz, the highest) the nearest one.
        weight = filters + 1e-6 * torch.exp(-_distance(filters))
        self.register_buffer("spread", weight / weight.sum(dim=1, keepdim=True), persistent=False)

    def spectrum(self, clips: Tensor) -> Tensor:
        """Complex STFT (B, bins, frames) of clips (B, T)."""
        window = self.window.to(clips.dtype)
        return torch.stft(clips, WINDOW, HOP, window=window, return_complex=True, pad_mode="constant")

    def energies(self, clips: Tensor) -> Tensor:
        """Natural logarithm of mel energies (B, bands, frames) of clips (B, T)."""
        spectrum = self.spectrum(clips)
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log(self.filters.to(power.dtype).T @ power + FLOOR)

    def encode(self, clips: Tensor) -> Tensor:
        """(B, bands, frames) of clips (B, T)."""
        return (self.energies(clips) - self.mean) / (REACH * self.std)

    def decode(self, clips: Tensor, encoded: Tensor, cleaned: Tensor) -> Tensor:
        """Clips (B, T), each band of each frame turned up or down as `cleaned` differs from `encoded`."""
        change = (cleaned - encoded) * (REACH * self.std)
        gain = torch.exp(0.5 * (self.spread.to(change.dtype) @ change))
        window = self.window.to(clips.dtype)
        changed = self.spectrum(clips) * gain
        return torch.istft(changed, WINDOW, HOP, window=window, length=clips.shape[1])


def _distance(filters: Tensor) -> Tensor:
    """(bins, bands) bins between each bin and the middle of each band, over the number of bins, at most 50."""
    bins = torch.arange(len(filters), dtype=torch.float32)
    middles = (filters * bins[:, None]).sum(dim=0) / filters.sum(dim=0).clamp_min(1e-9)
    return (bins[:, None] - middles[None]).abs().clamp_max(50.0)
