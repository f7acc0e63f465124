"""What damages sound and sight at once: weather, crowds, water, a bad line. One draw, one severity for both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robust.channels.devices import BandPass
from robust.corruptions.base import Corruption, Make, Transform, both, on_frames, register_corruption
from robust.corruptions.channels import through
from robust.corruptions.measures import MUTED, SNR, Measure
from robust.corruptions.noises import SNR_DB, babble, rain, wind, with_noise
from robust.corruptions.temporal import MUTED_SHARES, gap
from robust.corruptions.video import blurred

STRENGTHS = (0.15, 0.3, 0.45, 0.6, 0.8)
"""Of what is seen, at severities 1 to 5: opacity, or share of what it is at most."""

UNDERWATER_HZ = (2500.0, 1500.0, 900.0, 500.0, 250.0)

Sight = Callable[[Tensor, float, np.random.Generator], Tensor]
"""Frames (F, C, H, W) in [0, 1] and a strength to frames."""


def seen_too(values: tuple[float, ...], heard: Make, sight: Sight) -> Make:
    """A maker of transforms of both: sound by the value, sight by the strength of the same severity."""
    strengths = dict(zip(values, STRENGTHS, strict=True))

    def make(value: float, sample_rate: int) -> Transform:
        strength = strengths[value]
        return both(heard(value, sample_rate), on_frames(lambda frames, rng: sight(frames, strength, rng)))

    return make


def streaks(frames: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Rain: slanted bright streaks, other ones in every frame, as opaque as `strength`."""
    count, _, height, width = frames.shape
    fallen = np.zeros((count, height, width), dtype=np.float32)
    drops, length = max(1, height * width // 24), max(2, height // 5)
    for frame in fallen:
        tops, lefts = generator.integers(-length, height, drops), generator.integers(0, width, drops)
        for step in range(length):
            rows, columns = tops + step, (lefts + step // 3) % width
            inside = (rows >= 0) & (rows < height)
            frame[rows[inside], columns[inside]] = 1.0
    opacity = strength * torch.from_numpy(fallen)[:, None]
    return frames * (1 - opacity) + 0.85 * opacity


def dust(frames: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Wind: blown dust, a brown veil that drifts across the picture."""
    count, channels, height, width = frames.shape
    coarse = torch.from_numpy(generator.uniform(0.5, 1.0, (1, 1, 5, 9)).astype(np.float32))
    veil = torch.nn.functional.interpolate(coarse, (height, 2 * width), mode="bilinear", align_corners=True)[0]
    pace = generator.integers(1, max(2, width // 8) + 1)
    blown = torch.stack([torch.roll(veil, int(pace * frame), dims=2)[..., :width] for frame in range(count)])
    colour = torch.tensor([0.62, 0.52, 0.38]).view(1, 3, 1, 1) if channels == 3 else torch.tensor(0.52)
    return frames * (1 - strength * blown) + colour * strength * blown


def heads(frames: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """A crowd: dark heads in front of the picture, up to `strength` of its height, swaying."""
    count, _, height, width = frames.shape
    rows, columns = np.mgrid[0:height, 0:width]
    found = frames.clone()
    people = 6
    places = (np.arange(people) + generator.uniform(0.2, 0.8, people)) / people * width
    tall, phases = generator.uniform(0.85, 1.0, people), generator.uniform(0, 2 * np.pi, people)
    for frame in range(count):
        hidden = np.zeros((height, width), dtype=bool)
        for place, high, phase in zip(places, tall, phases, strict=True):
            middle = place + 0.03 * width * np.sin(phase + frame)
            top, half = height * (1 - strength * high), 0.6 * width / people
            dome = top + np.square((columns - middle) / half) * 0.25 * height
            hidden |= (rows >= dome) & (np.abs(columns - middle) <= half)
        found[frame][:, torch.from_numpy(hidden)] = 0.08
    return found


def water(frames: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Under water: red is swallowed first, and everything is unsharp."""
    keeps = torch.tensor([1 - strength, 1 - 0.5 * strength, 1 - 0.25 * strength]).view(1, 3, 1, 1)
    kept = keeps if frames.shape[1] == 3 else keeps.mean()
    return blurred(frames, 0.08 * strength) * kept


def stripes(frames: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """A bad line: in each frame a share of the rows is noise; those of one severity are among those of the next."""
    found = frames.clone()
    for frame in found:
        rows = generator.permutation(frame.shape[1])
        snow = generator.uniform(size=tuple(frame.shape)).astype(np.float32)
        hit = rows[: max(1, round(strength * frame.shape[1]))]
        frame[:, hit] = torch.from_numpy(snow)[:, hit]
    return found


def muffled(high_hz: float, sample_rate: int) -> Transform:
    """Low-pass at 12 dB an octave."""
    return through(BandPass(sample_rate, None, high_hz, order=2))


_AUDIO_VISUAL: tuple[tuple[str, str, tuple[float, ...], Make, Sight, Measure, str], ...] = (
    ("av-rain", "SNR (dB)", SNR_DB, with_noise(rain), streaks, SNR, "patter; streaks"),
    ("av-wind", "SNR (dB)", SNR_DB, with_noise(wind), dust, SNR, "gusts in the microphone; blown dust"),
    ("av-crowd", "SNR (dB)", SNR_DB, with_noise(babble), heads, SNR, "babble; heads in front"),
    ("av-underwater", "cut-off (Hz)", UNDERWATER_HZ, muffled, water, SNR, "muffled; blue and unsharp"),
    ("av-interference", "muted (share)", MUTED_SHARES, gap, stripes, MUTED, "a hole; rows of snow"),
)

for _name, _parameter, _values, _heard, _sight, _measure, _summary in _AUDIO_VISUAL:
    _make = seen_too(_values, _heard, _sight)
    register_corruption(
        Corruption(_name, "audio-visual", "audio-visual", _parameter, _values, _make, _measure, _summary)
    )
