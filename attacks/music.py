"""A guitar whose every setting is differentiable, and the set of settings in which it still plays the tune.

A Karplus-Strong synthesiser (methods.md 4.2): pitches and their order are those of a score; what may be chosen, within
bounds, is what fills each string when it is plucked, how it is damped and smoothed, how loud and how much too early or
late it is. Whatever is chosen, the music has one loudness: an attack cannot win by being louder.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.loudness import loudness_lufs
from attacks.score import Score
from attacks.strings import LARGEST_DAMPING, period_samples, pluck

Theta: TypeAlias = dict[str, Tensor]
"""Parameters of the music: `excitation` (S, N) in [-1, 1]; `damping`, `smoothing`, `volume_db`, `shift_ms` (S,)."""


@dataclass(frozen=True)
class ValidSet:
    """Within these bounds it is still the tune, played on a guitar. Pitches and their order are those of the score.

    Attributes:
        damping: Per turn of the loop; below 0.9 a string is a knock.
        smoothing: 0 keeps all overtones, 0.5 is the instrument of Karplus and Strong, above it begins to ring anew.
        volume_db: Of a note against the others.
        shift_ms: Greatest shift of a note from its place in the score, either way.
    """

    damping: tuple[float, float] = (0.95, LARGEST_DAMPING)
    smoothing: tuple[float, float] = (0.02, 0.5)
    volume_db: tuple[float, float] = (-15.0, 5.0)
    shift_ms: float = 25.0

    def __post_init__(self) -> None:
        for name, low, high in (("damping", 0.0, LARGEST_DAMPING), ("smoothing", 0.0, 1.0), ("volume_db", -60.0, 40.0)):
            least, most = getattr(self, name)
            if not low <= least <= most <= high:
                raise ThreatModelError(
                    f"{name} must be (lowest, highest) within {low:g} to {high:g}; given {least, most}."
                )
        if not 0 <= self.shift_ms <= 100:
            raise ThreatModelError(f"shift_ms must be from 0 to 100; given {self.shift_ms}.")

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Parameter -> lowest and highest value."""
        return {
            "excitation": (-1.0, 1.0),
            "damping": self.damping,
            "smoothing": self.smoothing,
            "volume_db": self.volume_db,
            "shift_ms": (-self.shift_ms, self.shift_ms),
        }


FADE_S = 0.03
"""Over which a string is damped at the end of its note."""

LOUDNESS_LUFS = -23.0
"""Of all music as rendered."""


class Music:
    """A score and the set of ways to play it.

    Args:
        score: What is played.
        sample_rate: Hz.
        valid: How it may be played.

    Raises:
        ThreatModelError: If a note is too high for the rate.
    """

    def __init__(self, score: Score, sample_rate: int, valid: ValidSet | None = None) -> None:
        self.score, self.sample_rate, self.valid = score, sample_rate, valid or ValidSet()
        self.hz = torch.tensor([note.hz for note in score.notes], dtype=torch.float64)
        if float(self.hz.max()) > sample_rate / 4:
            raise ThreatModelError(
                f"A note of {float(self.hz.max()):.0f} Hz needs a sample rate of four times that; given {sample_rate}."
            )
        self.samples = round(score.seconds * sample_rate)
        self.held = torch.tensor([round(note.seconds * sample_rate) for note in score.notes])
        self.margin = math.ceil(self.valid.shift_ms / 1000 * sample_rate)
        self.onsets = torch.tensor([round(note.onset_s * sample_rate) for note in score.notes])
        # Longest excitation of each string: a period, whole samples of it.
        self.periods = (sample_rate / self.hz).floor().long()

    def describe(self) -> dict[str, Any]:
        """Score and bounds, as JSON."""
        return {
            "score": self.score.describe(),
            "valid": asdict(self.valid),
            "sample_rate": self.sample_rate,
            "loudness_lufs": LOUDNESS_LUFS,
        }

    def plain(self, generator: torch.Generator, *, damping: float = 0.995, smoothing: float = 0.5) -> Theta:
        """The tune as Karplus and Strong play it: uniform noise in every string, all alike loud and in time.

        Returns:
            Parameters inside the valid set, float32 on the CPU.
        """
        count = len(self.hz)
        noise = 2 * torch.rand(count, int(self.periods.max()), generator=generator) - 1
        plain = {
            "excitation": noise,
            "damping": torch.full((count,), damping),
            "smoothing": torch.full((count,), smoothing),
            "volume_db": torch.zeros(count),
            "shift_ms": torch.zeros(count),
        }
        return self.projected(plain)

    def projected(self, theta: Theta) -> Theta:
        """The nearest parameters in the valid set; beyond its period a string's excitation is 0."""
        within = {name: theta[name].detach().clamp(*limits) for name, limits in self.valid.bounds().items()}
        inside = torch.arange(within["excitation"].shape[1]) < self.periods[:, None]
        within["excitation"] = within["excitation"] * inside.to(within["excitation"])
        return within

    def violations(self, theta: Theta, tolerance: float = 1e-6) -> int:
        """How many parameters lie outside the valid set."""
        nearest = self.projected(theta)
        return sum(int(((theta[name] - nearest[name]).abs() > tolerance).sum()) for name in nearest)

    def render(self, theta: Theta) -> Tensor:
        """One turn of the tune, (T,) at `LOUDNESS_LUFS`, differentiable in every parameter.

        Args:
            theta: Parameters, float32 or float64.
        """
        played = self.unlevelled(theta)
        gain_db = LOUDNESS_LUFS - loudness_lufs(played, self.sample_rate)
        return played * 10 ** (gain_db / 20)

    def unlevelled(self, theta: Theta) -> Tensor:
        """The same before its loudness is set."""
        excitation = theta["excitation"]
        smoothing, rate = theta["smoothing"], self.sample_rate
        samples = int(self.held.max()) + 2 * self.margin
        strings = pluck(
            excitation,
            samples,
            period=period_samples(self.hz.to(excitation), smoothing, rate),
            damping=theta["damping"],
            smoothing=smoothing,
            delay=self.margin + theta["shift_ms"] * rate / 1000,
        )
        volume = 10 ** (theta["volume_db"] / 20)
        notes = strings * self._damped(samples).to(excitation) * volume[:, None]
        places = (self.onsets[:, None] - self.margin + torch.arange(samples)) % self.samples
        return torch.zeros(self.samples).to(excitation).index_add(0, places.flatten(), notes.flatten())

    def _damped(self, samples: int) -> Tensor:
        """(S, samples) envelopes: 1, and a raised-cosine fall to 0 where a note ends, at a fixed time of its own."""
        fade = max(1, round(FADE_S * self.sample_rate))
        left = (self.held[:, None] + self.margin - torch.arange(samples)).clamp(0, fade) / fade
        return 0.5 - 0.5 * torch.cos(math.pi * left.double())
