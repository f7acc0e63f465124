"""Exact Euclidean projections and steepest-ascent directions for L-infinity, L2 and L1 balls inside a box.

All functions take flat perturbations `(B, N)` float, per-example radii `(B,)` and never mix examples.

Sources: Duchi et al. 2008 (L1 ball); Croce & Hein 2021, "Mind the box" (projection on L1 ball and box together, of
which the L2 case here is the analogue). Rescaling onto the L1 ball, as foolbox and ART do, is not a projection and
costs most of the attack's strength.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30


def lengths(flat: Tensor, order: float = 2.0) -> Tensor:
    """(B,) norms of the given order of each row of `flat` (B, N)."""
    norms: Tensor = torch.linalg.vector_norm(flat, order, dim=1)
    return norms


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) in the dtype of `like`, so that it broadcasts over it; bool stays bool."""
    cast = value if value.dtype == torch.bool else value.to(like.dtype)
    return cast.view(-1, *[1] * (like.ndim - 1))


def project_l2(delta: Tensor, radius: Tensor) -> Tensor:
    """Nearest point of the L2 ball: `delta * min(1, radius / ||delta||)`."""
    norm = lengths(delta)[:, None].clamp_min(TINY)
    return delta * (radius[:, None] / norm).clamp_max(1.0)


def project_l1(delta: Tensor, radius: Tensor) -> Tensor:
    """Nearest point of the L1 ball: soft threshold at the level that makes the norm `radius` (Duchi et al. 2008)."""
    size = delta.abs()
    ordered = size.sort(dim=1, descending=True).values.double()
    rank = torch.arange(1, delta.shape[1] + 1, device=delta.device, dtype=torch.float64)
    # In single precision the sums of a point many radii away cancel to less than their error: it would stay outside.
    level = (ordered.cumsum(dim=1) - radius[:, None]) / rank
    support = (ordered > level).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = level.gather(1, support - 1).clamp_min(0.0)
    return delta.sign() * (size.double() - threshold).clamp_min(0.0).to(delta.dtype)


def project_l2_box(delta: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Nearest point of {||d||_2 <= radius} and {low <= d <= high}, where low <= 0 <= high.

    By the optimality conditions d = clip(s * delta, low, high) for one s in [0, 1]. Begin with the s of the ball alone;
    coordinates that it fills are full for good, as s only grows: fix them, solve for s over the rest, until no more
    fill up (Kiwiel 2008). A few passes, where sorting all coordinates costs several times as much.
    """
    room = torch.where(delta >= 0, high, -low).double()
    size, goal = delta.abs().double(), radius.double().square()
    room_squared, size_squared = room.square(), size.square()
    full = torch.zeros_like(delta, dtype=torch.bool)
    scale = torch.zeros_like(goal)
    while True:
        free = size_squared.masked_fill(full, 0.0).sum(dim=1)
        left = (goal - room_squared.masked_fill(~full, 0.0).sum(dim=1)).clamp_min(0.0)
        solution = (left / free.clamp_min(TINY)).sqrt().clamp_max(1.0)
        scale = torch.maximum(scale, torch.where(free > 0, solution, 1.0))
        filled = full | (scale[:, None] * size > room)
        if torch.equal(filled, full):
            break
        full = filled
    return (scale[:, None] * delta.double()).to(delta.dtype).clamp(low, high)


def project_l1_box(delta: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Nearest point of {||d||_1 <= radius} and {low <= d <= high}, where low <= 0 <= high (Croce & Hein 2021).

    By the optimality conditions |d_i| = min(max(|delta_i| - t, 0), room_i) for one t >= 0; the norm falls piecewise
    linearly in t, with kinks at |delta_i| and |delta_i| - room_i: sort the kinks, then interpolate.
    """
    room = torch.where(delta >= 0, high, -low).double()
    size = delta.abs().double()
    kinks = torch.cat([size, size - room], dim=1)
    turn = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1)
    order = kinks.argsort(dim=1, descending=True)
    kinks, turn = kinks.gather(1, order), turn.gather(1, order)
    slope = turn.cumsum(1)  # how many coordinates shrink with t just below each kink
    fall = slope[:, :-1] * (kinks[:, :-1] - kinks[:, 1:])
    norm = torch.cat([torch.zeros_like(kinks[:, :1]), fall.cumsum(1)], dim=1)  # the norm at each kink
    goal = radius.double()[:, None]
    last = (norm <= goal).sum(dim=1, keepdim=True) - 1
    growing = slope.gather(1, last)
    extra = (goal - norm.gather(1, last)) / growing.clamp_min(1.0)
    threshold = torch.where(growing > 0, kinks.gather(1, last) - extra, kinks.gather(1, last)).clamp_min(0.0)
    shrunk = torch.minimum((size - threshold).clamp_min(0.0), room)
    return (delta.sign().double() * shrunk).to(delta.dtype).clamp(low, high)


def steepest_l2(gradient: Tensor) -> Tensor:
    """Unit L2 vector along the gradient; zero where the gradient is zero."""
    # Squares of gradients below 1e-19 or above 1e19 leave single precision: bring the largest value to 1 first.
    scaled = gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    return scaled / lengths(scaled)[:, None].clamp_min(TINY)


def steepest_l1(gradient: Tensor, count: Tensor) -> Tensor:
    """Unit L1 vector spread evenly over the `count` (B,) coordinates of largest gradient, with its sign.

    `count = 1` is exact steepest ascent; more coordinates make progress per step where the victim is not linear
    (Tramer & Boneh 2019). Ties and zero gradients take no share.
    """
    size = gradient.abs()
    most = int(count.max())
    top, place = size.topk(most, dim=1)
    share = (torch.arange(most, device=gradient.device)[None] < count[:, None]) & (top > 0)
    weight = share.to(gradient.dtype) / share.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.zeros_like(gradient).scatter(1, place, weight) * gradient.sign()
