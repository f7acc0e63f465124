"""How long each step is: constant, cosine, or adaptive as in APGD.

A schedule moves a `Walk` one step and, once the loss at the new point is known, adapts. Step lengths are relative to
the radius, so that one setting serves every radius, norm and modality.

Sources: APGD - Croce & Hein 2020, algorithm 1 (constants as published and as in their code); its L1 form - Croce & Hein
2021; momentum of the others - Dong et al. 2018.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from attacks.projections import per_example
from attacks.walk import Walk, take


class Schedule(Protocol):
    """One way of choosing steps."""

    def move(self, walk: Walk, step: int) -> None:
        """Takes step number `step` (from 0) along the gradients at hand."""

    def adapt(self, walk: Walk, step: int) -> None:
        """Learns from the loss at the point that step `step` reached."""

    def keep(self, index: Tensor) -> None:
        """Forgets all examples but those at `index`."""


class Fixed:
    """Constant or cosine steps, with optional momentum on the L1-normalised gradient (MI-FGSM)."""

    def __init__(
        self, walk: Walk, steps: int, rel_step: dict[str, float], momentum: float, sparsity: float, *, cosine: bool
    ) -> None:
        self.steps, self.rel_step, self.momentum, self.cosine = steps, rel_step, momentum, cosine
        self.sparsity = torch.full((len(walk),), sparsity, device=walk.rows.device)
        self.velocity = {name: torch.zeros_like(value) for name, value in walk.point.items()}

    def move(self, walk: Walk, step: int) -> None:
        """Steps along the (accumulated) gradient."""
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.cosine else 1.0
        point = {}
        for name, region in walk.regions.items():
            gradient = walk.gradient[name]
            if self.momentum:
                size = gradient.flatten(1).abs().mean(dim=1).clamp_min(1e-30)
                gradient = self.velocity[name].mul_(self.momentum).add_(gradient / per_example(size, gradient))
            point[name] = region.ascend(
                walk.point[name], gradient, decay * self.rel_step[name] * region.radius, self.sparsity
            )
        walk.point = point

    def adapt(self, walk: Walk, step: int) -> None:
        """Nothing to learn."""

    def keep(self, index: Tensor) -> None:
        """Drops the state of the others."""
        self.sparsity, self.velocity = take(self.sparsity, index), take(self.velocity, index)


class Adaptive:
    """APGD: start with steps of twice the radius, halve where progress stalls and go back to the best point."""

    def __init__(self, walk: Walk, steps: int, rel_step: float, momentum: float) -> None:
        count, device = len(walk), walk.rows.device
        self.rel_step, self.inertia = rel_step, 1 - momentum
        self.checkpoints = set(checkpoints(steps))
        self.sparse_interval = max(int(0.04 * steps), 1)
        zero = torch.zeros(count, device=device)
        sparse = {name for name, region in walk.regions.items() if region.norm == "l1"}
        self.state: dict[str, Any] = {
            "step": {name: torch.full((count,), rel_step, device=device) for name in walk.regions},
            "previous": dict(walk.point),
            "last_loss": walk.loss,
            "rises": zero,
            "since": zero,
            "checked_loss": torch.full((count,), -torch.inf, device=device),
            "halved": torch.ones(count, dtype=torch.bool, device=device),
            "share": {name: torch.full((count,), 0.2, device=device) for name in sparse},
            "support": {name: torch.full((count,), torch.inf, device=device) for name in sparse},
        }
        for name in sparse:  # an L1 step longer than the radius would only be projected away
            self.state["step"][name] = torch.full((count,), rel_step / 2, device=device)

    def move(self, walk: Walk, step: int) -> None:
        """Gradient step, then (not in L1) a convex mix with the last move."""
        state, point = self.state, {}
        state["last_loss"] = walk.loss
        for name, region in walk.regions.items():
            here = walk.point[name]
            ahead = region.ascend(
                here, walk.gradient[name], state["step"][name] * region.radius, state["share"].get(name)
            )
            if step > 0 and region.norm != "l1":
                drift = here - state["previous"][name]
                ahead = region.project(here + (1 - self.inertia) * (ahead - here) + self.inertia * drift)
            point[name] = ahead
        state["previous"], walk.point = walk.point, point

    def adapt(self, walk: Walk, step: int) -> None:
        """Counts rises of the loss; at checkpoints halves the step where they were too few."""
        state = self.state
        state["rises"] = state["rises"] + (walk.loss > state["last_loss"])
        state["since"] = state["since"] + 1
        if state["share"] and (step + 1) % self.sparse_interval == 0:
            self._adapt_sparse(walk)
        if step + 1 in self.checkpoints and len(state["share"]) < len(walk.regions):
            self._adapt_dense(walk)

    def _adapt_dense(self, walk: Walk) -> None:
        state = self.state
        few = state["rises"] < 0.75 * state["since"]
        stuck = ~state["halved"] & (walk.best_loss <= state["checked_loss"])
        halve = few | stuck
        for name, region in walk.regions.items():
            if region.norm != "l1":
                state["step"][name] = torch.where(halve, state["step"][name] / 2, state["step"][name])
        walk.return_to_best(halve)
        state["halved"], state["checked_loss"] = halve, walk.best_loss
        state["rises"], state["since"] = torch.zeros_like(state["rises"]), torch.zeros_like(state["since"])

    def _adapt_sparse(self, walk: Walk) -> None:
        """L1: follow the support of the best point; full steps while it shrinks, shorter ones when it settles."""
        state = self.state
        for name, region in walk.regions.items():
            if region.norm != "l1":
                continue
            moved = (walk.best_point[name] != region.clean).flatten(1)
            support = moved.sum(dim=1).float()
            shrinking = support < 0.95 * state["support"][name]
            full = self.rel_step / 2
            shorter = (state["step"][name] / 1.5).clamp_min(full / 10)
            state["step"][name] = torch.where(shrinking, torch.full_like(shorter, full), shorter)
            state["share"][name] = support / moved.shape[1] / 1.5
            state["support"][name] = support
            walk.return_to_best(shrinking)

    def keep(self, index: Tensor) -> None:
        """Drops the state of the others."""
        self.state = take(self.state, index)


def checkpoints(steps: int) -> list[int]:
    """Steps after which APGD looks back: at 0.22 of all, then at gaps that shrink by 0.03 down to 0.06."""
    at, previous = [0.0, 0.22], 0.0
    while at[-1] < 1:
        gap = max(at[-1] - previous - 0.03, 0.06)
        previous = at[-1]
        at.append(previous + gap)
    return [math.ceil(share * steps) for share in at[1:] if share <= 1]
