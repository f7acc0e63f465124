"""What the attacker wants, and the losses that lead there.

Every loss takes logits (B, K) and gives (B,) values to be raised. Sums over the batch, never means, so that gradients
do not depend on how many examples share a batch.

Sources: margin - Carlini & Wagner 2017; DLR - Croce & Hein 2020, eq. 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.errors import ThreatModelError, unknown

LossName = Literal["margin", "ce", "dlr", "bce", "label-margin"]


@dataclass(frozen=True)
class Goal:
    """What counts as success for each example of a batch.

    Attributes:
        labels: True labels: (B,) int64 (multiclass) or (B, K) multi-hot (multilabel).
        targets: What the attacker wants to see instead, in the same form; None for an untargeted attack.
        aim: (B,) int64, untargeted multiclass only: the class to head for, where any wrong one would do. The margin to
            the nearest class has as many local optima as there are classes; later restarts try them one by one.
        watched: (B, K) bool, multilabel only: the labels that success depends on; None for all. Losses sum over them
            alone. Build such goals with `top_label_gone`, `all_positives_gone` and `label_appears`.
        reference: (B, K) probabilities, of classes or of each label, from which the loss `divergence` leads away:
            soft labels, or what the victim says of the clean clips. Success does not depend on it.

    Success, by task:
        multiclass, untargeted: the prediction is not the label. Targeted: it is the target.
        multilabel, untargeted: the clip's events are gone: every true label watched has a logit below 0 (probability
            0.5); where none of the labels watched is true, it is broken when any of them rises above 0. Targeted:
            every label watched stands as asked. A clip of which nothing is watched is broken from the start: what is
            asked cannot be done to it, and `broken` on clean logits tells which clips are worth attacking.

    Raises:
        ThreatModelError: If labels are watched of clips with one label, or in another shape than theirs.
    """

    labels: Tensor
    targets: Tensor | None = None
    aim: Tensor | None = None
    watched: Tensor | None = None
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        if self.watched is None:
            return
        if not self.multilabel:
            raise ThreatModelError("Watched labels need multi-hot labels (B, K); with one label a clip, use targets.")
        if self.watched.shape != self.labels.shape or self.watched.dtype != torch.bool:
            raise ThreatModelError(
                f"Watched labels must be bool of shape {tuple(self.labels.shape)}, as the labels; given "
                f"{self.watched.dtype} of shape {tuple(self.watched.shape)}."
            )

    @property
    def multilabel(self) -> bool:
        """Whether labels are multi-hot."""
        return self.labels.ndim == 2

    def select(self, index: Tensor) -> Goal:
        """The goals of the examples at `index` alone."""
        rest = (
            None if part is None else part[index] for part in (self.targets, self.aim, self.watched, self.reference)
        )
        return Goal(self.labels[index], *rest)

    def broken(self, logits: Tensor) -> Tensor:
        """(B,) bool: the attacker has what he wants; logits that are not finite never count."""
        finite = logits.isfinite().all(dim=1)
        if self.multilabel:
            return (label_distance(logits, self) > 0) & finite
        guess = logits.argmax(dim=1)
        return (guess != self.labels if self.targets is None else guess == self.targets) & finite


def all_positives_gone(labels: Tensor) -> Goal:
    """Every true label of multi-hot `labels` (B, K) falls below 0; without any, a label appears. The usual goal."""
    return Goal(labels)


def top_label_gone(labels: Tensor, clean_logits: Tensor) -> Goal:
    """The true label with the highest clean logit falls below 0; all others are free.

    Clips without a true label count as broken from the start, as do those whose top label is missed already.

    Args:
        labels: (B, K) multi-hot.
        clean_logits: (B, K) what the victim says of the clean clips.
    """
    present = labels > 0
    top = clean_logits.masked_fill(~present, -torch.inf).argmax(dim=1, keepdim=True)
    return Goal(labels, watched=torch.zeros_like(present).scatter(1, top, True) & present)


def label_appears(labels: Tensor, index: int) -> Goal:
    """Label number `index` rises above 0; all others are free.

    Clips that truly have the label count as broken from the start: to hear it there is no mistake.

    Args:
        labels: (B, K) multi-hot.
        index: Of the label, from 0.

    Raises:
        ThreatModelError: If there is no such label.
    """
    if not 0 <= index < labels.shape[1]:
        raise ThreatModelError(f"Label {index} is to appear, but there are {labels.shape[1]}, numbered from 0.")
    targets, watched = labels.clone(), torch.zeros_like(labels, dtype=torch.bool)
    targets[:, index] = 1
    watched[:, index] = labels[:, index] <= 0
    return Goal(labels, targets, watched=watched)


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """How far the goal is reached, in logits: positive where the prediction is as the attacker wants.

    Carlini & Wagner 2017. With an aim, the margin to that class alone (as in APGD-T): positive then implies broken.
    """
    if goal.multilabel:
        return label_distance(logits, goal)
    if goal.targets is None:
        other = best_other(logits, goal.labels) if goal.aim is None else chosen(logits, goal.aim)
        return other - chosen(logits, goal.labels)
    return chosen(logits, goal.targets) - best_other(logits, goal.targets)


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy with the label (raised), or its negative with the target."""
    if goal.multilabel:
        raise ThreatModelError(
            "Cross-entropy needs one label a clip; use loss 'bce' or 'label-margin' for multi-label."
        )
    if goal.targets is None:
        return functional.cross_entropy(logits, goal.labels, reduction="none")
    return -functional.cross_entropy(logits, goal.targets, reduction="none")


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio: the margin over the spread of the top logits, so that scale does not matter.

    Raises:
        ThreatModelError: For multi-label victims, or with fewer than 3 classes (4 when targeted): undefined there.
    """
    needed = 3 if goal.targets is None else 4
    if goal.multilabel or logits.shape[1] < needed:
        raise ThreatModelError(
            f"The DLR loss needs one label a clip and at least {needed} classes (the victim has {logits.shape[1]}); "
            "use loss 'margin'."
        )
    top = logits.topk(needed, dim=1).values
    if goal.targets is None:
        return margin(logits, goal) / (top[:, 0] - top[:, 2]).clamp_min(1e-12)
    spread = (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(1e-12)
    return (chosen(logits, goal.targets) - chosen(logits, goal.labels)) / spread


def binary_cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Sum over watched labels of the binary cross-entropy with the truth (raised), or minus that with the target."""
    if not goal.multilabel:
        raise ThreatModelError("BCE needs multi-hot labels; use loss 'margin', 'ce' or 'dlr' for one label a clip.")
    wanted = goal.labels if goal.targets is None else goal.targets
    each = functional.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
    loss = _watched_only(each, goal).sum(dim=1)
    return loss if goal.targets is None else -loss


