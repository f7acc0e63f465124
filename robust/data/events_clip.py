"""One clip of `events` from (seed, split, index), whatever else is asked for; NumPy and SciPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robust.data.events_plan import draw_plan
from robust.data.events_room import record
from robust.data.events_settings import FRAMES, LABELS, SAMPLES, SIDE
from robust.data.events_sight import sight
from robust.data.events_sound import pulse_range, sound

SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}
_LABEL_STREAM, _CLIP_STREAM = 0, 1

Arrays = tuple[NDArray[np.int16], NDArray[np.uint8]]


def labels_of(seed: int, split: str, count: int) -> NDArray[np.int64]:
    """Labels of the first `count` clips: every run of K holds each class once, in an order of its own."""
    blocks = -(-count // len(LABELS))
    key = (seed, SPLIT_KEYS[split], _LABEL_STREAM)
    orders = [_generator(*key, block).permutation(len(LABELS)) for block in range(blocks)]
    return np.concatenate(orders)[:count].astype(np.int64)


def render(seed: int, split: str, index: int, label: int) -> Arrays:
    """The clip's audio, (SAMPLES,) int16, and video, (FRAMES, 3, SIDE, SIDE) uint8."""
    key = (seed, SPLIT_KEYS[split], _CLIP_STREAM, index)
    planner, ear, eye = (_generator(*key, stream) for stream in range(3))
    name = LABELS[label]
    plan = draw_plan(name, pulse_range(name), planner)
    return record(sound(plan, ear), ear), sight(plan, eye)


def render_range(seed: int, split: str, start: int, labels: NDArray[np.int64]) -> Arrays:
    """Clips `start` and following, one for each of `labels`, stacked."""
    audio = np.empty((len(labels), SAMPLES), dtype=np.int16)
    video = np.empty((len(labels), FRAMES, 3, SIDE, SIDE), dtype=np.uint8)
    for offset, label in enumerate(labels):
        audio[offset], video[offset] = render(seed, split, start + offset, int(label))
    return audio, video


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
