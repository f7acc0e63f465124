"""Worst-case sharpness: the highest loss in a ball around the weights, by the optimiser that attacks inputs.

Source: Andriushchenko et al. 2023, "A modern look at the relationship between sharpness and generalization":
E_B max_{||delta / c||_p <= rho} L_B(w + delta) - L_B(w), with c = |w| (adaptive) or 1, by 20 iterations of APGD (Croce
& Hein 2020). The search here is over z = delta / c, where the ellipsoid is a ball: one projects exactly by scaling, and
not only the maximum but every step is unchanged by rescaling adjacent ReLU layers.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.losses import Goal
from attacks.region import Region
from attacks.schedules import Adaptive
from attacks.walk import Walk
from robust.errors import VictimError, unknown
from robust.metrics.geometry.sharpness import Sharpness, check_radius, mean_rise
from robust.metrics.geometry.weights import Outcomes, WeightLoss

WeightNorm = Literal["linf", "l2"]
STEPS = 20
FAR = 1e30
"""Bounds of weights: none that matter."""


def worst_case_sharpness(
    loss: WeightLoss,
    *,
    rho: float,
    norm: WeightNorm = "linf",
    adaptive: bool = True,
    steps: int = STEPS,
    random_start: bool = False,
    seed: int = 0,
) -> Sharpness:
    """The rise of the loss to the highest found in a ball of weights, of each batch alone, averaged over batches.

    Args:
        loss: Its batches are the m-sized ones.
        rho: Radius: of delta / |w| when adaptive (1e-3 is usual in linf), of delta itself otherwise.
        norm: `linf` or `l2`, over all weights together.
        adaptive: Scale the ball by |w|; weights of zero stay zero.
        steps: Gradient steps for each batch; the first is twice the radius long.
        random_start: Begin at a random point of the ball rather than at the weights.
        seed: Of the random starts.

    Returns:
        Rise of the loss, never below 0 because the weights themselves belong to the ball, and rise of the error at
        that same point; intervals over batches (over clips where there is one batch). A search gives a lower bound.

    Raises:
        VictimError: If a setting is out of range.
    """
    _check(rho, norm, steps)
    before, after = [], []
    for number, part in enumerate(loss.parts()):
        start = part.outcomes()
        generator = torch.Generator().manual_seed(seed + number)
        scale = part.weights.abs() if adaptive else torch.ones_like(part.weights)
        found = _climb(part, _ball(part.weights, norm, rho), scale, steps, generator if random_start else None)
        worst = part.outcomes(part.weights + scale * found)
        before.append(start)
        after.append(_higher(start, worst))
    return mean_rise(before, after)


def _climb(part: WeightLoss, ball: Region, scale: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    """(P,) the z = delta / scale with the highest loss that APGD meets."""
    device = part.weights.device
    first = ball.clean.clone() if generator is None else ball.sample([generator])
    rows = torch.zeros(1, dtype=torch.int64, device=device)
    walk = Walk.begin({}, Goal(rows), {"weights": ball}, {"weights": first}, rows, remember=True)
    schedule = Adaptive(walk, steps, rel_step=2.0, momentum=0.75)
    for step in range(steps + 1):
        point = part.weights + scale * walk.point["weights"][0]
        last = step == steps
        value, gradient = (part.value(point), None) if last else part.gradient(point)
        slope = walk.gradient["weights"] if gradient is None else (scale * gradient)[None]
        walk.arrive(torch.tensor([value], dtype=torch.float64, device=device), {"weights": slope})
        if last:
            break
        if step > 0:
            schedule.adapt(walk, step - 1)
        schedule.move(walk, step)
    return walk.best_point["weights"][0]


def _ball(weights: Tensor, norm: WeightNorm, rho: float) -> Region:
    """The ball of radius rho around zero, in z; the one example of its batch."""
    radius = torch.tensor([rho], dtype=torch.float64, device=weights.device)
    return Region(torch.zeros_like(weights)[None], None, norm, radius, -FAR, FAR)


def _higher(start: Outcomes, worst: Outcomes) -> Outcomes:
    return worst if worst.losses.mean() > start.losses.mean() else start


def _check(rho: float, norm: str, steps: int) -> None:
    check_radius(rho)
    if norm not in get_args(WeightNorm):
        raise VictimError(unknown("norm of a ball of weights", norm, get_args(WeightNorm)))
    if steps < 1:
        raise VictimError(f"The search needs 1 step or more; given {steps}.")


__all__ = ["STEPS", "WeightNorm", "worst_case_sharpness"]
