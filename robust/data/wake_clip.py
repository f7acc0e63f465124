"""One clip of `events-wake` from (seed, split, index), whatever else is asked for; NumPy and SciPy only.

What does not wake is, in equal parts or so, daily phrases, phrases that share syllables with the one that wakes, parts
of it, invented words, and things that are no speech. Change a number here and `VERSION` must go up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from robust.data.events_plan import Floats, log_uniform, uniform
from robust.data.wake_phonemes import CODAS, CONFUSABLE, NUCLEI, ONSETS, ORDINARY, WAKE, WAKE_WORDS, Syllables
from robust.data.wake_voice import SAMPLE_RATE, Speaker, draw_speaker, speak

VERSION = 1
LABELS = ("other", "wake")
CLIP_SECONDS = 1.6
SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE)
PER_WAKE = 3
"""One clip in three wakes."""

SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}
SPEAKERS = {"train": 80, "validation": 20, "test": 20}
"""No speaker is in two splits."""

SNR_DB, LEVEL_DBFS = (0.0, 35.0), (-34.0, -16.0)
RT60_S, WET = (0.08, 0.4), (0.0, 0.5)
NOT_WAKE = {"ordinary": 0.3, "confusable": 0.25, "part": 0.15, "invented": 0.15, "no speech": 0.15}
PLAYING = 0.4
"""Share of clips whose background is somebody playing rather than noise."""

COMPANY = 0.3
"""Share of clips of speech in which more is said before or after, cut by the clip's ends."""

_SPEAKER_STREAM, _LABEL_STREAM, _CLIP_STREAM, STREAM_STREAM = range(4)

Voice = Callable[[str, Syllables, Speaker, np.random.Generator], Floats]
"""Says a phrase, given in words and in syllables: (T,) float64 of root mean square about 1."""


def formant_voice(words: str, syllables: Syllables, speaker: Speaker, rng: np.random.Generator) -> Floats:
    """Our own synthesiser."""
    return speak(syllables, speaker, rng)


def generator(*key: int) -> np.random.Generator:
    """A generator of its own for every key."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def labels_of(seed: int, split: str, count: int) -> NDArray[np.int64]:
    """Labels of the first `count` clips: one of every `PER_WAKE` wakes, its place drawn."""
    blocks = -(-count // PER_WAKE)
    rng = generator(seed, SPLIT_KEYS[split], _LABEL_STREAM)
    labels = np.zeros((blocks, PER_WAKE), dtype=np.int64)
    labels[np.arange(blocks), rng.integers(0, PER_WAKE, blocks)] = 1
    return labels.ravel()[:count]


def speaker_of(seed: int, split: str, number: int) -> Speaker:
    """Speaker `number` of a split."""
    return draw_speaker(generator(seed, SPLIT_KEYS[split], _SPEAKER_STREAM, number))


def render(seed: int, split: str, index: int, label: int, voice: Voice = formant_voice) -> NDArray[np.int16]:
    """The clip's audio, (SAMPLES,) int16."""
    rng = generator(seed, SPLIT_KEYS[split], _CLIP_STREAM, index)
    speaker = speaker_of(seed, split, int(rng.integers(SPEAKERS[split])))
    if label == LABELS.index("wake"):
        dry = _spoken(voice(WAKE_WORDS, WAKE, speaker, rng), speaker, voice, rng)
    else:
        kind = str(rng.choice(list(NOT_WAKE), p=list(NOT_WAKE.values())))
        dry = (
            no_speech(SAMPLES, rng)
            if kind == "no speech"
            else _spoken(_other(kind, speaker, voice, rng), speaker, voice, rng)
        )
    return record(dry, rng)


def render_range(
    seed: int, split: str, start: int, labels: NDArray[np.int64], voice: Voice = formant_voice
) -> NDArray[np.int16]:
    """Clips `start` and following, one for each of `labels`: (N, SAMPLES) int16."""
    return np.stack([render(seed, split, start + place, int(label), voice) for place, label in enumerate(labels)])


def other_phrase(rng: np.random.Generator, kind: str) -> tuple[str, Syllables]:
    """A phrase that does not wake: `ordinary`, `confusable` or `invented`."""
    if kind == "invented":
        syllables = tuple(_syllable(rng) for _ in range(int(rng.integers(2, 6))))
        return " ".join("".join(syllable).lower() for syllable in syllables), syllables
    phrases = ORDINARY if kind == "ordinary" else CONFUSABLE
    words = str(rng.choice(list(phrases)))
    return words, phrases[words]


def _syllable(rng: np.random.Generator) -> tuple[str, ...]:
    onset, nucleus, coda = (str(rng.choice(choices)) for choices in (ONSETS, NUCLEI, CODAS))
    return (*onset.split(), nucleus, *coda.split())


def _other(kind: str, speaker: Speaker, voice: Voice, rng: np.random.Generator) -> Floats:
    if kind != "part":
        words, syllables = other_phrase(rng, kind)
        return voice(words, syllables, speaker, rng)
    whole = voice(WAKE_WORDS, WAKE, speaker, rng)
    share = rng.uniform(0.3, 0.6)  # of what is heard: half the phrase at most, give or take a sound
    cut = round(share * len(whole))
    part = whole[:cut] if rng.random() < 0.5 else whole[-cut:]
    return faded(part)


