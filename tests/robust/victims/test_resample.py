"""The differentiable resampler against soxr and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch
from numpy.typing import NDArray
from scipy import signal

from robust.frontends.resample import Resampler

RATES = [(16_000, 32_000), (32_000, 16_000), (16_000, 22_050), (44_100, 16_000), (8_000, 48_000)]


def band_limited(rate: int, highest_hz: float) -> NDArray[np.float64]:
    """A second of noise with nothing left above the lower rate's pass band."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(rate)
    sections = signal.butter(16, 0.8 * highest_hz, fs=rate, output="sos")
    return signal.sosfiltfilt(sections, noise).copy()


@pytest.mark.parametrize(("old", "new"), RATES)
def test_it_agrees_with_soxr(old: int, new: int) -> None:
    sound = band_limited(old, min(old, new) / 2)
    ours = Resampler(old, new)(torch.tensor(sound, dtype=torch.float32)[None])[0].numpy()
    theirs = soxr.resample(sound, old, new, quality="VHQ")
    inner = slice(new // 10, -new // 10)
    assert ours.shape == theirs.shape
    assert np.abs(theirs[inner]).max() > 0.1
    assert np.abs(ours[inner] - theirs[inner]).max() < 1e-4


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_tone_stays_the_same_tone(old: int, new: int) -> None:
    tone = torch.sin(2 * np.pi * 1_000 * torch.arange(old, dtype=torch.float64) / old)
    expected = torch.sin(2 * np.pi * 1_000 * torch.arange(new, dtype=torch.float64) / new)
    ours = Resampler(old, new).double()(tone[None])[0]
    torch.testing.assert_close(ours[new // 10 : -new // 10], expected[new // 10 : -new // 10], rtol=0, atol=1e-4)


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    tone = torch.sin(2 * np.pi * 9_000 * torch.arange(32_000, dtype=torch.float64) / 32_000)
    ours = Resampler(32_000, 16_000).double()(tone[None])[0]
    assert ours[1_600:-1_600].abs().max() < 1e-4


@pytest.mark.parametrize(("old", "new"), [(44_100, 16_000), (16_000, 22_050)])
@pytest.mark.parametrize("samples", [1, 97, 4_411])
def test_any_length_gives_as_long_a_sound(old: int, new: int, samples: int) -> None:
    resampled = Resampler(old, new)(torch.ones(2, samples))
    assert resampled.shape == (2, -(-samples * new // old))


def test_the_same_rate_is_the_same_sound() -> None:
    audio = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert Resampler(16_000, 16_000)(audio) is audio


def test_it_is_linear_and_passes_gradients() -> None:
    audio = torch.randn(1, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(Resampler(3, 2).double(), audio)
