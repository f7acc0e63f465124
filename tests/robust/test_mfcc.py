"""Cepstral coefficients: librosa's, also at silence and where a clip is much louder than its rest; gradients."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from robust.errors import VictimError
from robust.frontends.mfcc import MFCC

TIME = np.arange(16_000) / 16_000
WINDOW_ATOL = 3e-4
"""In float64: window and filters are float32, and far from a loud tone energies are differences of large numbers."""
NOISE = np.random.default_rng(0).standard_normal(16_000)
CLIPS = {
    "noise": 0.1 * NOISE,
    "tone": 0.5 * np.sin(2 * np.pi * 440 * TIME) + 1e-3 * NOISE,
    "a click in quiet": np.where(np.arange(16_000) == 7_000, 0.9, 1e-5 * NOISE),
    "below the floor": 1e-8 * NOISE,
    "silence": np.zeros(16_000),
}


def front_end(**changes: object) -> MFCC:
    settings = {"sample_rate": 16_000, "n_fft": 480, "hop_length": 160, "n_mels": 40, "n_mfcc": 40, **changes}
    return MFCC(**settings)  # type: ignore[arg-type]


def by_librosa(clip: np.ndarray, count: int = 40, top_db: float | None = 80.0, *, center: bool = False) -> np.ndarray:
    mel = librosa.feature.melspectrogram(
        y=clip, sr=16_000, n_fft=480, hop_length=160, n_mels=40, center=center, pad_mode="reflect"
    )
    return librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=top_db), n_mfcc=count).T


@pytest.mark.parametrize("name", CLIPS)
def test_coefficients_are_librosas(name: str) -> None:
    audio = torch.tensor(CLIPS[name])[None]
    expected = by_librosa(CLIPS[name])
    assert expected.shape == (98, 40)
    single, double = front_end()(audio.float())[0], front_end().double()(audio)[0]
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(double, expected, rtol=1e-6, atol=WINDOW_ATOL if name == "tone" else 1e-4)


@pytest.mark.parametrize(("count", "top_db"), [(13, 80.0), (40, None), (20, 30.0)])
def test_other_settings(count: int, top_db: float | None) -> None:
    clip = CLIPS["tone"]
    ours = front_end(n_mfcc=count, top_db=top_db, pad_mode="reflect").double()(torch.tensor(clip)[None])[0]
    assert ours.shape == (101, count)
    np.testing.assert_allclose(ours, by_librosa(clip, count, top_db, center=True), rtol=1e-6, atol=WINDOW_ATOL)


def test_the_floor_is_each_clip_s_own() -> None:
    loud, quiet = (torch.tensor(CLIPS[name])[None].float() for name in ("a click in quiet", "noise"))
    together = front_end()(torch.cat([loud, quiet]))
    torch.testing.assert_close(together[1:], front_end()(quiet))
    torch.testing.assert_close(together[:1], front_end()(loud))


def test_all_coefficients_together_lose_nothing() -> None:
    """The transform is a rotation: the energies' decibels have the length that the coefficients have."""
    basis = front_end().basis.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-6)


def test_gradients_are_those_of_the_function() -> None:
    audio = torch.tensor(CLIPS["tone"][:2_000])[None].requires_grad_()
    module = front_end(top_db=30.0).double()
    weights = torch.randn(module(audio).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((module(audio) * weights).sum(), audio)
    step = 1e-8 * gradient / gradient.norm()
    with torch.no_grad():
        rise = ((module(audio + step) - module(audio - step)) * weights).sum() / 2e-8
    torch.testing.assert_close(rise, gradient.norm(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("count", [0, 41])
def test_a_transform_gives_no_more_coefficients_than_bands(count: int) -> None:
    with pytest.raises(VictimError, match=rf"n_mfcc={count} must be from 1 to n_mels=40"):
        front_end(n_mfcc=count)


def test_clips_shorter_than_a_window_are_refused() -> None:
    with pytest.raises(VictimError, match="more than 479 are needed"):
        front_end()(torch.zeros(1, 479))
