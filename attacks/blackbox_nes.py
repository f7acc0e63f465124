"""NES: gradients estimated from what the victim says of random neighbours. No backward pass is made.

Sources: Ilyas et al. 2018 (antithetic pairs); Chen et al. 2021 (FAKEBOB, for speakers); methods.md 5.4.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.blackbox_oracle import QueryOracle
from attacks.eot import Expectation
from attacks.errors import ThreatModelError
from attacks.gradients import Victim, frozen, most_rows
from attacks.losses import Goal, Loss
from attacks.pgd import PGD, AttackResult, search
from attacks.projections import per_example
from attacks.queries import ROWS
from attacks.threat import Ball, Region


@dataclass(frozen=True)
class NES:
    """Settings of the attack.

    Attributes:
        steps: Steps along an estimated gradient.
        samples: Neighbours asked for each estimate, two of a pair; even.
        sigma: Standard deviation of neighbours about the point, in input units. Smaller sees a smoother victim's
            gradient better, larger looks over the steps of a quantised one.
        rel_step: First step over the radius, falling by a cosine; 0.5 (linf) or 1 when None.
        momentum: Decay of the accumulated gradient.
        loss: A name from `attacks.losses.LOSSES`.

    Raises:
        ThreatModelError: If a setting is out of its range.
    """

    steps: int = 50
    samples: int = 20
    sigma: float = 0.001
    rel_step: float | None = None
    momentum: float = 0.9
    loss: str = "margin"

    def __post_init__(self) -> None:
        self.walking()
        if self.samples < 2 or self.samples % 2:
            raise ThreatModelError(f"samples are asked in pairs: an even number from 2; given {self.samples}.")
        if not 0 < self.sigma < torch.inf:
            raise ThreatModelError(f"sigma must be above 0 and finite; given {self.sigma}.")
        if not 0 <= self.momentum < 1:
            raise ThreatModelError(f"momentum must be from 0 to below 1; given {self.momentum}.")

    @property
    def queries(self) -> int:
        """Forward passes for an example that is never broken, without an expectation."""
        return self.steps * (self.samples + 1) + 1

    def walking(self, expectation: Expectation | None = None) -> PGD:
        """How estimates are followed: from the clean point, until the example is broken."""
        return PGD(
            steps=self.steps,
            loss=self.loss,
            schedule="cosine",
            rel_step=self.rel_step,
            momentum=self.momentum,
            random_start=False,
            stop_when_broken=expectation is None or expectation.sure is not None,
            keep="best" if expectation is None else "last",
        )


FAKEBOB = NES(steps=200, samples=200, sigma=0.001, rel_step=0.5, momentum=0.9)
"""As AudioPure sets FAKEBOB: at its linf radius of 0.002, `rel_step` is a first step (max_lr) of 0.001. FAKEBOB halves
its step where the loss stalls; here it falls by a cosine. 40,201 queries a clip."""


def nes(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    *,
    config: NES | None = None,
    valid: Mapping[str, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    expectation: Expectation | None = None,
    modality: str = "audio",
) -> AttackResult:
    """Attacks every example of a batch by estimated gradients.

    Args:
        victim: Maps modalities to logits (B, K); never differentiated.
        inputs: Modality -> (B, ...) clean inputs.
        goal: Labels, and targets if the attack is targeted.
        threat: `modality` -> its budget, in any norm.
        config: Settings.
        valid: Modality -> bool mask of what is not padding; padding is never touched.
        generators: One generator for each example (on the CPU), so that results do not depend on how examples are
            batched; seeded 0 to B - 1 when absent.
        expectation: Attack what is heard through a random channel. Both of a pair hear the same `draws` fresh draws,
            each pair its own: one draw is enough where there are many pairs. `keep_steps` means nothing here. The last
            point is kept, and who is finished is up to `sure`, as in `attacks.pgd.pgd`.
        modality: The one attacked.

    Returns:
        As `pgd`; `backwards` are all 0.

    Raises:
        ThreatModelError: If the budget is not one of that modality, or cannot hold.
    """
    config = config or NES()
    oracle = NesOracle(victim, inputs, goal, threat, modality, valid, generators, expectation, config=config)
    with frozen(victim), frozen(oracle.expectation.channel):
        return search(oracle, inputs, goal, oracle.regions, oracle.generators, config.walking(expectation))


class NesOracle(QueryOracle):
    """Gradients estimated from random pairs about a point.

    Args:
        *given: As `QueryOracle` takes them.
        config: Settings.
    """

    def __init__(self, *given: Any, config: NES) -> None:
        super().__init__(*given)
        self.config = config

    def gradients(
        self,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        loss: Loss,
        rows: Tensor,
        wanted: Container[str] | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Logits (A, K) and losses (A,) at a point, and the estimated gradient of the modality attacked."""
        losses, logits = self.losses(inputs[self.modality][None], inputs, goal, loss, rows)
        self.note_draws(rows, logits[0])
        return logits[0].mean(dim=0), losses[0], {self.modality: self._estimate(inputs, goal, loss, rows)}

    def _estimate(self, inputs: Mapping[str, Tensor], goal: Goal, loss: Loss, rows: Tensor) -> Tensor:
        """Mean over pairs of their difference in loss, times the way between them, over that in sigma squared.

        Pairs are asked in groups as large as fit, and added up one by one, so that no sum depends on the groups.
        """
        here, region = inputs[self.modality], self.regions[self.modality].select(rows)
        pairs, sigma = self.config.samples // 2, self.config.sigma
        most = max((most_rows() or ROWS) // (2 * len(rows) * self.expectation.draws), 1)
        total, squares = torch.zeros_like(here), torch.zeros(len(rows), dtype=torch.float64, device=here.device)
        for first in range(0, pairs, most):
            some = [self._pair(here, region, rows) for _ in range(min(most, pairs - first))]
            versions = torch.stack([end for pair in some for end in pair])
            losses, _ = self.losses(versions, inputs, goal, loss, rows, groups=len(some))
            for (ahead, behind), slope in zip(some, losses[0::2] - losses[1::2], strict=True):
                part = (ahead - behind) * per_example(slope / (2 * sigma) ** 2, here)
                squares += part.flatten(1).double().square().sum(dim=1)
                total += part
        mean = total / pairs
        self.note_noise(rows, squares, {self.modality: mean}, pairs)
        return mean

    def _pair(self, here: Tensor, region: Region, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Two neighbours opposite to each other, in the data range; padding stays."""
        own = [self.search[row] for row in rows.tolist()]
        noise = torch.stack([torch.randn(here.shape[1:], generator=generator) for generator in own])
        step = self.config.sigma * region.restrict(noise.to(here))
        low, high = (torch.as_tensor(end).to(here) for end in (region.low, region.high))
        ahead, behind = (torch.minimum(torch.maximum(end, low), high) for end in (here + step, here - step))
        return ahead, behind


__all__ = ["FAKEBOB", "NES", "nes"]
