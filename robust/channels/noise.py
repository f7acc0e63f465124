"""Additive noise at a signal-to-noise ratio over the active part of each clip (methods.md 8.6).

White noise has the same power at all frequencies; pink loses 3 dB an octave, brown 6, blue gains 3, violet 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim
from robust.channels import check_heard, range_of, spec_of
from robust.seeds import generators_for
from robust.types import Batch, Outcome

COLOURS: Mapping[str, float] = {"white": 0.0, "pink": -0.5, "brown": -1.0, "blue": 0.5, "violet": 1.0}
"""Amplitude over frequency to this power."""

LOWEST_HZ = 20.0
"""Coloured noise has nothing below: half of all brown noise would be slower than anybody hears, and an SNR no SNR."""

SILENT_POWER = 1e-8
"""Mean square (full scale 1, so -80 dBFS) under which a frame, or a whole clip, is silent."""

ACTIVE_RANGE_DB, FRAME_SECONDS = 40.0, 0.02
"""Frames that much quieter than a clip's loudest are its background, and no part of its signal."""

LARGEST_SNR_DB = 200.0


def coloured_noise(samples: int, colour: str, sample_rate: int, generator: torch.Generator) -> Tensor:
    """(samples,) float32 Gaussian noise of a colour from `COLOURS`, on the CPU; white with unit variance.

    Raises:
        ThreatModelError: If there is no such colour, or the clip is too short to hold anything above 20 Hz.
    """
    white = torch.randn(samples, generator=generator)
    return white if colour == "white" else shaped(white, colour_gains(samples, colour, sample_rate))


def colour_gains(samples: int, colour: str, sample_rate: int) -> Tensor:
    """(F,) float64 amplitudes of a colour at the frequencies of so many samples; nothing below 20 Hz, but of white.

    Raises:
        ThreatModelError: If there is no such colour, or the clip is too short to hold anything above 20 Hz.
    """
    if colour not in COLOURS:
        raise ThreatModelError(unknown("colour of noise", colour, COLOURS))
    frequency = torch.fft.rfftfreq(samples, 1 / sample_rate, dtype=torch.float64)
    if colour == "white":
        return torch.ones_like(frequency)
    if not bool((frequency >= LOWEST_HZ).any()):
        raise ThreatModelError(f"{samples} samples at {sample_rate} Hz are too short for {colour} noise; use white.")
    return torch.where(frequency >= LOWEST_HZ, frequency.clamp_min(LOWEST_HZ) ** COLOURS[colour], 0.0)


def shaped(white: Tensor, gains: Tensor) -> Tensor:
    """White noise (..., T) float32 with amplitudes (F,) over frequency: (..., T) float32."""
    noise: Tensor = torch.fft.irfft(torch.fft.rfft(white.double()) * gains, white.shape[-1])
    return noise.float()


def active_region(clip: Tensor, valid: Tensor, frame: int) -> Tensor:
    """What of one clip is signal: neither padding, nor silence, nor 40 dB below its loudest frame.

    Args:
        clip: (T, ...) float.
        valid: bool, of the same shape; true where the clip is real.
        frame: Steps in which the level is taken.

    Returns:
        bool of the same shape, whole frames at a time; nothing is true where the clip is silent.
    """
    steps = len(clip)
    power, count = (
        functional.pad(part.reshape(steps, -1).sum(dim=1), (0, -steps % frame)).view(-1, frame).sum(dim=1)
        for part in ((clip.detach().double() * valid).square(), valid.double())
    )
    power = power / count.clamp_min(1)
    loud = power >= max(SILENT_POWER, float(power.max()) * 10 ** (-ACTIVE_RANGE_DB / 10))
    return loud.repeat_interleave(frame)[:steps].view(-1, *[1] * (clip.ndim - 1)) & valid


def at_snr(clip: Tensor, noise: Tensor, snr_db: float, active: Tensor, valid: Tensor) -> Tensor:
    """One clip with noise on all that is valid, at an SNR over what is active; differentiable in clip and noise.

    Args:
        clip: (T, ...) float.
        noise: The same shape; its own level does not matter.
        snr_db: Energy of the clip over that of the noise, both over `active`.
        active: bool; where nothing is, the clip comes back unchanged.
        valid: bool.
    """
    if not bool(active.any()):
        return clip
    signal, masked = clip.double(), noise.double() * valid
    ratio = (signal * active).square().sum() / (masked * active).square().sum()
    return (signal + masked * (ratio * 10 ** (-snr_db / 10)).sqrt()).to(clip.dtype)