def faded(sound: Floats, seconds: float = 0.01) -> Floats:
    """With raised-cosine flanks, so that a cut does not click."""
    length = min(round(seconds * SAMPLE_RATE), len(sound) // 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(length) / max(length, 1))
    shaped = sound.copy()
    shaped[:length] *= ramp
    shaped[len(shaped) - length :] *= ramp[::-1]
    return shaped


def _spoken(phrase: Floats, speaker: Speaker, voice: Voice, rng: np.random.Generator) -> Floats:
    """The phrase whole, somewhere in the clip; now and then with other speech before or after it."""
    phrase = phrase[:SAMPLES]
    dry = np.zeros(SAMPLES)
    start = int(rng.integers(0, SAMPLES - len(phrase) + 1))
    dry[start : start + len(phrase)] += phrase
    if rng.random() < COMPANY:
        more = voice(*other_phrase(rng, "ordinary"), speaker, rng)
        pause = int(rng.uniform(0.05, 0.3) * SAMPLE_RATE)
        if rng.random() < 0.5:
            place(dry, more, start + len(phrase) + pause)
        else:
            place(dry, more, start - pause - len(more))
    return dry


def place(canvas: Floats, sound: Floats, start: int) -> None:
    """Adds to `canvas` what falls into it of a sound that begins at `start`, in place."""
    first, last = max(start, 0), min(start + len(sound), len(canvas))
    if first < last:
        canvas[first:last] += sound[first - start : last - start]


def no_speech(samples: int, rng: np.random.Generator) -> Floats:
    """Nothing, plucked notes, chirps, knocks or gusts of noise: (samples,)."""
    kind = int(rng.integers(5))
    canvas = np.zeros(samples)
    if kind == 0:
        return canvas
    for _ in range(int(rng.integers(1, 9))):
        length = int(rng.uniform(0.05, 0.6) * SAMPLE_RATE)
        times = np.arange(length) / SAMPLE_RATE
        if kind == 1:
            sound = plucked(length, rng)
        elif kind == 2:
            sound = np.sin(2 * np.pi * log_uniform(rng, (80.0, 1200.0)) * times * (1 + rng.uniform(-0.5, 1.5) * times))
        elif kind == 3:
            sound = rng.standard_normal(length) * np.exp(-times / 0.01)
        else:
            sound = noise(length, rng)
        place(canvas, faded(sound * rng.uniform(0.3, 1.0)), int(rng.integers(-length // 2, samples)))
    return canvas


def plucked(samples: int, rng: np.random.Generator) -> Floats:
    """A note whose overtones die away the sooner the higher they are."""
    times = np.arange(samples) / SAMPLE_RATE
    hz, fall = log_uniform(rng, (80.0, 1000.0)), np.exp(-times / log_uniform(rng, (0.05, 0.6)))
    overtones = [k for k in range(1, int(rng.integers(3, 13))) if hz * k < 7500]
    slope = uniform(rng, (0.3, 1.5))
    parts = [np.sin(2 * np.pi * (hz * k * times + rng.random())) * fall ** (1 + 0.3 * k) / k**slope for k in overtones]
    note: Floats = np.sum(parts, axis=0)
    return note


def background(samples: int, rng: np.random.Generator) -> Floats:
    """Noise, or somebody playing: root mean square 1."""
    if rng.random() >= PLAYING:
        return noise(samples, rng)
    canvas = 1e-3 * noise(samples, rng)
    for _ in range(int(rng.uniform(3, 14) * samples / SAMPLE_RATE)):
        length = int(rng.uniform(0.2, 1.0) * SAMPLE_RATE)
        place(canvas, faded(plucked(length, rng), 0.003), int(rng.integers(-length // 2, samples)))
    playing: Floats = canvas / np.sqrt(np.mean(canvas**2))
    return playing


def noise(samples: int, rng: np.random.Generator) -> Floats:
    """Noise of a power spectrum 1 / f^slope, root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    coloured = np.fft.irfft(spectrum * np.maximum(hertz, 50.0) ** (-uniform(rng, (0.0, 1.8)) / 2), samples)
    steady: Floats = coloured / (np.sqrt(np.mean(coloured**2)) + 1e-12)
    return steady


def reverberate(dry: Floats, rng: np.random.Generator) -> Floats:
    """Adds a diffuse tail of random length and level."""
    rt60_s, wet = log_uniform(rng, RT60_S), uniform(rng, WET)
    times = np.arange(int(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * np.exp(-6.908 * times / rt60_s)
    tail *= np.sqrt(wet / np.sum(tail**2))
    tail[0] = 1.0
    heard: Floats = oaconvolve(dry, tail)[: len(dry)]
    return heard


def record(dry: Floats, rng: np.random.Generator) -> NDArray[np.int16]:
    """Room, background, microphone and level: int16 of the same length."""
    wet = reverberate(dry, rng)
    loudness = np.sqrt(np.mean(wet[np.abs(wet) > 1e-3] ** 2)) if np.any(np.abs(wet) > 1e-3) else 1.0
    snr_db, level_dbfs = uniform(rng, SNR_DB), uniform(rng, LEVEL_DBFS)
    heard = wet / loudness + 10 ** (-snr_db / 20) * background(len(dry), rng)
    heard *= 10 ** (level_dbfs / 20)
    samples: NDArray[np.int16] = np.rint(32767 * np.clip(heard, -1, 1)).astype(np.int16)
    return samples
