"""Many forward passes at once: several points of each example, through several draws of a channel, no gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.gradients import Victim, in_lanes, most_rows, pad_to_lanes

ROWS = 64
"""Passes made at once, unless `attacks.gradients.at_most` says otherwise."""


class RandomChannel(Protocol):
    """What lies between an input and the victim; all randomness is in the draw."""

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Name -> (B, ...) what happens to each of `clips` (B, ...), of which only shape, type and device count."""

    def __call__(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
        """(B, ...) what is heard, differentiable in `clips`."""


class Direct:
    """No channel at all."""

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def __call__(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
        """`clips` as they are."""
        return clips


@dataclass(frozen=True)
class Heard:
    """A channel before the victim, and what was drawn of it.

    Attributes:
        channel: Of one modality.
        modality: Which.
        drawn: Name -> (D, A, ...) parameters: D draws for each example.
        valid: Bool, broadcastable to (A, ...), true where that modality is no padding; None: everywhere.
    """

    channel: RandomChannel
    modality: str
    drawn: Mapping[str, Tensor]
    valid: Tensor | None = None

    def at(self, draw: Tensor, example: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`inputs`, padded to lanes, of `example` (N,) as heard through `draw` (N,)."""
        clips = inputs[self.modality]
        drawn = {name: in_lanes(value[draw, example]) for name, value in self.drawn.items()}
        valid = None if self.valid is None else in_lanes(self.valid[example].expand(len(example), *clips.shape[1:]))
        return {**inputs, self.modality: self.channel(clips, drawn, valid)}


def fresh_draws(
    channel: RandomChannel, clips: Tensor, generators: Sequence[torch.Generator], draws: int
) -> dict[str, Tensor]:
    """Name -> (draws, A, ...) parameters for `clips` (A, ...), one call for each draw.

    In one call with repeated generators, a channel that draws two things would mix the streams of its draws.
    """
    drawn = [channel.draw(clips.detach(), generators) for _ in range(draws)]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def ask(
    victim: Victim,
    points: Mapping[str, Tensor],
    fixed: Mapping[str, Tensor],
    pairs: Sequence[tuple[int, int]],
    heard: Heard | None = None,
) -> Tensor:
    """What the victim says of several versions of each example; passes are not counted here.

    At most `at_most` passes are made at once, in full lanes, so that none depends on the others.

    Args:
        victim: Maps modalities to logits.
        points: Modality -> (V, A, ...) versions of each example.
        fixed: Modality -> (A, ...), the same in all versions.
        pairs: P pairs (version, draw) that are wanted; without a channel the draw is not looked at.
        heard: What they are heard through.

    Returns:
        (P, A, K) full-precision logits.
    """
    count = next(iter(points.values())).shape[1]
    device = next(iter(points.values())).device
    version, draw = (torch.tensor(part, device=device).repeat_interleave(count) for part in zip(*pairs, strict=True))
    example = torch.arange(count, device=device).repeat(len(pairs))
    said = []
    with torch.no_grad():
        for v, d, a in zip(*(torch.split(part, most_rows() or ROWS) for part in (version, draw, example)), strict=True):
            chosen = {name: value[a] for name, value in fixed.items()}
            chosen |= {name: value[v, a] for name, value in points.items()}
            padded, wanted = pad_to_lanes(chosen)
            said.append(victim(padded if heard is None else heard.at(d, a, padded))[:wanted].float())
    return torch.cat(said).view(len(pairs), count, -1)


__all__ = ["ROWS", "Direct", "Heard", "RandomChannel", "ask", "fresh_draws"]
