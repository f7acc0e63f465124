"""Mel-frequency cepstral coefficients as a differentiable module, as librosa and nnAudio compute them.

Source: Davis & Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition", IEEE TASSP
1980; `librosa.feature.mfcc`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from robust.errors import VictimError
from robust.frontends.logmel import decibels
from robust.frontends.mel import MelSpectrogram


class MFCC(MelSpectrogram):
    """Mel decibels, none of them far below the clip's loudest, and the first coefficients of their DCT-II.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the window and in the DFT.
        hop_length: Samples between frames.
        n_mels: Mel filters.
        n_mfcc: Coefficients, at most `n_mels`.
        amin: Floor of mel energies before the logarithm; -100 dB unless told.
        top_db: How far below the loudest energy of a clip the others are floored, dB; None floors at `amin` alone.
        pad_mode: As of `MelSpectrogram`.

    Raises:
        VictimError: If there are more coefficients than mel filters, or none.
    """

    basis: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int = 40,
        n_mfcc: int = 40,
        amin: float = 1e-10,
        top_db: float | None = 80.0,
        pad_mode: Literal["reflect", "constant"] | None = None,
    ) -> None:
        if not 1 <= n_mfcc <= n_mels:
            raise VictimError(f"n_mfcc={n_mfcc} must be from 1 to n_mels={n_mels}: a DCT gives no more coefficients.")
        super().__init__(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, pad_mode=pad_mode)
        self.amin, self.top_db = amin, top_db
        # Row i is what mel band i adds to each coefficient.
        basis = torch.tensor(dct(np.eye(n_mels), type=2, norm="ortho", axis=1)[:, :n_mfcc]).float()
        self.register_buffer("basis", basis.contiguous(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Coefficients (B, frames, n_mfcc) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are too short for a frame, or to be reflected at their edges.
        """
        levels = decibels(super().forward(audio), self.amin)
        if self.top_db is not None:
            levels = torch.maximum(levels, levels.amax(dim=(1, 2), keepdim=True) - self.top_db)
        # Mixed precision would round levels of up to 100 dB to whole decibels or halves of them.
        with torch.autocast(audio.device.type, enabled=False):
            return levels @ self.basis
