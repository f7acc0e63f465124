"""A masked autoencoder in training, by the same trainer as victims: other patches hidden at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.training import Learner, Recipe, TrainingBatch
from robust.victims.audio_mae_decoder import MaskedAutoencoder
from robust.victims.patch_masking import scattered

MAX_GAIN_DB = 6.0
"""Level of training clips is changed by as much, up or down (thesis 7.4.3)."""
VALIDATION_SEED = 7_003


class MaskedLearner(Learner):
    """Learns to tell hidden patches from visible ones; labels are not looked at.

    Args:
        model: What is trained.
        recipe: How.
        total_steps: Optimiser steps that `recipe.epochs` amount to.
        mask_ratio: Share of the patches that is hidden, anywhere in the spectrogram.
    """

    def __init__(self, model: MaskedAutoencoder, recipe: Recipe, total_steps: int, mask_ratio: float = 0.8) -> None:
        super().__init__(recipe, total_steps)
        self.model, self.mask_ratio = model, mask_ratio
        self.losses: list[Tensor] = []

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        """Mean squared error over hidden patches, of clips that begin elsewhere and are louder or softer."""
        generator = self.generator()
        return self.errors(rolled(batch[0]["audio"], generator), generator).mean()

    def errors(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) error on clips (B, T), with patches hidden that the generator chooses."""
        features = self.model.fbank(audio)
        return self.model.errors(features, scattered(len(audio), self.model.settings.grid, self.mask_ratio, generator))

    def validation_step(self, batch: TrainingBatch, batch_index: int) -> None:
        """Errors with the same patches hidden every time."""
        generator = torch.Generator().manual_seed(VALIDATION_SEED + batch_index)
        self.losses.append(self.errors(batch[0]["audio"], generator).float().cpu())

    def on_validation_epoch_end(self) -> None:
        """Logs `score`, the error on hidden patches, negative: the higher the better."""
        score = -float(torch.cat(self.losses).mean())
        self.losses.clear()
        self.log("score", score, prog_bar=True)
        self.log("criterion", score)
        self.best = max(self.best, (score, score))


def rolled(audio: Tensor, generator: torch.Generator) -> Tensor:
    """Clips (B, T) that begin anywhere and go round, at another level each that stays within [-1, 1]."""
    draws = torch.rand(2, len(audio), generator=generator).to(audio)
    start = (draws[0] * audio.shape[1]).long()[:, None]
    places = (torch.arange(audio.shape[1], device=audio.device) + start) % audio.shape[1]
    gain = 10 ** ((2 * draws[1] - 1) * MAX_GAIN_DB / 20)
    peak = audio.abs().amax(dim=1).clamp_min(1e-9)
    return audio.gather(1, places) * torch.minimum(gain, 1 / peak)[:, None]


__all__ = ["MaskedLearner", "rolled"]
