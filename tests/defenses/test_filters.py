"""Smoothing against SciPy and closed forms; the spectral gate against noisereduce itself."""

from __future__ import annotations

import noisereduce
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from attacks.channel import Channel
from attacks.errors import ThreatModelError
from defenses.filters import Average, Median, SpectralGate
from tests.robust.channel_contract import check_contract, gradient_is_exact, level_db, voices

RATE = 16_000
FILTERS = [Average(RATE), Average(RATE, 7), Median(RATE), Median(RATE, 5), SpectralGate(RATE)]


def heard_by(channel: Channel, clips: Tensor) -> Tensor:
    return channel(clips, channel.draw(clips, []), None)


@pytest.mark.parametrize("channel", FILTERS, ids=lambda one: one.name)
class TestContract:
    def test_draws_batches_padding_silence_and_types(self, channel):
        check_contract(channel, voices(3, RATE))

    def test_the_gradient_is_exact(self, channel):
        assert channel.gradient == "exact"
        generator = torch.Generator().manual_seed(0)
        assert gradient_is_exact(channel, 0.3 * torch.randn(2, 40, dtype=torch.float64, generator=generator))

    def test_nothing_is_drawn(self, channel):
        assert channel.draw(torch.zeros(2, 10), []) == {}


class TestSmoothing:
    @pytest.mark.parametrize("width", [3, 5, 9])
    def test_they_are_scipys(self, width):
        clips = voices(2, RATE).double()
        inside = slice(width // 2, -(width // 2))
        mean = ndimage.uniform_filter1d(clips.numpy(), width, axis=1)
        median = ndimage.median_filter(clips.numpy(), (1, width))
        np.testing.assert_allclose(heard_by(Average(RATE, width), clips)[:, inside], mean[:, inside], atol=1e-12)
        np.testing.assert_array_equal(heard_by(Median(RATE, width), clips)[:, inside], median[:, inside])

    def test_three_samples_are_scipys_to_the_ends(self):
        clips = voices(2, RATE).double()
        np.testing.assert_array_equal(
            heard_by(Median(RATE), clips), ndimage.median_filter(clips.numpy(), (1, 3), mode="nearest")
        )

    def test_a_ramp_stays_a_ramp(self):
        ramp = torch.linspace(-1, 1, 50, dtype=torch.float64)[None]
        heard = heard_by(Average(RATE, 5), ramp)
        torch.testing.assert_close(heard[:, 2:-2], ramp[:, 2:-2])
        assert float(heard[0, 0]) == pytest.approx(float((3 * ramp[0, 0] + ramp[0, 1] + ramp[0, 2]) / 5))

    def test_the_mean_of_what_is_real_does_not_know_padding(self):
        clips, valid = torch.tensor([[3.0, 6.0, 100.0]]), torch.tensor([[True, True, False]])
        heard = Average(RATE)(clips, {}, valid)
        assert heard.tolist() == [[4.0, 5.0, 100.0]]

    def test_a_click_vanishes_without_a_trace(self):
        ramp = torch.linspace(-1, 1, 50)[None]
        clicked = ramp.clone()
        clicked[0, 20:22] = 5.0
        assert torch.equal(heard_by(Median(RATE, 5), ramp), ramp)
        step = torch.sign(ramp)
        hit = step.clone()
        hit[0, 10] = 5.0
        assert torch.equal(heard_by(Median(RATE), hit), step)
        assert float(heard_by(Median(RATE, 5), clicked).max()) <= 1

    def test_a_gradient_belongs_to_the_sample_that_was_taken(self):
        clips = torch.tensor([[1.0, 5.0, 2.0, 3.0]], requires_grad=True)
        heard = heard_by(Median(RATE), clips)
        assert heard.tolist() == [[1.0, 2.0, 3.0, 3.0]]
        (slope,) = torch.autograd.grad(heard.sum(), clips)
        assert slope.tolist() == [[1.0, 0.0, 1.0, 2.0]]

    @pytest.mark.parametrize("width", [1, 2, 4, -3, 257, 3.0, "3", None])
    def test_a_width_that_cannot_be(self, width):
        for kind in (Average, Median):
            with pytest.raises(ThreatModelError, match="odd number of samples from 3 to 255"):
                kind(RATE, width)


class TestSpectralGate:
    @pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
    @pytest.mark.parametrize("samples", [900, 15_001, 40_000])
    def test_it_is_noisereduce(self, rate, samples):
        clips = voices(2, rate, samples / rate).double()
        theirs = np.stack([noisereduce.reduce_noise(y=clip, sr=rate) for clip in clips.numpy()])
        np.testing.assert_allclose(heard_by(SpectralGate(rate), clips), theirs, atol=1e-12)

    def test_its_settings_are_noisereduces(self):
        clips = voices(1, RATE).double()
        theirs = noisereduce.reduce_noise(
            y=clips[0].numpy(), sr=RATE, thresh_n_mult_nonstationary=1.0, sigmoid_slope_nonstationary=4.0,
            time_constant_s=0.3,
        )  # fmt: skip
        heard = heard_by(SpectralGate(RATE, threshold=1.0, slope=4.0, time_constant_s=0.3), clips)
        np.testing.assert_allclose(heard[0], theirs, atol=1e-12)

    def test_a_burst_stands_out_of_steady_noise(self):
        generator = torch.Generator().manual_seed(0)
        noise = 0.05 * torch.randn(1, 8 * RATE, generator=generator)
        burst = torch.zeros_like(noise)
        burst[0, 4 * RATE : 4 * RATE + 3000] = torch.randn(3000, generator=generator)
        heard = heard_by(SpectralGate(RATE), noise + burst)
        quiet, loud = slice(2 * RATE, 3 * RATE), slice(4 * RATE + 500, 4 * RATE + 2500)
        assert level_db(heard[0, quiet]) < level_db(noise[0, quiet]) - 20
        assert level_db(heard[0, loud]) == pytest.approx(level_db((noise + burst)[0, loud]), abs=1)

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"threshold": -1}, "0 to 100"),
            ({"threshold": float("nan")}, "0 to 100"),
            ({"slope": 0}, "slope"),
            ({"time_constant_s": "2"}, "time_constant_s"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, match):
        with pytest.raises(ThreatModelError, match=match):
            SpectralGate(RATE, **settings)

    @pytest.mark.parametrize("rate", [5000, 300_000])
    def test_rates_at_which_it_does_not_work(self, rate):
        with pytest.raises(ThreatModelError, match="5120 to 256000"):
            SpectralGate(rate)
