"""Denoising by the clip's own noise: what is measured, what is left alone, what is won."""

from __future__ import annotations

import pytest
import torch

from attacks.errors import ThreatModelError
from defenses.denoise import POWER_THERE, Denoiser
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from tests.oracles.gaussian_sound import GaussianSound
from tests.robust.channel_contract import check_contract, voices

SAMPLES = 8000


def model(std: float = 0.02, scale: float = 4.0) -> GaussianSound:
    return GaussianSound(SAMPLES, std=std * scale, scale=scale)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(seed))


def test_white_noise_is_measured_and_silence_has_none() -> None:
    denoiser = Denoiser(model())
    for sigma in (0.003, 0.05):
        assert denoiser.noise_level(sigma * noise(32)) / sigma == pytest.approx(torch.ones(32), abs=0.15)
    assert (denoiser.noise_level(sigma * noise(32)) / sigma).mean() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(denoiser.noise_level(torch.zeros(2, SAMPLES)), torch.zeros(2))
    assert 0 < POWER_THERE < 1


def test_sound_beside_the_noise_hardly_counts() -> None:
    """A voice that comes and goes leaves quiet places in which the noise is measured."""
    clips = voices(6, 8000, seconds=1.0)
    found = Denoiser(model()).noise_level(clips + 0.02 * noise(6))
    assert torch.all((found > 0.8 * 0.02) & (found < 1.5 * 0.02))


def test_what_is_won_over_gaussian_sound_is_wieners_gain() -> None:
    """Of noise of deviation s over sound of deviation d, Wiener's filter leaves d s / sqrt(d^2 + s^2)."""
    std, sigma = 0.01, 0.05
    clean, heard = std * noise(16, 1), std * noise(16, 1) + sigma * noise(16, 2)
    # White sound is measured as noise, too: its level is known here, so the step is right within a tenth.
    left = (Denoiser(model(std), dry=0.0)(heard, {}) - clean).square().mean().sqrt()
    assert float(left) == pytest.approx(std * sigma / (std**2 + sigma**2) ** 0.5, rel=0.05)


def test_dry_puts_a_share_back() -> None:
    heard = 0.05 * noise(3)
    wet, half = (Denoiser(model(), dry=dry)(heard, {}) for dry in (0.0, 0.5))
    assert torch.allclose(half, (wet + heard) / 2, atol=1e-7)


def test_a_clip_with_less_noise_than_the_first_step_stays_as_it_is() -> None:
    denoiser = Denoiser(model())
    quiet = 0.2 * denoiser.model.sigma(1) * noise(3)
    assert torch.equal(denoiser(quiet, {}), quiet)


def test_contract() -> None:
    torch.manual_seed(0)
    network = UNetDiffusion(UNetSettings(sample_rate=8000, samples=4000, channels=(8, 8), fold=16)).eval()
    check_contract(Denoiser(network.requires_grad_(False)), voices(3, 8000) + 0.01 * noise(3)[:, :4000])


def test_bad_settings() -> None:
    with pytest.raises(ThreatModelError, match="dry"):
        Denoiser(model(), dry=1.0)
    mel = UNetDiffusion(UNetSettings(domain="mel", sample_rate=8000, samples=4000, channels=(16, 16)))
    with pytest.raises(ThreatModelError, match="waveforms"):
        Denoiser(mel)
