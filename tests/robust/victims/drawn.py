"""Weights drawn from the number of an entry, the same wherever a fixture is made and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def drawn(shapes: Mapping[str, Sequence[int]], *, gain: float = 1.6) -> dict[str, Tensor]:
    """A state dict with these names and shapes: norms near the identity, matrices of about unit gain.

    Args:
        shapes: Shape of every entry; the generator of each is seeded by its place in the order of names.
        gain: Variance of a matrix times the number of its inputs.
    """
    state = {}
    for number, key in enumerate(sorted(shapes)):
        shape, generator = tuple(shapes[key]), np.random.default_rng(number)
        noise = generator.standard_normal(shape)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = torch.tensor(1 + 0.5 * generator.random(shape)).float()
        elif len(shape) > 1:
            state[key] = torch.tensor(noise * np.sqrt(gain / np.prod(shape[1:]))).float()
        elif key.endswith("weight"):
            state[key] = torch.tensor(1 + 0.1 * noise).float()
        else:
            state[key] = torch.tensor(0.1 * noise).float()
    return state


def features(frames: int, bins: int = 64, *, batch: int = 2) -> Tensor:
    """Normalised features (batch, frames, bins): noise that comes and goes."""
    noise = np.random.default_rng(0).standard_normal((batch, frames, bins))
    envelope = np.sin(np.arange(frames) / 9 + np.arange(batch)[:, None])[:, :, None]
    return torch.tensor(0.6 * noise * envelope - 0.2).float()
