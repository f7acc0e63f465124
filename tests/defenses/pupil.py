"""Who learns in these tests: a small audio-visual victim with latents, and a learner around any module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from defenses.lesson import Lesson, Passes
from tests.oracles.toy import weights_from

CLASSES = 4


@dataclass
class Pupil:
    """A learner without Lightning."""

    victim: nn.Module
    multilabel: bool = False

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.example_losses(logits, targets).mean()

    def example_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.multilabel:
            return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
        return functional.cross_entropy(logits, targets, reduction="none")


class Duet(nn.Module):
    """Linear maps of `audio` (B, 40) and `video` (B, 2, 3, 2, 2), summed; a linear head after an optional BatchNorm."""

    def __init__(self, *, batch_norm: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.audio, self.video = nn.Linear(40, 6), nn.Linear(24, 6)
        self.norm = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
        self.last = nn.Linear(6, CLASSES)
        weights_from(self, seed, gain=2.0)

    def embed_modalities(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"audio": self.audio(inputs["audio"]), "video": self.video(inputs["video"].flatten(1))}

    def fuse(self, latents: dict[str, Tensor]) -> Tensor:
        return latents["audio"] + latents["video"]

    def embed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        latents = self.embed_modalities(inputs)
        return {**latents, "fused": self.fuse(latents)}

    def head(self, fused: Tensor) -> Tensor:
        return self.last(self.norm(fused))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.embed(inputs)["fused"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = seeded(seed)
    return {
        "audio": torch.rand(count, 40, generator=generator) * 1.6 - 0.8,
        "video": torch.rand(count, 2, 3, 2, 2, generator=generator),
    }


def one_label(count: int = 6) -> Tensor:
    return torch.eye(CLASSES)[torch.arange(count) % CLASSES]


def many_labels(count: int = 6) -> Tensor:
    return (torch.rand(count, CLASSES, generator=seeded(9)) < 0.4).float()


def lesson_of(pupil: Pupil, inputs: dict[str, Tensor], targets: Tensor) -> Lesson:
    return Lesson(inputs, targets, targets, pupil.victim, Passes())
