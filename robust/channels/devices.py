"""Loudspeakers, microphones and the converters behind them; all exactly differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.channel import Channel, Parameters, Span, checked_span, drawn, where_valid
from attacks.errors import ThreatModelError
from robust.channels.levels import active_regions, frame_samples, ratios_db, snrs_db, without_padding
from robust.channels.spectra import butterworth, check_below_nyquist, fast_length, filtered, frequencies_hz

LARGEST_GAIN_DB, LARGEST_PPM, LARGEST_DELAY_S = 100.0, 10_000.0, 10.0
OVERSAMPLING = 4
"""Between samples four times as dense a cubic errs by less than 1 % at half the sample rate, by 0.1 % at a quarter."""

REACH_SAMPLES = 256
"""Zeros behind a clip, so that the end of a transform does not ring into its beginning."""


class Device(Channel):
    """A channel that draws spans of numbers; tells the change of level.

    Attributes:
        spans: Parameter -> (lowest, highest).
    """

    def __init__(self, sample_rate: int, spans: dict[str, tuple[float, float]]) -> None:
        super().__init__(sample_rate)
        self.spans = spans

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """One uniform number a clip from each span."""
        return {name: drawn(span, generators, clips) for name, span in self.spans.items()}

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`level_db`: how much louder the clip became."""
        return {"level_db": ratios_db(after, before, valid)}

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, **{name: list(span) for name, span in self.spans.items()}}


class BandPass(Device):
    """A loudspeaker or a microphone: a Butterworth-shaped band without phase, so that nothing is delayed.

    Args:
        sample_rate: Hz.
        low_hz: Lower end (-3 dB); no lower end when None.
        high_hz: Upper end (-3 dB), below half the sample rate; no upper end when None.
        order: Steepness beyond the ends in multiples of 6 dB an octave, 1 to 16.

    Raises:
        ThreatModelError: If an end is out of range, the ends may cross, or there is none.
    """

    name = "band"

    def __init__(
        self, sample_rate: int, low_hz: Span | None = None, high_hz: Span | None = None, *, order: int = 4
    ) -> None:
        if low_hz is None and high_hz is None:
            raise ThreatModelError("A band needs low_hz, high_hz or both; without them everything passes.")
        if not 1 <= order <= 16:
            raise ThreatModelError(f"order must be 1 to 16; given {order}.")
        given = {"low_hz": low_hz, "high_hz": high_hz}
        spans = {name: checked_span(name, span, 1.0, 1e9, "Hz") for name, span in given.items() if span is not None}
        for name, span in spans.items():
            check_below_nyquist(name, span[1], sample_rate)
        if len(spans) == 2 and spans["low_hz"][1] >= spans["high_hz"][0]:
            raise ThreatModelError(f"low_hz must stay below high_hz; given {low_hz} and {high_hz}.")
        super().__init__(sample_rate, spans)
        self.order = order
        # A filter rings for some periods of its lower end.
        slowest = spans["low_hz"][0] if "low_hz" in spans else math.inf
        self.reach = REACH_SAMPLES + round(sample_rate * min(0.5, 3 / slowest))

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        length = fast_length(clips.shape[1] + self.reach)
        frequency = frequencies_hz(length, self.sample_rate, clips)
        gains = butterworth(frequency, parameters.get("low_hz"), parameters.get("high_hz"), self.order)
        return where_valid(filtered(without_padding(clips, valid), gains, length), clips, valid)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "order": self.order}


