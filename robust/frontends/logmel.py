"""Log-mel spectrogram in decibels as a differentiable module, in the form in which PANNs take it.

Reference: Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robust.frontends.mel import MelSpectrogram

AUDIOSET_MEAN, AUDIOSET_STD = -27.248297, 37.681698
"""Of 20 log10(mel power) over AudioSet's training clips, as AudioSetDoneRight normalises by them (methods.md 1.1)."""


def decibels(energies: Tensor, amin: float = 1e-10, multiplier: float = 10.0) -> Tensor:
    """`multiplier` log10 of power, floored at `amin`; 20 is AudioSetDoneRight's quirk (methods.md 1.1)."""
    with torch.autocast(energies.device.type, enabled=False):
        return multiplier * energies.clamp(min=amin).log10()


class LogMel(MelSpectrogram):
    """Power spectrogram (periodic Hann window, centred frames, reflected edges), Slaney mel filters, 10 log10.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the window and in the DFT.
        hop_length: Samples between frames.
        n_mels: Number of mel filters.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz.
        amin: Floor of mel energies before the logarithm; -100 dB unless told.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int = 64,
        fmin: float = 0.0,
        fmax: float | None = None,
        amin: float = 1e-10,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, fmin=fmin, fmax=fmax
        )
        self.amin = amin

    def forward(self, audio: Tensor) -> Tensor:
        """Decibels (B, 1 + T // hop_length, n_mels) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are too short to reflect at their edges.
        """
        return decibels(super().forward(audio), self.amin)

    @torch.no_grad()
    def upstream_buffers(self) -> dict[str, Tensor]:
        """What an upstream PANNs checkpoint stores for this very front end, under upstream's names.

        Returns:
            The windowed DFT as weights of two convolutions, each (n_fft // 2 + 1, 1, n_fft), and the mel filters
            (n_fft // 2 + 1, n_mels); float32.
        """
        bins = torch.arange(self.n_fft // 2 + 1).unsqueeze(1)
        samples = torch.arange(self.n_fft)
        # The phase is reduced as an integer, so that it stays exact for late samples of high bins.
        phase = (bins * samples % self.n_fft).double() * (2 * math.pi / self.n_fft)
        window = self.window.double().cpu()
        return {
            "spectrogram_extractor.stft.conv_real.weight": (phase.cos() * window).float().unsqueeze(1),
            "spectrogram_extractor.stft.conv_imag.weight": (-phase.sin() * window).float().unsqueeze(1),
            "logmel_extractor.melW": self.mel.float().cpu(),
        }
