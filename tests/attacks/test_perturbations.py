"""Where a perturbation may live: windows, mel bands and frequency bands, optimised inside or cut afterwards."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.losses import Goal
from attacks.minimal import minimal_scale
from attacks.perturbations import truncate
from attacks.pgd import PGD, pgd
from attacks.supports import (
    Both,
    FrequencyBand,
    MelBand,
    Support,
    TimeWindow,
    octave_bands,
    out_of_support,
    thirds,
    time_windows,
)
from attacks.threat import Ball
from tests.oracles.linear import LinearVictim
from tests.oracles.toy import ConvVictim, predictions, waves

RATE = 400  # Hz: a clip of 400 samples is one second, and bins are 1 Hz apart
BAND = FrequencyBand(30, 80, RATE)
AUDIO = waves(9)
MIDDLING = {"linf": 0.02, "l2": 0.2, "l1": 2.0}


def energy_outside(delta: Tensor, low_hz: float, high_hz: float) -> np.ndarray:
    """Share of energy at other frequencies, by NumPy and Parseval."""
    power = np.abs(np.fft.fft(delta.double().numpy(), axis=1)) ** 2
    frequency = np.abs(np.fft.fftfreq(delta.shape[1], 1 / RATE))
    inside = (frequency >= low_hz) & (frequency < high_hz)
    return power[:, ~inside].sum(1) / power.sum(1)


def test_time_windows_divide_the_clip() -> None:
    for count in (1, 2, 3, 4, 7):
        for steps in (7, 8, 400, 16_000):
            masks = torch.stack([window.mask((steps, 3, 2)) for window in time_windows(count)])
            assert masks.shape == (count, steps, 1, 1)
            assert masks.sum(0).eq(1).all()
            sizes = masks.flatten(1).sum(1)
            assert int(sizes.max() - sizes.min()) <= 1
    assert TimeWindow(0.25, 0.5).mask((8,)).tolist() == [False, False, True, True, False, False, False, False]


@pytest.mark.parametrize("n_mels", [3, 10, 64, 80, 128])
def test_thirds_divide_the_bands(n_mels: int) -> None:
    parts = thirds(n_mels)
    assert list(parts) == ["low", "middle", "high"]
    masks = torch.stack([part.mask((5, n_mels)) for part in parts.values()])
    assert masks.sum(0).eq(1).all()
    assert int(masks.sum(1).max() - masks.sum(1).min()) <= 1
    assert parts["low"].mask((5, n_mels))[0]
    assert MelBand(1, 2).mask((5, 4)).tolist() == [False, True, True, False]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_octave_bands_meet_and_have_their_centres(rate: int) -> None:
    bands = octave_bands(rate)
    for name, band in bands.items():
        nominal = float(name.removesuffix(" Hz"))
        assert band.low_hz * 10**0.15 == pytest.approx(nominal, rel=0.01)
        assert band.low_hz < nominal <= band.high_hz
        assert band.high_hz == pytest.approx(min(band.low_hz * 10**0.3, rate / 2))
    for lower, upper in pairwise(bands.values()):
        assert lower.high_hz == pytest.approx(upper.low_hz)
    masks = torch.stack([band.bins((rate,)) for band in bands.values()])
    assert int(masks.sum(0).max()) == 1
    assert bool(masks[:, 23:].any(0).all())  # from 22.4 Hz to Nyquist, both ends included
    assert list(octave_bands(16_000)) == [f"{hz} Hz" for hz in (31.5, 63, 125, 250, 500, 1000, 2000, 4000, 8000)]


@pytest.mark.parametrize(
    ("support", "shape", "inside"),
    [
        (TimeWindow(0.5, 1.0), (400,), (slice(200, 400),)),
        (TimeWindow(0.0, 0.25), (8, 3, 4, 4), (slice(0, 2),)),
        (MelBand(2, 5), (10, 8), (slice(None), slice(2, 6))),
        (Both((TimeWindow(0.5, 1.0), MelBand(0, 1))), (10, 8), (slice(5, 10), slice(0, 2))),
    ],
)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_nothing_moves_outside_a_support_of_coordinates(
    norm: str, support: Support, shape: tuple[int, ...], inside: tuple[slice, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(5, *shape, generator=generator) - 0.5
    region = Ball(norm, 0.3, support=support).around(clean)
    where = torch.zeros(shape, dtype=torch.bool)
    where[inside] = True
    gradient = torch.randn(clean.shape, generator=generator)
    starts = region.sample([torch.Generator().manual_seed(seed) for seed in range(5)])
    for point in (starts, region.ascend(starts, gradient, region.radius), region.project(clean + gradient)):
        assert torch.equal(point[:, ~where], clean[:, ~where])
        assert not torch.equal(point[:, where], clean[:, where])
        assert region.audit(point).reasons == ()
        assert out_of_support(point - clean, support).tolist() == [0.0] * 5
    assert bool((region.audit(region.project(clean + 100 * gradient)).ratio > 0.999).all())
    outside = clean.clone()
    outside[0].view(-1)[int((~where).flatten().nonzero()[0])] += 1e-4
    found = region.audit(outside)
    assert found.reasons == ("outside the support",)
    assert found.violated.tolist() == [True] + [False] * 4


def test_the_snr_is_that_of_the_whole_clip() -> None:
    """The window limits the attacker, not the ear."""
    ball = Ball("l2", 20.0, "snr_db")
    window = Ball("l2", 20.0, "snr_db", support=TimeWindow(0, 0.25))
    torch.testing.assert_close(ball.radius_amplitude(AUDIO), window.radius_amplitude(AUDIO))
    point = window.around(AUDIO).project(AUDIO + torch.randn(AUDIO.shape, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(
        window.around(AUDIO).audit(point).snr_db, torch.full((9,), 20.0).double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("support", [BAND, FrequencyBand(0, 30, RATE), FrequencyBand(100, 200, RATE)], ids=str)
def test_an_attack_in_a_band_stays_there_and_spends_its_budget(norm: str, support: FrequencyBand) -> None:
    """Equal radius, whatever the width of the band."""
    victim = ConvVictim()
    goal = Goal(predictions(victim, {"audio": AUDIO}))
    ball = Ball(norm, MIDDLING[norm], support=support)
    config = PGD(steps=12, stop_when_broken=False)
    result = pgd(victim, {"audio": AUDIO}, goal, {"audio": ball}, config=config)
    delta = result.inputs["audio"] - AUDIO
    audit = ball.around(AUDIO).audit(result.inputs["audio"])
    assert audit.reasons == ()
    assert bool((audit.ratio > 0.98).all())
    high = 201 if support.high_hz == 200 else support.high_hz
    outside = energy_outside(delta, support.low_hz, high)
    assert outside.max() < 1e-6
    np.testing.assert_allclose(out_of_support(delta, support).numpy(), outside, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_padding_and_window_hold_to_the_sample_and_the_band_nearly(norm: str) -> None:
    generator = torch.Generator().manual_seed(2)
    valid = (torch.arange(400) < 300).expand(9, 400)
    window = Both((TimeWindow(0.25, 0.75), BAND))
    for support, mask, still in (
        (BAND, valid, slice(300, 400)),
        (window, None, slice(0, 100)),
        (window, valid, slice(300, 400)),
    ):
        region = Ball(norm, MIDDLING[norm], support=support).around(AUDIO, mask)
        point = region.sample([torch.Generator().manual_seed(seed) for seed in range(9)])
        for _ in range(5):
            point = region.ascend(point, torch.randn(AUDIO.shape, generator=generator), 0.5 * region.radius)
        assert torch.equal(point[:, still], AUDIO[:, still])
        audit = region.audit(point)
        assert audit.reasons == ()
        assert bool((audit.ratio > 0.9).all())
        assert energy_outside(point - AUDIO, 30, 80).max() < 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_the_data_range_the_budget_still_holds(norm: str) -> None:
    clipped = (AUDIO * 4).clamp(-1, 1)
    region = Ball(norm, 10 * MIDDLING[norm], support=BAND).around(clipped)
    noise = torch.randn(AUDIO.shape, generator=torch.Generator().manual_seed(3))
    point = region.project(clipped + noise)
    assert region.audit(point).reasons == ()
    assert energy_outside(point - clipped, 30, 80).max() < 0.1


def projector(low_hz: float, high_hz: float, samples: int) -> np.ndarray:
    """(N, d) orthonormal cosines and sines of the band's bins: another way than by FFT."""
    time, columns = np.arange(samples), []
    for k in range(samples // 2 + 1):
        if low_hz <= k * RATE / samples < high_hz:
            columns += [np.cos(2 * np.pi * k * time / samples), np.sin(2 * np.pi * k * time / samples)]
    basis = np.stack([column for column in columns if np.linalg.norm(column) > 1e-6], 1)
    return basis / np.linalg.norm(basis, axis=0)


@pytest.mark.parametrize(("low_hz", "high_hz"), [(0, 100), (30, 80), (60, 130), (0, 201)])
def test_linear_victim_in_a_band_breaks_at_its_closed_form_radius(low_hz: float, high_hz: float) -> None:
    """L2: margin over the gradient's length inside the band. Linf: a linear programme over the band's sinusoids."""
    victim, clean = LinearVictim((64,), seed=1), waves(6, 64, peak=0.1)
    labels = predictions(victim, {"audio": clean})
    slope = (victim.weight[1] - victim.weight[0]).detach().double().numpy()
    bias = float((victim.bias[1] - victim.bias[0]).detach())
    margin = np.abs(clean.double().numpy() @ slope + bias)
    basis = projector(low_hz, high_hz, 64)
    rise = slope @ basis
    solved = linprog(-rise, np.vstack([basis, -basis]), np.ones(128), bounds=[(None, None)] * len(rise))
    exact = {"l2": margin / np.linalg.norm(rise), "linf": margin / -solved.fun}
    for norm, radius, most in (("l2", 0.1, 1.01), ("linf", 0.01, 1.10)):
        ball = Ball(norm, radius, support=FrequencyBand(low_hz, high_hz, RATE))
        found = minimal_scale(victim, {"audio": clean}, Goal(labels), {"audio": ball}, tolerance=1.005)
        ratio = found.scale.numpy() * radius / exact[norm]
        assert ratio.min() > 1 - 1e-4
        assert ratio.max() < most
        assert energy_outside(found.inputs["audio"] - clean, low_hz, high_hz).max() < 1e-6


def test_l2_projection_on_a_band_is_the_nearest_point() -> None:
    clean = torch.zeros(4, 64)
    region = Ball("l2", 0.5, support=FrequencyBand(30, 80, RATE)).around(clean)
    far = torch.randn(4, 64, generator=torch.Generator().manual_seed(4))
    basis = projector(30, 80, 64)
    inside = far.double().numpy() @ basis @ basis.T
    expected = inside * np.minimum(1, 0.5 / np.linalg.norm(inside, axis=1, keepdims=True))
    np.testing.assert_allclose(region.project(far).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(region.project(far * 0.01).numpy(), inside * 0.01, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_in_a_band_is_as_long_as_it_says_and_climbs(norm: str) -> None:
    clean = torch.zeros(3, 400)
    region = Ball(norm, 0.9, support=BAND).around(clean)
    gradient = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    moved = region.ascend(clean, gradient, torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(region.size(moved).float(), torch.tensor([0.1, 0.2, 0.3]), rtol=1e-4, atol=0)
    assert bool(((moved * gradient).sum(1) > 0).all())
    assert energy_outside(moved, 30, 80).max() < 1e-9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_in_a_band(norm: str) -> None:
    clean = torch.zeros(400, 400)
    region = Ball(norm, 0.5, support=BAND).around(clean)
    points = region.sample([torch.Generator().manual_seed(seed) for seed in range(400)])
    audit = region.audit(points)
    assert audit.reasons == ()
    assert energy_outside(points, 30, 80).max() < 1e-9
    # Uniform in a ball of d dimensions: the mean radius is d / (d + 1), here with 50 bins of two dimensions each.
    assert float(audit.ratio.mean()) == pytest.approx(100 / 101, abs=4 * 0.01 / 20)
    alone = region.select(torch.tensor([7])).sample([torch.Generator().manual_seed(7)])
    assert torch.equal(alone[0], points[7])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("samples", [400, 4001, 16_000])
def test_a_clip_in_a_band_fares_alike_alone_and_in_company(norm: str, samples: int) -> None:
    clean = waves(11, samples, peak=0.99)  # near the data range: alternating projections are at work
    generator = torch.Generator().manual_seed(8)
    far = clean + torch.randn(clean.shape, generator=generator) * 0.3
    gradient = torch.randn(clean.shape, generator=generator)
    region = Ball(norm, 0.2, support=BAND).around(clean)
    together = region.ascend(region.project(far), gradient, 0.5 * region.radius)
    for row in range(11):
        own, index = slice(row, row + 1), torch.tensor([row])
        part = region.select(index)
        assert torch.equal(part.ascend(part.project(far[own]), gradient[own], 0.5 * part.radius)[0], together[row])


@pytest.mark.parametrize("support", [TimeWindow(0.5, 1.0), BAND, Both((TimeWindow(0, 0.5), BAND))], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rescale", [False, True])
def test_cut_afterwards(norm: str, support: Support, rescale: bool) -> None:
    victim = ConvVictim()
    goal = Goal(predictions(victim, {"audio": AUDIO}))
    anywhere = Ball(norm, MIDDLING[norm])
    config = PGD(steps=10, stop_when_broken=False)
    found = pgd(victim, {"audio": AUDIO}, goal, {"audio": anywhere}, config=config).inputs["audio"]
    confined = Ball(norm, MIDDLING[norm], support=support)
    cut = truncate(AUDIO, found, confined, rescale=rescale)
    audit = confined.around(AUDIO).audit(cut)
    assert audit.reasons == ()
    assert float(out_of_support(cut - AUDIO, support).max()) < 0.02
    if rescale:
        assert bool((audit.ratio > 0.98).all())
    elif norm == "l2":
        assert bool((audit.ratio < 0.95).all())
    if support == TimeWindow(0.5, 1.0) and not rescale:
        assert torch.equal(cut[:, :200], AUDIO[:, :200])
        torch.testing.assert_close(cut[:, 200:], found[:, 200:], rtol=0, atol=1e-6)
    inside = pgd(victim, {"audio": AUDIO}, goal, {"audio": confined}, config=config)
    with torch.no_grad():
        lost = torch.nn.functional.one_hot(goal.labels, 5).bool()
        logits = victim.eval()({"audio": cut})
        margin = logits.masked_fill(lost, -torch.inf).amax(1) - logits[lost]
    assert float(inside.loss.mean()) > float(margin.mean()) - 0.01  # cutting is worth no more than optimising inside


def test_cutting_what_is_not_there_leaves_the_clean_clip() -> None:
    ball = Ball("l2", 0.5, support=TimeWindow(0, 0.5))
    elsewhere = AUDIO.clone()
    elsewhere[:, 300] += 0.01
    assert torch.equal(truncate(AUDIO, elsewhere, ball, rescale=True), AUDIO)
    with pytest.raises(ThreatModelError, match="give the budget a support"):
        truncate(AUDIO, elsewhere, Ball("l2", 0.5))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_smallest_radius_in_a_window(norm: str) -> None:
    """Fixed coordinates are bias: the margin over the dual norm of the slope inside the window."""
    victim, clean = LinearVictim((40,), seed=3), waves(6, 40, peak=0.1)
    labels = predictions(victim, {"audio": clean})
    ball = Ball(norm, 0.02, low=-30.0, high=30.0, support=TimeWindow(0.25, 0.75))
    found = minimal_scale(victim, {"audio": clean}, Goal(labels), {"audio": ball}, tolerance=1.005)
    slope = (victim.weight[1] - victim.weight[0]).detach().double()
    logits = victim({"audio": clean}).detach().double()
    dual = torch.linalg.vector_norm(slope[10:30], {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm])
    ratio = found.scale * 0.02 / ((logits[:, 0] - logits[:, 1]).abs() / dual)
    assert float(ratio.min()) > 1 - 1e-5
    assert float(ratio.max()) < 1.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeWindow(0.5, 0.5), "0 <= start < stop <= 1"),
        (lambda: TimeWindow(0, 1.5), "0 <= start < stop <= 1"),
        (lambda: TimeWindow(0.5, 0.51).mask((10,)), "holds none of the 10 steps"),
        (lambda: MelBand(3, 2), "first <= last"),
        (lambda: MelBand(0, 64).mask((100, 64)), "there are 64"),
        (lambda: MelBand(0, 3).mask((16_000,)), "Use FrequencyBand"),
        (lambda: FrequencyBand(100, 50, RATE), "low_hz < high_hz"),
        (lambda: FrequencyBand(300, 400, RATE), "half of the sample rate"),
        (lambda: FrequencyBand(1.2, 1.8, RATE).bins((400,)), "bins are 1 Hz apart"),
        (lambda: BAND.bins((100, 64)), "Use MelBand"),
        (lambda: Both((TimeWindow(0, 0.5), TimeWindow(0.5, 1))).mask((10,)), "let them overlap"),
        (lambda: Ball("l1", 0.1, support=BAND).around(AUDIO), "no L1 ball"),
    ],
)
def test_supports_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        make()
