"""Training with Lightning: soft targets, cosine rate, averaged weights, early stop on validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as functional
from lightning.pytorch import callbacks
from torch import Tensor, nn

from defenses.mixup import mixup

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
TrainingBatch = tuple[dict[str, Tensor], Tensor]
"""Modality -> (B, ...) inputs, and (B, K) label weights."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Upper limit on passes over the data.
        max_steps: Upper limit on optimiser steps; -1 for none.
        max_minutes: Upper limit on wall time; None for none. The learning rate falls to its end by whichever limit
            comes first.
        learning_rate: At its highest, after the warm-up.
        weight_decay: AdamW's.
        warmup: Share of training over which the rate rises.
        label_smoothing: For one label a clip.
        mixup_alpha: 0 for none.
        ema_decay: Of the weight average that is validated and kept.
        patience: Epochs without a better validation score before stopping.
        seed: Of shuffling, augmentation and mixup.
    """

    epochs: int = 40
    max_steps: int = -1
    max_minutes: float | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.05
    mixup_alpha: float = 0.2
    ema_decay: float = 0.99
    patience: int = 12
    seed: int = 0


class Learner(lightning.LightningModule):
    """What every training shares: AdamW, a rate that rises and falls by steps or by the clock, the best score so far.

    Subclasses log `criterion` (the higher the better) after each validation and note it in `best`.

    Args:
        recipe: How to train.
        total_steps: Optimiser steps that `recipe.epochs` amount to.
    """

    def __init__(self, recipe: Recipe, total_steps: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.total_steps = total_steps if recipe.max_steps < 0 else min(total_steps, recipe.max_steps)
        self.started = time.monotonic()
        self.best = (-math.inf, math.nan)

    def on_train_start(self) -> None:
        """Starts the clock by which the learning rate falls."""
        self.started = time.monotonic()

    def generator(self, *names: int) -> torch.Generator:
        """For the randomness of the present step."""
        return torch.Generator().manual_seed(hash((self.recipe.seed, self.global_step, *names)) & (2**63 - 1))

    def progress(self) -> float:
        """Share of the training that is over, by steps or by the clock, whichever is further."""
        by_steps = self.global_step / max(self.total_steps, 1)
        if self.recipe.max_minutes is None:
            return float(min(by_steps, 1.0))
        by_clock = (time.monotonic() - self.started) / (60 * self.recipe.max_minutes)
        return float(min(max(by_steps, by_clock), 1.0))

    def rate(self, step: int) -> float:
        """Learning rate over its highest: linear warm-up, then half a cosine."""
        share, warmup = self.progress(), self.recipe.warmup
        if share < warmup:
            return max(share / warmup, 1e-2)
        return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) + 1e-3

    def configure_optimizers(self) -> Any:
        """AdamW without decay on vectors (norms and biases)."""
        matrices = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Classifier(Learner):
    """A victim in training.

    Args:
        victim: Maps modalities to logits (B, K).
        multilabel: Whether targets are multi-hot (BCE) or one label a clip (cross-entropy).
        recipe: How to train.
        total_steps: Optimiser steps that `recipe.epochs` amount to.
        augmentations: Modality -> what is done to its training inputs.
    """

    def __init__(
        self,
        victim: nn.Module,
        *,
        multilabel: bool,
        recipe: Recipe,
        total_steps: int,
        augmentations: Mapping[str, Augmentation],
    ) -> None:
        super().__init__(recipe, total_steps)
        self.victim, self.multilabel = victim, multilabel
        self.augmentations = augmentations
        self.scores: list[tuple[Tensor, Tensor]] = []

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.victim(inputs)
        return logits

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        """Augment, mix, and the loss of soft targets."""
        generator = self.generator()
        inputs, targets = batch
        changed = {
            name: self.augmentations[name](value, generator) if name in self.augmentations else value
            for name, value in inputs.items()
        }
        mixed, weights = mixup(changed, targets, self.recipe.mixup_alpha, generator)
        return self.loss(self(mixed), weights)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (B, K) against label weights (B, K)."""
        if self.multilabel:
            return functional.binary_cross_entropy_with_logits(logits, targets)
        return functional.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)

    def validation_step(self, batch: TrainingBatch, batch_index: int) -> None:
        """Collects logits."""
        inputs, targets = batch
        self.scores.append((self(inputs).float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs `score`: accuracy, or mean average precision over labels."""
        logits, targets = (torch.cat(parts) for parts in zip(*self.scores, strict=True))
        self.scores.clear()
        score = _average_precision(logits, targets) if self.multilabel else _accuracy(logits, targets)
        self.log("score", score, prog_bar=True)
        # Ties in the score are common on small sets; the loss decides among them.
        criterion = score - 1e-3 * min(float(self.loss(logits, targets)), 10.0)
        self.log("criterion", criterion)
        self.best = max(self.best, (criterion, score))


def fit(
    learner: Learner,
    training: Iterable[TrainingBatch],
    validation: Iterable[TrainingBatch],
    folder: Path,
    *,
    progress: bool,
    **trainer_options: Any,
) -> dict[str, float]:
    """Trains, and leaves the best averaged weights in `learner`.

    Args:
        learner: Changed in place.
        training: Loader of training batches.
        validation: Loader of validation batches.
        folder: For Lightning's own checkpoints.
        progress: Show a progress bar.
        **trainer_options: Passed to `lightning.Trainer`, e.g. `accelerator="gpu"`, `devices=2`.

    Returns:
        Best validation `score`, `epochs`, `steps` and `minutes`.
    """
    recipe, started = learner.recipe, time.monotonic()
    best = callbacks.ModelCheckpoint(folder, monitor="criterion", mode="max", save_weights_only=True)
    stop = callbacks.EarlyStopping("criterion", mode="max", patience=recipe.patience, strict=False)
    listeners: list[Any] = [best, stop, callbacks.EMAWeightAveraging(decay=recipe.ema_decay)]
    if progress:
        listeners.append(callbacks.RichProgressBar(leave=False))
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        max_time={"minutes": recipe.max_minutes} if recipe.max_minutes is not None else None,
        gradient_clip_val=1.0,
        callbacks=listeners,
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **trainer_options,
    )
    trainer.fit(learner, training, validation)
    if not best.best_model_path:  # a limit came before the first epoch's end
        trainer.validate(learner, validation, verbose=False)
    else:
        kept = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
        learner.load_state_dict(kept["state_dict"])
    minutes = (time.monotonic() - started) / 60
    return {
        "score": learner.best[1],
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "minutes": minutes,
    }


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return float((logits.argmax(dim=1) == targets.argmax(dim=1)).double().mean())


def _average_precision(logits: Tensor, targets: Tensor) -> float:
    from torchmetrics.functional.classification import multilabel_average_precision

    return float(multilabel_average_precision(logits, targets.long(), num_labels=targets.shape[1]))
