"""Victims that hide their gradient, with what an attack without gradients must still find in them."""

from __future__ import annotations

from torch import Tensor, nn


class Quantised(nn.Module):
    """Another victim behind a converter with steps of `step`: its gradient is zero wherever there is one."""

    def __init__(self, victim: nn.Module, step: float) -> None:
        super().__init__()
        self.victim, self.step = victim, step

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        coarse = {name: (value / self.step).round() * self.step for name, value in inputs.items()}
        return self.victim(coarse)


class Detached(nn.Module):
    """Another victim that answers without a graph, and with a graph that leads to nothing."""

    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        nowhere = sum(value.flatten(1).sum(dim=1, keepdim=True) * 0 for value in inputs.values())
        said: Tensor = self.victim({name: value.detach() for name, value in inputs.items()}) + nowhere
        return said
