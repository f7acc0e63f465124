"""A two-layer ReLU victim of two classes, small enough to solve exactly: one convex programme for each linear cell."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls
from torch import Tensor, nn

Array = NDArray[np.float64]


class ReluVictim(nn.Module):
    """Logits of `audio` (B, inputs) through one hidden layer."""

    def __init__(self, inputs: int = 4, hidden: int = 6, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.outer = nn.Linear(inputs, hidden), nn.Linear(hidden, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * (1.0 if parameter.ndim > 1 else 0.3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.outer(torch.relu(self.inner(inputs["audio"])))


def breaking_radius(victim: ReluVictim, clean: Tensor, labels: Tensor, norm: str, bound: float = 1.0) -> Array:
    """(B,) exact distance, inside [-bound, bound], to the nearest point of the other class."""
    inner, shift = (part.detach().double().numpy() for part in (victim.inner.weight, victim.inner.bias))
    outer, offset = (part.detach().double().numpy() for part in (victim.outer.weight, victim.outer.bias))
    nearest = np.full(len(clean), np.inf)
    for pattern in product((0.0, 1.0), repeat=len(shift)):
        on = np.array(pattern)
        side = 2 * on - 1
        for row, (x, label) in enumerate(zip(clean.double().numpy(), labels.tolist(), strict=True)):
            lead = outer[1 - label] - outer[label]
            # Rows of `matrix @ z >= least`: in the cell, in the box, on the other side of the boundary.
            matrix = np.vstack([side[:, None] * inner, np.eye(len(x)), -np.eye(len(x)), (lead * on) @ inner])
            ends = [
                -side * shift,
                *[np.full(len(x), -bound)] * 2,
                [offset[label] - offset[1 - label] - lead * on @ shift],
            ]
            nearest[row] = min(nearest[row], _distance(x, matrix, np.concatenate(ends), norm))
    return nearest


def _distance(x: Array, matrix: Array, least: Array, norm: str) -> float:
    """Least norm of `z - x` subject to `matrix @ z >= least`; infinite if there is no such z."""
    count, rest = len(x), least - matrix @ x
    if norm == "l2":  # least-distance programming by non-negative least squares (Lawson & Hanson 1974, chapter 23)
        stacked = np.vstack([matrix.T, rest])
        goal = np.append(np.zeros(count), 1.0)
        residual = stacked @ nnls(stacked, goal)[0] - goal
        if np.linalg.norm(residual) < 1e-9:
            return np.inf
        return float(np.linalg.norm(residual[:count] / residual[count]))
    extra = 1 if norm == "linf" else count
    spread = np.ones((count, 1)) if norm == "linf" else np.eye(count)
    above = np.vstack(
        [
            np.hstack([-matrix, np.zeros((len(matrix), extra))]),
            np.hstack([np.eye(count), -spread]),
            np.hstack([-np.eye(count), -spread]),
        ]
    )
    cost = np.append(np.zeros(count), np.ones(extra))
    solved = linprog(cost, above, np.concatenate([-rest, np.zeros(2 * count)]), bounds=[(None, None)] * len(cost))
    return float(solved.fun) if solved.success else np.inf
