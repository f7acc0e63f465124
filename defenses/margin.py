"""A margin in every modality: each alone should know the label, so that an attack on one leaves the other.

Yang et al., "Quantifying and enhancing multi-modal robustness with modality preference" (ICLR 2024, CRMT);
methods.md 2.5. What one modality says is what the victim says with the others left out (zeros: silence, black).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.errors import ThreatModelError
from defenses.lesson import Learner, Lesson, statistics_kept


def margin_loss(learner: Learner, inputs: dict[str, Tensor], lesson: Lesson) -> Tensor:
    """Mean over clips of log sum_m sum_{k != y} exp(s_mk - s_my), s_m being the logits of modality m alone.

    Running statistics do not learn from clips that lack a modality.

    Args:
        learner: Who learns.
        inputs: Modality -> (B, ...) what is learnt from.
        lesson: Whose labels `shown` they have; counts the passes.
    """
    check_modalities(inputs)
    with statistics_kept(learner.victim):
        alone = torch.stack([_alone(learner, inputs, name, lesson) for name in inputs])
    return margins(alone, lesson.shown, multilabel=learner.multilabel).mean()


def margins(alone: Tensor, targets: Tensor, *, multilabel: bool) -> Tensor:
    """(B,) margin losses of logits (M, B, K) of each modality alone.

    With soft labels the mean over classes by their weights, as mixup has it. With many labels a clip each is a question
    of two answers, s and 0: the mean over labels of log sum_m exp(-+s_m).

    Args:
        alone: (M, B, K) logits.
        targets: (B, K) label weights.
        multilabel: Whether each label is a question of its own.
    """
    if multilabel:
        absent, present = alone.logsumexp(dim=0), (-alone).logsumexp(dim=0)
        return (targets * present + (1 - targets) * absent).mean(dim=1)
    excess = torch.stack([log_sum_of_others(logits) - logits for logits in alone])
    return (targets * excess.logsumexp(dim=0)).sum(dim=1)


def log_sum_of_others(logits: Tensor) -> Tensor:
    """(B, K) log sum_{j != k} exp(s_j) for every class k of logits (B, K), without loss of precision.

    By subtraction where k is not the largest and its share at most a half; summed anew where it is.
    """
    top = functional.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    without_top = logits.masked_fill(top, -torch.inf).logsumexp(dim=1, keepdim=True)
    share = logits.softmax(dim=1).masked_fill(top, 0.0)
    return torch.where(top, without_top, logits.logsumexp(dim=1, keepdim=True) + torch.log1p(-share))


def check_modalities(modalities: Iterable[str]) -> None:
    """Raises `ThreatModelError` where there is nothing to leave out."""
    names = list(modalities)
    if len(names) < 2:
        raise ThreatModelError(
            f"The margin of each modality needs two of them or more; the victim takes {', '.join(names)}."
        )


def _alone(learner: Learner, inputs: dict[str, Tensor], kept: str, lesson: Lesson) -> Tensor:
    """(B, K) logits with every modality but one left out."""
    heard = {name: value if name == kept else torch.zeros_like(value) for name, value in inputs.items()}
    return lesson.counted(learner.victim, heard)


__all__ = ["check_modalities", "log_sum_of_others", "margin_loss", "margins"]
