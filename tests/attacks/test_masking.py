"""The masking threshold against a loop-by-loop implementation, and against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from attacks.errors import ThreatModelError
from attacks.masking import (
    FULL_SCALE_POWER,
    bark,
    frames_of,
    masking_excess_db,
    masking_loss,
    quiet_power,
    threshold,
    window_samples,
)
from tests.oracles import masking as oracle
from tests.oracles.toy import waves

RATE = 16_000
BIN_HZ = RATE / 2048


def tone(hz: float, amplitude: float = 1.0, samples: int = 8192, rate: int = RATE) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hz / rate * torch.arange(samples, dtype=torch.float64))


def bin_of(hz: float) -> int:
    return round(hz / BIN_HZ)


@pytest.mark.parametrize(("rate", "samples", "size"), [(16_000, 3000, 2048), (8000, 1500, 1024), (2000, 700, 256)])
def test_agrees_with_loops(rate: int, samples: int, size: int) -> None:
    clips = waves(2, samples, seed=3).double() * torch.linspace(0, 1, samples, dtype=torch.float64)
    clips[1] += tone(0.11 * rate, 0.5, samples, rate)
    assert window_samples(rate) == size
    found = threshold(clips, rate)
    for row, clip in enumerate(clips):
        theta, most = oracle.threshold(clip.numpy(), rate, size)
        assert found.theta[row].numpy() == pytest.approx(theta, rel=1e-9, abs=0)
        assert float(found.psd_max[row]) == pytest.approx(most, rel=1e-12)


def test_the_half_bark_filter_goes_by_frequency_not_by_place_in_a_list() -> None:
    # 4000 and 4300 Hz are 0.4 Bark apart: only the louder masks. 1000 and 1300 Hz are 1.5 Bark apart: both do.
    near = [float(bark(torch.tensor(hz))) for hz in (4000.0, 4300.0, 1000.0, 1300.0)]
    assert near[1] - near[0] < 0.5 < near[3] - near[2]
    frame = 6  # well inside the clip
    both = threshold((tone(4000) + 0.5 * tone(4300))[None], RATE).theta[0, frame]
    louder = threshold(tone(4000)[None], RATE).theta[0, frame]
    assert both[bin_of(4300)] == pytest.approx(float(louder[bin_of(4300)]), rel=1e-3)
    apart = threshold((tone(1000) + 0.5 * tone(1300))[None], RATE).theta[0, frame]
    alone = threshold(tone(1000)[None], RATE).theta[0, frame]
    assert apart[bin_of(1300)] > 2 * alone[bin_of(1300)]


def test_a_tone_masks_its_neighbourhood_with_the_stated_slopes() -> None:
    hz = 128 * BIN_HZ  # 1000 Hz, in the middle of a bin
    found = threshold(tone(hz)[None], RATE).theta_db[0, 8]
    rate = bark(torch.arange(1025, dtype=torch.float64) * BIN_HZ)
    # Hann: 96 dB in the middle bin and 6.02 dB less beside it, together 96 + 10 log10(1 + 2 / 4) dB.
    power_db = 96 + 10 * math.log10(1.5)
    centre = float(rate[128])
    assert float(found[128]) == pytest.approx(power_db - 6.025 - 0.275 * centre, abs=0.01)
    below = (found[127] - found[120]) / (rate[127] - rate[120])
    above = (found[160] - found[129]) / (rate[160] - rate[129])
    assert float(below) == pytest.approx(27, abs=0.05)
    assert float(above) == pytest.approx(-27 + 0.37 * (power_db - 40), abs=0.05)


def test_the_loudest_bin_of_a_full_scale_tone_has_the_stated_power() -> None:
    assert float(threshold(tone(1000)[None], RATE).psd_max) == pytest.approx(FULL_SCALE_POWER, rel=1e-4)


def test_silence_has_the_threshold_of_hearing_and_no_nan() -> None:
    found = threshold(torch.zeros(2, 3000), RATE)
    quiet = quiet_power(torch.arange(1025, dtype=torch.float64) * BIN_HZ).float()
    assert torch.equal(found.theta, quiet.expand_as(found.theta))
    assert float(10 * quiet[bin_of(1000)].log10()) == pytest.approx(-8.63, abs=0.01)  # 3.64 - 0.27 - 12
    assert (quiet[:12] == 0).all()  # up to 1 Bark, some 100 Hz
    delta = torch.full((2, 3000), 1e-3, requires_grad=True)
    loss = masking_loss(delta, found)
    loss.sum().backward()
    assert delta.grad is not None
    assert delta.grad.isfinite().all()
    assert (loss > 0).all()
    nothing = masking_excess_db(torch.zeros(2, 3000), found)
    assert all(float(part.abs().sum()) == 0 for part in (nothing.mean_db, nothing.p95_db, nothing.audible))


def test_quiet_and_loud_copies_of_a_clip_hide_in_proportion() -> None:
    clips, delta = waves(2, 4000, seed=1).double(), waves(2, 4000, seed=2, peak=0.01).double()
    loud = masking_loss(delta, threshold(clips, RATE))
    quiet = masking_loss(delta * 1e-3, threshold(clips * 1e-3, RATE))
    assert torch.allclose(loud, quiet, rtol=1e-9)


@pytest.mark.parametrize("place", [0, 1500, 2999])
def test_every_sample_costs_the_same_in_silence(place: int) -> None:
    # Windows cover the ends of a clip as often as its middle; frames of an impulse are flat, so power adds up.
    impulse = torch.zeros(1, 3000, dtype=torch.float64)
    impulse[0, place] = 1.0
    energy = frames_of(impulse[0], RATE).abs().square().sum(dim=0)
    assert torch.allclose(energy, torch.full_like(energy, 1.5 / 2048**2), rtol=1e-9)


def test_the_loss_is_zero_below_and_the_excess_in_db_above_the_threshold() -> None:
    clean = tone(1000, 0.5)[None]
    heard = threshold(clean, RATE)
    assert float(masking_loss(1e-7 * tone(1000)[None], heard)) < 1e-9
    loud = masking_excess_db(tone(5000, 0.05)[None], heard)
    louder = masking_excess_db(tone(5000, 0.5)[None], heard)
    assert 0 < float(loud.audible) < float(louder.audible)
    level = (8 / 3 * frames_of(tone(5000, 0.5), RATE).abs().square() * 10**9.6 / heard.psd_max).clamp_min(1e-300)
    floor = float(quiet_power(torch.tensor(3300.0)))
    over = (10 * (level / heard.theta[0].clamp_min(floor)).log10()).clamp_min(0).flatten()
    assert float(louder.mean_db) == pytest.approx(float(over.mean()), rel=1e-9)
    assert float(louder.p95_db) == pytest.approx(float(over.sort().values[math.ceil(0.95 * len(over)) - 1]), rel=1e-9)


def test_gradients_are_those_of_finite_differences() -> None:
    heard = threshold(waves(2, 60, seed=4).double(), 400)
    delta = waves(2, 60, seed=5).double().requires_grad_()
    assert (masking_loss(delta, heard) > 0).all()
    assert torch.autograd.gradcheck(lambda given: masking_loss(given, heard), (delta,))


def test_clips_do_not_depend_on_their_company() -> None:
    clips, delta = waves(5, 3000), waves(5, 3000, seed=9, peak=0.01)
    together = threshold(clips, RATE)
    for row in range(5):
        alone = threshold(clips[row : row + 1], RATE)
        assert torch.allclose(alone.theta[0], together.theta[row], rtol=1e-6, atol=0)
        chosen = together.select(torch.tensor([row]))
        assert torch.equal(masking_loss(delta[row : row + 1], chosen)[0], masking_loss(delta, together)[row])


@pytest.mark.parametrize(
    ("clean", "rate", "said"),
    [
        (torch.zeros(3000), RATE, "waveforms"),
        (torch.zeros(2, 0), RATE, "waveforms"),
        (torch.zeros(2, 3000, dtype=torch.int64), RATE, "int64"),
        (torch.zeros(2, 3000), 0, "sample rate"),
    ],
)
def test_bad_input(clean: torch.Tensor, rate: int, said: str) -> None:
    with pytest.raises(ThreatModelError, match=said):
        threshold(clean, rate)


def test_a_perturbation_of_other_clips_is_refused() -> None:
    with pytest.raises(ThreatModelError, match="not of the clips"):
        masking_loss(torch.zeros(2, 4000), threshold(waves(2, 3000), RATE))


@pytest.mark.parametrize("peak", [1e-9, 3e-11, 3e-15, 1e-30])
def test_the_faintest_clips_have_figures(peak):
    clip = peak * torch.sin(2 * torch.pi * 440 / 16_000 * torch.arange(4000.0))[None]
    heard = threshold(clip, 16_000)
    for delta in (torch.zeros_like(clip), 0.1 * torch.ones_like(clip)):
        assert bool(masking_loss(delta, heard).isfinite().all())
        assert bool(masking_excess_db(delta, heard).mean_db.isfinite().all())
