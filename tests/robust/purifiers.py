"""Small purifiers, and a linear victim whose accuracy behind them is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attacks.bpda import straight_through
from attacks.channel import Channel, Parameters, where_valid
from robust.types import Clip, Dataset, Task, VictimSpec
from robust.victims import Victim

RATE, SAMPLES = 8000, 64
CLASSES = ("one", "other")


class Noisy(Channel):
    """Gaussian noise is added: random, with the identity as its true gradient."""

    name = "noisy"

    def __init__(self, sample_rate: int = RATE, sigma: float = 0.02) -> None:
        super().__init__(sample_rate)
        self.sigma = sigma

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        noise = [torch.randn(clips.shape[1:], generator=generator) for generator in generators]
        return {"noise": torch.stack(noise).to(clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return where_valid(clips + self.sigma * parameters["noise"], clips, valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "sigma": self.sigma}


class Softer(Channel):
    """A little less loud: draws nothing."""

    name = "softer"

    def __init__(self, sample_rate: int = RATE) -> None:
        super().__init__(sample_rate)

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        return {}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return where_valid(0.9 * clips, clips, valid)


class Rounded(Softer):
    """Rounded to steps of 1/1024, its gradient lost on the way and yet called exact: a hiding place."""

    name = "rounded"

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return where_valid(torch.round(1024 * clips) / 1024, clips, valid)


class RoundedOpenly(Rounded):
    """The same and honest about it."""

    name, gradient = "rounded-openly", "straight-through"

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return straight_through(super().forward(clips, parameters, valid), clips)


def slope() -> Tensor:
    """(SAMPLES,) along which `linear_victim` tells its classes apart: the margin of `one` is `slope() @ clip`."""
    return torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3))


def linear_victim(task: Task = "multiclass") -> Victim:
    """Two classes told apart by one direction."""
    layer = nn.Linear(SAMPLES, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([slope() / 2, -slope() / 2]))
        layer.bias.zero_()
    seconds = SAMPLES / RATE
    return Victim.wrap(layer, sample_rate=RATE, labels=CLASSES, clip_seconds=seconds, name="linear", task=task).eval()


class LinearData(Dataset):
    """Clips with margins from 0.1 to 1.2, alternately of the two classes; the last is on the wrong side."""

    name, split, labels = "lines", "test", CLASSES

    def __init__(self, count: int = 12) -> None:
        self.side = torch.tensor([1.0, -1.0]).repeat(count)[:count]
        self.margins = torch.linspace(0.1, 1.2, count)
        way = slope() / slope().square().sum()
        noise = 0.05 * torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(4))
        noise -= (noise @ slope())[:, None] * way
        self.audio = noise + (self.side * self.margins)[:, None] * way
        self.target = (self.side < 0).long()
        self.target[-1] = 1 - self.target[-1]
        self.margins[-1] *= -1

    def __len__(self) -> int:
        return len(self.audio)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return Clip(f"line/{index}", {"audio": self.audio[index]}, self.target[index])

    def fingerprint(self) -> str:
        return f"lines-{len(self)}"
