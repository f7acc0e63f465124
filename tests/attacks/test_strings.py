"""Plucked strings against the recursion they are, in the time domain."""

import math

import pytest
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.strings import OPEN_STRINGS_HZ, fast_length, fretted_hz, period_samples, pluck

DOUBLE = torch.float64


def recursion(excitation: Tensor, samples: int, period: int, damping: float, smoothing: float) -> Tensor:
    """y[n] = b[n] + g ((1 - s) y[n - P] + s y[n - P - 1]), one sample after another."""
    heard = [0.0] * samples
    for n in range(samples):
        value = float(excitation[n]) if n < len(excitation) else 0.0
        if n >= period:
            value += damping * (1 - smoothing) * heard[n - period]
        if n > period:
            value += damping * smoothing * heard[n - period - 1]
        heard[n] = value
    return torch.tensor(heard, dtype=DOUBLE)


def noise(strings: int, samples: int) -> Tensor:
    return 2 * torch.rand(strings, samples, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) - 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-8), (torch.float32, 2e-3)])
def test_strings_are_the_recursion(dtype, tolerance):
    # The second rings so long that a plain transform of twice the length would wrap round at nearly full strength.
    periods, dampings, smoothings = [40, 33, 25], [0.9, 0.999, 0.999], [0.5, 0.1, 0.0]
    excitation = noise(3, 40)
    for row, period in enumerate(periods):
        excitation[row, period:] = 0
    found = pluck(
        excitation.to(dtype),
        1500,
        period=torch.tensor(periods, dtype=dtype),
        damping=torch.tensor(dampings, dtype=dtype),
        smoothing=torch.tensor(smoothings, dtype=dtype),
    )
    assert found.dtype == dtype
    for row, settings in enumerate(zip(periods, dampings, smoothings, strict=True)):
        wanted = recursion(excitation[row], 1500, *settings)
        assert wanted[-100:].abs().max() > (0.1 if settings[1] > 0.99 else 0)
        torch.testing.assert_close(found[row].double(), wanted, rtol=0, atol=tolerance)


def test_gradients_are_those_of_finite_differences():
    excitation = noise(2, 12).requires_grad_()
    settings = [
        torch.tensor(values, dtype=DOUBLE).requires_grad_() for values in ([11.7, 9.4], [0.97, 0.9], [0.3, 0.6])
    ]
    delay = torch.tensor([0.4, 3.7], dtype=DOUBLE).requires_grad_()

    def heard(excitation, period, damping, smoothing, delay):
        return pluck(excitation, 64, period=period, damping=damping, smoothing=smoothing, delay=delay)

    assert torch.autograd.gradcheck(heard, (excitation, *settings, delay), eps=1e-4, atol=1e-5)


def test_a_delay_moves():
    excitation = noise(1, 50)
    settings = {name: torch.tensor([value], dtype=DOUBLE) for name, value in (("damping", 0.98), ("smoothing", 0.5))}
    period = torch.tensor([50.0], dtype=DOUBLE)
    still, moved = (
        pluck(excitation, 600, period=period, delay=torch.tensor([delay], dtype=DOUBLE), **settings)[0]
        for delay in (0.0, 7.0)
    )
    torch.testing.assert_close(moved[7:], still[:-7], rtol=0, atol=1e-8)
    assert moved[:7].abs().max() < 1e-6


def test_a_fractional_period_is_a_recursion_too():
    """The four taps of Lagrange's polynomial, in the time domain."""
    excitation, period, damping, smoothing = noise(1, 20), 20.3, 0.99, 0.4
    taps = [-0.3 * -0.7 * -1.7 / 6, 1.3 * -0.7 * -1.7 / 2, -1.3 * 0.3 * -1.7 / 2, 1.3 * 0.3 * -0.7 / 6]
    heard = torch.zeros(400, dtype=DOUBLE)
    for n in range(400):
        value = float(excitation[0, n]) if n < 20 else 0.0
        for place, tap in enumerate(taps):
            for late, weight in ((0, 1 - smoothing), (1, smoothing)):
                before = n - (int(period) - 1 + place) - late
                value += damping * weight * tap * float(heard[before]) if before >= 0 else 0.0
        heard[n] = value
    settings = {"period": period, "damping": damping, "smoothing": smoothing}
    found = pluck(excitation, 400, **{name: torch.tensor([value], dtype=DOUBLE) for name, value in settings.items()})
    torch.testing.assert_close(found[0], heard, rtol=0, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_pitch_does_not_depend_on_smoothing(smoothing):
    hz, rate = torch.tensor([196.3], dtype=DOUBLE), 16_000
    s = torch.tensor([smoothing], dtype=DOUBLE)
    excitation = noise(1, int(rate / 196.3))
    heard = pluck(
        excitation, 32_000, period=period_samples(hz, s, rate), damping=torch.tensor([0.999], dtype=DOUBLE), smoothing=s
    )[0]
    spectrum = torch.fft.rfft(heard * torch.hann_window(len(heard), dtype=DOUBLE), 8 * len(heard)).abs()
    step = rate / (8 * len(heard))
    low = int(150 / step)
    peak = (low + int(spectrum[low : int(250 / step)].argmax())) * step
    assert abs(1200 * math.log2(peak / 196.3)) < 3  # cents


def test_frets_are_semitones():
    assert fretted_hz(6, 12) == pytest.approx(2 * OPEN_STRINGS_HZ[6])
    assert fretted_hz(5, 0) == 110.0
    for string, fret in ((7, 0), (1, -1), (1, 25)):
        with pytest.raises(ThreatModelError, match="strings 1 to 6"):
            fretted_hz(string, fret)


@pytest.mark.parametrize("samples", [1, 2, 7, 100, 1001, 27_200, 51_200])
def test_fast_lengths_are_long_enough_even_and_near(samples):
    length = fast_length(samples)
    assert samples <= length <= max(2, 1.2 * samples + 2)
    assert length % 2 == 0
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("period", 0.5), ("damping", 1.0), ("damping", -0.1), ("smoothing", 1.1), ("smoothing", math.nan)],
)
def test_what_no_string_can_do_is_refused(name, value):
    settings = {"period": 10.0, "damping": 0.9, "smoothing": 0.5, name: value}
    with pytest.raises(ThreatModelError, match=name):
        pluck(noise(1, 10), 100, **{key: torch.tensor([number]) for key, number in settings.items()})


def test_an_excitation_longer_than_the_sound_is_refused():
    with pytest.raises(ThreatModelError, match="excitation"):
        pluck(noise(1, 10), 5, period=torch.ones(1), damping=torch.zeros(1), smoothing=torch.zeros(1))
