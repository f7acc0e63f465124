"""The transformer layer of AudioSetDoneRight, under its parameter names, and sinusoidal positions.

Sources: Vaswani et al. 2017 (post-norm encoder layer, positions); AudioSetDoneRight's `EncoderLayer` for names and
sizes (eight heads; one hidden layer of ReLU units; LayerNorm after each residual).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError


class SelfAttention(nn.Module):
    """Multi-head self-attention with its residual and norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise VictimError(f"The width {width} is not divided evenly by {heads} heads; change one of them.")
        self.heads, self.dropout_rate = heads, dropout
        self.w_qs = nn.Linear(width, width)
        self.w_ks = nn.Linear(width, width)
        self.w_vs = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, steps: Tensor) -> Tensor:
        """(B, S, D) from (B, S, D)."""
        queries, keys, values = (self._heads(layer(steps)) for layer in (self.w_qs, self.w_ks, self.w_vs))
        rate = self.dropout_rate if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=rate)
        joined = self.dropout(self.fc(mixed.transpose(1, 2).flatten(2)))
        normed: Tensor = self.layer_norm(joined + steps)
        return normed

    def _heads(self, steps: Tensor) -> Tensor:
        return steps.reshape(*steps.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, S, D / heads)


class FeedForward(nn.Module):
    """Two linear layers on every step, with their residual and norm."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, steps: Tensor) -> Tensor:
        """(B, S, D) from (B, S, D)."""
        changed = self.dropout(self.w_2(functional.relu(self.w_1(steps))))
        normed: Tensor = self.layer_norm(changed + steps)
        return normed


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network."""

    def __init__(self, width: int, hidden: int, *, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.slf_attn = SelfAttention(width, heads, dropout)
        self.pos_ffn = FeedForward(width, hidden, dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, steps: Tensor) -> Tensor:
        """(B, S, D) from (B, S, D)."""
        changed: Tensor = self.pos_ffn(self.slf_attn(steps))
        return changed


class Transformer(nn.Module):
    """A stack of encoder layers on steps with sinusoidal positions; takes any number of steps."""

    def __init__(self, width: int, layers: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, width, heads=heads, dropout=dropout) for _ in range(layers))

    def forward(self, steps: Tensor) -> Tensor:
        """(B, S, D) from (B, S, D)."""
        steps = steps + positions(steps.shape[1], steps.shape[2], steps.device)
        for layer in self.layers:
            steps = layer(steps)
        return steps


def positions(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sinusoidal positions (count, width), float32 (Vaswani et al. 2017, section 3.5); `width` is even."""
    place = torch.arange(count, dtype=torch.float32, device=device)[:, None]
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angle = place * torch.exp(pairs * (-math.log(10_000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
