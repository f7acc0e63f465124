"""TRADES and MART: adversarial training that also asks for the same answer with and without an attack.

Sources: Zhang et al. 2019, eq. 5 (TRADES); Wang et al. 2020, eq. 11 (MART). With many labels a clip TRADES is ours: the
divergence of each label's yes or no, mean over labels as the cross-entropy is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, frozen
from attacks.losses import chosen
from attacks.threat import Ball
from defenses.adversarial import AdversarialTraining
from defenses.lesson import Learner, Lesson
from defenses.margin import log_sum_of_others


class Trades(AdversarialTraining):
    """Cross-entropy of clean clips + beta KL(clean || attacked), the attack raising that divergence.

    Args:
        threat: Modality -> budget.
        steps: Of PGD.
        beta: Weight of the divergence; 6 in the paper.
    """

    def __init__(self, threat: Mapping[str, Ball], steps: int, beta: float) -> None:
        super().__init__(threat, steps)
        self.beta = beta

    def loss(self, learner: Learner, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.search(learner, lesson, self._said(learner, lesson), generator)
        clean, attacked = lesson.answer(lesson.inputs), lesson.answer(found)
        apart = divergences(clean, attacked, multilabel=learner.multilabel).mean()
        return learner.loss(clean, lesson.targets) + self.beta * apart, found

    @staticmethod
    def _said(learner: Learner, lesson: Lesson) -> Tensor:
        """(B, K) probabilities that the learner gives the clean clips in evaluation mode."""
        rows = torch.arange(len(lesson.shown), device=lesson.shown.device)
        oracle = Oracle(learner.victim, len(rows), rows.device)
        with frozen(learner.victim):
            logits = oracle.logits(lesson.inputs, rows)
        lesson.passes.searched(int(oracle.forwards.sum()), 0)
        return logits.sigmoid() if learner.multilabel else logits.softmax(dim=1)


class Mart(AdversarialTraining):
    """Boosted cross-entropy of attacked clips + beta KL(clean || attacked) (1 - p_label(clean)).

    Clips that are mistaken even when clean are held to their answer the most.

    Args:
        threat: Modality -> budget.
        steps: Of PGD.
        beta: Weight of the divergence; lambda in the paper, 5 or 6.
    """

    def __init__(self, threat: Mapping[str, Ball], steps: int, beta: float) -> None:
        super().__init__(threat, steps)
        self.beta = beta

    def loss(self, learner: Learner, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        check_one_label(multilabel=learner.multilabel)
        found = self.search(learner, lesson, lesson.shown, generator)
        clean, attacked = lesson.answer(lesson.inputs), lesson.answer(found)
        labels = lesson.shown.argmax(dim=1)
        unsure = 1 - chosen(clean.softmax(dim=1), labels)
        apart = divergences(clean, attacked, multilabel=False)
        return (boosted_cross_entropy(attacked, labels) + self.beta * unsure * apart).mean(), found


def check_one_label(*, multilabel: bool) -> None:
    """Raises `ThreatModelError` where MART is not defined."""
    if multilabel:
        raise ThreatModelError("MART needs one label a clip; with many labels use trades or pgd.")


def divergences(clean: Tensor, attacked: Tensor, *, multilabel: bool) -> Tensor:
    """(B,) KL(clean || attacked) of answers given as logits (B, K), with a graph through both.

    Of the softmax with one label a clip; mean over labels of each label's sigmoid with many.
    """
    if not multilabel:
        return _kl(clean.log_softmax(dim=1), attacked.log_softmax(dim=1))
    said, changed = (torch.stack([both, -both], dim=1) for both in (clean, attacked))
    return _kl(functional.logsigmoid(said), functional.logsigmoid(changed)).mean(dim=1)


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) -log p_label - log(1 - largest other p), of logits (B, K) and labels (B,) int64."""
    own = functional.one_hot(labels, logits.shape[1]).bool()
    rival = logits.detach().masked_fill(own, -torch.inf).argmax(dim=1)
    whole = logits.logsumexp(dim=1)
    return 2 * whole - chosen(logits, labels) - chosen(log_sum_of_others(logits), rival)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sum over dimension 1."""
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


__all__ = ["Mart", "Trades", "boosted_cross_entropy", "check_one_label", "divergences"]
