"""A formant synthesiser: from syllables and a speaker to a voice.

After Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980): glottal pulses and breath through a
cascade of five resonators, noise of constrictions through a band-pass of its own beside it. Targets of segments are
smoothed over time, which is all the coarticulation there is. NumPy and SciPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter, sosfilt

from robust.data.events_plan import Floats, log_uniform, uniform
from robust.data.wake_phonemes import PHONEMES, Segment, Syllables

SAMPLE_RATE = 16_000
FRAME = 80
"""Samples (5 ms) for which filters stand still."""

BANDWIDTHS_HZ = np.array([70.0, 100.0, 150.0, 220.0, 280.0])
UPPER_FORMANTS_HZ = (3500.0, 4500.0)
EDGE_MS = 15.0
"""Of closed glottis before and after, over which the voice sets in and dies away."""

PEAK = 4.0
FORMANT_SMOOTHING_MS, LEVEL_SMOOTHING_MS = 18.0, 6.0


@dataclass(frozen=True)
class Speaker:
    """Who speaks.

    Attributes:
        pitch_hz: Mean fundamental frequency.
        tract: Multiplier of all formants: above 1 a vocal tract shorter than an average man's.
        rate: Speed of speech; 1 is normal.
        breath: Amplitude of noise in the voice.
        tilt: Pole of the low-pass on the glottal pulses, 0 (pressed) to below 1 (soft).
        open_quotient: Share of a period in which the glottis is open.
        melody: Depth of pitch movement, in semitones.
        accent: (3,) multipliers of F1 to F3 on top of `tract`.
    """

    pitch_hz: float
    tract: float
    rate: float
    breath: float
    tilt: float
    open_quotient: float
    melody: float
    accent: tuple[float, float, float]


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """A man, a woman or a child: pitch and tract go together, loosely."""
    pitch_hz = log_uniform(rng, (85.0, 280.0))
    size = np.log(pitch_hz / 85.0) / np.log(280.0 / 85.0)
    return Speaker(
        pitch_hz=pitch_hz,
        tract=0.94 + 0.22 * size + uniform(rng, (-0.05, 0.05)),
        rate=uniform(rng, (0.85, 1.2)),
        breath=log_uniform(rng, (0.01, 0.12)),
        tilt=uniform(rng, (0.5, 0.85)),
        open_quotient=uniform(rng, (0.45, 0.7)),
        melody=uniform(rng, (1.0, 5.0)),
        accent=tuple(rng.normal(1.0, (0.03, 0.025, 0.02)).tolist()),
    )


def speak(syllables: Syllables, speaker: Speaker, rng: np.random.Generator) -> Floats:
    """The phrase, (T,) float64 at 16 kHz, of root mean square about 1; a take: no two are alike."""
    segments = [part for syllable in syllables for phoneme in syllable for part in PHONEMES[phoneme]]
    segments = [Segment(EDGE_MS, segments[0].formants_hz), *segments, Segment(EDGE_MS, segments[-1].formants_hz)]
    frames = _frames(segments, speaker, rng)
    tracks = _tracks(segments, frames, speaker, rng)
    samples = len(tracks.voice) * FRAME
    pitch = _pitch(len(tracks.voice), speaker, rng)
    glottis = _pulses(pitch, speaker.open_quotient)
    glottis = lfilter([1.0 - speaker.tilt], [1.0, -speaker.tilt], glottis)
    glottis /= np.sqrt(np.mean(glottis**2)) + 1e-12
    noise = rng.standard_normal(samples)
    voice, breath = np.repeat(tracks.voice, FRAME), np.repeat(tracks.breath, FRAME)
    source = voice * (glottis + speaker.breath * noise) + breath * noise
    tract = _through(source, tracks.cascade)
    hiss = _through(np.repeat(tracks.hiss, FRAME) * rng.standard_normal(samples), tracks.constriction)
    spoken: Floats = lfilter([1.0, -0.9], [1.0], tract) + hiss
    spoken /= np.sqrt(np.mean(spoken**2)) + 1e-12
    # Filters that jump between frames click where formants race (into an R); a voice has no such peaks.
    limited: Floats = PEAK * np.tanh(spoken / PEAK)
    return limited


@dataclass(frozen=True)
class _Tracks:
    """Parameters over F frames: amplitudes (F,), second-order sections (F, sections, 6)."""

    voice: Floats
    breath: Floats
    hiss: Floats
    cascade: Floats
    constriction: Floats


def _frames(segments: list[Segment], speaker: Speaker, rng: np.random.Generator) -> NDArray[np.int64]:
    """Length of every segment in frames; takes differ by some tenths, the end is drawn out."""
    milliseconds = np.array([segment.milliseconds for segment in segments]) / speaker.rate
    milliseconds *= np.exp(rng.normal(0.0, 0.12, len(segments)) + rng.normal(0.0, 0.05))
    milliseconds[-3:-1] *= 1.2
    frames: NDArray[np.int64] = np.maximum(1, np.rint(milliseconds * SAMPLE_RATE / 1000 / FRAME)).astype(np.int64)
    return frames


def _tracks(segments: list[Segment], frames: NDArray[np.int64], speaker: Speaker, rng: np.random.Generator) -> _Tracks:
    """Targets held for each segment, then smoothed."""
    scale = speaker.tract * np.array(speaker.accent) * rng.normal(1.0, 0.015, 3)
    lower = np.array([segment.formants_hz for segment in segments]) * scale
    upper = np.tile(np.array(UPPER_FORMANTS_HZ) * speaker.tract, (len(segments), 1))
    formants = _smoothed(np.hstack([lower, upper]), frames, FORMANT_SMOOTHING_MS).clip(120.0, 7200.0)
    levels = np.array([(part.voice, part.breath, part.hiss) for part in segments])
    levels *= np.exp(rng.normal(0.0, 0.1, levels.shape))
    voice, breath, hiss = _smoothed(levels, frames, LEVEL_SMOOTHING_MS).T
    bands = np.array([(part.hiss_hz * speaker.tract**0.5, part.hiss_width_hz) for part in segments])
    centre, width = _smoothed(bands, frames, LEVEL_SMOOTHING_MS).T
    return _Tracks(voice, breath, hiss, _resonators(formants), _band_pass(centre.clip(300.0, 7200.0), width))


def _smoothed(targets: Floats, frames: NDArray[np.int64], milliseconds: float) -> Floats:
    width = milliseconds * SAMPLE_RATE / 1000 / FRAME
    smooth: Floats = gaussian_filter1d(np.repeat(targets, frames, axis=0), width, axis=0, mode="nearest")
    return smooth


def _resonators(formants_hz: Floats) -> Floats:
    """Klatt's resonators, unit gain at 0 Hz: (F, 5, 6) sections of formants (F, 5)."""
    radius = np.exp(-np.pi * BANDWIDTHS_HZ / SAMPLE_RATE)
    middle = 2 * radius * np.cos(2 * np.pi * formants_hz / SAMPLE_RATE)
    outer = np.broadcast_to(-(radius**2), middle.shape)
    sections = np.zeros((*formants_hz.shape, 6))
    sections[..., 0] = 1 - middle - outer
    sections[..., 3], sections[..., 4], sections[..., 5] = 1.0, -middle, -outer
    return sections


