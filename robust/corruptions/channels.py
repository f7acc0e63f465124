"""Channels as transforms: what `robust.channels` does to clips, driven by the parameter of a corruption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.channel import Channel
from attacks.gradients import LANES
from robust.channels.condition import heard_through
from robust.corruptions.base import Transform
from robust.types import Inputs


def through(channel: Channel, *, full_level: bool = False, keep_level: bool = False) -> Transform:
    """What is heard behind a channel, in lanes of eight, so that no clip depends on its neighbours to the bit.

    Args:
        channel: At the rate of the clips.
        full_level: Each clip enters with its peak at full scale and leaves as much quieter again: then a converter or
            an amplifier does to quiet clips what it does to loud ones.
        keep_level: Each clip leaves with the root mean square that it came with.
    """

    def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        clips, real = inputs["audio"], valid["audio"].expand_as(inputs["audio"])
        heard = []
        for first in range(0, len(clips), LANES):
            rows = slice(first, first + LANES)
            heard.append(_lane(channel, clips[rows], real[rows], generators[rows], full_level))
        found = torch.cat(heard)
        return {"audio": at_level_of(clips, found, real) if keep_level else found}

    return transform


def _lane(
    channel: Channel, clips: Tensor, real: Tensor, generators: Sequence[torch.Generator], full_level: bool
) -> Tensor:
    peak = (clips.abs() * real).amax(dim=1, keepdim=True)
    sounding = full_level & (peak > 0)
    scale = torch.where(sounding, peak, 1.0)
    heard = heard_through(channel, clips / scale, channel.draw(clips, generators), real) * scale
    return torch.where(real, heard, clips)


def at_level_of(clips: Tensor, heard: Tensor, valid: Tensor) -> Tensor:
    """`heard` (B, T) with the energy of `clips`, row by row; what is silent stays as it is."""
    rows = []
    for clip, changed, real in zip(clips, heard, valid, strict=True):
        before, after = (value[real].double().square().sum() for value in (clip, changed))
        gain = (before / after).sqrt() if bool(after > 0) and bool(before > 0) else torch.ones(())
        rows.append(torch.where(real, changed * gain.to(changed), changed))
    return torch.stack(rows)
