"""A classifier in training: what its defense makes of each batch, what validation says of it, clean and attacked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from attacks.losses import Goal
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from defenses.defense import Defense, DefenseSettings, load_defense
from defenses.fast import CatastrophicOverfitting, one_step
from defenses.training import Augmentation, Learner, Recipe, TrainingBatch


@dataclass(frozen=True)
class RobustValidation:
    """How validation clips are attacked after each epoch.

    Attributes:
        threat: Modality -> budget.
        steps: Of PGD.
        clips: How many, from the first.
    """

    threat: Mapping[str, Ball]
    steps: int = 10
    clips: int = 128


class Classifier(Learner):
    """A victim in training.

    Args:
        victim: Maps modalities to logits (B, K).
        multilabel: Whether targets are multi-hot (BCE) or one label a clip (cross-entropy).
        recipe: How to train.
        total_steps: Optimiser steps that `recipe.epochs` amount to.
        augmentations: Modality -> what is done to its training inputs.
        defense: What makes the loss of a batch; mixup of `recipe.mixup_alpha` when None.
        watched: Attack validation clips too, and stop by the score that is left; not when None.
    """

    def __init__(
        self,
        victim: nn.Module,
        *,
        multilabel: bool,
        recipe: Recipe,
        total_steps: int,
        augmentations: Mapping[str, Augmentation],
        defense: Defense | None = None,
        watched: RobustValidation | None = None,
    ) -> None:
        super().__init__(recipe, total_steps)
        self.victim, self.multilabel = victim, multilabel
        self.augmentations = augmentations
        self.defense = defense or load_defense(usual_defense(recipe))
        self.watched, self.overfitting = watched, CatastrophicOverfitting()
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.victim(inputs)
        return logits

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        """Augment, and the loss as the defense has it."""
        inputs, targets = batch
        # A batch that comes several times is heard the same each time: what is learnt of it is carried over.
        others = (self.global_rank,) if self.global_rank else ()
        generator = self.generator(*others, replays=self.defense.replays)
        changed = {
            name: self.augmentations[name](value, generator) if name in self.augmentations else value
            for name, value in inputs.items()
        }
        loss = self.defense.loss(self, changed, targets, generator)
        self.log("loss", loss.detach(), batch_size=len(targets))
        return loss

    def on_after_backward(self) -> None:
        """Tells the defense that gradients are there."""
        self.defense.after_backward()

    def wrapped(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimiser as the defense has it."""
        return self.defense.wrap(optimizer)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (B, K) against label weights (B, K)."""
        if self.multilabel:
            return functional.binary_cross_entropy_with_logits(logits, targets)
        return functional.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)

    def example_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,) the same for each clip."""
        if self.multilabel:
            each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            return each.mean(dim=1)
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")

    def validation_step(self, batch: TrainingBatch, batch_index: int) -> None:
        """Collects logits, of attacked clips too."""
        inputs, targets = batch
        self._see("score", self(inputs), targets)
        if self.watched is None:
            return
        left = self.watched.clips - sum(len(logits) for logits, _ in self.seen.get("robust", ()))
        if left > 0:
            self._attack({name: value[:left] for name, value in inputs.items()}, targets[:left], self.watched)

    def _attack(self, inputs: dict[str, Tensor], targets: Tensor, how: RobustValidation) -> None:
        """Collects logits of clips under PGD, and under FGSM: the two part where one-step training overfits."""
        goal = Goal(targets if self.multilabel else targets.argmax(dim=1), reference=targets)
        found = pgd(self.victim, inputs, goal, how.threat, config=PGD(steps=how.steps))
        self._see("robust", self(found.inputs), targets)
        quick, _ = one_step(self.victim, inputs, goal, how.threat)
        self._see("one-step", self(quick), targets)

    def _see(self, name: str, logits: Tensor, targets: Tensor) -> None:
        self.seen.setdefault(name, []).append((logits.detach().float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs `score` and, of attacked clips, `robust`: accuracy, or mean average precision over labels."""
        gathered = {name: [torch.cat(side) for side in zip(*pairs, strict=True)] for name, pairs in self.seen.items()}
        self.seen.clear()
        scores = {name: self._score(*pair) for name, pair in gathered.items()}
        for name, value in scores.items():
            self.log(name, value, prog_bar=name != "one-step")
        if "robust" in scores:
            self.overfitting.note(one_step=scores["one-step"], several_steps=scores["robust"])
        by = "robust" if "robust" in scores else "score"
        # Ties in the score are common on small sets; the loss decides among them.
        criterion = scores[by] - 1e-3 * min(float(self.loss(*gathered[by])), 10.0)
        self.log("criterion", criterion)
        self.best = max(self.best, (criterion, scores["score"], scores.get("robust", math.nan)))

    def _score(self, logits: Tensor, targets: Tensor) -> float:
        return _average_precision(logits, targets) if self.multilabel else _accuracy(logits, targets)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["learner"].update(defense=self.defense.state(), overfitting=self.overfitting.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint["learner"]
        self.defense.load(kept["defense"])
        self.overfitting.load(kept["overfitting"])


def usual_defense(recipe: Recipe) -> DefenseSettings:
    """What a recipe says where no defense is asked for: its mixup."""
    if recipe.mixup_alpha == 0:
        return DefenseSettings("none")
    return DefenseSettings("mixup", alpha=recipe.mixup_alpha)


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return float((logits.argmax(dim=1) == targets.argmax(dim=1)).double().mean())


def _average_precision(logits: Tensor, targets: Tensor) -> float:
    from torchmetrics.functional.classification import multilabel_average_precision

    return float(multilabel_average_precision(logits, targets.long(), num_labels=targets.shape[1]))


__all__ = ["Classifier", "RobustValidation", "usual_defense"]
