"""Cheap waveform augmentation on batches: time shift, gain, background noise; noise of one level for smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from defenses.smoothing import checked_sigma


@dataclass(frozen=True)
class WaveformAugmentation:
    """What may happen to a training clip; each drawn anew for every example.

    Attributes:
        max_shift: Largest shift in time over the clip's length; what enters is silence.
        max_gain_db: Gain is uniform in +- this many dB, less where the clip would leave [-1, 1].
        min_snr_db, max_snr_db: Range of the SNR of white noise added to half of the clips.
    """

    max_shift: float = 0.1
    max_gain_db: float = 6.0
    min_snr_db: float = 15.0
    max_snr_db: float = 50.0

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """`audio` (B, T) float32 in [-1, 1], changed; the generator is on the CPU."""
        count, length = audio.shape
        draws = torch.rand(4, count, generator=generator).to(audio)
        moved = self._shifted(audio, (2 * draws[0] - 1) * self.max_shift * length)
        gain = 10 ** ((2 * draws[1] - 1) * self.max_gain_db / 20)
        peak = moved.abs().amax(dim=1).clamp_min(1e-9)
        moved = moved * torch.minimum(gain, 1 / peak)[:, None]
        snr_db = self.min_snr_db + draws[2] * (self.max_snr_db - self.min_snr_db)
        level = moved.square().mean(dim=1).sqrt() / 10 ** (snr_db / 20) * (draws[3] < 0.5)
        noise = torch.randn(count, length, generator=generator).to(audio)
        return (moved + level[:, None] * noise).clamp(-1.0, 1.0)

    @staticmethod
    def _shifted(audio: Tensor, shift: Tensor) -> Tensor:
        """Each row moved by its number of samples, silence entering."""
        source = torch.arange(audio.shape[1], device=audio.device)[None] - shift.round().long()[:, None]
        inside = (source >= 0) & (source < audio.shape[1])
        return audio.gather(1, source.clamp(0, audio.shape[1] - 1)) * inside


@dataclass(frozen=True)
class GaussianNoise:
    """White noise of one level on every training clip, as classifiers are trained for smoothing (Cohen et al. 2019).

    Nothing is cut at [-1, 1]: the smoothed classifier hears noise that is Gaussian.

    Attributes:
        sigma: Standard deviation, full scale being 1.

    Raises:
        ThreatModelError: If it is no positive number.
    """

    sigma: float

    def __post_init__(self) -> None:
        checked_sigma(self.sigma)

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """`audio` (B, T) with fresh noise; the generator is on the CPU."""
        return audio + self.sigma * torch.randn(audio.shape, generator=generator).to(audio)


@dataclass(frozen=True)
class InTurn:
    """Augmentations one after the other.

    Attributes:
        parts: Each takes (B, T) and a generator.
    """

    parts: tuple[WaveformAugmentation | GaussianNoise, ...]

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """`audio` (B, T), changed by each in turn."""
        for part in self.parts:
            audio = part(audio, generator)
        return audio


def load_augmentation(text: str) -> InTurn:
    """What `--augment` names: `gaussian:SIGMA`, the usual augmentation and then noise of that level on every clip.

    Raises:
        ThreatModelError: If it names no augmentation, or sigma is no positive number.
    """
    name, _, value = text.partition(":")
    if name != "gaussian":
        raise ThreatModelError(
            unknown("augmentation", name, ("gaussian", "diffusion"))
            + " Write gaussian:SIGMA or diffusion[:SOURCE][:SHARE]."
        )
    try:
        sigma = float(value)
    except ValueError:
        raise ThreatModelError(f"gaussian takes the level of the noise, e.g. gaussian:0.25; given {text!r}.") from None
    return InTurn((WaveformAugmentation(), GaussianNoise(sigma)))
