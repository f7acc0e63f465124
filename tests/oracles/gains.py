"""A small victim behind a channel that multiplies by a random gain."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.losses import Goal

SAMPLES, CLASSES = 12, 3


def victim(inputs: dict[str, Tensor]) -> Tensor:
    """A smooth victim of two layers with fixed weights."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(SAMPLES, 7, generator=generator)
    second = torch.randn(7, CLASSES, generator=generator)
    clips = inputs["audio"]
    return torch.tanh(clips @ first.to(clips)) @ second.to(clips)


class Gains:
    """A channel that multiplies by a random gain; remembers what it let through."""

    def __init__(self, low: float = 0.2, high: float = 1.0) -> None:
        self.low, self.high = low, high
        self.heard: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        shares = torch.stack([torch.rand((), generator=generator) for generator in generators])
        return {"gain": self.low + (self.high - self.low) * shares}

    def __call__(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
        self.alive.append(sum(one() is not None for one in self.heard))
        heard = clips * parameters["gain"][:, None].to(clips)
        self.heard.append(weakref.ref(heard))
        return heard


def batch(count: int) -> tuple[dict[str, Tensor], Goal]:
    clips = 0.3 * torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(1))
    return {"audio": clips}, Goal(victim({"audio": clips}).argmax(dim=1))
