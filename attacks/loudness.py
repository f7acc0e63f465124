"""Loudness of steady sound in LUFS, differentiable: the K-weighted mean square of ITU-R BS.1770, without its gates.

Of sound that neither pauses nor fades, such as a loop of music, gating removes little; what is published is measured
again with the gates (pyloudnorm).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OFFSET_DB = -0.691  # so that a sine of 997 Hz at full scale has -3.01 LUFS
SHELF_HZ, SHELF_DB, SHELF_Q = 1681.974, 3.99984, 0.7071752
HIGH_PASS_HZ, HIGH_PASS_Q = 38.13547, 0.5003271
QUIETEST = 1e-14
"""Mean square below which nothing is heard (-140 LUFS); silence has finite gradients."""


def k_weighting(frequencies: int, sample_rate: int) -> Tensor:
    """Power gain (frequencies,) float64 of the K filter at the bins of a real FFT, 0 Hz to half the rate.

    The two filters of BS.1770 (a high shelf and a high-pass), by the bilinear transform at any rate.
    """
    angle = torch.linspace(0, math.pi, frequencies, dtype=torch.float64)
    z = torch.polar(torch.ones_like(angle), -angle)
    turn = math.tan(math.pi * SHELF_HZ / sample_rate)
    top = 10 ** (SHELF_DB / 20)
    middle = top**0.4996667741545416
    shelf = _biquad(
        z,
        (top + middle * turn / SHELF_Q + turn**2, 2 * (turn**2 - top), top - middle * turn / SHELF_Q + turn**2),
        (1 + turn / SHELF_Q + turn**2, 2 * (turn**2 - 1), 1 - turn / SHELF_Q + turn**2),
    )
    turn = math.tan(math.pi * HIGH_PASS_HZ / sample_rate)
    poles = (1 + turn / HIGH_PASS_Q + turn**2, 2 * (turn**2 - 1), 1 - turn / HIGH_PASS_Q + turn**2)
    high_pass = _biquad(z, (poles[0], -2 * poles[0], poles[0]), poles)  # 1 - 2/z + 1/z^2 over monic poles
    gain: Tensor = (shelf * high_pass).abs().square()
    return gain


def _biquad(z: Tensor, zeros: tuple[float, float, float], poles: tuple[float, float, float]) -> Tensor:
    """Response at 1 / `z`."""
    response: Tensor = (zeros[0] + zeros[1] * z + zeros[2] * z**2) / (poles[0] + poles[1] * z + poles[2] * z**2)
    return response


def loudness_lufs(sound: Tensor, sample_rate: int) -> Tensor:
    """(...) LUFS of mono `sound` (..., T), full scale 1, taken as going round; -140 at least."""
    spectrum = torch.fft.rfft(sound)
    power = (spectrum.real.square() + spectrum.imag.square()) * _folded(sound, spectrum.shape[-1])
    mean = (power * k_weighting(spectrum.shape[-1], sample_rate).to(power)).sum(dim=-1) / sound.shape[-1] ** 2
    lufs: Tensor = OFFSET_DB + 10 * mean.clamp_min(QUIETEST).log10()
    return lufs


def _folded(sound: Tensor, frequencies: int) -> Tensor:
    """How often each bin of a real spectrum stands in the whole one (Parseval)."""
    counts = torch.full((frequencies,), 2.0, dtype=sound.dtype, device=sound.device)
    counts[0] = 1.0
    if sound.shape[-1] % 2 == 0:
        counts[-1] = 1.0
    return counts


def weighted(sound: Tensor, sample_rate: int) -> Tensor:
    """`sound` (..., T) with the magnitudes of the K filter and no delay; its mean square is the loudness."""
    spectrum = torch.fft.rfft(sound)
    gain = k_weighting(spectrum.shape[-1], sample_rate).sqrt().to(sound)
    heard: Tensor = torch.fft.irfft(spectrum * gain, sound.shape[-1])
    return heard
