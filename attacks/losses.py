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

    Success, by task:
        multiclass, untargeted: the prediction is not the label. Targeted: it is the target.
        multilabel, untargeted: the clip's events are gone: every true label has a logit below 0 (probability 0.5);
            a clip without events is broken when any label rises above 0. Targeted: every label stands as asked.
    """

    labels: Tensor
    targets: Tensor | None = None
    aim: Tensor | None = None

    @property
    def multilabel(self) -> bool:
        """Whether labels are multi-hot."""
        return self.labels.ndim == 2

    def select(self, index: Tensor) -> Goal:
        """The goals of the examples at `index` alone."""
        targets = None if self.targets is None else self.targets[index]
        return Goal(self.labels[index], targets, None if self.aim is None else self.aim[index])

    def broken(self, logits: Tensor) -> Tensor:
        """(B,) bool: the attacker has what he wants; logits that are not finite never count."""
        finite = logits.isfinite().all(dim=1)
        if self.multilabel:
            return (label_distance(logits, self) > 0) & finite
        guess = logits.argmax(dim=1)
        return (guess != self.labels if self.targets is None else guess == self.targets) & finite


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
    """Sum over labels of the binary cross-entropy with the truth (raised), or its negative with the target."""
    if not goal.multilabel:
        raise ThreatModelError("BCE needs multi-hot labels; use loss 'margin', 'ce' or 'dlr' for one label a clip.")
    wanted = goal.labels if goal.targets is None else goal.targets
    loss = functional.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none").sum(dim=1)
    return loss if goal.targets is None else -loss


def label_margin(logits: Tensor, goal: Goal, reward_until: float = 5.0) -> Tensor:
    """Sum over labels of how far each is on the attacker's side of 0, rewarded no further than `reward_until`."""
    if not goal.multilabel:
        raise ThreatModelError("The per-label margin needs multi-hot labels; use loss 'margin' for one label a clip.")
    wanted = 1 - goal.labels if goal.targets is None else goal.targets
    side = 2 * wanted.to(logits.dtype) - 1
    return (side * logits).clamp_max(reward_until).sum(dim=1)


def label_distance(logits: Tensor, goal: Goal) -> Tensor:
    """The multi-label goal as one number: positive exactly where `Goal.broken` holds."""
    if goal.targets is not None:
        return ((2 * goal.targets.to(logits.dtype) - 1) * logits).min(dim=1).values
    present = goal.labels > 0
    highest_true = logits.masked_fill(~present, -torch.inf).max(dim=1).values
    return torch.where(present.any(dim=1), -highest_true, logits.max(dim=1).values)


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
    if name not in LOSSES:
        raise ThreatModelError(unknown("loss", name, LOSSES))
    return LOSSES[name]
