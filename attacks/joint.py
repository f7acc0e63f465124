"""One ball over several modalities together: their values side by side as one modality, `joint`.

`Packing` lays modalities out as one vector, `PackedVictim` unpacks it again inside the graph, so that every attack,
search and check works on `joint` as on any modality. The budget is on the joined perturbation, with its own radius;
budgets of single modalities never meet (methods.md 2.5 tells of code where they do).

A scale says how much of a modality one unit of the joint norm is: ||(d_audio / s_audio, d_video / s_video)|| <= radius.
Powers of two (1 among them) divide without rounding, so the packed values are float32. With any other scale they are
float64, and `Region` leaves room for the rounding to float32 that happens on unpacking. Either way a value that the
attack leaves alone comes back to the bit, and the budget holds for what the victim sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.audit import ORDERS, Norm
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim
from attacks.projections import lengths
from attacks.region import round_inward
from attacks.threat import Ball, Unit

JOINT = "joint"


@dataclass(frozen=True)
class Packing:
    """How modalities are laid out as one vector of N values, in the order of `shapes`.

    Attributes:
        shapes: Modality -> shape of one example; these modalities share the ball.
        bounds: Modality -> its data range; [-1, 1] if absent.
        scale: Modality -> how many of its units make one unit of the joint norm; 1 if absent.

    Raises:
        ThreatModelError: If there is no modality, or a scale or range belongs to none of them or cannot be.
    """

    shapes: Mapping[str, tuple[int, ...]]
    bounds: Mapping[str, tuple[float, float]]
    scale: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.shapes:
            raise ThreatModelError("A joint budget needs the shapes of the modalities that share it; none is given.")
        for name, factor in (self.scale or {}).items():
            if name not in self.shapes:
                raise ThreatModelError(unknown("modality with a scale", name, self.shapes))
            if not (math.isfinite(factor) and factor > 0):
                raise ThreatModelError(f"The scale of {name} must be above 0 and finite; given {factor}.")

    @property
    def dtype(self) -> torch.dtype:
        """Of packed values: float32 if all scales are powers of two, else float64."""
        exact = all(math.frexp(self.scale_of(name))[0] == 0.5 for name in self.shapes)
        return torch.float32 if exact else torch.float64

    def scale_of(self, name: str) -> float:
        """Units of modality `name` in one unit of the joint norm."""
        return float((self.scale or {}).get(name, 1.0))

    def pack(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, N) of the modalities side by side, each divided by its scale.

        Raises:
            ThreatModelError: If a modality is missing or has another shape.
        """
        parts = []
        for name, shape in self.shapes.items():
            if name not in inputs:
                raise ThreatModelError(f"The joint budget covers {name}, but inputs are {', '.join(sorted(inputs))}.")
            if inputs[name].shape[1:] != torch.Size(shape):
                raise ThreatModelError(
                    f"The joint budget was made for {name} of shape {tuple(shape)}; an example has "
                    f"{tuple(inputs[name].shape[1:])}."
                )
            parts.append(inputs[name].flatten(1).to(self.dtype) / self.scale_of(name))
        return torch.cat(parts, dim=1)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Modality -> (B, ...) float32, from (B, N); differentiable."""
        parts = torch.split(packed, self._sizes(), dim=1)
        return {
            name: (part * self.scale_of(name)).float().reshape(len(part), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def pack_valid(self, valid: Mapping[str, Tensor], count: int) -> Tensor:
        """(B, N) bool for `count` examples, from masks that broadcast to their modality; absent ones are all valid."""
        parts = []
        for name, shape in self.shapes.items():
            mask = valid.get(name, torch.ones(1, dtype=torch.bool))
            parts.append(mask.expand(count, *shape).flatten(1))
        return torch.cat([part.to(parts[0].device) for part in parts], dim=1)

    @property
    def low(self) -> Tensor:
        """(N,) lower end of the data range of each packed value."""
        return self._ends(0)

    @property
    def high(self) -> Tensor:
        """(N,) upper end of the data range of each packed value."""
        return self._ends(1)

    def ball(self, norm: Norm, radius: float | Tensor, unit: Unit = "amplitude") -> Ball:
        """The budget of modality `joint`; its radius counts units of the joint norm."""
        return Ball(norm, radius, unit, self.low, self.high)

    def join(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`inputs` with the modalities that share the ball replaced by `joint`."""
        others = {name: value for name, value in inputs.items() if name not in self.shapes}
        return {JOINT: self.pack(inputs), **others}

    def join_valid(self, valid: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """`join` for masks."""
        others = {name: mask for name, mask in valid.items() if name not in self.shapes}
        return {JOINT: self.pack_valid(valid, count), **others}

    def split(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undoes `join`."""
        others = {name: value for name, value in inputs.items() if name != JOINT}
        return {**self.unpack(inputs[JOINT]), **others}

    def size(self, clean: Mapping[str, Tensor], point: Mapping[str, Tensor], norm: Norm) -> dict[str, Tensor]:
        """What was done, by modality and in all (`joint`): (B,) float64 norms in joint units, of unpacked inputs."""
        scaled = {
            name: (point[name].double() - clean[name].double()).flatten(1) / self.scale_of(name) for name in self.shapes
        }
        sizes = {name: lengths(delta, ORDERS[norm]) for name, delta in scaled.items()}
        return {**sizes, JOINT: lengths(torch.cat(list(scaled.values()), dim=1), ORDERS[norm])}

    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes.values()]

    def _ends(self, which: int) -> Tensor:
        parts = []
        for name, size in zip(self.shapes, self._sizes(), strict=True):
            exact = torch.tensor(self.bounds.get(name, (-1.0, 1.0))[which], dtype=torch.float64)
            # The victim sees float32: the end must be one, or rounding on unpacking could step over it.
            end = round_inward(exact, torch.float32, upward=which == 0)
            parts.append((end.to(self.dtype) / self.scale_of(name)).expand(size))
        return torch.cat(parts)


class PackedVictim(nn.Module):
    """A victim of modality `joint` (B, N) and whatever the packing does not cover.

    A module, so that `frozen` reaches the victim within; it answers for the victim's other attributes (`spec`).
    """

    def __init__(self, victim: Victim, packing: Packing) -> None:
        super().__init__()
        self.victim, self.packing = victim, packing

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, K) logits."""
        return self.victim(self.packing.split(inputs))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "victim":  # not set yet
                raise
            return getattr(self.victim, name)


def packed_victim(victim: Victim, packing: Packing) -> PackedVictim:
    """`victim` as one of modality `joint`; modalities that the packing does not cover go in as they are."""
    return PackedVictim(victim, packing)
