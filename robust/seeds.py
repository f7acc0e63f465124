"""Generators derived from what they are for, so that results depend on neither batch size nor order nor workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from any number of printable parts, e.g. (seed, clip id, condition)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generators_for(seed: int, ids: Sequence[str], condition: str) -> list[torch.Generator]:
    """One CPU generator for each clip."""
    return [torch.Generator().manual_seed(derived_seed(seed, clip, condition)) for clip in ids]
