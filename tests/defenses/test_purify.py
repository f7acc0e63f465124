"""Purifiers against closed forms: mean and spread of what comes back, gradients through ten steps, memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attacks.errors import ThreatModelError
from attacks.gradients import in_lanes
from defenses.diffusion import DiffusionModel, Schedule
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from defenses.purify import METHODS, DiffusionPurifier
from tests.oracles.gaussian_sound import GaussianSound, flow, posterior, seen_variance
from tests.robust.channel_contract import check_contract, generators, gradient_is_exact, voices

SETTINGS = {
    "waveform": UNetSettings("waveform", 8000, 800, channels=(8, 16), fold=8),
    "mel": UNetSettings("mel", 8000, 800, channels=(16, 16), bands=12, data_std=0.25),
}
FEW = {
    "waveform": UNetSettings("waveform", 8000, 24, channels=(8, 8), fold=8),
    "mel": UNetSettings("mel", 8000, 300, channels=(8, 8), bands=6, data_std=0.25),
}
BOTH = pytest.mark.parametrize("domain", ["waveform", "mel"])
EACH = pytest.mark.parametrize("method", METHODS)


def network(settings: UNetSettings) -> UNetDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNetDiffusion(settings, ("a", "b")).eval().requires_grad_(False)


def weights_of(purifier: DiffusionPurifier) -> tuple[float, list[float]]:
    """By how much the clip and each noise of the draw count in what comes back, all of it being linear."""
    count = purifier.draws
    clips, noise = torch.zeros(count + 1, 1).double(), torch.zeros(count + 1, count, 1).double()
    clips[0] = 0.5
    noise[torch.arange(1, count + 1), torch.arange(count)] = 0.5
    heard = 2 * purifier(clips, {"noise": noise})[:, 0]
    return float(heard[0]), heard[1:].tolist()


def spread(weights: list[float]) -> float:
    return math.sqrt(math.fsum(weight**2 for weight in weights))


@pytest.mark.parametrize("steps", [1, 3, 50, 200])
def test_one_shot_is_the_mean_of_what_the_clip_may_have_been(steps: int) -> None:
    model = GaussianSound(std=0.3)
    abar = float(model.abar(steps))
    pull, _ = posterior(0.3, abar)
    clip, noise = weights_of(DiffusionPurifier(model, steps, "one-shot"))
    assert clip == pytest.approx(pull * math.sqrt(abar), rel=1e-5)
    assert noise == pytest.approx([pull * math.sqrt(1 - abar)], rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddpm_draws_from_what_the_clip_may_have_been(name: str) -> None:
    """Mean and deviation of the posterior; the error is that of finite steps, and a tenth with ten times as many."""
    off = []
    for steps in (200, 2000):
        betas = {"first_beta": 0.02 / steps, "last_beta": 4.0 / steps} if name == "linear" else {}
        model = GaussianSound(std=0.3, schedule=Schedule(name, steps, **betas))
        back = steps // 4
        abar = float(model.abar(back))
        pull, left = posterior(0.3, abar)
        clip, noise = weights_of(DiffusionPurifier(model, back))
        assert clip == pytest.approx(pull * math.sqrt(abar), rel=2e-3)
        assert noise[0] == pytest.approx(pull * math.sqrt(1 - abar), rel=2e-3)
        off.append(abs(spread(noise[1:]) / left - 1))
    assert off[0] < 0.05
    assert off[1] < 0.15 * off[0]


def test_ddpm_all_the_way_has_the_variance_of_the_data() -> None:
    """From the cosine schedule's last step nothing is left of the clip, and sound comes of noise alone."""
    model = GaussianSound(std=0.3, schedule=Schedule("cosine", 1000))
    clip, noise = weights_of(DiffusionPurifier(model, 1000))
    assert clip == pytest.approx(0, abs=1e-3)
    assert spread(noise) == pytest.approx(0.3, rel=0.02)


def test_ddpm_in_samples_has_that_mean_and_deviation() -> None:
    """The same, drawn: what `weights_of` finds holds for the noise that `draw` draws."""
    model = GaussianSound(2000, std=0.3)
    purifier, clip = DiffusionPurifier(model, 60), torch.full((1, 2000), 0.4, dtype=torch.float64)
    heard = purifier(clip, purifier.draw(clip, generators(1)))
    weight, noise = weights_of(DiffusionPurifier(GaussianSound(std=0.3), 60))
    assert float(heard.mean()) == pytest.approx(0.4 * weight, abs=4 * spread(noise) / math.sqrt(2000))
    assert float(heard.std()) == pytest.approx(spread(noise), rel=4 / math.sqrt(4000))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_takes_one_distribution_onto_the_other(name: str) -> None:
    """The probability flow; the error of finite steps is a tenth with ten times as many."""
    off = []
    for steps in (200, 2000):
        betas = {"first_beta": 0.02 / steps, "last_beta": 4.0 / steps} if name == "linear" else {}
        model = GaussianSound(std=0.3, schedule=Schedule(name, steps, **betas))
        back = steps // 4
        abar = float(model.abar(back))
        clip, noise = weights_of(DiffusionPurifier(model, back, "ddim"))
        assert len(noise) == 1
        assert clip / noise[0] == pytest.approx(math.sqrt(abar / (1 - abar)), rel=1e-5)
        off.append(abs(noise[0] / math.sqrt(1 - abar) / flow(0.3, abar) - 1))
    assert off[0] < 0.05
    assert off[1] < 0.15 * off[0]


