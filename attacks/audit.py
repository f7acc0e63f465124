"""What an attack really did, measured in float64 and independently of how it was made (methods.md 9.2, S12)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from attacks.projections import lengths

Norm = Literal["linf", "l2", "l1"]
ORDERS: Mapping[str, float] = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
Bound = float | Tensor
"""An end of the data range: one number, or a tensor that broadcasts to one example."""


@dataclass(frozen=True)
class Audit:
    """What an attack really did to each example of a batch; every tensor is (B,).

    Attributes:
        linf, l2, l1: Realised norms of the perturbation, float64.
        snr_db: Signal-to-noise ratio over valid samples; infinite where nothing changed.
        ratio: Realised over allowed size in the declared norm; 0 where both are 0.
        violated: True where a budget, the data range, padding or a support was violated, or a value is not finite.
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
    bounds: tuple[Bound, Bound] = (-1.0, 1.0),
    tolerance: float = 1e-6,
    support: Tensor | None = None,
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
        support: bool, broadcastable to `clean`; nothing else must change.
    """
    start, end = clean.detach().double().flatten(1), point.detach().double().flatten(1)
    delta = end - start
    mask = torch.ones_like(start) if valid is None else valid.expand_as(clean).flatten(1).double()
    low, high = (flat_bound(bound, clean) for bound in bounds)
    sizes = {name: lengths(delta, order) for name, order in ORDERS.items()}
    allowed = radius.double().to(delta.device)
    realised = sizes[norm]
    ratio = torch.where(realised == 0, 0.0, realised / allowed.clamp_min(1e-300))
    checks = {
        "not finite": ~end.isfinite().all(dim=1),
        "budget exceeded": ~(realised <= allowed * (1 + tolerance)),
        "outside the data range": ((end < low) | (end > high)).any(dim=1),
        "padding touched": ((delta != 0) & (mask == 0)).any(dim=1),
    }
    if support is not None:
        checks["outside the support"] = ((delta != 0) & ~support.expand_as(clean).flatten(1)).any(dim=1)
    noise = sizes["l2"]
    snr_db = 20 * torch.log10(lengths(start * mask).clamp_min(1e-300) / noise.clamp_min(1e-300))
    snr_db = torch.where(noise == 0, torch.inf, snr_db)
    violated = torch.stack(list(checks.values())).any(dim=0)
    reasons = tuple(name for name, found in checks.items() if bool(found.any()))
    return Audit(sizes["linf"], sizes["l2"], sizes["l1"], snr_db, ratio, violated, reasons)


def flat_bound(bound: Bound, clean: Tensor) -> Bound:
    """`bound` so that it broadcasts over `clean` flattened to (B, N)."""
    if not isinstance(bound, Tensor):
        return bound
    return bound.to(clean.device).expand(clean.shape[1:]).flatten()
