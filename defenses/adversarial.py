"""Adversarial training: each batch is attacked before it is learnt from (Madry et al. 2018).

The search is `attacks.pgd` with its cosine steps, in evaluation mode, so that clips do not see each other through batch
statistics and those of the training stay as they are; what it ends at is learnt in training mode.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.losses import Goal
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from defenses.lesson import Learner, Lesson, Unopposed, generators_from


class AdversarialTraining(Unopposed):
    """Learns from the clips that PGD makes of each batch.

    Args:
        threat: Modality -> budget; modalities not named are not attacked.
        steps: Of PGD, from a random start.
    """

    def __init__(self, threat: Mapping[str, Ball], steps: int) -> None:
        self.threat, self.steps = threat, steps

    def loss(self, learner: Learner, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.search(learner, lesson, lesson.shown, generator)
        return learner.loss(lesson.answer(found), lesson.targets), found

    def search(
        self, learner: Learner, lesson: Lesson, reference: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Inputs within the budget that the learner takes furthest from `reference` (B, K) probabilities.

        Against label weights that is the highest cross-entropy.
        """
        result = pgd(
            learner.victim,
            lesson.inputs,
            goal_of(learner, lesson, reference),
            self.threat,
            config=PGD(steps=self.steps, loss="divergence", keep="last", stop_when_broken=False),
            generators=generators_from(generator, len(lesson.shown)),
        )
        lesson.passes.searched(int(result.forwards.sum()), int(result.backwards.sum()))
        return result.inputs


def goal_of(learner: Learner, lesson: Lesson, reference: Tensor) -> Goal:
    """Leads away from `reference` (B, K) probabilities."""
    labels = lesson.shown if learner.multilabel else lesson.shown.argmax(dim=1)
    return Goal(labels, reference=reference)


def back_in_range(
    changed: Mapping[str, Tensor], given: Mapping[str, Tensor], threat: Mapping[str, Ball]
) -> dict[str, Tensor]:
    """`changed` with what noise or rounding took out of the data range of a budget brought back.

    Where the inputs as `given` were outside already, nothing is hidden: the attack will say so.
    """
    inside = dict(changed)
    for name, ball in threat.items():
        if name in given and bool(((given[name] >= ball.low) & (given[name] <= ball.high)).all()):
            low, high = (torch.as_tensor(bound).to(changed[name]) for bound in (ball.low, ball.high))
            inside[name] = changed[name].clamp(low, high)
    return inside


__all__ = ["AdversarialTraining", "back_in_range", "goal_of"]
