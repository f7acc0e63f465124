"""PaSST's log-mel spectrogram as a differentiable module: pre-emphasis, Kaldi's mel filters, its own normalisation.

Reference: Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022, and its code.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

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
        )
        from transformers.audio_utils import mel_filter_bank

        with warnings.catch_warnings():
            # Narrow low filters between two bins are empty; upstream checkpoints were trained with exactly those.
            warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
            mel = mel_filter_bank(
                num_frequency_bins=n_fft // 2 + 1,
                num_mel_filters=n_mels,
                min_frequency=fmin,
                max_frequency=fmax,
                sampling_rate=sample_rate,
                norm=None,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
        before = (n_fft - win_length) // 2
        symmetric = functional.pad(torch.hann_window(win_length, periodic=False), (before, n_fft - win_length - before))
        self.mel.copy_(torch.as_tensor(mel, dtype=torch.float32))
        self.window.copy_(symmetric)

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
