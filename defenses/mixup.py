"""Mixup: train on convex combinations of examples and of their labels (Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def mixup(
    inputs: Mapping[str, Tensor], targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Mixes every example with another of its batch, all modalities with the same partner and the same weight.

    Args:
        inputs: Modality -> (B, ...) inputs.
        targets: (B, K) label weights, mixed likewise.
        alpha: Weights are drawn from Beta(alpha, alpha), one for each example; 0 changes nothing.
        generator: On the CPU.

    Returns:
        Mixed inputs and targets.
    """
    if alpha == 0:
        return dict(inputs), targets
    count = len(targets)
    weight = _beta(alpha, count, generator).to(targets.device)
    partner = torch.randperm(count, generator=generator).to(targets.device)

    def mix(value: Tensor) -> Tensor:
        share = weight.view(-1, *[1] * (value.ndim - 1)).to(value.dtype)
        mixed: Tensor = share * value + (1 - share) * value[partner]
        return mixed

    return {name: mix(value) for name, value in inputs.items()}, mix(targets)


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha) as a ratio of gamma variables."""
    shape = torch.full((2, count), alpha)
    first, second = torch._standard_gamma(shape, generator=generator).clamp_min(1e-12)
    share: Tensor = first / (first + second)
    return share
