"""A victim behind one draw of a channel: what checks that know of no draws can ask."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.channel import Channel, Parameters
from robust.channels.condition import heard_through
from robust.types import Inputs
from robust.victims.base import Victim


class OneDraw(Victim):
    """Clips are heard through what was drawn for them, in their order.

    Args:
        victim: Behind the channel.
        modality: Of the clips.
        channel: Before it.
        drawn: Name -> (B, ...) what was drawn for each clip.
        valid: (B, T) bool, true where a clip is no padding.
    """

    def __init__(self, victim: Victim, modality: str, channel: Channel, drawn: Parameters, valid: Tensor) -> None:
        super().__init__(victim.spec)
        self.victim, self.modality, self.channel, self.drawn, self.valid = victim, modality, channel, drawn, valid

    def forward(self, inputs: Inputs) -> Tensor:
        clips = inputs[self.modality]
        rows = torch.arange(len(clips), device=clips.device).clamp_max(len(self.valid) - 1)  # lanes repeat the last
        drawn = {name: value[rows] for name, value in self.drawn.items()}
        heard = heard_through(self.channel, clips, drawn, self.valid[rows])
        logits: Tensor = self.victim({**inputs, self.modality: heard})
        return logits
