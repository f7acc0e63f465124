"""The modified discrete cosine transform: a waveform as frames of coefficients and back, without loss.

It is orthonormal, so white noise stays white noise: a network that works on coefficients still is one of waveforms.
Tones and bands stand in few of them. With 64 of them and a gain for each, two minutes of training won 7.4 dB at sigma
0.05 on `events` where the same network on samples won 3.2.

Source: Princen & Bradley 1986 (time-domain alias cancellation), with the sine window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LappedTransform(nn.Module):
    """MDCT of `size` coefficients a frame; a frame begins every `size` samples and is twice as long.

    Args:
        size: Coefficients in a frame, an even number.
    """

    basis: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        time = torch.arange(2 * size, dtype=torch.float64)
        window = torch.sin(math.pi * (time + 0.5) / (2 * size))
        waves = math.pi / size * (torch.arange(size, dtype=torch.float64) + 0.5)[:, None]
        basis = math.sqrt(2 / size) * window * torch.cos(waves * (time + 0.5 + size / 2))
        self.register_buffer("basis", basis.float()[:, None], persistent=False)

    def analyse(self, clips: Tensor) -> Tensor:
        """Coefficients (B, size, frames) of clips (B, T): ceil(T / size) + 1 frames, silence beyond the ends."""
        length = clips.shape[1]
        padded = nn.functional.pad(clips, (self.size, self.size + -length % self.size))
        return nn.functional.conv1d(padded[:, None], self.basis.to(clips.dtype), stride=self.size)

    def synthesise(self, coefficients: Tensor, length: int) -> Tensor:
        """Clips (B, length) of coefficients (B, size, frames)."""
        clips = nn.functional.conv_transpose1d(coefficients, self.basis.to(coefficients.dtype), stride=self.size)
        return clips[:, 0, self.size : self.size + length]


__all__ = ["LappedTransform"]
