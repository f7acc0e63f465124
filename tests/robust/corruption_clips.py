"""Clips for tests of corruptions: sound with onsets, tones and a broad spectrum, pictures with texture."""

from __future__ import annotations

import numpy as np
import torch

from robust.corruptions import Corruption
from robust.corruptions.rendering import Rendered, render
from robust.types import Inputs

FRAMES, SIDE = 8, 24


def clips(count: int, sample_rate: int = 16_000, seconds: float = 1.0) -> Inputs:
    """`audio` (B, T) and `video` (B, 8, 3, 24, 24)."""
    rng = np.random.default_rng(0)
    samples = round(sample_rate * seconds)
    time_s = np.arange(samples) / sample_rate
    sound = np.zeros((count, samples))
    for clip in sound:
        for onset_s in np.sort(rng.uniform(0.02, 0.9, 3)) * seconds:
            since = time_s - onset_s
            life = np.where(since >= 0, np.exp(-np.maximum(since, 0) / (0.1 * seconds)), 0.0)
            tone = sum(np.sin(2 * np.pi * rng.uniform(300, 900) * order * time_s) / order for order in range(1, 5))
            clip += life * (tone + 1.5 * rng.standard_normal(samples))
        clip += 0.02 * rng.standard_normal(samples)
        clip *= rng.uniform(0.2, 0.8) / np.abs(clip).max()
    shift = rng.uniform(0, 6, (count, 1, 1, 1, 1))
    frame, colour, row, column = np.ogrid[0:FRAMES, 0:3, 0:SIDE, 0:SIDE]
    scene = 0.5 + 0.25 * np.sin(row / 2 + shift + frame) + 0.2 * np.sin(column / 3 - 2 * colour + shift)
    video = np.clip(scene + 0.05 * rng.standard_normal((count, FRAMES, 3, SIDE, SIDE)), 0.02, 1)
    return {"audio": torch.from_numpy(sound).float(), "video": torch.from_numpy(video).float()}


def everywhere(inputs: Inputs) -> Inputs:
    """All of it is valid."""
    return {name: torch.ones_like(value, dtype=torch.bool) for name, value in inputs.items()}


def rendered(
    corruption: Corruption,
    severity: int,
    inputs: Inputs,
    *,
    valid: Inputs | None = None,
    sample_rate: int = 16_000,
    seed: int = 0,
    first: int = 0,
) -> Rendered:
    """Clips called `clip-0`, `clip-1`..., counted from `first`."""
    ids = [f"clip-{first + row}" for row in range(len(next(iter(inputs.values()))))]
    masks = everywhere(inputs) if valid is None else valid
    return render(corruption, severity, inputs, masks, ids, sample_rate, seed)
