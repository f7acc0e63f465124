"""Threat models: how large a perturbation of each modality may be, in the units people use.

A `Ball` says what is allowed; `Ball.around(clean, valid)` makes it a `Region`: the set of inputs that the attacker may
reach from each example of a batch, with projection, steepest ascent, uniform sampling and audit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
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

Norm = Literal["linf", "l2", "l1"]
Unit = Literal["amplitude", "dbfs", "lsb16", "snr_db", "pixel255"]
ORDERS: Mapping[str, float] = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
Inputs = Mapping[str, Tensor]

HALF_ULP = 2.0**-24
"""Relative rounding error of one float32 addition: x + delta misses delta by at most this much of |x + delta|."""


@dataclass(frozen=True)
class Ball:
    """A budget for one modality.

    Attributes:
        norm: `linf`, `l2` or `l1`, over all values of an example together.
        radius: A number, or a (B,) tensor with one radius for each example, in `unit`.
        unit: What the radius is measured in:
            `amplitude` - the norm itself, in the units of the input (full scale 1);
            `dbfs` - level: the radius of a perturbation whose every sample has the amplitude 10^(dB/20);
            `lsb16` - the norm in steps of 16-bit audio (1/32768);
            `snr_db` - per clip: every perturbation in the ball has at least this signal-to-noise ratio against the
            clip's own energy over valid samples (a silent clip gets radius 0);
            `pixel255` - the norm in steps of 8-bit pixels (1/255).
        low, high: Valid range of the input; the attacker stays inside.
    """

    norm: Norm
    radius: float | Tensor
    unit: Unit = "amplitude"
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in ORDERS:
            raise ThreatModelError(unknown("norm", self.norm, ORDERS))
        if self.unit not in get_args(Unit):
            raise ThreatModelError(unknown("unit", self.unit, get_args(Unit)))
        if not self.low < self.high:
            raise ThreatModelError(f"The bounds are empty: low {self.low}, high {self.high}; low must be below high.")
        radius = torch.as_tensor(self.radius, dtype=torch.float64)
        if not bool(radius.isfinite().all()):
            raise ThreatModelError(f"The radius must be finite; given {self.radius}.")
        if self.unit not in ("dbfs", "snr_db") and bool((radius < 0).any()):
            raise ThreatModelError(f"The radius must not be negative; given {float(radius.min())} {self.unit}.")

    def radius_amplitude(self, clean: Tensor, valid: Tensor | None = None) -> Tensor:
        """The radius of each example as a norm in input units.

        Args:
            clean: (B, ...) float32 inputs.
            valid: bool, broadcastable to `clean`; true where the input is real. All valid when absent.

        Returns:
            (B,) float64.

        Raises:
            ThreatModelError: If a radius exceeds the largest perturbation that the bounds admit.
        """
        flat = clean.detach().flatten(1).double()
        mask = torch.ones_like(flat) if valid is None else valid.expand_as(clean).flatten(1).double()
        count = mask.sum(1)
        given = torch.as_tensor(self.radius, dtype=torch.float64, device=clean.device).expand(len(clean))
        per_sample = {"linf": torch.ones_like(count), "l2": count.sqrt(), "l1": count}[self.norm]
        if self.unit == "dbfs":
            radius = 10 ** (given / 20) * per_sample
        elif self.unit == "snr_db":
            energy = lengths(flat * mask)
            # ||d||_2 <= sqrt(n) ||d||_inf and ||d||_2 <= ||d||_1: the largest balls inside the SNR constraint.
            spread = count.sqrt().clamp_min(1.0) if self.norm == "linf" else torch.ones_like(count)
            radius = energy / (10 ** (given / 20) * spread)
        else:
            radius = given / {"amplitude": 1.0, "lsb16": 32768.0, "pixel255": 255.0}[self.unit]
        largest = (self.high - self.low) * per_sample
        if bool((radius > largest * (1 + 1e-9)).any()):
            worst = int((radius - largest).argmax())
            raise ThreatModelError(
                f"The {self.norm} radius {float(given[worst]):g} {self.unit} is {float(radius[worst]):g} in input "
                f"units, but two inputs in [{self.low:g}, {self.high:g}] differ by {float(largest[worst]):g} at most. "
                "Give a smaller radius, or check its unit."
            )
        return radius

    def around(self, clean: Tensor, valid: Tensor | None = None) -> Region:
        """The region that the attacker may reach from `clean` (B, ...)."""
        return Region(clean, valid, self.norm, self.radius_amplitude(clean, valid), self.low, self.high)


class Region:
    """All inputs within a ball around each example of a batch, inside the data range, with padding untouched.

    Projections are exact in float32 arithmetic: what `project` returns passes `audit` without any tolerance, because
    radii are reduced by the largest rounding error of `clean + delta` before use.
    """

    def __init__(
        self, clean: Tensor, valid: Tensor | None, norm: Norm, radius: Tensor, low: float, high: float
    ) -> None:
        if not bool(((clean >= low) & (clean <= high)).all()):
            raise ThreatModelError(
                f"The clean input leaves its declared range [{low:g}, {high:g}] (it spans {float(clean.min()):g} to "
                f"{float(clean.max()):g}, NaN where neither); scale it, or declare its bounds."
            )
        self.clean, self.norm, self.radius, self.low, self.high = clean.detach(), norm, radius, low, high
        self.valid = None if valid is None or bool(valid.all()) else valid.expand_as(clean)
        reach = radius.view(-1, *[1] * (clean.ndim - 1)) if norm == "linf" else torch.tensor(high - low)
        movable = reach.double() if self.valid is None else reach * self.valid
        base = self.clean.double()
        self._lowest = _round_inward((base - movable).clamp_min(low), clean.dtype, upward=True)
        self._highest = _round_inward((base + movable).clamp_max(high), clean.dtype, upward=False)
        order = 2.0 if norm == "l2" else 1.0
        slack = HALF_ULP * (lengths(base.flatten(1), order) + radius)
        self._inner = ((radius - slack) * (1 - 4e-6)).clamp_min(0.0).to(clean.dtype)

    def select(self, index: Tensor) -> Region:
        """The regions of the examples at `index` alone."""
        part = object.__new__(Region)
        part.norm, part.low, part.high = self.norm, self.low, self.high
        part.clean, part.radius = self.clean[index], self.radius[index]
        part.valid = None if self.valid is None else self.valid[index]
        part._lowest, part._highest, part._inner = self._lowest[index], self._highest[index], self._inner[index]
        return part

    def project(self, point: Tensor) -> Tensor:
        """Nearest point of the region to `point` (B, ...) in the Euclidean sense."""
        if self.norm == "linf":
            return point.clamp(self._lowest, self._highest)
        delta = (point - self.clean).flatten(1)
        low, high = (self._lowest - self.clean).flatten(1), (self._highest - self.clean).flatten(1)
        if self.valid is not None:  # padding must not share in the norm
            delta = delta * self.valid.flatten(1)
        ball, both = (project_l2, project_l2_box) if self.norm == "l2" else (project_l1, project_l1_box)
        inside = ball(delta, self._inner)
        crossing = ((inside < low) | (inside > high)).any(dim=1)
        if bool(crossing.any()):
            fixed = both(delta[crossing], self._inner[crossing], low[crossing], high[crossing])
            inside = inside.index_put((crossing,), fixed)
        return (self.clean + inside.view_as(self.clean)).clamp(self._lowest, self._highest)

    def ascend(self, point: Tensor, gradient: Tensor, step: Tensor, sparsity: Tensor | None = None) -> Tensor:
        """One steepest-ascent step of length `step` (B,) in this norm, projected.

        Args:
            point: (B, ...) where the gradient was taken.
            gradient: (B, ...) of the loss to be raised.
            step: (B,) in input units.
            sparsity: (B,) share of coordinates moved in an L1 step; 0.05 when absent.
        """
        return self.project(point + self.direction(point, gradient, sparsity) * per_example(step, point))

    def direction(self, point: Tensor, gradient: Tensor, sparsity: Tensor | None = None) -> Tensor:
        """Steepest-ascent direction of unit length in this norm: sign, unit gradient, or k-sparse sign (L1)."""
        if self.norm == "linf":
            return gradient.sign()
        # A coordinate at its bound and pushed outward can take no part; without this an L1 step is wasted on it.
        stuck = ((gradient > 0) & (point >= self._highest)) | ((gradient < 0) & (point <= self._lowest))
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
        return audit(self.clean, point, self.norm, self.radius, self.valid, (self.low, self.high))


@dataclass(frozen=True)
class Audit:
    """What an attack really did to each example of a batch; every tensor is (B,).

    Attributes:
        linf, l2, l1: Realised norms of the perturbation, float64.
        snr_db: Signal-to-noise ratio over valid samples; infinite where nothing changed.
        ratio: Realised over allowed size in the declared norm; 0 where both are 0.
        violated: True where a budget, the data range or padding was violated, or a value is not finite.
        reasons: The kinds of violation that occurred, each once.
    """

    linf: Tensor
    l2: Tensor
    l1: Tensor
    snr_db: Tensor
    ratio: Tensor
    violated: Tensor
    reasons: tuple[str, ...] = field(default=())


def audit(
    clean: Tensor,
    point: Tensor,
    norm: Norm,
    radius: Tensor,
    valid: Tensor | None = None,
    bounds: tuple[float, float] = (-1.0, 1.0),
    tolerance: float = 1e-6,
) -> Audit:
    """Measures a perturbation against its declared budget (methods.md 9.2, S12).

    Args:
        clean: (B, ...) inputs before.
        point: (B, ...) inputs after.
        norm: Declared norm.
        radius: (B,) declared radius in input units.
        valid: bool, broadcastable to `clean`; padding must not change.
        bounds: Declared data range.
        tolerance: Relative excess of the norm that is forgiven.
    """
    start, end = clean.detach().double().flatten(1), point.detach().double().flatten(1)
    delta = end - start
    mask = torch.ones_like(start) if valid is None else valid.expand_as(clean).flatten(1).double()
    sizes = {name: lengths(delta, order) for name, order in ORDERS.items()}
    allowed = radius.double().to(delta.device)
    realised = sizes[norm]
    ratio = torch.where(realised == 0, 0.0, realised / allowed.clamp_min(1e-300))
    checks = {
        "not finite": ~end.isfinite().all(dim=1),
        "budget exceeded": ~(realised <= allowed * (1 + tolerance)),
        "outside the data range": ((end < bounds[0]) | (end > bounds[1])).any(dim=1),
        "padding touched": ((delta != 0) & (mask == 0)).any(dim=1),
    }
    noise = sizes["l2"]
    snr_db = 20 * torch.log10(lengths(start * mask).clamp_min(1e-300) / noise.clamp_min(1e-300))
    snr_db = torch.where(noise == 0, torch.inf, snr_db)
    violated = torch.stack(list(checks.values())).any(dim=0)
    reasons = tuple(name for name, found in checks.items() if bool(found.any()))
    return Audit(sizes["linf"], sizes["l2"], sizes["l1"], snr_db, ratio, violated, reasons)


def _round_inward(exact: Tensor, dtype: torch.dtype, *, upward: bool) -> Tensor:
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
