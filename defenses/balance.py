"""Balanced sampling: clips of rare classes come more often."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.errors import ThreatModelError


def balanced_weights(targets: Tensor) -> Tensor:
    """How often each clip should come, so that every class comes as often as any other.

    With one label a clip the weight is one over the number of clips of its class. With several it goes by the rarest of
    them (as AudioSet is sampled); a clip without any counts as of a class of its own kind, "none".

    Args:
        targets: (N, K) label weights; a label is present where its weight is above 0.

    Returns:
        (N,) float64, summing to 1.

    Raises:
        ThreatModelError: If there are no clips, or `targets` is not (N, K).
    """
    if targets.ndim != 2 or len(targets) == 0:
        raise ThreatModelError(f"Balancing needs label weights (clips, classes); given shape {tuple(targets.shape)}.")
    present = targets > 0
    present = torch.cat([present, ~present.any(dim=1, keepdim=True)], dim=1)
    counts = present.sum(dim=0).double()
    weights = torch.where(present, 1 / counts.clamp_min(1.0), 0.0).amax(dim=1)
    return weights / weights.sum()


__all__ = ["balanced_weights"]
