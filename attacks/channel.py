"""What every channel is: a batched, differentiable stretch of the way from a sound to a victim.

Drawing and applying are apart, so that one draw can be heard by several versions of a clip (clean, attacked, with
noise), kept over steps of an attack, and written down.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError

Parameters: TypeAlias = dict[str, Tensor]
"""Name -> (B, ...) what was drawn for each clip; those of one number a clip are written into records."""

Span: TypeAlias = float | tuple[float, float]
"""A number, or a range from which each clip draws uniformly."""

Gradient: TypeAlias = Literal["exact", "straight-through"]


class Channel(nn.Module, ABC):
    """One stretch of the way; channels compose in a `Chain`.

    `channel(clips, channel.draw(clips, generators), valid)` is a pure function of its arguments: all randomness is in
    the draw. A clip's result depends on no other clip (to the bit in batches of multiples of 8, to rounding otherwise).

    Attributes:
        sample_rate: Hz of the clips it is made for.
        gradient: `exact`, or `straight-through` where the forward pass is real and the backward pass takes it for the
            identity (or for what the class says).
    """

    name: str
    """Short, e.g. `noise`; part of derived seeds and of column names."""

    gradient: Gradient = "exact"

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        given: object = sample_rate
        if not (isinstance(given, Real) and 1 <= float(given) < math.inf):
            raise ThreatModelError(f"The sample rate must be a number of Hz from 1; given {sample_rate!r}.")
        self.sample_rate: int = sample_rate

    @abstractmethod
    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """What happens to each clip.

        Args:
            clips: (B, T) float; only its shape, type and device count, so that all versions of a clip may share a draw.
            generators: One for each clip, on the CPU.

        Returns:
            Name -> (B, ...) on the device of `clips`.
        """

    @abstractmethod
    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        """What is heard.

        Args:
            clips: (B, T) float32 or float64, nominally in [-1, 1]; what leaves that range is not clipped unless the
                channel is about clipping.
            parameters: Of `draw`.
            valid: (B, T) bool, true where a clip is real; padding stays as it is. All valid when None.

        Returns:
            (B, T) of the same type.
        """

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """Realised values (B,) float64 by name with unit, e.g. `snr_db`, measured anew from what went in and came out.

        NaN where there is nothing to measure (a silent clip has no SNR).
        """
        return {}

    def describe(self) -> dict[str, Any]:
        """Every setting, as JSON; hashed to tell whether a run can be resumed."""
        return {"channel": self.name}


def numbers(parameters: Parameters) -> Parameters:
    """Those parameters that are one number a clip."""
    return {name: value for name, value in parameters.items() if value.ndim == 1}


def checked_span(name: str, span: Span, low: float, high: float, unit: str) -> tuple[float, float]:
    """A number or a range as (lowest, highest).

    Raises:
        ThreatModelError: If it is no number or range, is turned round, or leaves `low` to `high`.
    """
    given = span if isinstance(span, tuple | list) else (span, span)
    ends = tuple(float(end) if isinstance(end, Real) else math.nan for end in given)
    if len(ends) != 2 or not all(math.isfinite(end) for end in ends) or not low <= ends[0] <= ends[1] <= high:
        raise ThreatModelError(
            f"{name} must be a number of {unit} or a range (lowest, highest) from {low:g} to {high:g}; given {span}."
        )
    return ends[0], ends[1]


def drawn(span: tuple[float, float], generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """(B,) numbers of a range, one uniform draw from each generator, with type and device of `like`."""
    low, high = span
    shares = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    return (low + (high - low) * shares).to(like)


def where_valid(heard: Tensor, clips: Tensor, valid: Tensor | None) -> Tensor:
    """`heard` where clips are real, `clips` where they are padding."""
    return heard if valid is None else torch.where(valid, heard, clips)
