"""What searches for the smallest radius share: their result, dual norms, the widest perturbation there is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.projections import lengths
from attacks.threat import ORDERS, Ball

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""Order of the norm in which a gradient says how fast a linear loss rises per unit of each norm."""


@dataclass
class MinimalResult:
    """The smallest budget found to break each example.

    Attributes:
        scale: (B,) float64: realised size of the smallest successful perturbation over the radius of the threat model
            (over several modalities: the largest of the ratios); 0 if broken from the start, infinite if never broken.
        failed: (B,) float64 largest scale at which an attack failed; the truth lies between the two if the attack is
            perfect.
        inputs: Modality -> (B, ...) the successful inputs; clean where there are none.
        forwards: (B,) int64 forward passes spent.
        backwards: (B,) int64 backward passes spent.
    """

    scale: Tensor
    failed: Tensor
    inputs: dict[str, Tensor]
    forwards: Tensor
    backwards: Tensor


def widest_norm(ball: Ball, clean: Tensor, valid: Tensor | None) -> Tensor:
    """(B,) norm of the largest perturbation that the bounds admit anywhere."""
    mask = torch.ones_like(clean) if valid is None else valid.expand_as(clean).to(clean.dtype)
    span = (mask * (ball.high - ball.low)).flatten(1).double()
    return lengths(span, ORDERS[ball.norm])
