"""Noise at an SNR over the active part of a clip; all of it synthesised, no recording is needed.

A clip hears one draw at all severities: levels differ in nothing but their level. What leaves [-1, 1] is not clipped,
because a clipped clip has another SNR than it says; records tell how much it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.signal import oaconvolve

from robust.channels.noise import FRAME_SECONDS, active_region, at_snr, coloured_noise
from robust.corruptions.base import Corruption, Floats, Transform, on_clips, register_corruption

SNR_DB = (20.0, 10.0, 5.0, 0.0, -5.0)

Synthesis = Callable[[int, int, np.random.Generator], Floats]
"""(samples, sample_rate, generator) -> (samples,) noise at any level."""

TALKERS = 6
FORMANTS = ((300.0, 800.0, 1.0), (900.0, 2200.0, 0.4), (2300.0, 3200.0, 0.15))
"""Lowest and highest centre in Hz, and gain."""

FORMANT_WIDTH_HZ = 80.0
CLICKS_PER_SECOND, CRACKLES_PER_SECOND = 8.0, 150.0


def with_noise(synthesis: Synthesis) -> Callable[[float, int], Transform]:
    """A maker of transforms that add what `synthesis` gives at an SNR in dB."""

    def make(snr_db: float, sample_rate: int) -> Transform:
        frame = max(1, round(FRAME_SECONDS * sample_rate))

        def add(clip: Floats, generator: np.random.Generator) -> Floats:
            noise = torch.from_numpy(synthesis(len(clip), sample_rate, generator))
            before = torch.from_numpy(clip)
            real = torch.ones_like(before, dtype=torch.bool)
            active = active_region(before, real, frame)
            if not bool((noise[active] != 0).any()):  # nothing of a sparse noise falls into what is active
                return clip
            return at_snr(before, noise, snr_db, active, real).numpy()

        return on_clips(add)

    return make


def coloured(colour: str, samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Gaussian noise of a colour."""
    own = torch.Generator().manual_seed(int(generator.integers(2**62)))
    return coloured_noise(samples, colour, sample_rate, own).double().numpy()


def babble(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Six talkers: each a glottal buzz and breath through three formants that change with every syllable."""
    hop, size = round(0.2 * sample_rate), round(0.25 * sample_rate)  # some five syllables a second
    count = -(-samples // hop)
    voices = np.stack([_voice(hop * count + size, sample_rate, generator) for _ in range(TALKERS)])
    starts = hop * np.arange(count)
    pieces = voices[:, starts[:, None] + np.arange(size)]  # (talkers, syllables, size)
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)
    formants = np.zeros((TALKERS, count, len(frequency)))
    for low_hz, high_hz, gain in FORMANTS:
        centre_hz = generator.uniform(low_hz, high_hz, (TALKERS, count, 1))
        formants += gain / (1 + ((frequency - centre_hz) / FORMANT_WIDTH_HZ) ** 2)
    spectra = np.fft.rfft(pieces * np.hanning(size + 2)[1:-1]) * formants
    sung = np.fft.irfft(spectra.sum(axis=0), size)
    spoken = np.zeros(hop * count + size)
    for start, syllable in zip(starts, sung, strict=True):
        spoken[start : start + size] += syllable
    return spoken[:samples]


def _voice(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """A buzz of gliding pitch with breath in it."""
    seconds = np.arange(samples) / sample_rate
    pitch_hz = generator.uniform(90, 240) * (1 + 0.1 * np.sin(2 * np.pi * generator.uniform(0.3, 1.5) * seconds))
    turns = np.floor(generator.uniform() + np.cumsum(pitch_hz) / sample_rate)
    buzz = np.diff(turns, prepend=turns[:1]) * np.sqrt(sample_rate / 1000)
    voice: Floats = generator.uniform(0.5, 1.0) * (buzz + 0.05 * generator.standard_normal(samples))
    return voice


def hum(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Mains hum: 50 or 60 Hz, 12 dB less an octave up to the tenth partial, with random phases."""
    base_hz = generator.choice([50.0, 60.0])
    seconds = np.arange(samples) / sample_rate
    tones = [np.sin(2 * np.pi * (order * base_hz * seconds + generator.uniform())) / order**2 for order in range(1, 11)]
    found: Floats = np.sum(tones, axis=0)
    return found


def clicks(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Clicks of one sample and random sign, one in every eighth of a second."""
    return _impulses(samples, CLICKS_PER_SECOND, sample_rate, generator)


def crackle(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """A worn record: 150 pops a second of very unequal strength, each ringing for a millisecond."""
    pops = _impulses(samples, CRACKLES_PER_SECOND, sample_rate, generator)
    pops = pops * generator.pareto(2.0, samples)
    ring = np.exp(-np.arange(max(2, round(0.003 * sample_rate))) / (0.0007 * sample_rate))
    rung: Floats = oaconvolve(pops, ring * generator.choice([-1.0, 1.0], len(ring)))[:samples]
    return rung


def _impulses(samples: int, per_second: float, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Impulses at random places, one in each stretch of the mean gap, so that no clip goes without."""
    gap = max(1, round(sample_rate / per_second))
    train = np.zeros(samples)
    for start in range(0, samples, gap):
        train[start + generator.integers(min(gap, samples - start))] = generator.choice([-1.0, 1.0])
    return train


def wind(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Wind in a microphone: rumble that falls by 12 dB an octave above 40 Hz, in gusts."""
    size = 2 * samples  # twice as long, so that the end does not ring into the beginning
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)
    spectrum = np.fft.rfft(generator.standard_normal(size))
    rumble: Floats = np.fft.irfft(spectrum * (frequency >= 10) / (1 + (frequency / 40) ** 2), size)[:samples]
    seconds = np.arange(samples) / sample_rate
    gusts = sum(np.sin(2 * np.pi * (rate * seconds + generator.uniform())) for rate in (0.4, 0.9, 2.3))
    return rumble * np.exp(0.5 * gusts)


def rain(samples: int, sample_rate: int, generator: np.random.Generator) -> Floats:
    """Rain: a hiss of drops too many to tell, and single ones in front of it."""
    hiss = coloured("blue", samples, sample_rate, generator)
    drops = _impulses(samples, 300.0, sample_rate, generator) * generator.pareto(2.5, samples)
    ring = np.exp(-np.arange(max(2, round(0.004 * sample_rate))) / (0.001 * sample_rate))
    tone = np.sin(2 * np.pi * 0.18 * np.arange(len(ring)))
    patter: Floats = oaconvolve(drops, ring * tone)[:samples]
    return hiss / (np.std(hiss) + 1e-12) + patter / (np.std(patter) + 1e-12)


_NOISES: tuple[tuple[str, Synthesis, str], ...] = (
    ("white", partial(coloured, "white"), "Gaussian noise, equal power at all frequencies"),
    ("pink", partial(coloured, "pink"), "Gaussian noise, 3 dB less an octave"),
    ("brown", partial(coloured, "brown"), "Gaussian noise, 6 dB less an octave"),
    ("blue", partial(coloured, "blue"), "Gaussian noise, 3 dB more an octave"),
    ("babble", babble, "six synthetic talkers at once"),
    ("hum", hum, "mains hum of 50 or 60 Hz with its harmonics"),
    ("clicks", clicks, "eight clicks a second"),
    ("crackle", crackle, "pops of a worn record"),
)

for _name, _synthesis, _summary in _NOISES:
    register_corruption(
        Corruption(_name, "noise", "audio", "SNR (dB)", SNR_DB, with_noise(_synthesis), summary=_summary)
    )
