"""Training with Lightning: a rate that rises and falls, averaged weights, early stop on validation, resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import callbacks
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
TrainingBatch = tuple[dict[str, Tensor], Tensor]
"""Modality -> (B, ...) inputs, and (B, K) label weights."""

DROPOUT, MASKS = 7_919, 7_927
LAST, BEST = "last", "best"
"""Files of a training under way, without `.ckpt`."""


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
        gradient_clip: Largest L2 norm of a gradient over all weights.
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
    gradient_clip: float = 1.0
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
        self.started, self.seconds_before = time.monotonic(), 0.0
        self.best: tuple[float, ...] = (-math.inf, math.nan)

    def on_train_start(self) -> None:
        """Starts the clock by which the learning rate falls; where a training is taken up again, it goes on."""
        self.started = time.monotonic() - self.seconds_before

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """A step that is taken again after a stop draws the same dropout and the same masks.

        Dropout draws from torch's global generator; what masks patches or stripes of a spectrogram, from its own.
        """
        torch.manual_seed(self.generator(self.global_rank, DROPOUT).initial_seed())
        for place, module in enumerate(self.modules()):
            own = getattr(module, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(self.generator(self.global_rank, MASKS, place).initial_seed())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the best score so far and the time spent."""
        checkpoint["learner"] = {"best": list(self.best), "seconds": time.monotonic() - self.started}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes both up again."""
        kept = checkpoint["learner"]
        self.best, self.seconds_before = tuple(kept["best"]), kept["seconds"]

    def generator(self, *names: int, replays: int = 1) -> torch.Generator:
        """For the randomness of the present step; the same in so many steps in a row."""
        step = self.global_step // replays
        return torch.Generator().manual_seed(hash((self.recipe.seed, step, *names)) & (2**63 - 1))

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

    def wrapped(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimiser as subclasses want it."""
        return optimizer

    def configure_optimizers(self) -> Any:
        """AdamW without decay on vectors (norms and biases)."""
        matrices = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = self.wrapped(torch.optim.AdamW(groups, lr=self.recipe.learning_rate))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(
    learner: Learner,
    training: Iterable[TrainingBatch],
    validation: Iterable[TrainingBatch],
    folder: Path,
    *,
    progress: bool,
    resume: bool = False,
    loggers: Sequence[Any] = (),
    **trainer_options: Any,
) -> dict[str, float]:
    """Trains, and leaves the best averaged weights in `learner`.

    After every epoch the whole state goes to `FOLDER/last.ckpt`. A training that is taken up from there ends with the
    weights that it would have had: order, augmentation and dropout depend on seed, epoch and step alone.

    Args:
        learner: Changed in place.
        training: Loader of training batches; its sampler follows `set_epoch` if there is to be a resuming.
        validation: Loader of validation batches.
        folder: For Lightning's own checkpoints.
        progress: Show a progress bar.
        resume: Go on from `FOLDER/last.ckpt` where there is one.
        loggers: Lightning's, e.g. a `CSVLogger`.
        **trainer_options: Passed to `lightning.Trainer`, e.g. `accelerator="gpu"`, `devices=2`.

    Returns:
        Validation `score` of the weights kept, `epochs`, `steps` and `minutes`.
    """
    recipe = learner.recipe
    best = callbacks.ModelCheckpoint(
        folder, filename=BEST, monitor="criterion", mode="max", save_weights_only=True, enable_version_counter=False
    )
    last = callbacks.ModelCheckpoint(folder, filename=LAST, enable_version_counter=False)
    stop = callbacks.EarlyStopping("criterion", mode="max", patience=recipe.patience, strict=False)
    # Averaged weights come first: what stands in a checkpoint is theirs to say.
    listeners: list[Any] = [callbacks.EMAWeightAveraging(decay=recipe.ema_decay), best, stop, last]
    if progress:
        listeners.append(callbacks.RichProgressBar(leave=False))
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        max_time={"minutes": recipe.max_minutes} if recipe.max_minutes is not None else None,
        gradient_clip_val=recipe.gradient_clip,
        callbacks=listeners,
        logger=list(loggers) or False,
        log_every_n_steps=10,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # validation may attack
        **trainer_options,
    )
    state = folder / f"{LAST}.ckpt"
    begun = state if resume and state.is_file() else None
    with torch.random.fork_rng():  # dropout knows no generator but torch's global one
        trainer.fit(learner, training, validation, ckpt_path=begun, weights_only=True)
    if not best.best_model_path:  # a limit came before the first epoch's end
        trainer.validate(learner, validation, verbose=False)
    else:
        kept = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
        learner.load_state_dict(kept["state_dict"])
    return {
        "score": learner.best[1],
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "minutes": (time.monotonic() - learner.started) / 60,
    }
