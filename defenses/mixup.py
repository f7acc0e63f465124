"""Mixup: train on convex combinations of examples and of their labels (Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pairing = Literal["random", "same-class"]
PAIRINGS = ("random", "same-class")


@dataclass(frozen=True)
class Mixture:
    """With whom each example of a batch is mixed, and how much of itself it keeps.

    Attributes:
        weight: (B,) float32 share of itself, 0 to 1.
        partner: (B,) int64 place of the other.
    """

    weight: Tensor
    partner: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        """Of `value` (B, ...): weight * value + (1 - weight) * value[partner]."""
        share = self.weight.view(-1, *[1] * (value.ndim - 1)).to(value.dtype)
        mixed: Tensor = share * value + (1 - share) * value[self.partner]
        return mixed


def mixup(
    inputs: Mapping[str, Tensor],
    targets: Tensor,
    alpha: float,
    generator: torch.Generator,
    pairing: Pairing = "random",
) -> tuple[dict[str, Tensor], Tensor]:
    """Mixes every example with another of its batch, all modalities with the same partner and the same weight.

    Args:
        inputs: Modality -> (B, ...) inputs.
        targets: (B, K) label weights, mixed likewise.
        alpha: Weights are drawn from Beta(alpha, alpha), one for each example; 0 changes nothing.
        generator: On the CPU.
        pairing: See `draw_mixture`.

    Returns:
        Mixed inputs and targets.
    """
    if alpha == 0:
        return dict(inputs), targets
    mix = draw_mixture(targets, alpha, generator, pairing)
    return {name: mix(value) for name, value in inputs.items()}, mix(targets)


def draw_mixture(targets: Tensor, alpha: float, generator: torch.Generator, pairing: Pairing = "random") -> Mixture:
    """Who is mixed with whom, and how much.

    Args:
        targets: (B, K) label weights.
        alpha: Of Beta(alpha, alpha), above 0.
        generator: On the CPU.
        pairing: `random`, a random order of the batch; or `same-class`: any other clip with a label in common, and a
            clip that has none stays as it is. One label a clip is then never mixed with another.
    """
    count = len(targets)
    weight = _beta(alpha, count, generator).to(targets.device)
    if pairing == "random":
        partner = torch.randperm(count, generator=generator)
    else:
        partner = _of_the_same_class(targets, generator)
    return Mixture(weight, partner.to(targets.device))


def _of_the_same_class(targets: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) for each example one that shares a label with it; itself where there is none."""
    present = (targets.detach().cpu() > 0).float()
    shared = (present @ present.T > 0).fill_diagonal_(False)
    alone = ~shared.any(dim=1)
    shared |= torch.diag(alone)
    partner: Tensor = torch.multinomial(shared.float(), 1, generator=generator)[:, 0]
    return partner


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha) as a ratio of gamma variables."""
    shape = torch.full((2, count), alpha)
    first, second = torch._standard_gamma(shape, generator=generator).clamp_min(1e-12)
    share: Tensor = first / (first + second)
    return share


__all__ = ["PAIRINGS", "Mixture", "Pairing", "draw_mixture", "mixup"]
