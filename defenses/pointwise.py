"""Convolutions of one tap as matrix products, row by row.

On one thread PyTorch computes such a convolution by one kernel below 16 rows and by another from 16 on, and they round
differently: a clip would be purified otherwise alone than in a crowd.
"""

from __future__ import annotations

from torch import Tensor, nn


class Pointwise1d(nn.Conv1d):
    """`nn.Conv1d` of one tap; (B, C, T) to (B, C', T)."""

    def forward(self, input: Tensor) -> Tensor:
        return _mixed(self, input)


class Pointwise2d(nn.Conv2d):
    """`nn.Conv2d` of one tap; (B, C, H, W) to (B, C', H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return _mixed(self, input.flatten(2)).reshape(len(input), -1, *input.shape[2:])


def _mixed(layer: nn.Conv1d | nn.Conv2d, rows: Tensor) -> Tensor:
    found: Tensor = layer.weight.flatten(1) @ rows
    return found if layer.bias is None else found + layer.bias[:, None]


def with_pointwise(network: nn.Module) -> nn.Module:
    """The network, its convolutions of one tap replaced; weights and their names stay."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and _is_pointwise(layer):
                setattr(parent, name, _replaced(layer))
    return network


def _is_pointwise(layer: nn.Conv1d | nn.Conv2d) -> bool:
    plain = (layer.kernel_size, 1), (layer.stride, 1), (layer.padding, 0)
    return layer.groups == 1 and all(set(given) == {value} for given, value in plain)


def _replaced(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    # On the meta device nothing is drawn to initialise weights that are given up at once.
    kind = Pointwise1d if isinstance(layer, nn.Conv1d) else Pointwise2d
    new = kind(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None, device="meta")
    new.weight, new.bias = layer.weight, layer.bias
    return new


__all__ = ["Pointwise1d", "Pointwise2d", "with_pointwise"]
