"""What the frame-level victims hear: a normalised log-mel spectrogram, computed inside or given as the input itself.

Source: the normalisation of AudioSetDoneRight's features (methods.md 1.1): (2 dB - mean) / (2 sd) with its mean and
standard deviation over AudioSet, so that a radius of 0.1 means here what it means in the author's tables (3.8 dB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robust.errors import VictimError, unknown
from robust.frontends.logmel import AUDIOSET_MEAN, AUDIOSET_STD, LogMel
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS

LOGMEL_BOUNDS = (-3.0, 3.0)
"""Range of normalised features: -100 dB, the floor of the front end, is -2.29; full scale stays below 1.5."""
INPUTS = ("audio", "logmel")
FRAME_LEVEL_RECIPE: Mapping[str, Any] = {
    "epochs": 8,
    "learning_rate": 1e-3,  # av-audio on avdigits, validation: 83 %, against 73 % at 2e-3 and 34 % at 4e-3
    "weight_decay": 0.01,
    "mixup_alpha": 0.0,
}
"""One recipe for all that are compared with one another."""


@dataclass(frozen=True)
class HearingSettings:
    """Configuration of the front end.

    Attributes:
        hears: `audio` (waveform; the spectrogram is inside) or `logmel` (normalised features, (frames, n_mels)).
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_fft: Samples in the window of the spectrogram.
        hop_length: Samples between frames.
        n_mels: Mel filters.
        time_mask, freq_mask: Greatest widths of SpecAugment blocks in frames and bands, in training.
    """

    hears: str = "audio"
    sample_rate: int = 16_000
    clip_seconds: float = 1.0
    n_fft: int = 512
    hop_length: int = 250
    n_mels: int = 64
    time_mask: int = 8
    freq_mask: int = 8

    @property
    def frames(self) -> int:
        """Frames in a clip."""
        return round(self.sample_rate * self.clip_seconds) // self.hop_length


class Hearing(nn.Module):
    """Normalised log-mel features (B, frames, n_mels) from the input; what the trunk takes."""

    def __init__(self, settings: HearingSettings) -> None:
        super().__init__()
        if settings.hears not in INPUTS:
            raise VictimError(unknown("input", settings.hears, INPUTS))
        self.modality = settings.hears
        self.shape = (settings.frames, settings.n_mels)
        self.bounds = DEFAULT_BOUNDS["audio"] if self.modality == "audio" else LOGMEL_BOUNDS
        self.hop_length = settings.hop_length
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask)
        if self.modality == "audio":
            self.log_mel = LogMel(
                sample_rate=settings.sample_rate,
                n_fft=settings.n_fft,
                hop_length=settings.hop_length,
                n_mels=settings.n_mels,
            )

    def features(self, audio: Tensor) -> Tensor:
        """Normalised features (B, T // hop_length, n_mels) of a waveform (B, T)."""
        decibels = self.log_mel(audio)[:, : audio.shape[1] // self.hop_length]
        normalised: Tensor = (2 * decibels - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)
        return normalised

    def forward(self, heard: Tensor) -> Tensor:
        """Features (B, frames, n_mels) from the victim's own input, with SpecAugment in training."""
        augmented: Tensor = self.spec_augment(self.features(heard) if self.modality == "audio" else heard)
        return augmented
