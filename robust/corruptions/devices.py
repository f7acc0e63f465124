"""Loudspeakers, amplifiers, converters, clocks and microphones in the wind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from attacks.channel import Channel
from robust.channels.devices import LARGEST_PPM, BandPass, Drift, Gain, Offset, SoftClip
from robust.corruptions.base import Corruption, Floats, Transform, on_clips, register_corruption
from robust.corruptions.channels import through
from robust.corruptions.measures import LEVEL
from robust.corruptions.noises import SNR_DB, wind, with_noise
from robust.types import Inputs

_LOUDSPEAKER_HZ = {3400.0: 150.0, 2800.0: 250.0, 2200.0: 350.0, 1700.0: 450.0, 1200.0: 550.0}
"""Upper end -> lower end."""


def channelled(build: Callable[[float, int], Channel], **levels: Any) -> Callable[[float, int], Transform]:
    """A maker of transforms from a maker of channels."""
    return lambda value, sample_rate: through(build(value, sample_rate), **levels)


def drift(late_ms: float, sample_rate: int) -> Transform:
    """A clock that runs faster than the sender's: by the end of the clip it is ahead by so much."""

    def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        ppm = 1e3 * late_ms * sample_rate / inputs["audio"].shape[1]
        return through(Drift(sample_rate, min(ppm, LARGEST_PPM)))(inputs, valid, generators)

    return transform


def hard_clip(below_db: float, sample_rate: int) -> Transform:
    """Cut at so many dB below the peak of the clip, which keeps its root mean square."""

    def cut(clip: Floats, generator: np.random.Generator) -> Floats:
        ceiling = np.abs(clip).max() * 10 ** (-below_db / 20)
        heard = np.clip(clip, -ceiling, ceiling)
        energy = np.square(heard).sum()
        return heard * np.sqrt(np.square(clip).sum() / energy) if energy > 0 else clip

    return on_clips(cut)


register_corruption(
    Corruption(
        "loudspeaker",
        "device",
        "audio",
        "upper end (Hz)",
        tuple(_LOUDSPEAKER_HZ),
        channelled(lambda high, rate: BandPass(rate, _LOUDSPEAKER_HZ[high], high)),
        summary="a band that narrows from 150-3400 to 550-1200 Hz",
    )
)
register_corruption(
    Corruption(
        "soft-clip",
        "device",
        "audio",
        "drive (dB)",
        (6.0, 12.0, 18.0, 24.0, 36.0),
        channelled(lambda drive, rate: SoftClip(rate, drive), full_level=True, keep_level=True),
        summary="tanh, driven so far above the peak; the clip keeps its level",
    )
)
register_corruption(
    Corruption(
        "hard-clip",
        "device",
        "audio",
        "below the peak (dB)",
        (6.0, 12.0, 18.0, 24.0, 36.0),
        hard_clip,
        summary="cut at a ceiling; the clip keeps its level",
    )
)
register_corruption(
    Corruption(
        "gain-down",
        "device",
        "audio",
        "gain (dB)",
        (-6.0, -12.0, -20.0, -30.0, -40.0),
        channelled(lambda gain, rate: Gain(rate, gain)),
        LEVEL,
        "too far away, or turned down",
    )
)
register_corruption(
    Corruption(
        "dc-offset",
        "device",
        "audio",
        "offset (full scale)",
        (0.02, 0.05, 0.1, 0.2, 0.4),
        channelled(lambda offset, rate: Offset(rate, offset)),
        summary="direct current of a bad converter",
    )
)
register_corruption(
    Corruption(
        "clock-drift",
        "device",
        "audio",
        "ahead by the end (ms)",
        (0.002, 0.005, 0.012, 0.025, 0.05),
        drift,
        summary="a clock that runs faster than the sender's",
    )
)
register_corruption(
    Corruption("wind", "device", "audio", "SNR (dB)", SNR_DB, with_noise(wind), summary="gusts in a microphone")
)
