"""Schedules against diffusers' and closed forms; what a network is asked; one-shot estimates and steps back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from defenses.diffusion import SCHEDULES, Schedule
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from defenses.pointwise import Pointwise1d, with_pointwise
from tests.oracles.gaussian_sound import GaussianSound, posterior

SMALL = {
    "waveform": UNetSettings("waveform", 8000, 300, channels=(8, 16), fold=8),
    "mel": UNetSettings("mel", 8000, 600, channels=(8, 8), bands=10, data_std=0.25),
}


def small(domain: str, labels: tuple[str, ...] = ("a", "b")) -> UNetDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNetDiffusion(SMALL[domain], labels).eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def closed_form(schedule: Schedule) -> np.ndarray:
    """abar of steps 1 to T, in float64, from the papers."""
    count = schedule.steps
    if schedule.name == "linear":
        return np.cumprod(1 - np.linspace(schedule.first_beta, schedule.last_beta, count))
    level = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("cosine", 50), Schedule("linear", 10, 0.01, 0.3)])
def test_schedules_are_the_papers_and_those_of_diffusers(schedule: Schedule) -> None:
    model = GaussianSound(schedule=schedule)
    steps = torch.arange(1, schedule.steps + 1)
    theirs = DDPMScheduler(
        schedule.steps, schedule.first_beta, schedule.last_beta, SCHEDULES[schedule.name]
    ).alphas_cumprod
    assert torch.equal(model.abar(steps), theirs)
    exact = closed_form(schedule)
    np.testing.assert_allclose(model.abar(steps).numpy(), exact, rtol=3e-5)
    np.testing.assert_allclose([model.sigma(step) for step in steps], np.sqrt((1 - exact) / exact), rtol=3e-3)


def test_the_cosine_schedule_follows_the_cosine() -> None:
    """Where its steps are not bounded, abar is the squared cosine itself."""
    model, share = GaussianSound(schedule=Schedule("cosine", 100)), np.arange(1, 90) / 100
    level = np.cos((np.append(0, share) + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(model.abar(torch.arange(1, 90)).numpy(), level[1:] / level[0], rtol=1e-4)


def test_step_for_is_the_first_step_with_that_noise() -> None:
    model = GaussianSound()
    for step in (1, 2, 3, 57, 199, 200):
        assert model.step_for(model.sigma(step)) == step
    assert model.step_for(1e-6) == 1
    for step in (2, 40, 200):
        between = (model.sigma(step - 1) * model.sigma(step)) ** 0.5
        assert model.step_for(between) == step
    assert model.sigma_range == (model.sigma(1), model.sigma(200))


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan, math.inf, 2.6])
def test_noise_that_no_step_has_is_refused_with_the_range(sigma: float) -> None:
    model = GaussianSound()
    with pytest.raises(ThreatModelError, match=f"at most {model.sigma(200):.4g}.*from {model.sigma(1):.4g}.*{sigma}"):
        model.step_for(sigma)
    with pytest.raises(ThreatModelError, match="sigma must be"):
        model.denoise(torch.zeros(1, 1), sigma)


def test_bad_schedules_and_sizes_are_refused() -> None:
    with pytest.raises(ThreatModelError, match="Did you mean 'cosine'"):
        Schedule("cosin")
    for wrong in ({"steps": 1}, {"first_beta": 0.0}, {"first_beta": 0.3}, {"last_beta": 1.0}):
        with pytest.raises(ThreatModelError, match="2 steps or more"):
            Schedule(**wrong)
    with pytest.raises(ThreatModelError, match="Did you mean 'waveform'"):
        UNetSettings(domain="wavefrom")
    with pytest.raises(ThreatModelError, match="multiples of 8"):
        UNetSettings(channels=(12,))
    with pytest.raises(ThreatModelError, match="data_std"):
        UNetSettings(data_std=math.nan)


class Told(nn.Module):
    """In place of a network: answers what it is told, and keeps what it was asked."""

    def __init__(self, model: UNetDiffusion) -> None:
        super().__init__()
        self.model, self.asked, self.answer = model, [], torch.zeros(())
        model._answer = self._answer

    def _answer(self, scaled: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        self.asked.append(scaled)
        return self.answer


@pytest.mark.parametrize("domain", ["waveform", "mel"])
def test_with_the_right_answer_the_noise_is_found(domain: str) -> None:
    """Inputs and targets are of unit variance, and are the same in training and in use."""
    model = small(domain).double()
    std, steps = model.settings.data_std, torch.tensor([1, 2, 20, 100, 200])
    clean, noise = std * normal(5, *model.shape), normal(5, *model.shape, seed=1)
    noisy = model.add_noise(clean, steps, noise)
    told = Told(model)
    told.answer = model.target(clean, noise, steps)
    torch.testing.assert_close(model.predict_noise(noisy, steps), noise)
    torch.testing.assert_close(model.estimate(noisy, steps), clean)
    model.answer(noisy, steps, None)
    for asked in told.asked:
        torch.testing.assert_close(asked, told.asked[-1])
    many = normal(400, *model.shape, seed=2)
    for step in (1, 20, 200):
        answer = model.target(std * many, normal(400, *model.shape, seed=3), torch.full((400,), step))
        assert float(answer.std()) == pytest.approx(1, rel=0.03)
    assert float(told.asked[0].std()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("domain", ["waveform", "mel"])
def test_a_class_that_is_asked_for_changes_the_answer(domain: str) -> None:
    model = small(domain)
    noisy = normal(3, *model.shape).float()
    nothing = model.predict_noise(noisy, 50)
    assert torch.equal(nothing, model.predict_noise(noisy, 50, torch.zeros(3, 2)))
    one, other = (model.predict_noise(noisy, 50, row.expand(3, 2)) for row in torch.eye(2))
    assert not torch.allclose(one, nothing)
    assert not torch.allclose(one, other)
    mixed = model.predict_noise(noisy, 50, torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
    torch.testing.assert_close(mixed, torch.stack([one[0], other[1], nothing[2]]))


@pytest.mark.parametrize("domain", ["waveform", "mel"])
def test_steps_are_each_clips_own(domain: str) -> None:
    model, steps = small(domain), torch.tensor([3, 90, 200])
    noisy = normal(3, *model.shape).float()
    together = model.predict_noise(noisy, steps)
    alone = [model.predict_noise(noisy[row : row + 1], int(steps[row])) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [300, 301, 320, 33])
def test_any_length_goes_through_frames(length: int) -> None:
    """Padding to whole frames is cut off again, and a frame holds neighbours."""
    model = UNetDiffusion(UNetSettings("waveform", 8000, length, channels=(8, 8), fold=16)).eval()
    noisy = normal(2, length).float().requires_grad_()
    found = model.predict_noise(noisy, 100)
    assert found.shape == noisy.shape
    (slope,) = torch.autograd.grad(found[0, -1], noisy)
    assert float(slope[0, -1].abs()) > 0
    assert float(slope[1].abs().sum()) == 0


@pytest.mark.parametrize(("name", "steps"), [("linear", 200), ("cosine", 20)])
def test_a_step_back_is_the_posterior_of_ddpm(name: str, steps: int) -> None:
    model = GaussianSound(4, schedule=Schedule(name, steps))
    theirs = DDPMScheduler(steps, 1e-4, 0.02, SCHEDULES[name], clip_sample=False, variance_type="fixed_small")
    noisy, predicted = normal(3, 4), normal(3, 4, seed=1)
    for step in (1, 2, 7, steps):
        noise = normal(3, 4, seed=step)
        again = torch.Generator().manual_seed(step)
        expected = theirs.step(predicted, step - 1, noisy, generator=again).prev_sample
        torch.testing.assert_close(model.reverse(noisy, step, predicted, noise), expected, rtol=1e-4, atol=3e-4)
        silent = model.reverse(noisy, step, predicted, torch.zeros_like(noisy))
        moved = math.sqrt(theirs._get_variance(step - 1)) if step > 1 else 0.0
        torch.testing.assert_close(expected - silent, moved * noise, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("sigma", [0.02, 0.25, 1.0])
def test_denoising_in_one_shot_is_wieners_filter(sigma: float) -> None:
    model = GaussianSound(5, std=0.2)
    noisy = 0.3 * normal(4, 5)
    abar = float(model.abar(model.step_for(sigma)))
    pull, _ = posterior(0.2, abar)
    torch.testing.assert_close(model.denoise(noisy, sigma), (pull * abar**0.5 * noisy).clamp(-1, 1))
    at_step = model.sigma(model.step_for(sigma))
    torch.testing.assert_close(model.denoise(noisy, at_step), 0.04 / (0.04 + at_step**2) * noisy, rtol=1e-5, atol=1e-6)


def test_noise_levels_are_those_of_audio_whatever_the_units() -> None:
    """A model that hears everything four times as loud finds the same noise at another step."""
    plain, loud = GaussianSound(5, std=0.1), GaussianSound(5, std=0.4, scale=4.0)
    noisy, sigma = 0.3 * normal(4, 5), plain.sigma(60)
    assert loud.sigma_range == pytest.approx(tuple(level / 4 for level in plain.sigma_range))
    step = loud.step_for(sigma)
    assert step > 60
    exact = loud.sigma(step)
    torch.testing.assert_close(loud.denoise(noisy, exact), 0.01 / (0.01 + exact**2) * noisy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loud.decode(noisy, loud.encode(noisy), loud.encode(noisy)), noisy)
    with pytest.raises(ThreatModelError, match=f"at most {loud.sigma(200):.4g}"):
        loud.step_for(plain.sigma(200))


def test_denoising_stays_in_range_and_needs_waveforms() -> None:
    assert float(GaussianSound(1, std=10.0).denoise(torch.tensor([[3.0]]), 0.01)) == 1.0
    with pytest.raises(ThreatModelError, match="waveform model; this one is 'mel'"):
        small("mel").denoise(torch.zeros(1, 600), 0.1)


def test_convolutions_of_one_tap_are_the_same_ones() -> None:
    layers = nn.Sequential(nn.Conv1d(6, 8, 1, bias=False), nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 4, 1))
    planes = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1, stride=2), nn.Conv2d(5, 5, 1, groups=5))
    for network, inputs in ((layers, normal(2, 6, 9)), (planes, normal(2, 3, 6, 4))):
        network.double()
        names, expected = list(network.state_dict()), network(inputs)
        state = torch.random.get_rng_state()
        torch.testing.assert_close(with_pointwise(network)(inputs), expected)
        assert list(network.state_dict()) == names
        assert torch.equal(state, torch.random.get_rng_state())
    assert [type(layer) for layer in layers] == [Pointwise1d, nn.Conv1d, Pointwise1d]
    assert [type(layer).__name__ for layer in planes] == ["Pointwise2d", "Conv2d", "Conv2d"]
