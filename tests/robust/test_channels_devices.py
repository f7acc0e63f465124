"""Devices, converters and lines against closed forms."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from scipy import signal
from torch import Tensor

from attacks.channel import Channel
from attacks.errors import ThreatModelError
from robust.channels.devices import BandPass, Drift, Gain, Offset, Shift, SoftClip
from robust.channels.quantisation import MuLaw, Quantise
from robust.channels.transmission import PacketLoss, Resample
from tests.robust.channel_contract import (
    check_contract,
    frequency_of,
    generators,
    gradient_is_exact,
    level_db,
    voices,
)

RATE = 16_000

CHANNELS: dict[str, Callable[[int], Channel]] = {
    "band": lambda rate: BandPass(rate, (0.01 * rate, 0.02 * rate), (0.3 * rate, 0.4 * rate)),
    "low-pass": lambda rate: BandPass(rate, high_hz=0.2 * rate, order=2),
    "soft-clip": lambda rate: SoftClip(rate, (0, 20)),
    "gain": lambda rate: Gain(rate, (-12, 6)),
    "offset": lambda rate: Offset(rate, (-0.1, 0.1)),
    "drift": lambda rate: Drift(rate, (-5000, 5000)),
    "shift": lambda rate: Shift(rate, (-0.01, 0.02)),
    "shift-fractional": lambda rate: Shift(rate, (-0.01, 0.02), fractional=True),
    "quantise": lambda rate: Quantise(rate, (8, 12, 16)),
    "mu-law": MuLaw,
    "packets-lost": lambda rate: PacketLoss(rate, (0.1, 0.5)),
    "packets-repeated": lambda rate: PacketLoss(rate, (0.1, 0.5), mode="repeat"),
    "resample": lambda rate: Resample(rate, (0.3 * rate, 0.5 * rate)),
}


def heard_by(channel: Channel, clips: Tensor) -> Tensor:
    return channel(clips, channel.draw(clips, generators(len(clips))), None)


def sine(frequency: float, seconds: float = 0.5, rate: int = RATE, delay_s: float = 0.0) -> Tensor:
    """(1, T) float64."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate - delay_s
    return 0.5 * torch.sin(2 * math.pi * frequency * time)[None]


@pytest.mark.parametrize("name", CHANNELS)
def test_keeps_to_the_contract(name: str) -> None:
    check_contract(CHANNELS[name](8000), voices(3, 8000))


@pytest.mark.parametrize("name", CHANNELS)
def test_clips_of_any_length(name: str) -> None:
    for samples in (1, 7, 161, 1009):
        clips = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
        heard = heard_by(CHANNELS[name](8000), clips)
        assert heard.shape == clips.shape
        assert bool(torch.isfinite(heard).all())


