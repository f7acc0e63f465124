"""SAM and ASAM: each step goes by the gradient at the worst weights near by, not by that at the weights themselves.

Sources: Foret et al. 2021, eq. 2 (SAM: e = rho g / ||g||); Kwon et al. 2021, eq. 5 (ASAM: e = rho w^2 g / || |w| g ||);
methods.md 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from attacks.errors import ThreatModelError

RHO = {"sam": 0.05, "asam": 0.5}
"""Defaults of the papers."""


class SharpnessAware(Optimizer):
    """Any optimiser, stepping by the gradient at w + e; its state and parameter groups are this one's.

    `step` calls its closure (zero the gradients, loss, backward) twice. While the second call runs `climbed` is set: it
    is the place for what must happen once a step, such as running statistics. Batches whose gradients are accumulated
    over several closures do not mix with it, nor does a gradient scaler (float16), which steps without a closure.

    Args:
        optimizer: What makes the step.
        rho: How far the worst weights lie.
        adaptive: In units of each weight's own size (ASAM), so that rescaling layers changes nothing.

    Attributes:
        climbed: The weights are at w + e.

    Raises:
        ThreatModelError: If `rho` is no positive number.
    """

    def __init__(self, optimizer: Optimizer, rho: float, *, adaptive: bool = False) -> None:
        checked_rho(rho)
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.rho, self.adaptive, self.climbed = optimizer, rho, adaptive, False
        self.param_groups, self.state = optimizer.param_groups, optimizer.state

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; returns the loss of the weights as they were.

        Raises:
            ThreatModelError: Without a closure.
        """
        if closure is None:
            raise ThreatModelError(
                "Sharpness-aware steps take two passes, so step() needs a closure that computes the loss and its "
                "gradients. A gradient scaler gives none: train in bf16 or fp32 instead of fp16."
            )
        with torch.enable_grad():
            loss = closure()
        before = self._climb()
        self.zero_grad()
        self.climbed = True
        try:
            with torch.enable_grad():
                closure()
        finally:
            self.climbed = False
            with torch.no_grad():
                for weight, value in before:
                    weight.copy_(value)
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def _climb(self) -> list[tuple[Parameter, Tensor]]:
        """Moves to w + e; returns the weights that moved, and what they were."""
        moving = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        ascents = [ascent(weight, weight.grad, adaptive=self.adaptive) for weight in moving]
        length = _norm(part for _, part in ascents)
        if not (torch.isfinite(length) and length > 0):
            return []
        before = [(weight, weight.detach().clone()) for weight in moving]
        for weight, (direction, _) in zip(moving, ascents, strict=True):
            weight.add_(direction * (self.rho / length).to(weight))
        return before

    def state_dict(self) -> dict[str, Any]:
        """That of the optimiser within: checkpoints of plain training can be taken up, and the other way round."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "optimizer"):
            self.optimizer.add_param_group(param_group)
        else:
            super().add_param_group(param_group)


def ascent(weight: Tensor, gradient: Tensor, *, adaptive: bool) -> tuple[Tensor, Tensor]:
    """The direction of steepest ascent at `weight`, before scaling, and what its scale is the norm of.

    SAM: g and g. ASAM: w^2 g and |w| g.
    """
    if not adaptive:
        return gradient, gradient
    scaled = weight.abs() * gradient
    return weight.abs() * scaled, scaled


def checked_rho(rho: float) -> float:
    """`rho`, if it is a positive number.

    Raises:
        ThreatModelError: If not.
    """
    if not 0 < rho < float("inf"):
        raise ThreatModelError(f"rho must be a positive number, e.g. 0.05 for sam and 0.5 for asam; given {rho}.")
    return rho


def _norm(parts: Iterable[Tensor]) -> Tensor:
    """L2 norm over all of them together."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part.double()) for part in parts]))
    return norm


__all__ = ["RHO", "SharpnessAware", "ascent", "checked_rho"]
