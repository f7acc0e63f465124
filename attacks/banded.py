"""Where an attacker may go who is confined to a band of frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.audit import Bound, Norm
from attacks.errors import ThreatModelError
from attacks.projections import lengths, per_example, project_l2, project_l2_box, steepest_l2
from attacks.region import Region
from attacks.supports import Support, band_limit

ROUNDS = 4
"""Alternating projections on band and box; each is one more pair of FFTs for the clips that still cross the box."""


class BandRegion(Region):
    """A region whose perturbations are made of some FFT bins only.

    What `project` returns is in the ball, the data range and the window to the bit, and in the band as far as those
    allow: away from the data range and without padding only rounding leaks. In L2 without either it is the exact
    projection (the band is a subspace through the centre of the ball); otherwise projections alternate.

    Raises:
        ThreatModelError: For L1 balls: what is sparse in time is spread over all frequencies.
    """

    def __init__(
        self,
        clean: Tensor,
        valid: Tensor | None,
        norm: Norm,
        radius: Tensor,
        low: Bound,
        high: Bound,
        support: Tensor | None,
        bins: Tensor,
    ) -> None:
        if norm == "l1":
            raise ThreatModelError(
                "A frequency band has no L1 ball: a perturbation of few samples is spread over all frequencies. "
                "Use norm l2 or linf, or a time window."
            )
        super().__init__(clean, valid, norm, radius, low, high, support)
        self.bins = bins.to(clean.device)

    def project(self, point: Tensor) -> Tensor:
        """A point of the region near `point`: the nearest one where the ball alone limits in L2."""
        delta = band_limit(point - self.clean, self.bins)
        low, high = self._lowest - self.clean, self._highest - self.clean
        inside = self._linf(delta, low, high) if self.norm == "linf" else self._l2(delta, low, high)
        return (self.clean + inside).clamp(self._lowest, self._highest)

    def restrict(self, delta: Tensor) -> Tensor:
        """The part of a gradient or perturbation `delta` (B, T) that lies where the attacker may go."""
        return super().restrict(band_limit(super().restrict(delta), self.bins))

    def direction(self, point: Tensor, gradient: Tensor, sparsity: Tensor | None = None) -> Tensor:
        """Ascent direction of unit length, taken inside the band; in L-infinity the band's part of its sign."""
        inside = self.restrict(gradient)
        if self.norm == "linf":
            return self._unit(self.restrict(inside.sign()))
        stuck = ((inside > 0) & (point >= self._highest)) | ((inside < 0) & (point <= self._lowest))
        return steepest_l2(inside.masked_fill(stuck, 0.0))

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A random point inside the band: uniform in the L2 ball; in L-infinity Gaussian noise of random peak."""
        count = self.clean.shape[1]
        noise = torch.stack([torch.randn(count, generator=generator) for generator in generators])
        dimension = 2 * int(self.bins.sum())
        shrink = torch.stack([torch.rand((), generator=generator) for generator in generators]) ** (1 / dimension)
        unit = self._unit(self.restrict(noise.to(self.clean)))
        return self.project(self.clean + unit * per_example(self.radius * shrink.to(self.radius), self.clean))

    def _unit(self, delta: Tensor) -> Tensor:
        """`delta` scaled to length 1 in this norm; zero stays zero."""
        return delta / lengths(delta, torch.inf if self.norm == "linf" else 2.0)[:, None].clamp_min(1e-30)

    def _linf(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Alternates, then scales as a whole, which unlike clipping does not leave the band.

        Mirrored at the box instead of clipped to it: as good in four rounds as clipping is in eight (measured on `m5`).
        """
        for _ in range(ROUNDS):
            crossing = _crossing(delta, low, high)
            if len(crossing) == 0:
                break
            beyond = delta[crossing]
            mirrored = 2 * beyond.clamp(low[crossing], high[crossing]) - beyond
            delta = delta.index_copy(0, crossing, band_limit(mirrored, self.bins))
        allowed = (self.radius * (1 - 1e-6)).to(delta.dtype)
        return delta * (allowed / lengths(delta, torch.inf).clamp_min(1e-30)).clamp_max(1.0)[:, None]

    def _l2(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = project_l2(delta, self._inner)
        crossing = _crossing(inside, low, high)
        if len(crossing) == 0:
            return inside
        part, near, far, most = inside[crossing], low[crossing], high[crossing], self._inner[crossing]
        for _ in range(ROUNDS):
            part = band_limit(2 * part.clamp(near, far) - part, self.bins)
        return inside.index_copy(0, crossing, project_l2_box(part, most, near, far))


def confined(
    clean: Tensor, valid: Tensor | None, norm: Norm, radius: Tensor, low: Bound, high: Bound, support: Support | None
) -> Region:
    """The region of a ball whose perturbations live in `support`; None: anywhere."""
    if support is None:
        return Region(clean, valid, norm, radius, low, high)
    shape = clean.shape[1:]
    mask, bins = support.mask(shape), support.bins(shape)
    if bins is None:
        return Region(clean, valid, norm, radius, low, high, mask)
    return BandRegion(clean, valid, norm, radius, low, high, mask, bins)


def _crossing(delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Rows of `delta` that leave the box; each row is judged, and later treated, by itself."""
    return ((delta < low) | (delta > high)).any(dim=1).nonzero()[:, 0]
