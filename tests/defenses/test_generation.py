"""Generation against closed forms: means of classes, what guidance does to them, and every step of the way."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from attacks.errors import ThreatModelError
from defenses.diffusion import DiffusionModel, Schedule
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from defenses.generation import generate, griffin_lim, sub_steps
from defenses.mel import MelDomain
from tests.oracles.gaussian_sound import GaussianSound
from tests.robust.channel_contract import generators, voices

COSINE = Schedule("cosine", 200)  # its noisiest step has nothing left of a clip
MEANS = {"low": -0.1, "high": 0.05}
SMALL = {
    "waveform": UNetSettings("waveform", 8000, 400, channels=(8, 16), fold=8),
    "mel": UNetSettings("mel", 8000, 1600, channels=(16, 16), bands=12, data_std=0.25),
}


def network(domain: str) -> UNetDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNetDiffusion(SMALL[domain], ("a", "b", "c")).eval().requires_grad_(False)


def asked(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("guidance", "steps", "eta"), [(1.0, 200, 0.0), (0.0, 200, 1.0), (3.0, 50, 0.0), (2.0, 40, 1.0)]
)
def test_classes_have_their_mean_times_guidance(guidance: float, steps: int, eta: float) -> None:
    """With eps = eps_null + w (eps_label - eps_null) a Gaussian of mean m and null mean 0 becomes one of mean w m."""
    model = GaussianSound(4000, std=0.15, means=MEANS, schedule=COSINE)
    labels = asked([1, 0], [0, 1], [0.5, 0.5], [0, 0])
    clips = generate(model, 4, labels, guidance=guidance, steps=steps, eta=eta, generators=generators(4)).double()
    means = [-0.1, 0.05, -0.025, 0.0]
    assert clips.mean(dim=1).tolist() == pytest.approx([guidance * mean for mean in means], abs=4 * 0.15 / 4000**0.5)
    coarse = 0.4 if steps < 200 else 0.1
    assert clips.std(dim=1).tolist() == pytest.approx([0.15] * 4, rel=coarse)


def by_hand(model: GaussianSound, mean: float, steps: int, eta: float, generator: torch.Generator) -> Tensor:
    """Song et al. 2021, equation 12, in float64 and for this one model."""
    chosen = [max(place, round(model.steps * place**2 / steps**2)) for place in range(1, steps + 1)]
    kept = [1.0, *(float(model.abar(step)) for step in chosen)]
    noisy = math.sqrt(1 - kept[-1]) * torch.randn(model.samples, generator=generator).double()
    for here, before in zip(kept[:0:-1], kept[-2::-1], strict=True):
        seen = here * model.std**2 + 1 - here
        noise = math.sqrt(1 - here) * (noisy - math.sqrt(here) * mean) / seen
        clean = (noisy - math.sqrt(1 - here) * noise) / math.sqrt(here)
        spread = eta * math.sqrt((1 - before) / (1 - here) * (1 - here / before))
        noisy = math.sqrt(before) * clean + math.sqrt(1 - before - spread**2) * noise
        if spread > 0:
            noisy = noisy + spread * torch.randn(model.samples, generator=generator).double()
    return noisy


@pytest.mark.parametrize("schedule", [Schedule(), COSINE])
@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (7, 0.0), (50, 0.0), (30, 1.0), (33, 0.5), (200, 1.0)])
def test_every_number_of_steps_is_walked_by_the_book(schedule: Schedule, steps: int, eta: float) -> None:
    """Those, too, that do not divide T."""
    model = GaussianSound(20, std=0.1, means=MEANS, schedule=schedule)
    clips = generate(model, 2, asked([1, 0], [0, 1]), steps=steps, eta=eta, generators=generators(2)).double()
    for clip, mean, generator in zip(clips, (-0.1, 0.05), generators(2), strict=True):
        torch.testing.assert_close(clip, by_hand(model, mean, steps, eta, generator), rtol=0, atol=2e-4)


def test_all_steps_are_those_of_diffusers() -> None:
    model = GaussianSound(20, std=0.1)
    theirs = DDIMScheduler(200, 1e-4, 0.02, clip_sample=False)
    theirs.set_timesteps(200)
    (generator,) = generators(1)
    noisy = model.add_noise(torch.zeros(1, 20), 200, torch.randn(20, generator=generator)[None])
    for timestep in theirs.timesteps:
        noisy = theirs.step(model.predict_noise(noisy, int(timestep) + 1), timestep, noisy).prev_sample
    torch.testing.assert_close(generate(model, 1, steps=200, generators=generators(1)), noisy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("last", "count"), [(200, 1), (200, 3), (200, 50), (200, 133), (200, 200), (7, 5)])
def test_sub_steps_rise_to_the_last_with_wider_and_wider_gaps(last: int, count: int) -> None:
    steps = sub_steps(last, count)
    assert len(steps) == count
    assert int(steps[-1]) == last
    gaps = torch.diff(steps, prepend=torch.zeros(1, dtype=steps.dtype))
    assert int(gaps.min()) >= 1
    assert int(torch.diff(gaps).min() if count > 1 else 0) >= -1


def test_few_steps_leave_quiet_sounds_as_loud_as_all_steps_do() -> None:
    model = GaussianSound(2000, std=0.02)
    few, many = (generate(model, 1, steps=steps, generators=generators(1)) for steps in (50, 200))
    assert float(few.std() / many.std()) > 0.95


def test_clips_come_out_in_units_of_audio() -> None:
    plain, loud = (GaussianSound(50, std=0.1, means=MEANS, scale=scale) for scale in (1.0, 4.0))
    inside, outside = (generate(model, 1, asked([1, 0]), steps=20, generators=generators(1)) for model in (plain, loud))
    torch.testing.assert_close(outside, inside / 4)


def test_guidance_is_linear_in_a_single_step() -> None:
    """From one noise, one step: what w adds is w times what 1 adds. In later steps a network is not linear."""
    model = network("waveform")
    labels = 0.01 * asked([1, 0, 0], [0, 1, 0])
    at = {
        w: generate(model, 2, labels, guidance=w, steps=1, generators=generators(2)).double() for w in (0.0, 1.0, 2.5)
    }
    inside = at[2.5].abs() < 1
    for clips in at.values():
        inside &= clips.abs() < 1
    assert float(inside.double().mean()) > 0.05
    torch.testing.assert_close((at[2.5] - at[0.0])[inside], 2.5 * (at[1.0] - at[0.0])[inside], rtol=1e-3, atol=1e-5)
    assert torch.equal(at[0.0], generate(model, 2, 0 * labels, steps=1, generators=generators(2)).double())


@pytest.mark.parametrize("domain", ["waveform", "mel"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_clip_is_the_same_whatever_it_is_generated_with(domain: str, eta: float) -> None:
    model, labels = network(domain), torch.eye(3).repeat(6, 1)[:17]
    settings = {"guidance": 2.0, "steps": 3, "eta": eta}
    many = generate(model, 17, labels, generators=generators(17), **settings)
    assert many.shape == (17, model.samples)
    assert many.dtype == torch.float32
    assert float(many.abs().max()) <= 1
    for first, last in ((0, 1), (4, 7), (16, 17)):
        few = generate(model, last - first, labels[first:last], generators=generators(17)[first:last], **settings)
        assert torch.equal(few, many[first:last])
    assert not torch.equal(many[0], many[3])  # same class, another noise


def test_sound_from_a_spectrogram_has_that_spectrogram() -> None:
    domain = MelDomain(16_000, 8000, 24, mean=-8.0, std=3.0)
    clips = voices(2, 16_000, 0.5)
    heard = griffin_lim(domain, domain.encode(clips), 8000, generators(2))
    assert heard.shape == clips.shape
    before, after = domain.energies(clips), domain.energies(heard)
    loud = before > before.amax(dim=(1, 2), keepdim=True) - math.log(1e4)
    off_db = 10 / math.log(10) * (after - before)[loud]
    assert float(off_db.abs().median()) < 0.2
    assert float(off_db.abs().mean()) < 0.5
    assert float((10 / math.log(10) * (before - before.mean()))[loud].abs().median()) > 6  # what a constant would do
    again = griffin_lim(domain, domain.encode(clips)[1:], 8000, generators(2)[1:])
    assert torch.equal(again[0], heard[1])


def test_silence_from_a_spectrogram_is_silence() -> None:
    domain = MelDomain(16_000, 8000, 24, mean=-8.0, std=3.0)
    heard = griffin_lim(domain, domain.encode(torch.zeros(1, 8000)) - 1.0, 8000, generators(1))
    assert float(heard.abs().max()) == 0


def test_bad_input_is_told_what_would_do() -> None:
    model: DiffusionModel = GaussianSound(8, means=MEANS)
    labels = asked([1, 0])
    for steps in (0, 201, 2.5, True):
        with pytest.raises(ThreatModelError, match=f"from 1 to 200.*given {steps}"):
            generate(model, 1, labels, steps=steps, generators=generators(1))
    for guidance in (math.nan, math.inf):
        with pytest.raises(ThreatModelError, match="guidance must be a finite number"):
            generate(model, 1, labels, guidance=guidance, generators=generators(1))
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ThreatModelError, match="eta must be from 0"):
            generate(model, 1, labels, eta=eta, generators=generators(1))
    for count, drawers in ((0, 0), (2, 1)):
        with pytest.raises(ThreatModelError, match="a generator for each clip"):
            generate(model, count, generators=generators(drawers))
    with pytest.raises(ThreatModelError, match=r"must be \(1, 2\).*given \(1, 3\)"):
        generate(model, 1, asked([1, 0, 0]), generators=generators(1))
    with pytest.raises(ThreatModelError, match=r"must be \(1, 0\)"):
        generate(GaussianSound(8), 1, labels, generators=generators(1))
