"""Converters of few bits. The forward pass is real; backwards they are taken for the identity (straight-through)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.bpda import straight_through
from attacks.channel import Channel, Parameters, where_valid
from attacks.errors import ThreatModelError
from robust.channels.choices import Choices, checked_choices, chosen
from robust.channels.levels import active_regions, frame_samples, snrs_db


class Converter(Channel):
    """A channel with the gradient of the identity; tells its noise."""

    gradient = "straight-through"

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`snr_db` over the active region: infinite where nothing was lost."""
        active = active_regions(before, valid, frame_samples(self.sample_rate))
        return {"snr_db": snrs_db(before, after, active)}


class Quantise(Converter):
    """Rounds to integers of `bits`: steps of 2^(1 - bits) of full scale, cut to -1 and 1 less a step.

    Backwards it is the identity, beyond full scale too.

    Args:
        sample_rate: Hz.
        bits: 2 to 24, or several to choose from.
    """

    name = "quantise"

    def __init__(self, sample_rate: int, bits: Choices = 16) -> None:
        super().__init__(sample_rate)
        self.bits = checked_choices("bits", bits, 2, 24, "bits")
        if not all(one.is_integer() for one in self.bits):
            raise ThreatModelError(f"bits must be whole; given {bits}.")

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`bits` (B,)."""
        return {"bits": chosen(self.bits, generators, clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        steps = 2 ** (parameters["bits"].to(clips)[:, None] - 1)
        rounded = torch.minimum((clips * steps).round(), steps - 1).maximum(-steps) / steps
        return where_valid(straight_through(rounded, clips), clips, valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "bits": list(self.bits)}


class MuLaw(Converter):
    """Telephone companding: the mu-law of ITU-T G.711 in its smooth form, a sign and a rounded magnitude.

    A magnitude of full scale 1 becomes `ln(1 + mu |x|) / ln(1 + mu)` with mu = levels - 1, rounded to levels / 2
    values; there is a +0 and a -0, as in G.711, so that silence stays silent. G.711 itself takes the curve by 8
    straight pieces.
    Backwards it is the identity, beyond full scale too.

    Args:
        sample_rate: Hz.
        levels: Even, 4 to 65,536; 256 are the 8 bits of a telephone.
    """

    name = "mu-law"

    def __init__(self, sample_rate: int, levels: int = 256) -> None:
        super().__init__(sample_rate)
        if not 4 <= levels <= 65_536 or levels % 2:
            raise ThreatModelError(f"levels must be an even number from 4 to 65536; given {levels}.")
        self.levels = levels

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """Nothing: all clips meet the same converter."""
        return {}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        scale, steps = math.log(self.levels), self.levels // 2 - 1
        magnitude = torch.log1p((self.levels - 1) * clips.detach().abs().clamp_max(1.0)) / scale
        coded = (magnitude * steps).round() / steps
        decoded = torch.expm1(coded * scale) / (self.levels - 1)
        return where_valid(straight_through(decoded.copysign(clips.detach()), clips), clips, valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "levels": self.levels}