def _band_pass(centre_hz: Floats, width_hz: Floats) -> Floats:
    """Resonators with zeros at 0 Hz and the highest frequency, gain about 1 in the middle: (F, 1, 6)."""
    radius = np.exp(-np.pi * width_hz / SAMPLE_RATE)
    sections = np.zeros((len(centre_hz), 1, 6))
    sections[:, 0, 0], sections[:, 0, 2] = (1 - radius**2) / 2, -(1 - radius**2) / 2
    sections[:, 0, 3] = 1.0
    sections[:, 0, 4] = -2 * radius * np.cos(2 * np.pi * centre_hz / SAMPLE_RATE)
    sections[:, 0, 5] = radius**2
    return sections


def _pitch(frames: int, speaker: Speaker, rng: np.random.Generator) -> Floats:
    """(frames * FRAME,) Hz: it falls over the phrase, with a rise somewhere, and trembles."""
    times = np.linspace(0.0, 1.0, frames)
    peak, width = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.3)
    semitones = speaker.melody * (np.exp(-(((times - peak) / width) ** 2)) - rng.uniform(0.0, 0.8) * times)
    semitones += rng.normal(0.0, 1.0) + gaussian_filter1d(rng.normal(0.0, 0.4, frames), 2.0)
    pitch: Floats = np.repeat(speaker.pitch_hz * 2 ** (semitones / 12), FRAME)
    return pitch


def _pulses(pitch_hz: Floats, open_quotient: float) -> Floats:
    """Derivative of the glottal flow t^2 (1 - t) over the open part of each period (Klatt's natural source)."""
    phase = np.cumsum(pitch_hz / SAMPLE_RATE) % 1.0
    opened = phase / open_quotient
    pulses: Floats = np.where(opened < 1.0, 2 * opened - 3 * opened**2, 0.0)
    return pulses


def _through(source: Floats, sections: Floats) -> Floats:
    """Filters frame after frame, carrying the state on."""
    state = np.zeros((sections.shape[1], 2))
    heard = np.empty_like(source)
    for frame, filters in enumerate(sections):
        part = slice(frame * FRAME, (frame + 1) * FRAME)
        heard[part], state = sosfilt(filters, source[part], zi=state)
    return heard
