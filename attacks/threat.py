"""Threat models: how large a perturbation of each modality may be, in the units people use.

A `Ball` says what is allowed; `Ball.around(clean, valid)` makes it a `Region`: the set of inputs that the attacker may
reach from each example of a batch, with projection, steepest ascent, uniform sampling and audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.audit import ORDERS, Audit, Bound, Norm, audit
from attacks.banded import confined
from attacks.errors import ThreatModelError, unknown
from attacks.projections import lengths
from attacks.region import HALF_ULP, Region, span_text
from attacks.supports import Support

Unit = Literal["amplitude", "dbfs", "lsb16", "snr_db", "pixel255"]
Inputs = Mapping[str, Tensor]


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
        low, high: Valid range of the input; the attacker stays inside. Numbers, or tensors that broadcast to one
            example where coordinates differ in it.
        support: Where in an example the perturbation may live (`attacks.supports`); None: anywhere. The radius means
            the same with and without.
    """

    norm: Norm
    radius: float | Tensor
    unit: Unit = "amplitude"
    low: Bound = -1.0
    high: Bound = 1.0
    support: Support | None = None

    def __post_init__(self) -> None:
        if self.norm not in ORDERS:
            raise ThreatModelError(unknown("norm", self.norm, ORDERS))
        if self.unit not in get_args(Unit):
            raise ThreatModelError(unknown("unit", self.unit, get_args(Unit)))
        if not bool(torch.as_tensor(self.low < self.high).all()):
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
        largest = self._largest(per_sample, mask, clean)
        if bool((radius > largest * (1 + 1e-9)).any()):
            worst = int((radius - largest).argmax())
            raise ThreatModelError(
                f"The {self.norm} radius {float(given[worst]):g} {self.unit} is {float(radius[worst]):g} in input "
                f"units, but two inputs in {span_text(self.low, self.high)} differ by {float(largest[worst]):g} at "
                "most. Give a smaller radius, or check its unit."
            )
        return radius

    def around(self, clean: Tensor, valid: Tensor | None = None) -> Region:
        """The region that the attacker may reach from `clean` (B, ...)."""
        return self.region(clean, valid, self.radius_amplitude(clean, valid))

    def region(self, clean: Tensor, valid: Tensor | None, radius: Tensor) -> Region:
        """The same with another `radius` (B,) float64, in input units and of any size."""
        return confined(clean, valid, self.norm, radius, self.low, self.high, self.support)

    def _largest(self, per_sample: Tensor, mask: Tensor, clean: Tensor) -> Tensor:
        """(B,) norm of the largest perturbation of valid samples that the bounds admit anywhere."""
        span = self.high - self.low
        if not isinstance(span, Tensor):
            return span * per_sample
        return lengths(mask * span.to(clean.device).expand(clean.shape[1:]).flatten(), ORDERS[self.norm])


__all__ = ["HALF_ULP", "ORDERS", "Audit", "Ball", "Inputs", "Norm", "Region", "Unit", "audit"]
