"""What a line does: packets that never come, and a lower sample rate on the way. Both exactly differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.channel import Channel, Parameters, Span, checked_span, drawn, where_valid
from attacks.errors import ThreatModelError, unknown
from robust.channels.choices import Choices, checked_choices, chosen
from robust.channels.levels import active_regions, frame_samples, snrs_db, without_padding
from robust.channels.spectra import fast_length, filtered, frequencies_hz

CONCEALMENTS = ("zeros", "repeat")
PASSED = 0.9
"""Of half the lower rate, passed whole; gains fall by half a cosine from there."""

REACH_SECONDS = 0.1


class PacketLoss(Channel):
    """Packets are lost, each by itself; the same draw at a higher rate loses the same packets and others.

    Args:
        sample_rate: Hz.
        rate: Probability that a packet is lost, 0 to 1.
        packet_s: Seconds in a packet; one sample at least.
        mode: What is heard instead: `zeros`, or `repeat`, the last packet that came (nothing before the first).

    Raises:
        ThreatModelError: If one of them cannot be.
    """

    name = "packet-loss"

    def __init__(
        self, sample_rate: int, rate: Span, *, packet_s: float = 0.02, mode: Literal["zeros", "repeat"] = "zeros"
    ) -> None:
        super().__init__(sample_rate)
        self.rate = checked_span("rate", rate, 0.0, 1.0, "shares of packets")
        if not math.isfinite(packet_s) or packet_s * sample_rate < 1:
            raise ThreatModelError(
                f"packet_s must be a time of one sample (1/{sample_rate} s) or more; given {packet_s}."
            )
        if mode not in CONCEALMENTS:
            raise ThreatModelError(unknown("mode of packet loss", mode, CONCEALMENTS))
        self.packet_s, self.mode, self.packet = packet_s, mode, round(packet_s * sample_rate)

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`rate` (B,) and `lost` (B, packets) bool."""
        rate, packets = drawn(self.rate, generators, clips), -(-clips.shape[1] // self.packet)
        luck = torch.stack([torch.rand(packets, generator=one, dtype=torch.float64) for one in generators])
        return {"rate": rate, "lost": luck.to(clips.device) < rate[:, None]}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        lost, samples = parameters["lost"], torch.arange(clips.shape[1], device=clips.device)
        if self.mode == "zeros":
            return where_valid(torch.where(lost[:, samples // self.packet], 0.0, clips), clips, valid)
        packets = torch.arange(lost.shape[1], device=clips.device).expand_as(lost)
        last = torch.where(lost, -1, packets).cummax(dim=1).values[:, samples // self.packet]
        source = (last * self.packet + samples % self.packet).clamp_min(0)
        heard = without_padding(clips, valid).gather(1, source)
        return where_valid(torch.where(last < 0, 0.0, heard), clips, valid)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`lost_share` of what is valid, and `snr_db` with what went missing as noise."""
        samples = torch.arange(before.shape[1], device=before.device)
        lost = parameters["lost"][:, samples // self.packet] & valid
        active = active_regions(before, valid, frame_samples(self.sample_rate))
        return {
            "lost_share": lost.double().sum(dim=1) / valid.double().sum(dim=1).clamp_min(1),
            "snr_db": snrs_db(before, after, active),
        }

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "rate": list(self.rate), "packet_s": self.packet_s, "mode": self.mode}


class Resample(Channel):
    """Down to a lower rate and up again, with nothing folded over.

    Both ways by FFT, which together is a low-pass without phase: what is above half the lower rate is gone, up to nine
    tenths of that everything passes.

    Args:
        sample_rate: Hz.
        rate_hz: The lower rate, or several to choose from.

    Raises:
        ThreatModelError: If a rate is not below `sample_rate`, or below 100 Hz.
    """

    name = "resample"

    def __init__(self, sample_rate: int, rate_hz: Choices) -> None:
        super().__init__(sample_rate)
        self.rate_hz = checked_choices("rate_hz", rate_hz, 100.0, 1e9, "Hz")
        if max(self.rate_hz) >= sample_rate:
            raise ThreatModelError(
                f"rate_hz must be below the rate of the clips, {sample_rate} Hz; given {rate_hz}. Leave it out."
            )

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`rate_hz` (B,)."""
        return {"rate_hz": chosen(self.rate_hz, generators, clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        length = fast_length(clips.shape[1] + round(REACH_SECONDS * self.sample_rate))
        ratio = frequencies_hz(length, self.sample_rate, clips) / (parameters["rate_hz"].double()[:, None] / 2)
        fall = ((ratio - PASSED) / (1 - PASSED)).clamp(0, 1)
        gains = 0.5 + 0.5 * torch.cos(math.pi * fall)
        return where_valid(filtered(without_padding(clips, valid), gains, length), clips, valid)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`snr_db` with what is gone as noise."""
        active = active_regions(before, valid, frame_samples(self.sample_rate))
        return {"snr_db": snrs_db(before, after, active)}

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "rate_hz": list(self.rate_hz)}
