"""Where an attacker may go: a ball around each example of a batch, inside the data range, padding untouched."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from attacks.audit import ORDERS, Audit, Bound, Norm, audit
from attacks.errors import ThreatModelError
from attacks.projections import (
    lengths,
    per_example,
    project_l1,
    project_l1_box,
    project_l2,
    project_l2_box,
    steepest_l1,
    steepest_l2,
)

HALF_ULP = 2.0**-24
"""Relative rounding error of one float32 addition: x + delta misses delta by at most this much of |x + delta|."""


class Region:
    """All inputs within a ball around each example of a batch, inside the data range, with padding untouched.

    Projections are exact in float32 arithmetic: what `project` returns passes `audit` without any tolerance, because
    radii are reduced by the largest rounding error of `clean + delta` before use.

    Attributes:
        clean: (B, ...) inputs around which it lies.
        norm: Of the ball.
        radius: (B,) float64, in input units.
        low, high: Data range; numbers, or tensors that broadcast to one example.
        valid: (B, ...) bool of what may move: not padding and inside the support; None if that is everything.
        support: bool, broadcastable to `clean`: the coordinates of the support; None if they are all.
    """

    def __init__(
        self,
        clean: Tensor,
        valid: Tensor | None,
        norm: Norm,
        radius: Tensor,
        low: Bound,
        high: Bound,
        support: Tensor | None = None,
    ) -> None:
        low, high = (bound.to(clean.device) if isinstance(bound, Tensor) else bound for bound in (low, high))
        check_range(clean, low, high)
        self.clean, self.norm, self.radius, self.low, self.high = clean.detach(), norm, radius, low, high
        self.support = None if support is None else support.to(clean.device)
        self._real = _unless_full(valid, clean)
        self.valid = self._real
        if self.support is not None:
            self.valid = _unless_full(self.support if self.valid is None else self.valid & self.support, clean)
        base = self.clean.double()
        reach = self._reach(base) if self.valid is None else self._reach(base) * self.valid
        self._lowest = round_inward((base - reach).clamp_min(low), clean.dtype, upward=True)
        self._highest = round_inward((base + reach).clamp_max(high), clean.dtype, upward=False)
        order = 2.0 if norm == "l2" else 1.0
        slack = HALF_ULP * (lengths(base.flatten(1), order) + radius)
        self._inner = ((radius - slack) * (1 - 4e-6)).clamp_min(0.0).to(clean.dtype)

    def _reach(self, base: Tensor) -> Tensor:
        """How far each coordinate alone may move, broadcastable over `base`."""
        if self.norm != "linf":
            return torch.as_tensor(self.high - self.low, dtype=torch.float64)
        reach = self.radius.view(-1, *[1] * (base.ndim - 1)).double()
        if self.clean.dtype != torch.float64:
            return reach
        # Inputs are float32: float64 is that of packed modalities, whose victim sees them rounded (attacks/joint.py).
        return (reach - HALF_ULP * (base.abs() + reach)).clamp_min(0.0)

    def select(self, index: Tensor) -> Self:
        """The regions of the examples at `index` alone."""
        part = copy.copy(self)
        part.clean, part.radius = self.clean[index], self.radius[index]
        part.valid = None if self.valid is None else self.valid[index]
        part._real = None if self._real is None else self._real[index]
        part._lowest, part._highest, part._inner = self._lowest[index], self._highest[index], self._inner[index]
        return part

    def project(self, point: Tensor) -> Tensor:
        """Nearest point of the region to `point` (B, ...) in the Euclidean sense."""
        if self.norm == "linf":
            return self._clipped(point)
        delta = (point - self.clean).flatten(1)
        if self.valid is not None:  # padding must not share in the norm
            delta = delta * self.valid.flatten(1)
        ball, both = (project_l2, project_l2_box) if self.norm == "l2" else (project_l1, project_l1_box)
        moved = ball(delta, self._inner).view_as(self.clean).add_(self.clean)
        inside = self._clipped(moved)
        crossing = (inside != moved).flatten(1).any(dim=1)
        if bool(crossing.any()):
            clean = self.clean[crossing]
            low, high = ((end[crossing] - clean).flatten(1) for end in (self._lowest, self._highest))
            fixed = both(delta[crossing], self._inner[crossing], low, high)
            moved[crossing] = fixed.view_as(clean) + clean
            inside = self._clipped(moved)
        return inside

    def _clipped(self, point: Tensor) -> Tensor:
        """`point` within its lowest and highest values; two passes, each faster than a clamp between tensors."""
        raised = torch.maximum(point, self._lowest)
        return torch.minimum(raised, self._highest, out=raised)

    def restrict(self, delta: Tensor) -> Tensor:
        """The part of a gradient or perturbation `delta` (B, ...) that lies where the attacker may go."""
        return delta if self.valid is None else delta * self.valid

    def ascend(self, point: Tensor, gradient: Tensor, step: Tensor, sparsity: Tensor | None = None) -> Tensor:
        """One steepest-ascent step of length `step` (B,) in this norm, projected.

        Args:
            point: (B, ...) where the gradient was taken.
            gradient: (B, ...) of the loss to be raised.
            step: (B,) in input units.
            sparsity: (B,) share of coordinates moved in an L1 step; 0.05 when absent.
        """
        move = self.direction(point, gradient, sparsity)
        return self.project(move.mul_(per_example(step, point)).add_(point))

    def direction(self, point: Tensor, gradient: Tensor, sparsity: Tensor | None = None) -> Tensor:
        """Steepest-ascent direction of unit length in this norm: sign, unit gradient, or k-sparse sign (L1); new."""
        if self.norm == "linf":
            return gradient.sign()
        # A coordinate at its bound and pushed outward can take no part; without this an L1 step is wasted on it.
        # Whether it is at the end towards which the gradient points: low ^ ((low ^ high) & up) picks one of the two.
        low, high, up = point <= self._lowest, point >= self._highest, gradient > 0
        stuck = low.bitwise_xor_(high.bitwise_xor_(low).bitwise_and_(up))
        flat = gradient.masked_fill(stuck, 0.0).flatten(1)
        if self.norm == "l2":
            return steepest_l2(flat).view_as(gradient)
        share = torch.full((len(flat),), 0.05, device=flat.device) if sparsity is None else sparsity
        count = (share * flat.shape[1]).long().clamp(1, flat.shape[1])
        return steepest_l1(flat, count).view_as(gradient)

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A point drawn uniformly from each ball (then projected on the data range), one generator per example."""
        mask = torch.ones_like(self.clean) if self.valid is None else self.valid.to(self.clean.dtype)
        rows = zip(mask.flatten(1).cpu(), generators, strict=True)
        flat = [_sample_ball(self.norm, row, generator) for row, generator in rows]
        unit = torch.stack(flat).to(self.clean.device).view_as(self.clean)
        return self.project(self.clean + unit * per_example(self.radius, self.clean))

    def size(self, point: Tensor) -> Tensor:
        """(B,) float64 norm of `point - clean` over everything, padding included."""
        delta = (point.double() - self.clean.double()).flatten(1)
        return lengths(delta, ORDERS[self.norm])

    def audit(self, point: Tensor) -> Audit:
        """Measures what was really done, in float64 and independently of how it was made."""
        bounds = (self.low, self.high)
        return audit(self.clean, point, self.norm, self.radius, self._real, bounds, support=self.support)


