"""The log-mel side of a waveform: energies as librosa has them, and gains where bands are turned up."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.mel import FLOOR, HOP, REACH, WINDOW, MelDomain
from tests.robust.channel_contract import voices

RATE, SAMPLES, BANDS = 16_000, 8000, 24


@pytest.fixture
def domain() -> MelDomain:
    return MelDomain(RATE, SAMPLES, BANDS, mean=-8.0, std=3.0)


def powers(clips: Tensor) -> np.ndarray:
    """(B, frames) of a Hann window, by NumPy alone."""
    padded = np.pad(clips.double().numpy(), ((0, 0), (WINDOW // 2, WINDOW // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return np.abs(np.fft.rfft(frames * window)) ** 2  # (B, frames, bins)


def test_energies_are_those_of_librosas_filters(domain: MelDomain) -> None:
    clips = voices(2, RATE, SAMPLES / RATE)
    filters = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS, htk=True, norm=None, dtype=np.float64)
    expected = np.log(powers(clips) @ filters.T + FLOOR).swapaxes(1, 2)
    found = domain.energies(clips.double())
    assert found.shape == (2, *domain.shape)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(domain.encode(clips), (domain.energies(clips) + 8.0) / (REACH * 3.0))


def test_what_is_not_changed_comes_back(domain: MelDomain) -> None:
    clips = voices(3, RATE, SAMPLES / RATE).double()
    encoded = domain.encode(clips)
    torch.testing.assert_close(domain.decode(clips, encoded, encoded), clips, rtol=0, atol=1e-9)


@pytest.mark.parametrize("band", [2, 9, 20])
def test_a_band_that_is_turned_up_is_louder_and_others_are_not(domain: MelDomain, band: int) -> None:
    """A decibel asked for is a decibel got, in white noise, at the middle of a band."""
    noise = 0.1 * torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    encoded = domain.encode(noise)
    wanted = encoded.clone()
    wanted[:, band] += math.log(100.0) / (REACH * 3.0)  # 20 dB
    heard = domain.decode(noise, encoded, wanted)
    change = 10 * np.log10(powers(heard).mean((0, 1)) / powers(noise).mean((0, 1)))
    centres = librosa.mel_frequencies(n_mels=BANDS + 2, fmax=RATE / 2, htk=True)[1:-1] * WINDOW / RATE
    assert change[round(centres[band])] == pytest.approx(20, abs=4)
    far = [round(centres[other]) for other in range(BANDS) if abs(other - band) > 2]
    assert np.abs(change[far]).max() < 0.5
    risen = (domain.energies(heard) - domain.energies(noise)).mean(dim=(0, 2))
    assert int(risen.argmax()) == band


def test_all_bands_turned_down_alike_is_a_gain(domain: MelDomain) -> None:
    clips = voices(2, RATE, SAMPLES / RATE).double()
    encoded = domain.encode(clips)
    quieter = domain.decode(clips, encoded, encoded - math.log(4.0) / (REACH * 3.0))
    torch.testing.assert_close(quieter, clips / 2, rtol=1e-5, atol=1e-7)


def test_silence_stays_silent_and_has_gradients(domain: MelDomain) -> None:
    silence = torch.zeros(2, SAMPLES, requires_grad=True)
    encoded = domain.encode(silence)
    torch.testing.assert_close(domain.energies(silence).exp(), torch.full_like(encoded, FLOOR))
    heard = domain.decode(silence, encoded, encoded + 1.0)
    assert float(heard.detach().abs().max()) == 0
    (slope,) = torch.autograd.grad(heard.sum() + encoded.sum(), silence)
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("bands", [8, 24, 64])
def test_every_frequency_follows_some_band(bands: int) -> None:
    spread = MelDomain(RATE, SAMPLES, bands, mean=0.0, std=1.0).spread
    assert spread.shape == (WINDOW // 2 + 1, bands)
    torch.testing.assert_close(spread.sum(dim=1), torch.ones(WINDOW // 2 + 1))
    assert float(spread.min()) >= 0
    assert int(spread[0].argmax()) == 0
    assert int(spread[-1].argmax()) == bands - 1
