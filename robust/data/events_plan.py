"""What happens when in one clip: drawn once, followed by its sound and its sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robust.data.events_settings import RHYTHM, Range

Floats = NDArray[np.float64]


def uniform(rng: np.random.Generator, limits: Range) -> float:
    """One number between `limits`."""
    return float(rng.uniform(*limits))


def log_uniform(rng: np.random.Generator, limits: Range) -> float:
    """One number between `limits`, every ratio as likely as another; for frequencies, times and rates."""
    return float(np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]))))


@dataclass(frozen=True)
class Plan:
    """The events of one clip.

    Attributes:
        name: Class name.
        onsets_s: (E,) seconds, ascending, E >= 1.
        durations_s: (E,) seconds.
        strengths: (E,) in [0.4, 1].
        gap_s: Mean seconds between onsets.
        pulse_hz: Rate of what repeats inside an event: engine, rotor, sweep of a siren. 0 where nothing does.
    """

    name: str
    onsets_s: Floats
    durations_s: Floats
    strengths: Floats
    gap_s: float
    pulse_hz: float = 0.0

    def phase(self, times_s: Floats) -> Floats:
        """Event number as a continuous function of time: k at onset k, extrapolated outwards at the mean rate."""
        onsets, gap = self.onsets_s, self.gap_s
        inside = np.interp(times_s, onsets, np.arange(len(onsets), dtype=np.float64))
        before = np.minimum(times_s - onsets[0], 0.0) / gap
        after = np.maximum(times_s - onsets[-1], 0.0) / gap
        phase: Floats = inside + before + after
        return phase

    def ringing(self, times_s: Floats, decay_s: float) -> Floats:
        """Strength of events that start at once and die away."""
        since = times_s[:, None] - self.onsets_s
        left = np.where(since >= 0, np.exp(-np.maximum(since, 0.0) / decay_s), 0.0)
        level: Floats = left @ self.strengths
        return level

    def active(self, times_s: Floats, fade_s: float) -> Floats:
        """Strength of events that last: trapezoids with raised-cosine flanks of `fade_s` inside each event."""
        level = np.zeros_like(times_s)
        for onset, duration, strength in zip(self.onsets_s, self.durations_s, self.strengths, strict=True):
            fade = min(fade_s, duration / 2)
            near = np.minimum(times_s - onset, onset + duration - times_s)
            ramp = np.clip(near / fade, 0.0, 1.0)
            level = np.maximum(level, strength * (0.5 - 0.5 * np.cos(np.pi * ramp)))
        return level


def draw_plan(name: str, pulse_hz: Range, rng: np.random.Generator) -> Plan:
    """Draws the events of a clip of class `name`; `pulse_hz` is (0, 0) for classes without an inner rate."""
    rhythm = RHYTHM[name]
    count = int(rng.integers(rhythm.count[0], rhythm.count[1] + 1))
    gap = log_uniform(rng, rhythm.gap_s)
    gaps = gap * (1 + rhythm.jitter * rng.uniform(-1, 1, count))
    first = uniform(rng, rhythm.first_s)
    onsets = first + np.concatenate([[0.0], np.cumsum(gaps[1:])])
    onsets = onsets[onsets < 0.93]
    durations = rng.uniform(*rhythm.duration_s, len(onsets))
    strengths = rng.uniform(0.4, 1.0, len(onsets))
    strengths /= strengths.max()
    pulse = log_uniform(rng, pulse_hz) if pulse_hz[1] > 0 else 0.0
    return Plan(name, onsets, durations, strengths, gap, pulse)