def _unless_full(mask: Tensor | None, like: Tensor) -> Tensor | None:
    return None if mask is None or bool(mask.all()) else mask.expand_as(like)


def check_range(clean: Tensor, low: Bound, high: Bound) -> None:
    """Raises where an input does not lie in its data range."""
    if not bool(((clean >= low) & (clean <= high)).all()):
        raise ThreatModelError(
            f"The clean input leaves its declared range {span_text(low, high)} (it spans {float(clean.min()):g} to "
            f"{float(clean.max()):g}, NaN where neither); scale it, or declare its bounds."
        )


def span_text(low: Bound, high: Bound) -> str:
    """`[low, high]` for a message; the outermost values where each coordinate has its own."""
    return f"[{float(torch.as_tensor(low).min()):g}, {float(torch.as_tensor(high).max()):g}]"


def round_inward(exact: Tensor, dtype: torch.dtype, *, upward: bool) -> Tensor:
    """The `dtype` value nearest to the float64 `exact` that does not lie below (upward) or above it."""
    near = exact.to(dtype)
    wrong = near.double() < exact if upward else near.double() > exact
    beyond = torch.full_like(near, torch.inf if upward else -torch.inf)
    inward: Tensor = torch.where(wrong, torch.nextafter(near, beyond), near)
    return inward


def _sample_ball(norm: Norm, mask: Tensor, generator: torch.Generator) -> Tensor:
    """One point uniform in the unit ball over the coordinates where `mask` (N,) is 1; always drawn on the CPU."""
    if norm == "linf":
        return (torch.rand(mask.shape, generator=generator) * 2 - 1) * mask
    dimension = max(float(mask.sum()), 1.0)
    if norm == "l2":
        normal: Tensor = torch.randn(mask.shape, generator=generator) * mask
        shrink: float = float(torch.rand((), generator=generator)) ** (1 / dimension)
        return normal * (shrink / max(float(lengths(normal[None])), 1e-30))
    # Exponentials normalised by their sum with one more are uniform in the simplex below the diagonal.
    sizes = -torch.log1p(-torch.rand(mask.numel() + 1, generator=generator))
    signs = torch.randint(0, 2, mask.shape, generator=generator) * 2 - 1
    sizes[:-1] *= mask
    point: Tensor = sizes[:-1] / sizes.sum().clamp_min(1e-30) * signs
    return point
