"""Settings of which there are only certain values: each clip draws one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from attacks.errors import ThreatModelError

Choices: TypeAlias = float | Sequence[float]
"""A number, or several of which each clip draws one, all alike likely."""


def checked_choices(name: str, given: Choices, low: float, high: float, unit: str) -> tuple[float, ...]:
    """The numbers to choose from.

    Raises:
        ThreatModelError: If there is none, or one is no number from `low` to `high`.
    """
    chosen = tuple(float(one) for one in (given if isinstance(given, Sequence) else (given,)))
    if not chosen or not all(math.isfinite(one) and low <= one <= high for one in chosen):
        raise ThreatModelError(
            f"{name} must be a number of {unit} from {low:g} to {high:g}, or several to choose from; given {given}."
        )
    return chosen


def chosen(choices: Sequence[float], generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """(B,) one of `choices` from each generator, with type and device of `like`."""
    places = [int(torch.randint(len(choices), (), generator=generator)) for generator in generators]
    return torch.tensor([choices[place] for place in places], dtype=torch.float64).to(like)
