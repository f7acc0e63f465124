"""A channel as a condition of the engine: every clip goes through one draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.channel import Channel, numbers
from attacks.errors import ThreatModelError
from attacks.gradients import Victim, in_lanes
from robust.channels import check_heard, range_of, spec_of
from robust.seeds import generators_for
from robust.types import Batch, Outcome


@dataclass(frozen=True)
class Through:
    """Clips as they are heard through a channel.

    Attributes:
        channel: For waveforms at the victim's sample rate.
        modality: A waveform, (B, T).
        clip: Cut what leaves the modality's range; realised values are measured afterwards.
        label: Name of the condition; the channel's when None.
    """

    channel: Channel
    modality: str = "audio"
    clip: bool = False
    label: str | None = None

    @property
    def name(self) -> str:
        """The channel's, unless given another."""
        return self.label or f"channel-{self.channel.name}"

    def describe(self) -> dict[str, Any]:
        """All settings of the channel."""
        told = {"modality": self.modality, "clip": self.clip, "channel": self.channel.describe()}
        return {"condition": self.name, **told}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The clips as heard; columns are what was drawn, `measured_...` and `over_range`, the share beyond range."""
        check_heard(self.modality, batch)
        spec, clips = spec_of(victim, self.name), batch.inputs[self.modality]
        if clips.ndim != 2:
            raise ThreatModelError(f"A channel needs a waveform (B, T); {self.modality!r} is {tuple(clips.shape)}.")
        check_rate(self.channel, spec.sample_rate)
        valid = batch.valid[self.modality].expand_as(clips)
        generators = generators_for(seed, batch.ids, self.channel.name)
        drawn = self.channel.draw(clips, generators)
        heard = heard_through(self.channel, clips, drawn, valid)
        low, high = range_of(spec, self.modality)
        beyond = (((heard < low) | (heard > high)) & valid).double().sum(dim=1) / valid.sum(dim=1).clamp_min(1)
        heard = torch.where(valid, heard.clamp(low, high), heard) if self.clip else heard
        measured = self.channel.measure(clips, heard, drawn, valid)
        columns = {name: value.cpu().tolist() for name, value in numbers(drawn).items()}
        columns |= {f"measured_{name}": value.cpu().tolist() for name, value in measured.items()}
        return Outcome({**batch.inputs, self.modality: heard}, {**columns, "over_range": beyond.cpu().tolist()})


def check_rate(channel: Channel, sample_rate: int) -> None:
    """Raises `ThreatModelError` unless the channel is made for that rate."""
    if channel.sample_rate != sample_rate:
        raise ThreatModelError(
            f"The channel {channel.name!r} is made for {channel.sample_rate} Hz and the victim hears {sample_rate} Hz; "
            f"make it with sample_rate={sample_rate}."
        )


def heard_through(channel: Channel, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None) -> Tensor:
    """`channel(clips, parameters, valid)`, in full lanes: then no row depends on how many there are, to the bit."""
    padded = {name: in_lanes(value) for name, value in parameters.items()}
    heard: Tensor = channel(in_lanes(clips), padded, None if valid is None else in_lanes(valid))
    return heard[: len(clips)]
