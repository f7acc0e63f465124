"""Plucked strings by Karplus and Strong (1983), differentiable in everything but the note.

A period of noise b runs round a loop that holds back, averages and damps it (methods.md 4.2):

    y[n] = b[n] + g ((1 - s) y[n - P] + s y[n - P - 1]),   H(w) = 1 / (1 - g ((1 - s) e^{-jwP} + s e^{-jw(P + 1)}))

It is computed as the transfer function H in the frequency domain, where P may lie between samples. A string
rings far longer than any affordable transform, and what rings on would wrap around; so H is taken on the circle
|z| = 1 / r with r below 1, which is the transform of y[n] r^n, and r^n is divided out. What wraps around then is down
by r^L.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.errors import ThreatModelError

LARGEST_DAMPING = 0.999
OPEN_STRINGS_HZ: Mapping[int, float] = {1: 329.63, 2: 246.94, 3: 196.00, 4: 146.83, 5: 110.00, 6: 82.41}
"""Guitar in standard tuning, from the highest string to the lowest."""

FRETS = 24


def fretted_hz(string: int, fret: int) -> float:
    """Frequency of a guitar string stopped at a fret, a semitone each; 0 is open.

    Raises:
        ThreatModelError: If there is no such string or fret.
    """
    if string not in OPEN_STRINGS_HZ or not 0 <= fret <= FRETS:
        raise ThreatModelError(f"A guitar has strings 1 to 6 and frets 0 to {FRETS}; given {string} and {fret}.")
    return OPEN_STRINGS_HZ[string] * 2 ** (fret / 12)


def period_samples(hz: Tensor, smoothing: Tensor, sample_rate: int) -> Tensor:
    """The loop's length P for a pitch: averaging holds back by `smoothing` samples of its own (at low frequencies)."""
    return sample_rate / hz - smoothing


def pluck(
    excitation: Tensor,
    samples: int,
    *,
    period: Tensor,
    damping: Tensor,
    smoothing: Tensor,
    delay: Tensor | None = None,
) -> Tensor:
    """Strings plucked at time 0, differentiable in every tensor.

    Args:
        excitation: (S, N) float in [-1, 1]; what fills the loop. Shorter loops have zeros behind their period.
        samples: Length of the result, N or more.
        period: (S,) P in samples, 1 or more, whole or not.
        damping: (S,) g in [0, 0.999].
        smoothing: (S,) s in [0, 1].
        delay: (S,) samples, 0 or more, whole or not, by which each string is late; 0 when None.

    Returns:
        (S, samples) of the type of `excitation`.

    Raises:
        ThreatModelError: If a value is out of its range.
    """
    _check(excitation, samples, period, damping, smoothing)
    length = fast_length(2 * samples)
    circle = _Circle(length, excitation)
    # The averaging of two samples that a turn apart: (1 - s) + s / z.
    average = (1 - smoothing)[:, None] + smoothing[:, None] * circle.turn
    feedback = damping[:, None] * circle.held_back(period) * average
    spectrum = torch.fft.rfft(excitation * circle.shrink(excitation.shape[1]), length) / (1 - feedback)
    if delay is not None:
        spectrum = spectrum * circle.held_back(delay)
    strings: Tensor = torch.fft.irfft(spectrum, length)[:, :samples] / circle.shrink(samples)
    return strings


class _Circle:
    """The points z = e^{jw} / r at which transfer functions are taken, for transforms of so many samples."""

    def __init__(self, length: int, like: Tensor) -> None:
        self.length, self.like = length, like
        self.log_radius = 2 / 3 / length * math.log(torch.finfo(like.dtype).eps)
        self.bins = torch.arange(length // 2 + 1, device=like.device)
        self.turn = self._power(torch.ones(1, dtype=torch.int64, device=like.device))
        """(1, F) complex: 1 / z, one sample late."""

    def shrink(self, samples: int) -> Tensor:
        """r^n for n from 0, (samples,)."""
        places = torch.arange(samples, dtype=torch.float64, device=self.like.device)
        return (places * self.log_radius).exp().to(self.like)

    def held_back(self, samples: Tensor) -> Tensor:
        """(S, F) transfer functions of delays by (S,) samples, whole or not.

        Between samples by the Lagrange polynomial through four of them (Laakso et al. 1996): it is exact at whole
        samples, never amplifies, and ends after four taps, where an ideal delay would ring without end.
        """
        whole = samples.detach().floor()
        part = (samples - whole)[:, None]
        taps = (
            -part * (part - 1) * (part - 2) / 6,
            (part + 1) * (part - 1) * (part - 2) / 2,
            -(part + 1) * part * (part - 2) / 2,
            (part + 1) * part * (part - 1) / 6,
        )
        polynomial = taps[2] + self.turn * taps[3]
        polynomial = taps[0] + self.turn * (taps[1] + self.turn * polynomial)
        return self._power(whole.long() - 1) * polynomial

    def _power(self, exponents: Tensor) -> Tensor:
        """(S, F) 1 / z to the power of (S,) whole numbers; angles are reduced as integers, and so exact."""
        turns = (exponents[:, None] * self.bins) % self.length
        angle = (-2 * math.pi / self.length) * turns.double()
        size = (exponents.double() * self.log_radius).exp()[:, None].expand_as(angle)
        return torch.polar(size.to(self.like), angle.to(self.like))


def fast_length(samples: int) -> int:
    """The smallest even 2^a 3^b 5^c of at least `samples`: a length at which an FFT is fast."""
    best = 1 << max(samples - 1, 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = 2 * three
            while two < samples:
                two *= 2
            best = min(best, two)
            three *= 3
        five *= 5
    return best


def _check(excitation: Tensor, samples: int, period: Tensor, damping: Tensor, smoothing: Tensor) -> None:
    if excitation.ndim != 2 or samples < excitation.shape[1]:
        raise ThreatModelError(
            f"The excitation must be (strings, N) with N up to {samples} samples; given {tuple(excitation.shape)}."
        )
    for name, value, low, high in (
        ("period", period, 1.0, float(samples)),
        ("damping", damping, 0.0, LARGEST_DAMPING),
        ("smoothing", smoothing, 0.0, 1.0),
    ):
        least, most = float(value.detach().min()), float(value.detach().max())
        if not (least >= low - 1e-6 and most <= high + 1e-6):
            raise ThreatModelError(f"The {name} must be from {low:g} to {high:g}; given {least:g} to {most:g}.")
