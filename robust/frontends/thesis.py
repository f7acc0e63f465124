"""The log-mel spectrogram of the thesis's AudioSet networks as a differentiable module.

Sources: thesis 6.4 (16 kHz, windows of 64 ms every 25 ms padded to 4,096 samples, 64 bands up to 8 kHz) and 6.7
(normalisation); AudioTaggingDoneRight's data loader for the rest (methods.md 1.1).
"""

from __future__ import annotations

from torch import Tensor

from robust.errors import VictimError
from robust.frontends.logmel import AUDIOSET_MEAN, AUDIOSET_STD, decibels
from robust.frontends.mel import MelSpectrogram

QUIRK = 20.0
"""What the authors multiply log10 of the mel power by: they pass a tensor where the kind of spectrogram belongs."""


class ThesisMel(MelSpectrogram):
    """Normalised log-mel features: mean of the clip removed, silence beyond its ends, (x - mean) / (2 std).

    Args:
        sample_rate: Hz.
        n_fft: Samples in the DFT.
        win_length: Samples in the window.
        hop_length: Samples between frames.
        n_mels: Number of mel filters.
        decibel_multiplier: Of log10 of the mel power: 20 as the released networks were trained, 10 for decibels.
        mean: Of such decibels over the training set; AudioSet's with this multiplier when None.
        std: Their standard deviation; AudioSet's with this multiplier when None.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        n_fft: int = 4096,
        win_length: int = 1024,
        hop_length: int = 400,
        n_mels: int = 64,
        decibel_multiplier: float = QUIRK,
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        if win_length > n_fft:
            raise VictimError(f"win_length={win_length} must not be longer than n_fft={n_fft}.")
        if decibel_multiplier <= 0 or (std is not None and std <= 0):
            raise VictimError(f"decibel_multiplier={decibel_multiplier} and std={std} must be positive.")
        super().__init__(
            sample_rate=sample_rate,
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            n_mels=n_mels,
            pad_mode="constant",
        )
        scale = decibel_multiplier / QUIRK
        self.decibel_multiplier = decibel_multiplier
        self.mean = scale * AUDIOSET_MEAN if mean is None else mean
        self.std = scale * AUDIOSET_STD if std is None else std

    def forward(self, audio: Tensor) -> Tensor:
        """Features (B, T // hop_length, n_mels) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are too short for a frame.
        """
        energies = super().forward(audio - audio.mean(dim=-1, keepdim=True))
        whole = energies[:, : audio.shape[-1] // self.hop_length]  # upstream cuts the last of 401 frames
        return (decibels(whole, multiplier=self.decibel_multiplier) - self.mean) / (2 * self.std)
