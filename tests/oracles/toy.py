"""Small victims that have everything a real one has: convolutions, batch norm, dropout, attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def weights_from(module: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Fills every parameter from its own generator, so that no global seed matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        spread = gain / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    return module


class ConvVictim(nn.Module):
    """1-D convolutions on `audio` (B, N), with batch norm and dropout."""

    def __init__(self, classes: int = 5, seed: int = 0, samples: int = 400) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 9, stride=4), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 5, stride=4), nn.ReLU()
        )
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * (((samples - 9) // 4 + 1 - 5) // 4 + 1), classes)
        weights_from(self, seed, gain=3.0)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.drop(self.body(inputs["audio"][:, None]).flatten(1)))


class AttentionVictim(nn.Module):
    """Patches, layer norm, one attention layer on `audio` (B, N)."""

    def __init__(self, classes: int = 5, seed: int = 0, samples: int = 400, patch: int = 20) -> None:
        super().__init__()
        self.patch, width = patch, 16
        self.embed = nn.Linear(patch, width)
        self.norm = nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width * samples // patch, classes)
        weights_from(self, seed, gain=3.0)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        tokens = self.norm(self.embed(inputs["audio"].unflatten(1, (-1, self.patch))))
        heads = [part(tokens).unflatten(2, (2, -1)).transpose(1, 2) for part in (self.queries, self.keys, self.values)]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self.head((tokens + mixed).flatten(1))


class TwoSenses(nn.Module):
    """Sum of an audio convolution and a video projection, as a late-fusion victim; video (B, 2, 3, 4, 4)."""

    def __init__(self, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        self.audio = ConvVictim(classes, seed)
        self.video = weights_from(nn.Linear(96, classes), seed + 1, gain=3.0)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.audio(inputs) + self.video(inputs["video"].flatten(1))


def waves(count: int, samples: int = 400, seed: int = 0, peak: float = 0.5) -> Tensor:
    """(count, samples) signed noise in [-peak, peak]."""
    return (torch.rand(count, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * peak


def predictions(victim: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """(B,) what the victim says now, in evaluation mode: labels that it gets right."""
    training = victim.training
    victim.eval()
    with torch.no_grad():
        labels = victim(inputs).argmax(1)
    victim.train(training)
    return labels