def snr_db_of(clean: Tensor, noisy: Tensor, active: Tensor) -> float:
    """Realised SNR over what is active; NaN where nothing is."""
    signal, noise = ((value.detach().double() * active).square().sum() for value in (clean, noisy - clean))
    return float(10 * torch.log10(signal / noise)) if bool(active.any()) else math.nan


@dataclass(frozen=True)
class AdditiveNoise:
    """Noise on everything of one modality that is not padding; silent clips stay as they are.

    A clip hears the same draw at every level, so that levels differ in nothing but their level. Unless clipped, a noisy
    waveform may leave [-1, 1]; either way `noise_over_range` tells how much of it was beyond.

    Attributes:
        snr_db: Signal-to-noise ratio over the active region of each clip, -200 to 200.
        colour: A name from `COLOURS`; all but white are for waveforms.
        modality: Which input.
        clip: Cut what leaves the modality's range; the realised SNR is measured afterwards, and need not be `snr_db`.

    Raises:
        ThreatModelError: If the ratio or the colour cannot be; when applied, if the victim has no such modality or the
            modality no range to clip to.
    """

    snr_db: float
    colour: str = "white"
    modality: str = "audio"
    clip: bool = False

    def __post_init__(self) -> None:
        if not abs(self.snr_db) <= LARGEST_SNR_DB:
            raise ThreatModelError(
                f"The SNR must be a number of dB from -{LARGEST_SNR_DB:g} to {LARGEST_SNR_DB:g}; given {self.snr_db}."
            )
        if self.colour not in COLOURS:
            raise ThreatModelError(unknown("colour of noise", self.colour, COLOURS))
        if self.colour != "white" and self.modality != "audio":
            raise ThreatModelError(f"{self.colour} noise is for waveforms; give {self.modality!r} white noise.")

    @property
    def name(self) -> str:
        """E.g. `noise-white-audio-10dB`."""
        return f"noise-{self.colour}-{self.modality}-{self.snr_db:g}dB"

    def describe(self) -> dict[str, Any]:
        """All settings, and over what the SNR is taken."""
        return {
            "condition": self.name,
            "modality": self.modality,
            "snr_db": self.snr_db,
            "colour": self.colour,
            "clip": self.clip,
            "active_range_db": ACTIVE_RANGE_DB,
        }

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The noisy batch.

        Columns: `noise_snr_db`, realised, NaN where the clip is silent; `noise_silent`; `noise_over_range`, the share
        of what is valid that lay beyond the modality's range (before it was clipped, if it was).
        """
        check_heard(self.modality, batch)
        spec = spec_of(victim, self.name)
        low, high = range_of(spec, self.modality)
        if self.clip and not math.isfinite(high - low):
            raise ThreatModelError(f"There is no range to which to clip {self.modality!r}; leave clip off.")
        frame = max(1, round(FRAME_SECONDS * spec.sample_rate)) if self.modality == "audio" else 1
        # One draw for all levels of a clip; clip by clip, so that its neighbours cannot change a bit of it.
        generators = generators_for(seed, batch.ids, f"noise-{self.colour}-{self.modality}")
        changed: list[Tensor] = []
        columns: dict[str, list[Any]] = {"noise_snr_db": [], "noise_silent": [], "noise_over_range": []}
        valid = batch.valid[self.modality].expand_as(batch.inputs[self.modality])
        for clip, real, generator in zip(batch.inputs[self.modality], valid, generators, strict=True):
            noise = coloured_noise(clip.numel(), self.colour, spec.sample_rate, generator).view_as(clip).to(clip)
            active = active_region(clip, real, frame)
            noisy = at_snr(clip, noise, self.snr_db, active, real)
            beyond = ((noisy < low) | (noisy > high)) & real
            noisy = torch.where(real, noisy.clamp(low, high), noisy) if self.clip else noisy
            changed.append(noisy)
            columns["noise_snr_db"].append(snr_db_of(clip, noisy, active))
            columns["noise_silent"].append(not bool(active.any()))
            columns["noise_over_range"].append(float(beyond.sum() / real.sum().clamp_min(1)))
        return Outcome({**batch.inputs, self.modality: torch.stack(changed)}, columns)
