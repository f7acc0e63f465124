"""A diffusion model that knows its data to be Gaussian: what is noise in a noisy sample is known in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defenses.diffusion import DiffusionModel, Schedule


class GaussianSound(DiffusionModel):
    """Every sample of a clip is normal, with the mean of its class (0 where none is asked for) and one deviation.

    A sample seen as y = sqrt(abar) x + sqrt(1 - abar) e holds, on average, the noise
    e = sqrt(1 - abar) (y - sqrt(abar) mean) / (abar std^2 + 1 - abar), which is Wiener's filter.
    """

    def __init__(
        self,
        samples: int = 1,
        std: float = 0.1,
        means: dict[str, float] | None = None,
        schedule: Schedule | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(schedule or Schedule(), 8000, samples, tuple(means or {}))
        self.scale = scale  # deviation and means are in the model's units
        self.std, self.means = std, torch.tensor(list((means or {}).values()), dtype=torch.float64)

    def predict_noise(self, noisy: Tensor, step: Tensor | int, labels: Tensor | None = None) -> Tensor:
        mean = noisy.new_zeros(len(noisy)) if labels is None else labels.to(noisy) @ self.means.to(noisy)
        abar = self.abar(step).to(noisy).reshape(-1, 1)
        return (1 - abar).sqrt() * (noisy - abar.sqrt() * mean[:, None]) / (abar * self.std**2 + 1 - abar)


def seen_variance(std: float, abar: float) -> float:
    """Of a sample with noise."""
    return abar * std**2 + 1 - abar


def posterior(std: float, abar: float) -> tuple[float, float]:
    """How far the mean of a clean sample moves with the noisy one, and the deviation that is left."""
    seen = seen_variance(std, abar)
    return math.sqrt(abar) * std**2 / seen, std * math.sqrt((1 - abar) / seen)


def flow(std: float, abar: float) -> float:
    """By how much the probability flow takes a noisy sample to a clean one: one distribution onto the other."""
    return std / math.sqrt(seen_variance(std, abar))
