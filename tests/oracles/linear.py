"""Linear victims, and the exact radius that breaks them: NumPy, float64, no code of the suite."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


class LinearVictim(nn.Module):
    """Logits `weight @ x + bias` of `audio` (B, ...)."""

    def __init__(self, shape: tuple[int, ...], classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        values = int(np.prod(shape))
        self.weight = nn.Parameter(torch.randn(classes, values, generator=generator) / values**0.5)
        self.bias = nn.Parameter(torch.randn(classes, generator=generator) * 0.1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return nn.functional.linear(inputs["audio"].flatten(1), self.weight, self.bias)


def breaking_radius(
    victim: LinearVictim, clean: Tensor, labels: Tensor, norm: str, low: float = -1.0, high: float = 1.0
) -> Array:
    """(B,) smallest radius, over all wrong classes, at which the class overtakes the label inside [low, high]."""
    weight, bias = victim.weight.detach().double().numpy(), victim.bias.detach().double().numpy()
    radii = []
    for x, label in zip(clean.flatten(1).double().numpy(), labels.tolist(), strict=True):
        rivals = [other for other in range(len(bias)) if other != label]
        radii.append(
            min(
                _radius(
                    weight[k] - weight[label],
                    (weight[label] - weight[k]) @ x + bias[label] - bias[k],
                    x,
                    norm,
                    low,
                    high,
                )
                for k in rivals
            )
        )
    return np.array(radii)


def _radius(slope: Array, gap: float, x: Array, norm: str, low: float, high: float) -> float:
    """Least norm of a move inside the box that gains `gap` along `slope`."""
    if gap <= 0:
        return 0.0
    room = np.where(slope > 0, high - x, x - low)
    size = np.abs(slope)
    if size @ room < gap:
        return np.inf
    if norm == "l1":  # the steepest coordinates first, each to its bound
        order = np.argsort(-size)
        gains = np.cumsum(size[order] * room[order])
        last = int(np.searchsorted(gains, gap))
        before = gains[last - 1] if last else 0.0
        return float(room[order][:last].sum() + (gap - before) / size[order][last])
    move = (lambda s: np.minimum(s, room)) if norm == "linf" else (lambda s: np.minimum(s * size, room))
    lower, upper = 0.0, float(room.max() / (1.0 if norm == "linf" else size[size > 0].min()))
    for _ in range(200):
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if size @ move(middle) < gap else (lower, middle)
    return float(np.linalg.norm(move(upper), np.inf if norm == "linf" else 2))
