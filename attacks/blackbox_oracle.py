"""What attacks that only ask share: a victim that says logits, through a random channel or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.eot import Expectation, ExpectedOracle, apart
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim
from attacks.losses import Goal, Loss
from attacks.pgd import around
from attacks.queries import Direct
from attacks.threat import Ball


class QueryOracle(ExpectedOracle):
    """Losses by forward passes alone, each of them counted.

    Attributes:
        modality: The one attacked.
        regions: `modality` -> where the attacker may go.
        search: One generator for each example, for what the attacker tries; the channel draws from the others.
    """

    def __init__(
        self,
        victim: Victim,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        threat: Mapping[str, Ball],
        modality: str,
        valid: Mapping[str, Tensor] | None,
        generators: Sequence[torch.Generator] | None,
        expectation: Expectation | None,
    ) -> None:
        if modality not in inputs:
            raise ThreatModelError(unknown("modality to attack", modality, inputs))
        if set(threat) != {modality}:
            raise ThreatModelError(
                f"A black-box attack needs one budget, that of {modality!r}; given budgets of "
                f"{', '.join(sorted(threat)) or 'nothing'}. Name the modality to attack."
            )
        count = len(goal.labels)
        generators = generators or [torch.Generator().manual_seed(seed) for seed in range(count)]
        self.modality, self.regions = modality, around(inputs, threat, valid or {})
        self.search = [apart(generator, stream=1) for generator in generators]
        expectation = expectation or Expectation(Direct(), draws=1, modality=modality)
        super().__init__(victim, count, goal.labels.device, None, expectation, generators, valid or {})

    @property
    def direct(self) -> bool:
        """Whether there is no channel."""
        return isinstance(self.expectation.channel, Direct)

    def losses(
        self, versions: Tensor, inputs: Mapping[str, Tensor], goal: Goal, loss: Loss, rows: Tensor, groups: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Losses of versions of each example: the versions of a group hear the same draws, K of them.

        Args:
            versions: (V, A, ...) of the modality attacked, group by group.
            inputs: Modality -> (A, ...), of which the others are taken.
            goal: Of the A examples.
            loss: To be raised.
            rows: (A,) places of the examples in the batch.
            groups: Into how many the versions fall.

        Returns:
            (V, A) mean losses over draws, and (V, K draws, A, classes) logits.
        """
        draws, size = self.expectation.draws, len(versions) // groups
        pairs = [(version, version // size * draws + draw) for version in range(len(versions)) for draw in range(draws)]
        logits = self.ask({self.modality: versions}, inputs, rows, pairs)
        each = torch.stack([loss(said, goal) for said in logits])
        return each.view(len(versions), draws, -1).mean(dim=1), logits.view(len(versions), draws, *logits.shape[1:])

    def note_draws(self, rows: Tensor, logits: Tensor) -> None:
        """Remembers (K, A, classes) logits as those heard last, for `finished`."""
        for draw, said in enumerate(logits):
            self.note_said(draw, rows, said)


__all__ = ["QueryOracle"]
