"""From frame probabilities to a clip probability: the five pooling functions of multiple-instance learning, one head.

Sources: thesis chapter 4.2.2; Wang, Li & Metze, "A comparison of five multiple instance learning pooling functions",
ICASSP 2019. With frame probabilities y_i and weights w_i that sum to 1, all five are y = sum_i w_i y_i:

    max          all weight on the largest y_i      dy/dy_i = 1 there, 0 elsewhere
    average      w_i = 1 / n                        dy/dy_i = 1 / n
    linear       w_i = y_i / sum_j y_j              dy/dy_i = (2 y_i - y) / sum_j y_j
    exponential  w_i = e^y_i / sum_j e^y_j          dy/dy_i = (1 - y + y_i) w_i
    attention    w_i learned                        dy/dy_i = w_i,  dy/d(log w_i) = w_i (y_i - y)

They are computed as logits from frame logits, without ever forming a probability: where a probability saturates in
float32 (or is clamped, as in the published code) the gradient is gone, and an attack sees a wall that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError, unknown

POOLINGS: Mapping[str, str] = {
    "max": "the largest frame decides",
    "average": "every frame counts the same",
    "linear": "linear softmax: frames count by their probability",
    "exponential": "exponential softmax: frames count by the exponential of their probability",
    "attention": "frames count by learned weights, one set for each class",
}


def pool(frames: Tensor, pooling: str, attention: Tensor | None = None) -> Tensor:
    """Clip logits from frame logits.

    Args:
        frames: (B, S, K) logits of S frames.
        pooling: A name from `POOLINGS`.
        attention: (B, S, K) log-weights up to a constant, for `attention` alone.

    Returns:
        (B, K): the logit log(y / (1 - y)) of the pooled probability y.

    Raises:
        VictimError: If there is no such pooling function, or `attention` is missing.
    """
    if pooling == "max":
        return frames.amax(dim=1)
    return mix_logits(frames, _log_weights(frames, pooling, attention), dim=1)


def mix_logits(logits: Tensor, log_weights: Tensor, dim: int) -> Tensor:
    """The logit of sum_i w_i sigmoid(logit_i) over `dim`, for log-weights whose exponentials sum to 1 over it."""
    present = torch.logsumexp(log_weights + functional.logsigmoid(logits), dim=dim)
    absent = torch.logsumexp(log_weights + functional.logsigmoid(-logits), dim=dim)
    return present - absent


def _log_weights(frames: Tensor, pooling: str, attention: Tensor | None) -> Tensor:
    if pooling == "average":
        return torch.full_like(frames, 1 / frames.shape[1]).log()
    if pooling == "linear":
        log_probability = functional.logsigmoid(frames)
        return log_probability - log_probability.logsumexp(dim=1, keepdim=True)
    if pooling == "exponential":
        return frames.sigmoid().log_softmax(dim=1)
    if pooling == "attention":
        if attention is None:
            raise VictimError("Attention pooling needs attention weights; none were given.")
        return attention.log_softmax(dim=1)
    raise VictimError(unknown("pooling function", pooling, POOLINGS))


class FrameHead(nn.Module):
    """Frame logits by a linear layer, pooled over time; the head of every frame-level victim.

    Args:
        width: Size of a frame's latent.
        classes: Number of classes.
        pooling: A name from `POOLINGS`.

    Attributes:
        fc_prob: The classifier of frames.
        fc_att: The layer that weighs them; in `attention` alone.
    """

    def __init__(self, width: int, classes: int, pooling: str) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise VictimError(unknown("pooling function", pooling, POOLINGS))
        self.pooling = pooling
        self.fc_prob = nn.Linear(width, classes)
        nn.init.xavier_uniform_(self.fc_prob.weight)
        nn.init.zeros_(self.fc_prob.bias)
        if pooling == "attention":
            self.fc_att = nn.Linear(width, classes)
            nn.init.xavier_uniform_(self.fc_att.weight)
            nn.init.zeros_(self.fc_att.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Clip logits (B, K) from frame latents (B, S, D)."""
        attention = self.fc_att(frames) if self.pooling == "attention" else None
        return pool(self.fc_prob(frames), self.pooling, attention)

    def frame_logits(self, frames: Tensor) -> Tensor:
        """Logits of every frame (B, S, K), where in time a class is heard."""
        logits: Tensor = self.fc_prob(frames)
        return logits