@pytest.mark.parametrize("name", [name for name, make in CHANNELS.items() if make(8000).gradient == "exact"])
def test_gradients_are_exact(name: str) -> None:
    clips = 0.3 * torch.randn(2, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert gradient_is_exact(CHANNELS[name](1000), clips)


@pytest.mark.parametrize("name", ["quantise", "mu-law"])
def test_straight_through_is_the_identity_backwards(name: str) -> None:
    clips = 0.8 * torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    channel, weights = CHANNELS[name](8000), torch.arange(300.0).view(3, 100)
    assert channel.gradient == "straight-through"
    assert bool((clips.abs() > 1).any())
    clips.requires_grad_()
    (slope,) = torch.autograd.grad((heard_by(channel, clips) * weights).sum(), clips)
    assert torch.equal(slope, weights)


def test_gain_of_six_decibels_doubles() -> None:
    clips = voices(3, RATE)
    assert torch.allclose(heard_by(Gain(RATE, 20 * math.log10(2)), clips), 2 * clips)
    channel = Gain(RATE, (-20, 20))
    drawn = channel.draw(clips, generators(3))
    measured = channel.measure(clips, channel(clips, drawn), drawn, torch.ones_like(clips, dtype=torch.bool))
    assert torch.allclose(measured["level_db"], drawn["gain_db"].double(), atol=1e-4)


def test_offset_moves_the_mean_alone() -> None:
    clips = voices(2, RATE)
    heard = heard_by(Offset(RATE, -0.05), clips)
    assert torch.allclose(heard.mean(dim=1), clips.mean(dim=1) - 0.05, atol=1e-6)
    assert torch.allclose(heard + 0.05, clips, atol=1e-6)


@pytest.mark.parametrize("drive_db", [-20.0, 0.0, 12.0, 40.0])
def test_soft_clip_keeps_what_is_quiet_and_bounds_what_is_loud(drive_db: float) -> None:
    channel, drive = SoftClip(RATE, drive_db), 10 ** (drive_db / 20)
    quiet = torch.full((1, 100), 1e-4 / max(drive, 1), dtype=torch.float64)
    assert torch.allclose(heard_by(channel, quiet), quiet, rtol=1e-6)
    loud = sine(100) * 2
    heard = heard_by(channel, loud)
    assert float(heard.max()) == pytest.approx(math.tanh(drive * float(loud.max())) / drive)
    assert torch.allclose(heard_by(channel, -loud), -heard)


def test_soft_clip_tells_a_distortion_that_falls_with_the_drive() -> None:
    clips = voices(1, RATE)
    told = []
    for drive_db in (-10, 0, 10, 20, 30):
        channel = SoftClip(RATE, drive_db)
        drawn = channel.draw(clips, generators(1))
        heard = channel(clips, drawn)
        told.append(float(channel.measure(clips, heard, drawn, torch.ones_like(clips, dtype=torch.bool))["snr_db"]))
    assert told == sorted(told, reverse=True)
    assert told[0] > 40 > 10 > told[-1]


@pytest.mark.parametrize("order", [1, 4, 8])
def test_band_has_the_gain_of_butterworth_and_no_phase(order: int) -> None:
    channel = BandPass(RATE, 300.0, 3400.0, order=order)
    for frequency in (100.0, 300.0, 1000.0, 3400.0, 6000.0):
        low = signal.freqs(*signal.butter(order, 300, "highpass", analog=True), worN=[frequency])[1]
        high = signal.freqs(*signal.butter(order, 3400, "lowpass", analog=True), worN=[frequency])[1]
        gain = float(np.abs(low * high)[0])
        tone = sine(frequency, 1.0)
        heard = heard_by(channel, tone)
        assert torch.allclose(heard[:, 4000:-4000], gain * tone[:, 4000:-4000], atol=2e-4)


def test_band_ends_are_drawn_for_each_clip() -> None:
    channel = BandPass(RATE, high_hz=(500, 7000))
    drawn = channel.draw(torch.zeros(4, 10), generators(4))
    click = torch.nn.functional.pad(torch.ones(4, 1), (8000, 7999))
    gains = torch.fft.rfft(channel(click, drawn)).abs()
    ends = (gains > 0.5**0.5).sum(dim=1)
    assert torch.allclose(ends.float(), drawn["high_hz"], atol=2)
    assert float(drawn["high_hz"].std()) > 100


@pytest.mark.parametrize("ppm", [-10_000.0, -300.0, 0.0, 150.0, 10_000.0])
@pytest.mark.parametrize("frequency", [440.0, 3000.0])
def test_drift_moves_frequencies(ppm: float, frequency: float) -> None:
    tone = sine(frequency, 1.0)
    heard = heard_by(Drift(RATE, ppm), tone)
    expected = sine(frequency * (1 + ppm * 1e-6), 1.0)
    assert torch.allclose(heard[:, 400:-400], expected[:, 400:-400], atol=3e-3)
    assert frequency_of(heard[0, 400:-400], RATE) == pytest.approx(frequency * (1 + ppm * 1e-6), rel=1e-6)
    assert float(heard[:, -100:].abs().max()) < (0.05 if ppm == 10_000 else 1), "nothing comes after the end"


def test_no_drift_is_no_change() -> None:
    clips = voices(2, RATE).double()
    assert torch.allclose(heard_by(Drift(RATE, 0.0), clips), clips, atol=1e-12)


@pytest.mark.parametrize("samples", [-33, 0, 1, 160])
@pytest.mark.parametrize("fractional", [False, True])
def test_shift_by_whole_samples_is_a_roll_with_zeros(samples: int, *, fractional: bool) -> None:
    clips = voices(2, RATE).double()
    rolled = clips.roll(samples, dims=1)
    rolled[:, : max(samples, 0)] = 0
    rolled[:, clips.shape[1] + min(samples, 0) :] = 0
    heard = heard_by(Shift(RATE, samples / RATE, fractional=fractional), clips)
    assert torch.equal(heard, rolled) if not fractional else torch.allclose(heard, rolled, atol=1e-9)


def test_shift_between_samples() -> None:
    heard = heard_by(Shift(RATE, 10.37 / RATE, fractional=True), sine(1234.5))
    expected = sine(1234.5, delay_s=10.37 / RATE)
    assert torch.allclose(heard[:, 500:-500], expected[:, 500:-500], atol=1e-3)
    delay_s = Shift(RATE, (0, 1)).draw(torch.zeros(20, 1), generators(20))["delay_s"] * RATE
    assert torch.allclose(delay_s, delay_s.round(), atol=1e-9)


def test_beyond_the_clip_there_is_silence() -> None:
    assert not heard_by(Shift(RATE, 2.0), voices(2, RATE)).any()
    assert not heard_by(Shift(RATE, -2.0), voices(2, RATE)).any()


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_quantised_values_are_integers(bits: int) -> None:
    clips = torch.cat([1.5 * voices(2, RATE), torch.linspace(-1.2, 1.2, 8000)[None]]).double()
    steps = heard_by(Quantise(RATE, bits), clips) * 2 ** (bits - 1)
    assert torch.equal(steps, steps.round())
    assert (float(steps.min()), float(steps.max())) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    inside = (clips.abs() < 1 - 2.0 ** (1 - bits)) & (clips.abs() < 0.99)
    assert float((steps / 2 ** (bits - 1) - clips)[inside].abs().max()) <= 2.0**-bits


def test_sixteen_bits_are_those_of_a_wav_file() -> None:
    clip = voices(1, RATE)
    file = io.BytesIO()
    soundfile.write(file, (clip[0].double().numpy() * 32768).round().astype(np.int16), RATE, format="WAV")
    file.seek(0)
    written = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
    channel = Quantise(RATE, 16)
    drawn = channel.draw(clip, generators(1))
    assert torch.equal(channel(clip, drawn)[0], written)
    told = channel.measure(clip, channel(clip, drawn), drawn, torch.ones_like(clip, dtype=torch.bool))["snr_db"]
    assert 60 < float(told) < 98


def test_mu_law_by_decision_levels() -> None:
    """An independent coder: 128 magnitudes, and the thresholds half-way between them on the companded scale."""
    values = (256.0 ** (np.arange(128) / 127) - 1) / 255
    thresholds = (256.0 ** ((np.arange(127) + 0.5) / 127) - 1) / 255
    clip = torch.linspace(-1.1, 1.1, 5001, dtype=torch.float64)[None]
    coded = values[np.searchsorted(thresholds, np.abs(clip.numpy()))] * np.sign(clip.numpy())
    assert np.allclose(heard_by(MuLaw(RATE), clip).numpy(), coded, atol=1e-12)


def test_mu_law_is_near_g711() -> None:
    """libsndfile's G.711: its straight pieces and our curve differ by no more than a step or so."""
    clip = np.linspace(-0.97, 0.97, 4001)
    file = io.BytesIO()
    soundfile.write(file, clip, 8000, format="WAV", subtype="ULAW")
    file.seek(0)
    standard = soundfile.read(file)[0]
    ours = heard_by(MuLaw(8000), torch.from_numpy(clip)[None])[0].numpy()
    step = (1 / 255 + np.abs(clip)) * math.log(256) / 127
    assert np.all(np.abs(ours - standard) < 1.5 * step)
    noise = [level_db(torch.from_numpy(heard - clip)) for heard in (ours, standard)]
    assert noise[0] == pytest.approx(noise[1], abs=1.5)


def test_fewer_levels_are_heard() -> None:
    clip, told = voices(1, RATE), []
    for levels in (4, 16, 64, 256, 4096):
        channel = MuLaw(RATE, levels)
        heard = channel(clip, {})
        told.append(float(channel.measure(clip, heard, {}, torch.ones_like(clip, dtype=torch.bool))["snr_db"]))
    assert told == sorted(told)


@pytest.mark.parametrize("mode", ["zeros", "repeat"])
def test_packets_that_never_come(mode: str) -> None:
    channel, clips = PacketLoss(RATE, 0.4, mode=mode), voices(3, RATE, 0.507)
    drawn = channel.draw(clips, generators(3))
    heard = channel(clips, drawn)
    for row in range(3):
        last = None
        for number, lost in enumerate(drawn["lost"][row].tolist()):
            packet = clips[row, number * 320 : (number + 1) * 320]
            last = packet if not lost else last
            filled = torch.zeros_like(packet) if last is None or mode == "zeros" else last[: len(packet)]
            assert torch.equal(heard[row, number * 320 : (number + 1) * 320], filled if lost else packet)
    told = channel.measure(clips, heard, drawn, torch.ones_like(clips, dtype=torch.bool))["lost_share"]
    assert torch.allclose(told, drawn["lost"].double().mean(dim=1), atol=0.04)


def test_rates_of_loss() -> None:
    clips, rates = torch.zeros(8, 160_000), (0.0, 0.1, 0.5, 1.0)
    lost = {rate: PacketLoss(RATE, rate).draw(clips, generators(8))["lost"] for rate in rates}
    assert not lost[0.0].any()
    assert lost[1.0].all()
    assert float(lost[0.1].double().mean()) == pytest.approx(0.1, abs=0.015)
    assert bool((lost[0.5] | ~lost[0.1]).all()), "a higher rate loses the same packets and others"


def test_resampling_keeps_what_the_lower_rate_carries() -> None:
    channel = Resample(RATE, 8000)
    for frequency, passes in ((500.0, True), (3500.0, True), (4100.0, False), (7000.0, False)):
        tone = sine(frequency, 1.0)
        heard = heard_by(channel, tone)[:, 2000:-2000]
        error = level_db(heard - tone[:, 2000:-2000]) if passes else level_db(heard)
        assert error < level_db(tone) - 60, frequency


def test_resampling_is_that_of_soxr() -> None:
    noise = BandPass(RATE, high_hz=3000, order=16)(torch.randn(1, RATE), {"high_hz": torch.tensor([3000.0])})
    down = soxr.resample(noise[0].numpy(), RATE, 8000, quality="VHQ")
    again = torch.from_numpy(soxr.resample(down, 8000, RATE, quality="VHQ"))
    heard = heard_by(Resample(RATE, 8000), noise)[0]
    assert level_db((heard - again)[500:-500]) < level_db(noise) - 40


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BandPass(8000), "low_hz, high_hz or both"),
        (lambda: BandPass(8000, high_hz=4000), "4000 Hz at 8000 Hz"),
        (lambda: BandPass(8000, (100, 900), (800, 2000)), "low_hz must stay below high_hz"),
        (lambda: BandPass(8000, 100, order=0), "order must be"),
        (lambda: BandPass(8000, math.nan), "low_hz must be a number of Hz"),
        (lambda: BandPass(0, 100), "sample rate"),
        (lambda: SoftClip(8000, math.inf), "drive_db"),
        (lambda: Gain(8000, (6, -6)), "lowest, highest"),
        (lambda: Gain(8000, math.nan), "gain_db"),
        (lambda: Offset(8000, 1.5), "offset must be"),
        (lambda: Drift(8000, 1e6), "ppm must be"),
        (lambda: Shift(8000, 11.0), "delay_s must be"),
        (lambda: Quantise(8000, 1), "bits must be"),
        (lambda: Quantise(8000, 7.5), "whole"),
        (lambda: Quantise(8000, ()), "several to choose from"),
        (lambda: MuLaw(8000, 255), "even number"),
        (lambda: PacketLoss(8000, 1.5), "rate must be"),
        (lambda: PacketLoss(8000, 0.1, packet_s=1e-5), "packet_s must be"),
        (lambda: PacketLoss(8000, 0.1, packet_s=-1), "packet_s must be"),
        (lambda: PacketLoss(8000, 0.1, packet_s=math.inf), "packet_s must be"),
        (lambda: PacketLoss(8000, 0.1, mode="repeats"), "Did you mean 'repeat'"),
        (lambda: Resample(8000, 8000), "below the rate of the clips, 8000 Hz"),
        (lambda: Resample(8000, 10), "rate_hz must be"),
    ],
)
def test_refused_settings(make: Callable[[], Channel], says: str) -> None:
    with pytest.raises(ThreatModelError, match=says):
        make()


@pytest.mark.parametrize("wrong", ["loud", None, [1, "x"], (None, 3), [1], (1, 2, 3)])
def test_what_is_no_number_is_told(wrong: Any) -> None:
    with pytest.raises(ThreatModelError, match="must be a number of dB or a range"):
        Gain(16_000, wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0, -1, "fast", None])
def test_no_rate_but_a_number_of_hz(wrong: Any) -> None:
    with pytest.raises(ThreatModelError, match="sample rate"):
        Gain(wrong, 0.0)
