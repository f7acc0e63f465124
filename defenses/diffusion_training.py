"""Training of diffusion models, by the same trainer as victims: averaged weights, early stop on validation."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.diffusion_unet import UNetDiffusion
from defenses.training import Augmentation, Learner, Recipe, TrainingBatch

ASKED = 0.8  # share of training clips that the network is told the class of; the rest teach it to do without
VALIDATION_SEED = 9_157
POWER_FLOOR = 0.1  # of an answer of unit variance: silent clips have little to say


class DiffusionLearner(Learner):
    """A diffusion model in training: at random steps it learns to tell noise from sound.

    Steps are drawn more often where noise is small (the square of a uniform number): purifiers live there.

    Args:
        model: What is trained.
        recipe: How.
        total_steps: Optimiser steps that `recipe.epochs` amount to.
        augmentation: What is done to training clips before noise is added.
    """

    def __init__(
        self, model: UNetDiffusion, recipe: Recipe, total_steps: int, augmentation: Augmentation | None = None
    ) -> None:
        super().__init__(recipe, total_steps)
        self.model, self.augmentation = model, augmentation
        self.losses: list[Tensor] = []

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        """Mean squared error of what the network answers."""
        generator = self.generator()
        clips, labels = batch[0]["audio"], batch[1]
        if self.augmentation is not None:
            clips = self.augmentation(clips, generator)
        told = torch.rand(len(clips), 1, generator=generator).to(labels) < ASKED
        return self.errors(clips, labels * told, generator).mean()

    def errors(self, clips: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) squared error of the answer over what was asked, on clips (B, T), at a random step each.

        Relative, because clips differ in level: with plain squares the loud ones alone would be learnt.
        """
        with torch.autocast(clips.device.type, enabled=False):  # half of a decibel is lost in bf16, and 1 - abar
            encoded = self.model.encode(clips.float())
        share = torch.rand(len(clips), generator=generator)
        steps = 1 + (share.square() * self.model.steps).long().to(clips.device)
        noise = torch.randn(encoded.shape, generator=generator).to(encoded)
        target = self.model.target(encoded, noise, steps)
        asked = labels if self.model.labels else None
        answer = self.model.answer(self.model.add_noise(encoded, steps, noise), steps, asked)
        power = target.square().flatten(1).mean(dim=1)
        return (answer - target).square().flatten(1).mean(dim=1) / (power + POWER_FLOOR)

    def validation_step(self, batch: TrainingBatch, batch_index: int) -> None:
        """Errors with the same noise every time."""
        generator = torch.Generator().manual_seed(VALIDATION_SEED + batch_index)
        clips = batch[0]["audio"]
        self.losses.append(self.errors(clips, torch.zeros_like(batch[1]), generator).float().cpu())

    def on_validation_epoch_end(self) -> None:
        """Logs `score`, the share of the target's variance that is not explained, negative: the higher the better."""
        score = -float(torch.cat(self.losses).mean())
        self.losses.clear()
        self.log("score", score, prog_bar=True)
        self.log("criterion", score)
        self.best = max(self.best, (score, score))


__all__ = ["DiffusionLearner"]
