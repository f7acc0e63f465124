"""Time: speed, delay, holes and cut edges. What is stated as muted is muted: holes never overlap."""

from __future__ import annotations

import numpy as np

from robust.corruptions.augmenting import augmented
from robust.corruptions.base import Corruption, Floats, Transform, on_clips, register_corruption
from robust.corruptions.measures import DELAY, MUTED, STRETCH

MUTED_SHARES = (0.1, 0.2, 0.3, 0.45, 0.6)
SLOTS = 40


def stretch(ratio: float, sample_rate: int) -> Transform:
    """Faster or slower at the same pitch, by audiomentations; cut, or filled with zeros, to the length of the clip."""
    from audiomentations import TimeStretch

    rates = {way: TimeStretch(min_rate=ratio**way, max_rate=ratio**way, p=1.0) for way in (-1.0, 1.0)}

    def stretched(clip: Floats, generator: np.random.Generator) -> Floats:
        return augmented(rates[generator.choice([-1.0, 1.0])], clip, sample_rate, generator)

    return on_clips(stretched)


def delay(share: float, sample_rate: int) -> Transform:
    """Later by a share of the clip, zeros before it; what comes after its end is lost."""

    def later(clip: Floats, generator: np.random.Generator) -> Floats:
        late = round(share * len(clip))
        return np.concatenate([np.zeros(late), clip[: len(clip) - late]])

    return on_clips(later)


def dropouts(share: float, sample_rate: int) -> Transform:
    """So many of 40 equal slots are silent; those of one severity are among those of the next."""

    def holed(clip: Floats, generator: np.random.Generator) -> Floats:
        slots = min(SLOTS, len(clip))
        silent = np.zeros(slots, dtype=bool)
        silent[generator.permutation(slots)[: round(share * slots)]] = True
        return np.where(silent[np.arange(len(clip)) * slots // len(clip)], 0.0, clip)

    return on_clips(holed)


def gap(share: float, sample_rate: int) -> Transform:
    """One hole; that of one severity lies within that of the next."""

    def holed(clip: Floats, generator: np.random.Generator) -> Floats:
        first, last = _stretch_of(share, len(clip), generator)
        return np.concatenate([clip[:first], np.zeros(last - first), clip[last:]])

    return on_clips(holed)


def edges(share: float, sample_rate: int) -> Transform:
    """Silent at the beginning and the end, together so much; what is left at one severity lay within that before."""

    def cut(clip: Floats, generator: np.random.Generator) -> Floats:
        first, last = _stretch_of(1 - share, len(clip), generator)
        return np.concatenate([np.zeros(first), clip[first:last], np.zeros(len(clip) - last)])

    return on_clips(cut)


def _stretch_of(share: float, samples: int, generator: np.random.Generator) -> tuple[int, int]:
    """A random stretch of a clip, growing with `share` to both sides until it is all of it."""
    length = round(share * samples)
    first = round(generator.uniform() * (samples - length))
    return first, first + length


register_corruption(
    Corruption(
        "stretch",
        "temporal",
        "audio",
        "ratio of speeds",
        (1.1, 1.2, 1.35, 1.5, 1.8),
        stretch,
        STRETCH,
        "faster or slower, by clip, at the same pitch",
    )
)
register_corruption(
    Corruption(
        "shift",
        "temporal",
        "audio",
        "delay (share of the clip)",
        (0.05, 0.1, 0.2, 0.35, 0.5),
        delay,
        DELAY,
        "later, with silence before",
    )
)
for _name, _make, _summary in (
    ("dropouts", dropouts, "many short holes that never overlap"),
    ("gap", gap, "one long hole"),
    ("edges", edges, "beginning and end cut off"),
):
    register_corruption(
        Corruption(_name, "temporal", "audio", "muted (share of the clip)", MUTED_SHARES, _make, MUTED, _summary)
    )
