"""Filters without phase, so that nothing is delayed, and pitch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from robust.channels.devices import BandPass
from robust.corruptions.augmenting import augmented
from robust.corruptions.base import Corruption, Floats, Transform, on_clips, register_corruption
from robust.corruptions.channels import through
from robust.corruptions.devices import channelled
from robust.corruptions.measures import PITCH
from robust.types import Inputs

STOPPED_HZ = 1000.0
TILTED_HZ = 1000.0
TILT_OCTAVES = 5.0


def band_stop(octaves: float, sample_rate: int) -> Transform:
    """What a band-pass around 1 kHz lets through is taken away."""
    half = 2 ** (octaves / 2)
    passing = through(BandPass(sample_rate, STOPPED_HZ / half, STOPPED_HZ * half))

    def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        band = passing(inputs, valid, generators)["audio"]
        clips = inputs["audio"]
        return {"audio": torch.where(valid["audio"], clips - band, clips)}

    return transform


def tilt(slope_db: float, sample_rate: int) -> Transform:
    """An equaliser that rises or falls by so many dB an octave, none at 1 kHz, level at five octaves from it."""

    def filtered(clip: Floats, generator: np.random.Generator) -> Floats:
        way = generator.choice([-1.0, 1.0])
        size = len(clip) + round(0.05 * sample_rate)
        frequency = np.fft.rfftfreq(size, 1 / sample_rate)
        octaves = np.clip(np.log2(np.maximum(frequency, 1.0) / TILTED_HZ), -TILT_OCTAVES, TILT_OCTAVES)
        return np.fft.irfft(np.fft.rfft(clip, size) * 10 ** (way * slope_db * octaves / 20), size)[: len(clip)]

    return on_clips(filtered)


def pitch(semitones: float, sample_rate: int) -> Transform:
    """Higher or lower at the same speed, by the phase vocoder of audiomentations."""
    from audiomentations import PitchShift

    shifts = {
        way: PitchShift(min_semitones=way * semitones, max_semitones=way * semitones, p=1.0) for way in (-1.0, 1.0)
    }

    def shifted(clip: Floats, generator: np.random.Generator) -> Floats:
        return augmented(shifts[generator.choice([-1.0, 1.0])], clip, sample_rate, generator)

    return on_clips(shifted)


register_corruption(
    Corruption(
        "low-pass",
        "spectral",
        "audio",
        "cut-off (Hz)",
        (3500.0, 2500.0, 1600.0, 1000.0, 500.0),
        channelled(lambda high, rate: BandPass(rate, None, high)),
        summary="24 dB an octave above",
    )
)
register_corruption(
    Corruption(
        "high-pass",
        "spectral",
        "audio",
        "cut-off (Hz)",
        (250.0, 500.0, 1000.0, 1600.0, 2500.0),
        channelled(lambda low, rate: BandPass(rate, low, None)),
        summary="24 dB an octave below",
    )
)
register_corruption(
    Corruption(
        "band-stop",
        "spectral",
        "audio",
        "width (octaves)",
        (0.5, 1.0, 1.5, 2.0, 3.0),
        band_stop,
        summary="around 1 kHz",
    )
)
register_corruption(
    Corruption(
        "tilt", "spectral", "audio", "slope (dB/octave)", (1.0, 2.0, 3.0, 4.5, 6.0), tilt, summary="up or down, by clip"
    )
)
register_corruption(
    Corruption(
        "pitch",
        "spectral",
        "audio",
        "shift (semitones)",
        (1.0, 2.0, 3.0, 5.0, 8.0),
        pitch,
        PITCH,
        "higher or lower, by clip, at the same speed",
    )
)
