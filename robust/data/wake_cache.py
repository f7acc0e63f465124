"""Generating `events-wake` on every core, once, and keeping it as one .npy file for each split.

A file appears whole or not at all; what cannot be read as it should be is made again.
"""

from __future__ import annotations

import io
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.atomic import write_atomically
from robust.data.cache import cache_dir
from robust.data.wake_clip import SAMPLES, VERSION, labels_of, render_range
from robust.data.wake_espeak import espeak_voice
from robust.errors import StoreError
from robust.parallel import in_parallel

_PIECE_CLIPS = 50


def load_clips(seed: int, split: str, count: int, espeak: str | None = None) -> NDArray[np.int16]:
    """The first `count` clips, (count, SAMPLES), from the cache where it has as many, else generated and cached.

    Args:
        seed: Of the whole set.
        split: Of the set.
        count: How many clips.
        espeak: Version of espeak-ng, if it is to speak; part of the key.

    A cache that cannot be written is a warning; the clips then live in memory.
    """
    voice = "formant" if espeak is None else f"espeak-{espeak}"
    folder = cache_dir() / "events-wake" / f"v{VERSION}-{voice}-seed{seed}-{split}"
    found = _read(folder, count)
    if found is not None:
        return found
    clips = _generate(seed, split, count, espeak is not None)
    path = folder / f"{count:06d}.npy"
    content = io.BytesIO()
    np.save(content, clips, allow_pickle=False)
    try:
        write_atomically(path, content.getvalue())
    except StoreError as error:
        warnings.warn(
            f"events-wake cannot be cached ({error}); generated in memory for this run. Set ROBUST_CACHE to a folder "
            "that can be written.",
            stacklevel=3,
        )
        return clips
    held = _map(path, count)
    return clips if held is None else held


def _read(folder: Path, count: int) -> NDArray[np.int16] | None:
    for path in sorted(folder.glob("[0-9]*.npy")):
        held = int(path.stem) if path.stem.isdigit() else 0
        if held >= count and (clips := _map(path, held)) is not None:
            return clips[:count]
    return None


def _map(path: Path, count: int) -> NDArray[np.int16] | None:
    """The cached clips, or nothing where the file is not what it should be."""
    try:
        clips: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return clips if clips.shape == (count, SAMPLES) and clips.dtype == np.int16 else None


def _generate(seed: int, split: str, count: int, espeak: bool) -> NDArray[np.int16]:
    """Renders all clips, over all cores where that pays."""
    labels = labels_of(seed, split, count)
    render = partial(render_range, voice=espeak_voice) if espeak else render_range
    calls = [(seed, split, first, labels[first : first + _PIECE_CLIPS]) for first in range(0, count, _PIECE_CLIPS)]
    return np.concatenate(in_parallel(render, calls, title=f"generating events-wake ({split})"))