def label_margin(logits: Tensor, goal: Goal, reward_until: float = 5.0) -> Tensor:
    """Sum over watched labels of how far each is on the attacker's side of 0, rewarded up to `reward_until`."""
    if not goal.multilabel:
        raise ThreatModelError("The per-label margin needs multi-hot labels; use loss 'margin' for one label a clip.")
    wanted = 1 - goal.labels if goal.targets is None else goal.targets
    side = 2 * wanted.to(logits.dtype) - 1
    return _watched_only((side * logits).clamp_max(reward_until), goal).sum(dim=1)


def divergence(logits: Tensor, goal: Goal) -> Tensor:
    """Kullback-Leibler divergence of the victim's answer from the goal's reference, in nats.

    Of the softmax with one label a clip; of each label's sigmoid, summed, with many. Against labels it is their
    cross-entropy, less what no attacker can change.

    Raises:
        ThreatModelError: If the goal has no reference, or is a targeted one.
    """
    if goal.reference is None or goal.targets is not None:
        raise ThreatModelError("The loss 'divergence' needs an untargeted goal with a reference (B, K) to lead from.")
    told = goal.reference.to(logits.dtype)
    if not goal.multilabel:
        return (torch.xlogy(told, told) - told * logits.log_softmax(dim=1)).sum(dim=1)
    said = functional.binary_cross_entropy_with_logits(logits, told, reduction="none")
    each = said + torch.xlogy(told, told) + torch.xlogy(1 - told, 1 - told)
    return _watched_only(each, goal).sum(dim=1)


def label_distance(logits: Tensor, goal: Goal) -> Tensor:
    """The multi-label goal as one number: positive exactly where `Goal.broken` holds; 1 where nothing is watched."""
    watched = torch.ones_like(goal.labels, dtype=torch.bool) if goal.watched is None else goal.watched
    if goal.targets is not None:
        sides = (2 * goal.targets.to(logits.dtype) - 1) * logits
        distance = sides.masked_fill(~watched, torch.inf).min(dim=1).values
    else:
        present = (goal.labels > 0) & watched
        highest_true = logits.masked_fill(~present, -torch.inf).max(dim=1).values
        highest = logits.masked_fill(~watched, -torch.inf).max(dim=1).values
        distance = torch.where(present.any(dim=1), -highest_true, highest)
    return torch.where(watched.any(dim=1), distance, 1.0)


def _watched_only(each: Tensor, goal: Goal) -> Tensor:
    return each if goal.watched is None else each.masked_fill(~goal.watched, 0.0)


def chosen(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) logit of the given class."""
    return logits.gather(1, labels[:, None])[:, 0]


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) highest logit among all other classes."""
    own = functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).max(dim=1).values


Loss = Callable[[Tensor, Goal], Tensor]

LOSSES: Mapping[str, Loss] = {
    "margin": margin,
    "ce": cross_entropy,
    "dlr": dlr,
    "bce": binary_cross_entropy,
    "label-margin": label_margin,
}


def find_loss(name: str) -> Loss:
    """The loss called `name`.

    Raises:
        ThreatModelError: If there is none.
    """
    if name == "divergence":  # for training; nobody who attacks has a reference to give
        return divergence
    if name not in LOSSES:
        raise ThreatModelError(unknown("loss", name, LOSSES))
    return LOSSES[name]