class SoftClip(Device):
    """A device that is driven too loud: `tanh(g x) / g`, so that what is quiet keeps its level.

    Args:
        sample_rate: Hz.
        drive_db: 20 log10 of g, -40 to 60; full scale comes out at `tanh(g) / g`.
    """

    name = "soft-clip"

    def __init__(self, sample_rate: int, drive_db: Span) -> None:
        super().__init__(sample_rate, {"drive_db": checked_span("drive_db", drive_db, -40.0, 60.0, "dB")})

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        drive = _amplitude(parameters["drive_db"])
        return where_valid(torch.tanh(clips * drive) / drive, clips, valid)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`level_db`, and `snr_db` with what the clipping took or added as noise."""
        active = active_regions(before, valid, frame_samples(self.sample_rate))
        return {**super().measure(before, after, parameters, valid), "snr_db": snrs_db(before, after, active)}


class Gain(Device):
    """Louder or quieter by `gain_db`, -100 to 100."""

    name = "gain"

    def __init__(self, sample_rate: int, gain_db: Span) -> None:
        span = checked_span("gain_db", gain_db, -LARGEST_GAIN_DB, LARGEST_GAIN_DB, "dB")
        super().__init__(sample_rate, {"gain_db": span})

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return where_valid(clips * _amplitude(parameters["gain_db"]), clips, valid)


class Offset(Device):
    """Direct current of a bad converter: `offset`, a share of full scale from -1 to 1, is added."""

    name = "offset"

    def __init__(self, sample_rate: int, offset: Span) -> None:
        super().__init__(sample_rate, {"offset": checked_span("offset", offset, -1.0, 1.0, "shares of full scale")})

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return where_valid(clips + parameters["offset"].to(clips)[:, None], clips, valid)


class Drift(Device):
    """A clock that is not the sender's: the clip plays `ppm` millionths faster, zeros follow where it ends early.

    Band-limited interpolation: four times the rate by FFT, a cubic through the four neighbours.

    Args:
        sample_rate: Hz.
        ppm: -10,000 to 10,000; cheap sound cards are off by some 100.
    """

    name = "drift"

    def __init__(self, sample_rate: int, ppm: Span) -> None:
        super().__init__(sample_rate, {"ppm": checked_span("ppm", ppm, -LARGEST_PPM, LARGEST_PPM, "ppm")})

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        samples = clips.shape[1]
        length = fast_length(math.ceil(samples * (1 + LARGEST_PPM * 1e-6)) + REACH_SAMPLES)
        length += length % 2  # an even length has a frequency of its own at half the rate
        spectrum = torch.fft.rfft(without_padding(clips, valid), length)
        spectrum = torch.cat([spectrum[:, :-1], spectrum[:, -1:] / 2], dim=1)
        dense = torch.fft.irfft(spectrum, OVERSAMPLING * length) * OVERSAMPLING
        speed = 1 + parameters["ppm"].double()[:, None] * 1e-6
        place = OVERSAMPLING * speed * torch.arange(samples, dtype=torch.float64, device=clips.device)
        whole = place.floor()
        heard = _cubic(dense, whole.long(), (place - whole).to(clips))
        return where_valid(heard, clips, valid)


def _cubic(dense: Tensor, whole: Tensor, part: Tensor) -> Tensor:
    """Values (B, T) at `whole + part`, from 0 on, of `dense` (B, N), by Lagrange's cubic."""
    weights = (
        -part * (part - 1) * (part - 2) / 6,
        (part + 1) * (part - 1) * (part - 2) / 2,
        -(part + 1) * part * (part - 2) / 2,
        (part + 1) * part * (part - 1) / 6,
    )
    # Only the first value may look before the beginning, with a weight of 0.
    around = torch.cat([(whole + step).clamp_min(0) for step in (-1, 0, 1, 2)], dim=1)
    values = dense.gather(1, around).view(len(part), 4, -1)  # one gather, whose adjoint is one scatter
    heard: Tensor = (values * torch.stack(weights, dim=1)).sum(dim=1)
    return heard


class Shift(Device):
    """The clip comes later by `delay_s` (earlier if below 0), with zeros before or after it.

    Args:
        sample_rate: Hz.
        delay_s: -10 to 10.
        fractional: Shift between samples too, by the phase of the spectrum; otherwise delays are whole samples, exact.
    """

    name = "shift"

    def __init__(self, sample_rate: int, delay_s: Span, *, fractional: bool = False) -> None:
        span = checked_span("delay_s", delay_s, -LARGEST_DELAY_S, LARGEST_DELAY_S, "s")
        super().__init__(sample_rate, {"delay_s": span})
        self.fractional = fractional

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`delay_s` (B,) float64, whole samples unless fractional."""
        delay_s = drawn(self.spans["delay_s"], generators, clips.new_zeros((), dtype=torch.float64))
        return {"delay_s": delay_s if self.fractional else (delay_s * self.sample_rate).round() / self.sample_rate}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        real, delay = without_padding(clips, valid), parameters["delay_s"].double()[:, None] * self.sample_rate
        heard = self._by_phase(real, delay) if self.fractional else _by_place(real, delay.round().long())
        return where_valid(heard, clips, valid)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "fractional": self.fractional}

    def _by_phase(self, clips: Tensor, delay: Tensor) -> Tensor:
        furthest = math.ceil(max(map(abs, self.spans["delay_s"])) * self.sample_rate)
        length = fast_length(clips.shape[1] + furthest + REACH_SAMPLES)
        turns = torch.fft.rfftfreq(length, dtype=torch.float64, device=clips.device) * delay
        spectrum = torch.fft.rfft(clips, length)
        phase = torch.polar(torch.ones_like(turns), -2 * math.pi * turns).to(spectrum)
        heard: Tensor = torch.fft.irfft(spectrum * phase, length)
        return heard[:, : clips.shape[1]]


def _by_place(clips: Tensor, delay: Tensor) -> Tensor:
    """Clips (B, T) later by whole samples (B, 1), zeros where nothing was."""
    samples = clips.shape[1]
    source = torch.arange(samples, device=clips.device) - delay
    there = (source >= 0) & (source < samples)
    return torch.where(there, clips.gather(1, source.clamp(0, samples - 1)), 0.0)


def _amplitude(level_db: Tensor) -> Tensor:
    """(B, 1) factor on amplitudes; 20 dB are 10."""
    return (10 ** (level_db / 20))[:, None]
