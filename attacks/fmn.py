"""FMN: a single run whose radius follows the decision boundary; `minimal` begins with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, margin
from attacks.projections import lengths
from attacks.radii import DUAL, MinimalResult, widest_norm
from attacks.threat import Ball


def fmn(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    modality: str,
    ball: Ball,
    *,
    steps: int = 100,
    step_size: float = 1.0,
    adapt: float = 0.05,
    valid: Tensor | None = None,
) -> MinimalResult:
    """Fast minimum-norm attack on one modality (Pintor et al. 2021): one run whose radius follows the boundary.

    The radius shrinks by `adapt` while the example is broken and grows while it is not; both it and the step length
    decay by a cosine. `ball` gives the norm and the bounds, and the radius that counts as scale 1; `valid` is the mask
    of what is not padding.
    """
    clean, count = inputs[modality].detach(), len(goal.labels)
    unit = ball.radius_amplitude(clean, valid)
    oracle = Oracle(victim, count, clean.device)
    rows = torch.arange(count, device=clean.device)
    region = ball.region(clean, valid, widest_norm(ball, clean, valid))
    point, radius = clean, torch.full((count,), torch.inf, dtype=torch.float64, device=clean.device)
    best, found = torch.full_like(radius, torch.inf), {name: value.clone() for name, value in inputs.items()}
    share = torch.full((count,), 0.05 if ball.norm == "l1" else 1.0, device=clean.device)
    with frozen(victim):
        for step in range(steps):
            decay = 0.5 * (1 + math.cos(math.pi * step / steps))
            logits, losses, gradients = oracle.gradients({**inputs, modality: point}, goal, margin, rows, {modality})
            broken, size = goal.broken(logits), region.size(point)
            better = broken & (size < best)
            best = torch.where(better, size, best)
            found[modality][better] = point[better]
            gradient = region.restrict(gradients[modality])
            slope = lengths(gradient.flatten(1).double(), DUAL[ball.norm]).clamp_min(1e-30)
            grown = 1 + adapt * decay
            # The linear forecast alone only creeps up to the boundary where a sparse step gains less than it says.
            forecast = torch.maximum(size + 1.005 * (-losses).clamp_min(0) / slope, size * grown)
            reach = torch.where(best.isinf(), forecast, radius * grown)
            radius = torch.where(broken, torch.minimum(radius, best) * (1 - adapt * decay), reach)
            radius = torch.minimum(radius, region.radius)
            length = step_size * decay * torch.where(best.isinf(), radius, best)
            moved = region.ascend(point, gradient, length, share)
            point = ball.region(clean, valid, radius).project(moved)
    failed = torch.zeros_like(best)
    return MinimalResult(best / unit, failed, found, oracle.forwards, oracle.backwards)
