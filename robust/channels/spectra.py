"""Filters without phase, in the frequency domain: what they do is a gain for each frequency of each clip."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.errors import ThreatModelError


def fast_length(samples: int) -> int:
    """The next length from `samples` on whose FFT is fast.

    SciPy's next 5-smooth length may be nearly or wholly odd (56250, 177147), which costs torch's real transforms up to
    three times as much as a neighbour: it is asked for one in steps of a power of two, a fortieth of it at most.
    """
    from scipy.fft import next_fast_len

    step = 1 << max((samples // 40).bit_length() - 1, 0)
    return step * int(next_fast_len(-(-samples // step), real=True))


def frequencies_hz(length: int, sample_rate: int, like: Tensor) -> Tensor:
    """(F,) float64 frequencies of a transform of `length`, on the device of `like`."""
    frequency: Tensor = torch.fft.rfftfreq(length, 1 / sample_rate, dtype=torch.float64, device=like.device)
    return frequency


def filtered(clips: Tensor, gains: Tensor, length: int) -> Tensor:
    """Clips (B, T) with gains (B, F) at the frequencies of a transform of `length`; what rings beyond T is cut off."""
    heard: Tensor = torch.fft.irfft(torch.fft.rfft(clips, length) * gains.to(clips), length)
    return heard[:, : clips.shape[1]]


def butterworth(frequency: Tensor, low_hz: Tensor | None, high_hz: Tensor | None, order: int) -> Tensor:
    """(B, F) gains of a Butterworth band-pass: 3 dB less at its ends, 6 dB an octave and order beyond.

    Args:
        frequency: (F,) Hz.
        low_hz: (B,), or None for no lower end.
        high_hz: (B,), or None for no upper end.
        order: From 1.
    """
    gains = torch.ones_like(frequency)
    if low_hz is not None:
        ratio = (frequency / low_hz.double()[:, None]) ** order
        gains = gains * ratio / (1 + ratio.square()).sqrt()
    if high_hz is not None:
        gains = gains / (1 + (frequency / high_hz.double()[:, None]) ** (2 * order)).sqrt()
    return gains


def check_below_nyquist(name: str, highest_hz: float, sample_rate: int) -> None:
    """Raises `ThreatModelError` unless clips of that rate carry the frequency."""
    if highest_hz >= sample_rate / 2:
        raise ThreatModelError(
            f"{name} must be below half the sample rate, {sample_rate / 2:g} Hz at {sample_rate} Hz; "
            f"given {highest_hz:g} Hz. Lower it, or leave it out."
        )
