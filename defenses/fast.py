"""Adversarial training for little more than plain training costs, and a watch for where it goes wrong.

Sources: Shafahi et al. 2019 ("free", algorithm 1); Wong et al. 2020 ("fast", algorithm 3, and catastrophic
overfitting).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, divergence
from attacks.pgd import around
from attacks.threat import Ball, Region
from defenses.adversarial import goal_of
from defenses.lesson import Learner, Lesson, Unopposed, generators_from

FAST_STEP = 1.25
"""Over the radius: longer overfits, shorter is weak (Wong et al. 2020, section 5.1)."""


def one_step(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    *,
    rel_step: float = 1.0,
    generators: Sequence[torch.Generator] | None = None,
) -> tuple[dict[str, Tensor], Oracle]:
    """FGSM for every norm: one step of steepest ascent on the goal's divergence, in evaluation mode.

    Unlike one step of `attacks.pgd` it asks nothing about where it ends, and so takes one pass each way.

    Args:
        victim: Maps modalities to logits (B, K).
        inputs: Modality -> (B, ...).
        goal: With a reference.
        threat: Modality -> budget.
        rel_step: Length of the step over the radius.
        generators: One for each example, for a start uniform in the ball; from the clean inputs when None.

    Returns:
        Attacked inputs, and the oracle that counted.
    """
    regions = around(inputs, threat, {})
    rows = torch.arange(len(goal.labels), device=goal.labels.device)
    oracle = Oracle(victim, len(rows), rows.device)
    start = {
        name: region.clean if generators is None else region.sample(generators) for name, region in regions.items()
    }
    with frozen(victim):
        _, _, gradients = oracle.gradients({**inputs, **start}, goal, divergence, rows, regions)
    moved = {
        name: region.ascend(start[name], gradients[name], rel_step * region.radius) for name, region in regions.items()
    }
    return {**inputs, **moved}, oracle


class FastTraining(Unopposed):
    """Learns from one long step from a random start: two passes each way for each clip.

    Args:
        threat: Modality -> budget; modalities not named are not attacked.
    """

    def __init__(self, threat: Mapping[str, Ball]) -> None:
        self.threat = threat

    def loss(self, learner: Learner, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        own = generators_from(generator, len(lesson.shown))
        goal = goal_of(learner, lesson, lesson.shown)
        found, oracle = one_step(learner.victim, lesson.inputs, goal, self.threat, rel_step=FAST_STEP, generators=own)
        lesson.passes.searched(int(oracle.forwards.sum()), int(oracle.backwards.sum()))
        return learner.loss(lesson.answer(found), lesson.targets), found


class FreeTraining(Unopposed):
    """One backward pass gives the gradients of weights and of the perturbation, which goes on from batch to batch.

    Every batch is to be given several times in a row. The perturbation of each place in the batch is kept, over replays
    and from one batch to the next, and moved by a full radius after each backward pass.

    Args:
        threat: Modality -> budget; modalities not named are not attacked.
    """

    def __init__(self, threat: Mapping[str, Ball]) -> None:
        self.threat = threat
        self.kept: dict[str, Tensor] = {}
        self._under_way: tuple[dict[str, Region], dict[str, Tensor]] | None = None

    def loss(self, learner: Learner, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        regions = around(lesson.inputs, self.threat, {})
        points = {
            name: region.project(region.clean + self._perturbation(name, region.clean)).detach().requires_grad_()
            for name, region in regions.items()
        }
        self._under_way = regions, points
        learnt = {**lesson.inputs, **points}
        return learner.loss(lesson.answer(learnt), lesson.targets), learnt

    def after_backward(self) -> None:
        """Moves the perturbation along the gradient that the backward pass left."""
        if self._under_way is None:
            return
        regions, points = self._under_way
        self._under_way = None
        for name, region in regions.items():
            point, gradient = points[name].detach(), points[name].grad
            if gradient is not None:
                point = region.ascend(point, gradient.nan_to_num(0.0, 0.0, 0.0), region.radius)
            self.kept[name] = torch.cat([point - region.clean, self.kept[name][len(point) :]])

    def state(self) -> dict[str, Tensor]:
        return dict(self.kept)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.kept = dict(state)

    def _perturbation(self, name: str, clean: Tensor) -> Tensor:
        """(B, ...) of the first B places; zeros where there was no example yet."""
        kept = self.kept.get(name, clean[:0]).to(clean)
        missing = max(len(clean) - len(kept), 0)
        self.kept[name] = torch.cat([kept, clean.new_zeros(missing, *clean.shape[1:])])
        return self.kept[name][: len(clean)]


class CatastrophicOverfitting:
    """Tells when one-step training has learnt to fool the one step: PGD breaks the victim where FGSM does not.

    Attributes:
        happened: Epoch, from 0, in which robust accuracy under PGD had fallen below half of its best before while that
            under FGSM had not; None as long as it has not.
    """

    def __init__(self) -> None:
        self.happened: int | None = None
        self._epochs = 0
        self._best = {"one_step": 0.0, "several_steps": 0.0}

    def note(self, *, one_step: float, several_steps: float) -> bool:
        """Takes an epoch's robust accuracies on validation, 0 to 1; whether the collapse shows in them."""
        told = {"one_step": one_step, "several_steps": several_steps}
        fallen = {name: value < 0.5 * self._best[name] for name, value in told.items()}
        collapsed = fallen["several_steps"] and not fallen["one_step"]
        if collapsed and self.happened is None:
            self.happened = self._epochs
        self._best = {name: max(best, told[name]) for name, best in self._best.items()}
        self._epochs += 1
        return collapsed

    def state(self) -> dict[str, Any]:
        """What must be kept for a training to be taken up again."""
        return {"happened": self.happened, "epochs": self._epochs, "best": dict(self._best)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes `state` up again."""
        self.happened, self._epochs, self._best = state["happened"], state["epochs"], dict(state["best"])


__all__ = ["FAST_STEP", "CatastrophicOverfitting", "FastTraining", "FreeTraining", "one_step"]
