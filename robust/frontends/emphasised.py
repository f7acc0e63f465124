"""PaSST's log-mel spectrogram as a differentiable module: pre-emphasis, Kaldi's mel filters, its own normalisation.

Reference: Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022, and its code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust.errors import VictimError
from robust.frontends.kaldi import PREEMPHASIS
from robust.frontends.mel import MelSpectrogram

FLOOR = 1e-5
"""Added to mel energies before the logarithm; silence is at -1.4 after normalisation."""
OFFSET, SCALE = 4.5, 5.0


class EmphasisedMel(MelSpectrogram):
    """Pre-emphasis (one sample is lost), symmetric Hann window, Kaldi's mel filters, (log(energy + 1e-5) + 4.5) / 5.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the DFT.
        win_length: Samples in the window, which is centred in the DFT.
        hop_length: Samples between frames.
        n_mels: Number of mel filters.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz.
    """

    def __init__(
        self, *, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int, fmin: float, fmax: float
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            n_mels=n_mels,
            fmin=fmin,
            fmax=fmax,
            norm=None,
            mel_scale="kaldi",
            triangles_in_mel=True,
            periodic=False,
        )

    def forward(self, audio: Tensor) -> Tensor:
        """Features (B, 1 + (T - 2) // hop_length, n_mels) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are too short to reflect at their edges.
        """
        if audio.shape[-1] < self.n_fft // 2 + 2:
            raise VictimError(
                f"Clips of {audio.shape[-1]} samples are too short for a window of {self.n_fft}: "
                f"{self.n_fft // 2 + 2} are needed; give longer clips or pad them."
            )
        with torch.autocast(audio.device.type, enabled=False):
            emphasised = audio[:, 1:] - PREEMPHASIS * audio[:, :-1]
            return ((super().forward(emphasised) + FLOOR).log() + OFFSET) / SCALE
