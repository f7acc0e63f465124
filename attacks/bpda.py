"""Two stand-ins for a defender's channel, for attacks on what its gradient or its noise may hide.

Sources: Athalye, Carlini & Wagner 2018, sections 4.1 (BPDA) and 4.2; methods.md 5.5, rules 2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.channel import Channel, Parameters, where_valid


class Identity(Channel):
    """A channel whose backward pass is the identity (BPDA): for those whose own gradient is missing, or misleads.

    The forward pass gives exactly the values of the wrapped channel and keeps no graph of it, so that it also costs
    less memory than the true gradient. Right where a channel stays close to its input, as a purifier is meant to.

    Args:
        channel: What is heard.
    """

    name = "bpda"
    gradient = "straight-through"

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.sample_rate)
        self.channel = channel

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """What the wrapped channel draws."""
        return self.channel.draw(clips, generators)

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            heard = where_valid(self.channel(clips.detach(), parameters, valid), clips.detach(), valid)
        return straight_through(heard, clips)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """As the wrapped channel measures."""
        return self.channel.measure(before, after, parameters, valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "of": self.channel.describe()}


class Held(Channel):
    """A random channel that always makes the same draw, for every clip: randomness as a hiding place, taken away.

    An attack that fails on the random channel and succeeds on this one lacks draws (K), not gradients.

    Args:
        channel: Whose draw is held.
        seed: Of the generator that makes it. Those given to `draw` are not touched.
    """

    name = "held"

    def __init__(self, channel: Channel, seed: int = 0) -> None:
        super().__init__(channel.sample_rate)
        self.channel, self.seed, self.gradient = channel, seed, channel.gradient

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """What the wrapped channel draws from generator `seed`, once for each clip."""
        held = self.channel.draw(clips[:1], [torch.Generator().manual_seed(self.seed)])
        return {name: value.expand(len(clips), *value.shape[1:]) for name, value in held.items()}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        heard: Tensor = self.channel(clips, parameters, valid)
        return heard

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """As the wrapped channel measures."""
        return self.channel.measure(before, after, parameters, valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "seed": self.seed, "of": self.channel.describe()}


def straight_through(real: Tensor, taken_for: Tensor) -> Tensor:
    """The values of `real`, to the bit, with the gradient of `taken_for`."""
    return real.detach() + (taken_for - taken_for.detach())


__all__ = ["Held", "Identity", "straight_through"]
