"""Long recordings in the manner of `events-wake`, for false alarms per hour and detection delays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robust.data.events_plan import Floats, uniform
from robust.data.wake_clip import (
    LEVEL_DBFS,
    NOT_WAKE,
    SNR_DB,
    SPEAKERS,
    SPLIT_KEYS,
    STREAM_STREAM,
    background,
    formant_voice,
    generator,
    no_speech,
    other_phrase,
    place,
    reverberate,
    speaker_of,
)
from robust.data.wake_phonemes import WAKE, WAKE_WORDS
from robust.data.wake_voice import SAMPLE_RATE, Speaker
from robust.errors import DataError, unknown

WAKE_SHARE = 0.12
"""Of the sounds of a stream."""

PAUSE_S = (0.3, 2.5)
BLOCK_S = 30.0
"""For which background and level stay."""


@dataclass(frozen=True)
class WakeStream:
    """A recording and what is in it.

    Attributes:
        audio: (T,) float32 in [-1, 1] at 16 kHz.
        onsets_s: (E,) beginnings of the wake word.
        offsets_s: (E,) its ends.
        sample_rate: Hz.
    """

    audio: NDArray[np.float32]
    onsets_s: Floats
    offsets_s: Floats
    sample_rate: int = SAMPLE_RATE


def wake_stream(seed: int, minutes: float, *, split: str = "test") -> WakeStream:
    """A recording of people who talk, now and then to the machine; sounds and silence between.

    Args:
        seed: Another seed, another recording.
        minutes: Its length, above 0.
        split: Whose speakers talk.

    Raises:
        DataError: If the length is not positive or the split unknown.
    """
    if split not in SPLIT_KEYS:
        raise DataError(unknown("split of events-wake", split, SPLIT_KEYS))
    if not minutes > 0:
        raise DataError(f"A stream must last longer than 0 minutes; given {minutes}.")
    rng = generator(seed, SPLIT_KEYS[split], STREAM_STREAM)
    samples = round(minutes * 60 * SAMPLE_RATE)
    audio = np.zeros(samples)
    onsets, offsets = [], []
    start = int(uniform(rng, PAUSE_S) * SAMPLE_RATE)
    while start < samples:
        speaker = speaker_of(seed, split, int(rng.integers(SPEAKERS[split])))
        wakes = rng.random() < WAKE_SHARE
        sound = formant_voice(WAKE_WORDS, WAKE, speaker, rng) if wakes else _other(speaker, rng)
        end = start + len(sound)
        if wakes and end <= samples:
            onsets.append(start / SAMPLE_RATE)
            offsets.append(end / SAMPLE_RATE)
        if not wakes or end <= samples:
            place(audio, reverberate(sound, rng), start)
        start = end + int(uniform(rng, PAUSE_S) * SAMPLE_RATE)
    return WakeStream(_recorded(audio, rng), np.array(onsets), np.array(offsets))


def _other(speaker: Speaker, rng: np.random.Generator) -> Floats:
    kinds = [kind for kind in NOT_WAKE if kind != "part"]
    weights = np.array([NOT_WAKE[kind] for kind in kinds])
    kind = str(rng.choice(kinds, p=weights / weights.sum()))
    if kind == "no speech":
        return no_speech(int(rng.uniform(0.5, 2.0) * SAMPLE_RATE), rng)
    return formant_voice(*other_phrase(rng, kind), speaker, rng)


def _recorded(audio: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """Background and level, block after block; the level of speech is 1 before."""
    block = round(BLOCK_S * SAMPLE_RATE)
    heard = np.empty(len(audio), dtype=np.float32)
    for first in range(0, len(audio), block):
        part = audio[first : first + block]
        noisy = part + 10 ** (-uniform(rng, SNR_DB) / 20) * background(len(part), rng)
        heard[first : first + block] = np.clip(noisy * 10 ** (uniform(rng, LEVEL_DBFS) / 20), -1, 1)
    return heard
