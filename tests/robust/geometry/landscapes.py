"""Modules whose losses have known shapes in weight space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.metrics.geometry.weights import WeightLoss


class Quadratic(nn.Module):
    """Gives s (w^T A w / 2 + b w + c) for each clip, s being the input (B,)."""

    def __init__(self, matrix: Tensor, slope: Tensor, weights: Tensor, offset: float = 1.0) -> None:
        super().__init__()
        half = len(weights) // 2
        self.first, self.second = nn.Parameter(weights[:half, None].clone()), nn.Parameter(weights[half:].clone())
        self.register_buffer("matrix", matrix)
        self.register_buffer("slope", slope)
        self.offset = offset

    def forward(self, scale: Tensor) -> Tensor:
        weights = torch.cat([self.first[:, 0], self.second])
        curved = self.matrix * weights if self.matrix.ndim == 1 else self.matrix @ weights
        value = weights @ curved / 2 + self.slope @ weights + self.offset
        return (scale * value)[:, None]


def first_logit(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of a quadratic: what the module says."""
    return logits[:, 0]


def quadratic(matrix: Tensor, slope: Tensor, weights: Tensor, batches: int = 1, offset: float = 1.0) -> WeightLoss:
    """A quadratic over clips whose scales are 1 on average, in every batch."""
    scale = torch.tensor([0.5, 1.0, 1.5], dtype=weights.dtype)
    data = [(scale, torch.zeros(3, dtype=torch.int64))] * batches
    return WeightLoss(Quadratic(matrix, slope, weights, offset), data, loss=first_logit)


def symmetric(size: int, seed: int = 0) -> Tensor:
    """(size, size) float32 with eigenvalues of both signs."""
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return (matrix + matrix.T) / 2


def random_vector(size: int, seed: int = 0) -> Tensor:
    """(size,) float32, standard normal."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def network(activation: type[nn.Module] = nn.GELU, seed: int = 0) -> nn.Sequential:
    """6 inputs, 10 hidden units, 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 10), activation(), nn.Linear(10, 3))


def clips(count: int = 64, batch: int = 64, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Noise with random labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)
    return list(zip(inputs.split(batch), targets.split(batch), strict=True))


def exact_hessian(module: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(P, P) float64 Hessian of the mean cross-entropy, by torch.func.hessian."""
    inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    names = [name for name, _ in module.named_parameters()]
    shapes = [parameter.shape for parameter in module.parameters()]
    flat = torch.cat([parameter.detach().double().reshape(-1) for parameter in module.parameters()])

    def mean_loss(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        swapped = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        logits = torch.func.functional_call(module, swapped, (inputs.double(),))
        return nn.functional.cross_entropy(logits, targets)

    return torch.func.hessian(mean_loss)(flat)
