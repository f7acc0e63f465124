"""Supports: where in an example a perturbation may live - a stretch of time, bands of mel, bands of frequency.

A support of coordinates is a mask. A frequency band is a subspace: the perturbation is a sum of the sinusoids of the
band's FFT bins over the whole clip. A window of time and a band of frequency together are approximate: no signal but
zero is limited in both at once (Slepian & Pollak 1961), so the window holds to the sample and the band leaks;
`out_of_support` says how much.

Radii mean the same in every support, whatever the number of its coordinates: equal L2 is equal energy, equal Linf is
equal peak.

Sources: methods.md 1.4; octave bands IEC 61260-1:2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.errors import ThreatModelError


class Support(Protocol):
    """Where in one example a perturbation may live."""

    def mask(self, shape: Sequence[int]) -> Tensor | None:
        """bool, broadcastable to one example of this shape, true where it may be changed; None: everywhere."""

    def bins(self, shape: Sequence[int]) -> Tensor | None:
        """(T // 2 + 1,) bool, true at the FFT bins it may be made of, for an example of shape (T,); None: all."""


@dataclass(frozen=True)
class TimeWindow:
    """A stretch of axis 0 of an example (samples, frames, seconds of features).

    Attributes:
        start, stop: As shares of the whole, 0 <= start < stop <= 1; it begins at round(start n), ends before
            round(stop n), so that windows that meet neither overlap nor leave gaps.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ThreatModelError(
                f"A time window needs 0 <= start < stop <= 1, shares of the clip; given {self.start} to {self.stop}. "
                "The first quarter is TimeWindow(0, 0.25)."
            )

    def mask(self, shape: Sequence[int]) -> Tensor:
        """(n, 1, ...) bool over axis 0."""
        steps = shape[0]
        inside = torch.zeros(steps, dtype=torch.bool)
        inside[round(self.start * steps) : round(self.stop * steps)] = True
        if not bool(inside.any()):
            raise ThreatModelError(
                f"The time window {self.start} to {self.stop} holds none of the {steps} steps of an example; widen it."
            )
        return inside.view(-1, *[1] * (len(shape) - 1))

    def bins(self, shape: Sequence[int]) -> None:
        """All."""


@dataclass(frozen=True)
class MelBand:
    """A band of the last axis of log-mel features (frames, mels).

    Attributes:
        first, last: Indices of the lowest and the highest mel band in it, both included, from 0.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ThreatModelError(f"A mel band needs 0 <= first <= last; given {self.first} to {self.last}.")

    def mask(self, shape: Sequence[int]) -> Tensor:
        """(mels,) bool."""
        if len(shape) < 2:
            raise ThreatModelError(
                f"A mel band is for features of two axes (frames, mels); an example has shape {tuple(shape)}. "
                "Use FrequencyBand for waveforms."
            )
        if self.last >= shape[-1]:
            raise ThreatModelError(
                f"Mel bands {self.first} to {self.last} are asked for, but there are {shape[-1]}, numbered from 0."
            )
        index = torch.arange(shape[-1])
        return (index >= self.first) & (index <= self.last)

    def bins(self, shape: Sequence[int]) -> None:
        """All."""


@dataclass(frozen=True)
class FrequencyBand:
    """A band of frequencies of a waveform (T,): the span of the FFT bins with low_hz <= f < high_hz.

    Bands that meet share no bin. A band that reaches the Nyquist frequency holds its bin too. L2 and Linf balls only.

    Attributes:
        low_hz, high_hz: Edges.
        sample_rate: Of the waveform, Hz.
    """

    low_hz: float
    high_hz: float
    sample_rate: int

    def __post_init__(self) -> None:
        if not 0 <= self.low_hz < self.high_hz or not self.low_hz <= self.sample_rate / 2:
            raise ThreatModelError(
                f"A frequency band needs 0 <= low_hz < high_hz, and low_hz at most half of the sample rate; given "
                f"{self.low_hz:g} to {self.high_hz:g} Hz at {self.sample_rate} Hz."
            )

    def mask(self, shape: Sequence[int]) -> None:
        """Everywhere."""

    def bins(self, shape: Sequence[int]) -> Tensor:
        """(T // 2 + 1,) bool."""
        if len(shape) != 1:
            raise ThreatModelError(
                f"A frequency band is for waveforms (T,); an example has shape {tuple(shape)}. "
                "Use MelBand for log-mel features."
            )
        frequency = torch.arange(shape[0] // 2 + 1, dtype=torch.float64) * self.sample_rate / shape[0]
        nyquist = self.sample_rate / 2
        inside = (frequency >= self.low_hz) & ((frequency < self.high_hz) | (self.high_hz >= nyquist))
        if not bool(inside.any()):
            raise ThreatModelError(
                f"No FFT bin of a clip of {shape[0]} samples lies between {self.low_hz:g} and {self.high_hz:g} Hz; "
                f"bins are {self.sample_rate / shape[0]:g} Hz apart. Widen the band."
            )
        return inside


@dataclass(frozen=True)
class Both:
    """What lies in every one of `parts`, e.g. an octave in the first half; window with band is approximate."""

    parts: tuple[Support, ...]

    def mask(self, shape: Sequence[int]) -> Tensor | None:
        """Where all parts allow a change."""
        return _all_of([part.mask(shape) for part in self.parts], "coordinate")

    def bins(self, shape: Sequence[int]) -> Tensor | None:
        """Bins that all parts allow."""
        return _all_of([part.bins(shape) for part in self.parts], "FFT bin")


def time_windows(count: int) -> list[TimeWindow]:
    """The clip in `count` equal windows: 2 for halves, 4 for quarters."""
    return [TimeWindow(part / count, (part + 1) / count) for part in range(count)]


def thirds(n_mels: int) -> dict[str, MelBand]:
    """`low`, `middle` and `high` third of the mel bands, as equal as they can be."""
    edges = [round(part * n_mels / 3) for part in range(4)]
    names = ("low", "middle", "high")
    return {name: MelBand(edges[part], edges[part + 1] - 1) for part, name in enumerate(names)}


_NOMINAL_HZ = ("31.5", "63", "125", "250", "500", "1000", "2000", "4000", "8000", "16000")


def octave_bands(sample_rate: int) -> dict[str, FrequencyBand]:
    """Octave bands by nominal centre frequency (`"1000 Hz"`), from 31.5 Hz to the one that holds the Nyquist frequency.

    IEC 61260-1:2014, base ten: exact centres 1000 * 10^(3 n / 10), edges a factor 10^(3/20) to either side.
    """
    bands = {}
    for index, name in enumerate(_NOMINAL_HZ):
        centre = 1000 * 10 ** (0.3 * (index - 5))
        low, high = centre * 10**-0.15, centre * 10**0.15
        if low < sample_rate / 2:
            bands[f"{name} Hz"] = FrequencyBand(low, min(high, sample_rate / 2), sample_rate)
    return bands


def band_limit(delta: Tensor, bins: Tensor) -> Tensor:
    """Nearest signals to `delta` (B, T) that are made of the FFT bins marked in `bins` (T // 2 + 1,).

    Clip by clip: transforms of several at once round differently, and results must not depend on company.
    """
    count = delta.shape[1]
    return torch.stack([torch.fft.irfft(torch.fft.rfft(row) * bins, n=count) for row in delta])


def out_of_support(delta: Tensor, support: Support) -> Tensor:
    """(B,) float64 share of the energy of perturbations `delta` (B, ...) outside `support`; 0 where there is none."""
    energy = delta.double().flatten(1).square().sum(dim=1)
    kept, shape = delta.double(), delta.shape[1:]
    mask, bins = support.mask(shape), support.bins(shape)
    if mask is not None:
        kept = kept * mask.to(delta.device)
    if bins is not None:
        kept = band_limit(kept, bins.to(delta.device))
    outside = (delta.double() - kept).flatten(1).square().sum(dim=1)
    return torch.where(energy > 0, outside / energy.clamp_min(1e-300), 0.0)


def _all_of(parts: Sequence[Tensor | None], kind: str) -> Tensor | None:
    given = [part for part in parts if part is not None]
    if not given:
        return None
    both = given[0]
    for part in given[1:]:
        both = both & part
    if not bool(both.any()):
        raise ThreatModelError(f"No {kind} lies in all parts of the support; let them overlap.")
    return both