@EACH
def test_units_of_the_model_are_its_own(method: str) -> None:
    """Twice as loud inside, with noise of half the level as heard outside."""
    plain = weights_of(DiffusionPurifier(GaussianSound(std=0.3), 20, method))
    loud = weights_of(DiffusionPurifier(GaussianSound(std=0.3, scale=2.0), 20, method))
    assert loud[0] == pytest.approx(plain[0])
    assert loud[1] == pytest.approx([weight / 2 for weight in plain[1]])
    told = DiffusionPurifier(GaussianSound(std=0.3, scale=2.0), 20, method).describe()
    assert told["sigma"] == pytest.approx(GaussianSound().sigma(20) / 2)


def test_ddim_of_the_datas_noise_has_the_datas_deviation() -> None:
    model = GaussianSound(std=0.3, schedule=Schedule("cosine", 1000))
    _, noise = weights_of(DiffusionPurifier(model, 1000, "ddim"))
    assert spread(noise) * math.sqrt(seen_variance(0.3, 0.0)) == pytest.approx(0.3, rel=0.02)


@BOTH
@EACH
def test_contract_of_channels(domain: str, method: str) -> None:
    purifier = DiffusionPurifier(network(SETTINGS[domain]), 3, method)
    check_contract(purifier, voices(3, 8000, 0.1))
    assert purifier.describe()["sigma"] == pytest.approx(purifier.model.sigma(3))


@BOTH
@EACH
def test_gradients_through_ten_steps_agree_with_finite_differences(domain: str, method: str) -> None:
    model = network(FEW[domain]).double()
    clips = voices(1, 8000, model.samples / 8000).double()
    purifier = DiffusionPurifier(model, 10, method)
    drawn = purifier.draw(clips, generators(1))
    if domain == "waveform" and method == "ddpm":  # every sample by every sample
        assert gradient_is_exact(purifier, clips)
    assert torch.autograd.gradcheck(
        lambda one: purifier(one, drawn), clips.requires_grad_(), fast_mode=True, eps=1e-6, atol=1e-6, rtol=1e-4
    )


@BOTH
def test_gradients_do_not_depend_on_the_batch(domain: str) -> None:
    purifier = DiffusionPurifier(network(SETTINGS[domain]), 3)
    clips = voices(16, 8000, 0.1)
    drawn = purifier.draw(clips, generators(16))["noise"]

    def slope(rows: slice) -> Tensor:
        some = in_lanes(clips[rows]).requires_grad_()
        heard = purifier(some, {"noise": in_lanes(drawn[rows])})
        return torch.autograd.grad(heard.square().sum(), some)[0][: len(clips[rows])]

    together = slope(slice(None))
    assert torch.equal(slope(slice(5)), together[:5])
    assert torch.equal(slope(slice(8, 16)), together[8:])


def peak_bytes(purifier: DiffusionPurifier, clips: Tensor) -> int:
    """Most memory held at once during a pass there and back, counted by the allocator."""
    drawn = purifier.draw(clips, generators(len(clips)))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        heard = purifier(clips.requires_grad_(), drawn)
        torch.autograd.grad(heard.square().sum(), clips)
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@BOTH
@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_memory_hardly_grows_with_steps(domain: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 steps within 1.5 x of 2; with the graphs of all steps kept it is 4 x and more."""
    model, clips = network(SETTINGS[domain]), voices(4, 8000, 0.1)
    peak_bytes(DiffusionPurifier(model, 2, method), clips)
    few, many = (peak_bytes(DiffusionPurifier(model, steps, method), clips) for steps in (2, 10))
    assert few > 0
    assert many < 1.5 * few
    monkeypatch.setattr(DiffusionPurifier, "_kept_small", staticmethod(lambda function, *given: function(*given)))
    all_kept = peak_bytes(DiffusionPurifier(model, 10, method), clips)
    assert all_kept > 2 * many


@BOTH
def test_no_graph_is_kept_where_none_is_asked_for(domain: str) -> None:
    purifier, clips = DiffusionPurifier(network(SETTINGS[domain]), 3), voices(2, 8000, 0.1)
    drawn = purifier.draw(clips, generators(2))
    with torch.no_grad():
        without = purifier(clips, drawn)
    with_graph = purifier(clips.requires_grad_(), drawn)
    assert not without.requires_grad
    assert with_graph.requires_grad
    assert torch.equal(without, with_graph)


@EACH
def test_draws_are_as_many_noises_as_are_used(method: str) -> None:
    """Every noise of a draw counts, and the last step back needs none."""
    purifier = DiffusionPurifier(GaussianSound(), 7, method)
    _, noise = weights_of(purifier)
    assert len(noise) == (7 if method == "ddpm" else 1)
    assert min(map(abs, noise)) > 0


def test_bad_input_is_told_what_would_do() -> None:
    model: DiffusionModel = GaussianSound(16)
    for steps in (0, 201, -1, 2.5, math.nan):
        with pytest.raises(ThreatModelError, match=f"from 1 to 200; given {steps}"):
            DiffusionPurifier(model, steps)
    with pytest.raises(ThreatModelError, match="Did you mean 'ddim'"):
        DiffusionPurifier(model, 3, "dim")
    purifier, clips = DiffusionPurifier(model, 3), torch.zeros(1, 8)
    with pytest.raises(ThreatModelError, match=r"16 samples; given 8. Train one with --clip-seconds 0.001"):
        purifier(clips, purifier.draw(clips, generators(1)))
