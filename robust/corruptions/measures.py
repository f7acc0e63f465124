"""How hard a clip was hit, measured from what went in and what came out, whatever the corruption says of itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import stft

from robust.channels.noise import FRAME_SECONDS, active_region, snr_db_of

Values: TypeAlias = NDArray[np.floating]

ENVELOPE_SECONDS = 0.01


@dataclass(frozen=True)
class Measure:
    """A figure of damage.

    Attributes:
        name: With its unit, e.g. `snr_db`.
        harder: `up` or `down`: which way the damage is greater.
        of: From a clip before and after (one shape; waveforms (T,), videos (F, C, H, W)) and its rate in Hz to the
            figure; NaN where there is nothing to measure.
    """

    name: str
    harder: Literal["up", "down"]
    of: Callable[[Values, Values, int], float]


def snr_db(clean: Values, heard: Values, sample_rate: int) -> float:
    """Energy of the clip over that of what was changed, over the active part; NaN where it is silent."""
    before, after = (torch.as_tensor(np.ascontiguousarray(value)) for value in (clean, heard))
    active = active_region(before, torch.ones_like(before, dtype=torch.bool), round(FRAME_SECONDS * sample_rate))
    return snr_db_of(before, after, active)


def level_db(clean: Values, heard: Values, sample_rate: int) -> float:
    """Level after over level before."""
    before, after = (float(np.square(value, dtype=np.float64).mean()) for value in (clean, heard))
    return 10 * math.log10(max(after, 1e-30) / before) if before > 0 else math.nan


def muted_share(clean: Values, heard: Values, sample_rate: int) -> float:
    """Share of the samples that were not zero and now are; NaN where all were zero."""
    there = clean != 0
    return float((heard[there] == 0).mean()) if there.any() else math.nan


def changed_share(clean: Values, heard: Values, sample_rate: int) -> float:
    """Share of the samples that are other than before, by more than 16 bits round."""
    return float((np.abs(clean.astype(np.float64) - heard) > 2**-15).mean())


def delay_share(clean: Values, heard: Values, sample_rate: int) -> float:
    """How much later sound begins, over the length of the clip; NaN for silence."""
    if not (np.any(clean) and np.any(heard)):
        return math.nan
    return (int(np.argmax(heard != 0)) - int(np.argmax(clean != 0))) / len(clean)


def stretch_ratio(clean: Values, heard: Values, sample_rate: int) -> float:
    """How much faster or slower it got: the warp of time that fits the envelopes best, as a ratio from 1."""
    step = max(1, round(ENVELOPE_SECONDS * sample_rate))
    before, after = (_blocks(value, step) for value in (clean, heard))
    factor = _best_warp(before, after, np.geomspace(0.5, 2.0, 141))
    return max(factor, 1 / factor) if factor > 0 else math.nan


def pitch_semitones(clean: Values, heard: Values, sample_rate: int) -> float:
    """How far the spectrum was moved, in semitones up or down: the warp of frequency that fits best."""
    before, after = (_spectrum(value, sample_rate) for value in (clean, heard))
    factor = _best_warp(before, after, 2 ** (np.arange(-56, 57) / 48))
    return abs(12 * math.log2(factor)) if factor > 0 else math.nan


def log_spectral_db(clean: Values, heard: Values, sample_rate: int) -> float:
    """Log-spectral distance: root mean square over frequency of the difference in dB, averaged over active frames.

    Both spectra have a floor 60 dB below the loudest bin of the clip before, and frames 40 dB below its loudest are
    left out: `robust.metrics.perceptual`, which looks deeper, counts what codecs leave empty where nobody hears it.
    """
    size = 1 << max(5, round(math.log2(0.032 * sample_rate)))
    before, after = (np.abs(_stft(value, size, sample_rate)) ** 2 for value in (clean, heard))
    floor = before.max() * 1e-6
    if floor <= 0:
        return math.nan
    active = before.sum(axis=0) > before.sum(axis=0).max() * 1e-4
    apart = 10 * np.log10((after[:, active] + floor) / (before[:, active] + floor))
    return float(np.sqrt((apart**2).mean(axis=0)).mean())


def psnr_db(clean: Values, seen: Values, sample_rate: int) -> float:
    """Peak signal-to-noise ratio of pixels in [0, 1]; infinite where nothing changed."""
    error = float(np.square(clean.astype(np.float64) - seen).mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def changed_pixels(clean: Values, seen: Values, sample_rate: int) -> float:
    """Share of the pixels that are visibly other than before, by more than 2 steps of 8 bit in any colour."""
    return float((np.abs(clean.astype(np.float64) - seen).max(axis=1) > 2 / 255).mean())


def black_frames(clean: Values, seen: Values, sample_rate: int) -> float:
    """Share of the frames that are black."""
    return float((seen.reshape(len(seen), -1).max(axis=1) == 0).mean())


def repeated_frames(clean: Values, seen: Values, sample_rate: int) -> float:
    """Share of the frames that show what the frame before them shows."""
    alike = [np.array_equal(one, other) for one, other in itertools.pairwise(seen)]
    return sum(alike) / len(seen)


def _stft(clip: Values, size: int, sample_rate: int) -> NDArray[np.complexfloating]:
    padded = np.pad(np.asarray(clip, dtype=np.float64), (0, max(0, size - len(clip))))
    found: NDArray[np.complexfloating] = stft(padded, sample_rate, nperseg=size)[2]
    return found


def _blocks(clip: Values, step: int) -> NDArray[np.float64]:
    """Root mean square of steps."""
    whole = len(clip) // step * step
    found: NDArray[np.float64] = np.sqrt(np.square(clip[:whole], dtype=np.float64).reshape(-1, step).mean(axis=1))
    return found


def _spectrum(clip: Values, sample_rate: int) -> NDArray[np.float64]:
    """Mean magnitude of short spectra, compressed so that quiet partials count."""
    size = 1 << max(5, round(math.log2(0.128 * sample_rate)))
    found: NDArray[np.float64] = np.sqrt(np.abs(_stft(clip, size, sample_rate)).mean(axis=1))
    return found


def _best_warp(before: NDArray[np.float64], after: NDArray[np.float64], factors: NDArray[np.float64]) -> float:
    """The factor f for which `after` at x is most like `before` at x / f; 0 where one of them says nothing."""
    if not len(before):  # shorter than a step
        return 0.0
    places = np.arange(len(after), dtype=np.float64)
    best, found = 0.0, 0.0
    for factor in factors:
        warped = np.interp(places / factor, places, before, right=0.0)
        size = float(np.linalg.norm(warped) * np.linalg.norm(after))
        alike = float(warped @ after) / size if size > 0 else 0.0
        if alike > best:
            best, found = alike, float(factor)
    return found


SNR = Measure("snr_db", "down", snr_db)
LEVEL = Measure("level_db", "down", level_db)
CHANGED = Measure("changed_share", "up", changed_share)
MUTED = Measure("muted_share", "up", muted_share)
DELAY = Measure("delay_share", "up", delay_share)
STRETCH = Measure("stretch_ratio", "up", stretch_ratio)
PITCH = Measure("pitch_semitones", "up", pitch_semitones)
LOG_SPECTRAL = Measure("log_spectral_db", "up", log_spectral_db)
PSNR = Measure("psnr_db", "down", psnr_db)
CHANGED_PIXELS = Measure("changed_pixels_share", "up", changed_pixels)
BLACK_FRAMES = Measure("black_frames_share", "up", black_frames)
REPEATED_FRAMES = Measure("repeated_frames_share", "up", repeated_frames)
