"""Ways to compute logits: float32, bfloat16, and bfloat16 with attention that processors are quick at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WAYS = ("fp32", "bf16", "bf16-explicit")
WORTH = 0.9
"""Low precision is used where it takes less than this share of the time of float32."""


class ExplicitAttention(TorchFunctionMode):
    """Within it, plain attention in bfloat16 is two matrix products with a float32 softmax between.

    On processors the fused kernel in bfloat16 takes three times as long on short sequences, and its softmax is the less
    exact one. Attention with masks, dropout or shared heads stays as it is.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is functional.scaled_dot_product_attention and _plain(args, given):
            queries, keys, values = args
            scale = given.get("scale") or queries.shape[-1] ** -0.5
            weights = (queries @ keys.transpose(-1, -2)).float().mul_(scale).softmax(-1)
            return weights.to(values.dtype) @ values
        return function(*args, **given)


def _plain(args: Sequence[Any], given: dict[str, Any]) -> bool:
    """Whether attention is of three tensors, with nothing special asked of it."""
    special = (given.get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))
    return len(args) == 3 and given.get("attn_mask") is None and not any(special)


@contextmanager
def computed(way: str, device: str) -> Iterator[None]:
    """How a way of casting votes computes."""
    with ExitStack() as stack:
        if way != "fp32":
            stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
        if way == "bf16-explicit":
            stack.enter_context(ExplicitAttention())
        yield


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """The way with the shortest time; float32, if it was tried, unless another is clearly faster."""
    shortest = {way: min(times) for way, times in seconds.items()}
    best = min(shortest, key=lambda way: shortest[way])
    return "fp32" if "fp32" in shortest and shortest[best] > WORTH * shortest["fp32"] else best


def keep_buffers() -> None:
    """Frees one large buffer, so that glibc keeps smaller ones with the process from now on.

    It gives what is freed back to the system unless a block as large has been freed before (32 MiB at most), and
    faulting the same buffers in for each batch anew takes a quarter of the time. Elsewhere it does nothing.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


__all__ = ["WAYS", "ExplicitAttention", "computed", "fastest", "keep_buffers"]
