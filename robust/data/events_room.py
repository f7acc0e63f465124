"""From a dry sound to a recording: room, background noise, microphone, level, 16-bit samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, oaconvolve

from robust.data.events_plan import Floats, log_uniform, uniform
from robust.data.events_settings import RECORDING, SAMPLE_RATE, SAMPLES, Recording


def record(dry: Floats, rng: np.random.Generator, recording: Recording = RECORDING) -> NDArray[np.int16]:
    """Records `dry`, (SAMPLES,) float64, as (SAMPLES,) int16 of random peak level, never clipped."""
    audio = reverberate(dry, log_uniform(rng, recording.rt60_s), uniform(rng, recording.wet), rng)
    noise = background(rng, uniform(rng, recording.noise_slope), uniform(rng, recording.noise_swell))
    snr_db = uniform(rng, recording.snr_db)
    audio = audio / np.sqrt(np.mean(audio**2)) + 10 ** (-snr_db / 20) * noise
    audio = lfilter([1.0, -uniform(rng, recording.tilt)], [1.0], audio)
    peak = 32767 * 10 ** (uniform(rng, recording.peak_dbfs) / 20)
    samples: NDArray[np.int16] = np.rint(audio * (peak / np.abs(audio).max())).astype(np.int16)
    return samples


def reverberate(dry: Floats, rt60_s: float, wet: float, rng: np.random.Generator) -> Floats:
    """Adds a diffuse tail, noise that falls 60 dB in `rt60_s`, with `wet` times the energy of the direct sound."""
    times = np.arange(int(min(rt60_s, 0.6) * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * np.exp(-6.908 * times / rt60_s)
    tail *= np.sqrt(wet / np.sum(tail**2))
    delay = int(rng.uniform(0.001, 0.02) * SAMPLE_RATE)
    late = oaconvolve(dry, tail)[: SAMPLES - delay]
    audio = dry.copy()
    audio[delay:] += late
    return audio


def background(rng: np.random.Generator, slope: float, swell: float) -> Floats:
    """Noise of power spectrum 1/f^slope that swells slowly; root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLES))
    f = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * np.maximum(f, 40.0) ** (-slope / 2), SAMPLES)
    turn = 2 * np.pi * (rng.uniform(0.3, 2.0) * np.arange(SAMPLES) / SAMPLE_RATE + rng.uniform())
    swollen: Floats = noise * (1 + swell * np.sin(turn))
    swollen /= np.sqrt(np.mean(swollen**2))
    return swollen
