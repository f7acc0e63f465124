"""Channels one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attacks.channel import Channel, Parameters
from attacks.errors import ThreatModelError
from robust.channels.condition import heard_through


class Chain(Channel):
    """A sound goes through all its parts in order; without any it stays what it is.

    The parameters and measures of a part are named by its place and name: `0_room` (of `room`), `1_noise_snr_db`. The
    gradient is straight-through if that of any part is.

    Args:
        channels: The parts.
        sample_rate: Hz that all of them are made for.
        name: How the chain is called, as part of seeds and of labels.

    Raises:
        ThreatModelError: If a part is made for another sample rate.
    """

    def __init__(self, channels: Sequence[Channel], *, sample_rate: int, name: str = "chain") -> None:
        super().__init__(sample_rate)
        self.name = name
        for place, part in enumerate(channels):
            if part.sample_rate != sample_rate:
                raise ThreatModelError(
                    f"All parts of a chain hear the same rate; part {place} ({part.name}) is made for "
                    f"{part.sample_rate} Hz, the chain for {sample_rate} Hz."
                )
        self._modules_in_order = nn.ModuleList(channels)
        if any(part.gradient == "straight-through" for part in channels):
            self.gradient = "straight-through"

    @property
    def parts(self) -> list[Channel]:
        """The channels, in order."""
        return [part for part in self._modules_in_order if isinstance(part, Channel)]

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """What each part draws, in order, from the same generators."""
        return {
            _key(place, part, name): value
            for place, part in enumerate(self.parts)
            for name, value in part.draw(clips, generators).items()
        }

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        for place, part in enumerate(self.parts):
            clips = part(clips, self._of(place, parameters), valid)
        return clips

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """What each part measures of what it heard itself; all but the last are gone through once more for that."""
        found: Parameters = {}
        for place, part in enumerate(self.parts):
            own = self._of(place, parameters)
            last = place == len(self.parts) - 1
            with torch.no_grad():
                passed = after if last else heard_through(part, before, own, valid)
            measured = part.measure(before, passed, own, valid)
            found |= {_key(place, part, name): value for name, value in measured.items()}
            before = passed
        return found

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "parts": [part.describe() for part in self.parts]}

    def _of(self, place: int, parameters: Parameters) -> Parameters:
        """The parameters of one part, under its own names."""
        part = self.parts[place]
        start = f"{place}_{_word(part)}"
        return {
            (name.removeprefix(f"{start}_") if name != start else part.name): value
            for name, value in parameters.items()
            if name == start or name.startswith(f"{start}_")
        }


def _key(place: int, part: Channel, name: str) -> str:
    """Name of a part's parameter in the chain: `0_room` for `room` of `room`."""
    return f"{place}_{_word(part)}" if name == part.name else f"{place}_{_word(part)}_{name}"


def _word(part: Channel) -> str:
    return part.name.replace("-", "_")
