"""Noise and rooms at many levels: realised against nominal, and what a shipped victim makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import signal

from attacks.errors import ThreatModelError
from robust.change import evaluate
from robust.channels.noise import COLOURS, AdditiveNoise, at_snr, coloured_noise
from robust.channels.rooms import Room, convolve, draw_geometry, room_response
from robust.data import load_data
from robust.evaluation.sweeps import SWEEPS, Sweep, find_sweep, register_sweep
from robust.types import Batch, Outcome
from robust.victims import Victim, load_victim
from tests.robust.av_toys import PICTURE, SIGHT, SOUND, linear

SAMPLE_RATE = 16_000


class Deaf(torch.nn.Module):
    """Something that takes a second of sound."""

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return torch.stack([audio.mean(dim=1), audio.std(dim=1)], dim=1)


@pytest.fixture(scope="module")
def listener() -> Victim:
    return Victim.wrap(Deaf(), sample_rate=SAMPLE_RATE, labels=("a", "b"))


def recordings() -> Batch:
    """Tones with onset and decay in background hiss: whole, padded, quiet, silent, and too loud for noise to fit."""
    draw, time = torch.Generator().manual_seed(3), torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tones = torch.stack([torch.sin(2 * math.pi * hertz * time) for hertz in (220, 440, 880, 1000, 300)])
    shape = torch.exp(-6 * (time - 0.2).clamp_min(0)) * (time > 0.2)
    clips = 0.4 * tones * shape + 1e-4 * torch.randn(5, SAMPLE_RATE, generator=draw)
    valid = torch.ones(5, SAMPLE_RATE, dtype=torch.bool)
    valid[1, 9000:] = False
    clips[1] *= valid[1]
    clips[2] *= 0.05
    clips[3] = 0
    clips[4] = 0.99 * tones[4]
    return Batch(tuple(f"rec/{n}" for n in range(5)), {"audio": clips}, torch.zeros(5).long(), {"audio": valid})


def some(batch: Batch, rows: list[int]) -> Batch:
    """Some clips of a batch."""
    inputs, valid = ({name: value[rows] for name, value in part.items()} for part in (batch.inputs, batch.valid))
    return Batch(tuple(batch.ids[row] for row in rows), inputs, batch.labels[rows], valid)


def apply(condition: AdditiveNoise | Room, victim: Victim, batch: Batch, seed: int = 0) -> Outcome:
    return condition.apply(victim, batch, torch.zeros(len(batch), 2), seed)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("snr_db", [40.0, 10.0, -10.0])
def test_realised_snr_is_the_nominal_one_where_the_event_is(colour: str, snr_db: float, listener: Victim) -> None:
    batch = recordings()
    found = apply(AdditiveNoise(snr_db, colour), listener, batch)
    noise = (found.inputs["audio"] - batch.inputs["audio"]).double()
    for row, (start, end) in {0: (0.2, 0.9), 1: (0.2, 0.55), 2: (0.2, 0.9)}.items():
        # By hand: whole 20-ms frames within 40 dB of the loudest; the decay is 52 dB a second.
        frames = batch.inputs["audio"][row].double().view(50, 320), noise[row].view(50, 320)
        power = frames[0].square().sum(dim=1) / batch.valid["audio"][row].view(50, 320).sum(dim=1).clamp_min(1)
        active = power >= power.max() * 1e-4
        assert start - 0.02 <= float(active.nonzero()[0, 0]) * 0.02
        assert float(active.nonzero()[-1, 0] + 1) * 0.02 <= end + 0.15
        by_hand = 10 * torch.log10(frames[0][active].square().sum() / frames[1][active].square().sum())
        assert float(by_hand) == pytest.approx(snr_db, abs=0.01)
        assert found.columns["noise_snr_db"][row] == pytest.approx(snr_db, abs=0.01)
    assert (noise[1, 9000:] == 0).all()
    assert (noise[0, :3000] != 0).any()  # the background hears it too
    assert (noise[3] == 0).all()
    assert found.columns["noise_silent"] == [False, False, False, True, False]
    assert math.isnan(found.columns["noise_snr_db"][3])


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_have_their_slopes(colour: str) -> None:
    noise = coloured_noise(1 << 17, colour, SAMPLE_RATE, torch.Generator().manual_seed(0))
    frequency, density = signal.welch(noise.double().numpy(), SAMPLE_RATE, nperseg=4096)
    band = (frequency > 60) & (frequency < 7000)
    slope, _ = np.polyfit(np.log2(frequency[band]), 10 * np.log10(density[band]), 1)
    assert slope == pytest.approx(
        {"white": 0, "pink": -3.01, "brown": -6.02, "blue": 3.01, "violet": 6.02}[colour], abs=0.15
    )
    if colour != "white":
        spectrum = torch.fft.rfft(noise.double()).abs()
        assert spectrum[: round(20 * len(noise) / SAMPLE_RATE)].max() < 1e-3 * spectrum.max()


def test_levels_differ_in_level_alone(listener: Victim) -> None:
    batch = recordings()
    quiet, loud = (apply(AdditiveNoise(snr, "pink"), listener, batch).inputs["audio"].double() for snr in (20, 0))
    clean = batch.inputs["audio"].double()
    torch.testing.assert_close(loud - clean, 10 * (quiet - clean), rtol=1e-3, atol=2e-6)
    assert not torch.allclose(loud[0] - clean[0], loud[4] - clean[4], atol=1e-3)
    again = apply(AdditiveNoise(0, "pink"), listener, batch, seed=1).inputs["audio"].double()
    assert not torch.allclose(again, loud, atol=1e-3)


def test_clipping_is_told(listener: Victim) -> None:
    batch = recordings()
    open_, shut = (apply(AdditiveNoise(0, clip=clip), listener, batch) for clip in (False, True))
    assert open_.inputs["audio"].abs().max() > 1
    assert shut.inputs["audio"].abs().max() == 1
    beyond = (open_.inputs["audio"].abs() > 1).double().mean(dim=1)
    assert beyond[4] > 0.1
    for found in (open_, shut):
        assert found.columns["noise_over_range"][4] == pytest.approx(float(beyond[4]))
    assert open_.columns["noise_snr_db"][4] == pytest.approx(0, abs=0.01)
    assert shut.columns["noise_snr_db"][4] > 1  # noise that is cut off is less noise


CONDITIONS = [AdditiveNoise(5, "brown"), AdditiveNoise(-3.3), Room(0.3, rooms=3)]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_neighbours_change_no_bit_and_the_seed_decides(condition: AdditiveNoise | Room, listener: Victim) -> None:
    batch = recordings()
    whole = apply(condition, listener, batch)
    order = [3, 0, 4, 2, 1]
    single = [apply(condition, listener, some(batch, [row])) for row in order]
    for row, alone in zip(order, single, strict=True):
        assert torch.equal(alone.inputs["audio"][0], whole.inputs["audio"][row])
        for name, column in whole.columns.items():
            np.testing.assert_equal(alone.columns[name][0], column[row])
    np.testing.assert_equal(dict(apply(condition, listener, batch).columns), dict(whole.columns))


def test_noise_has_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    clip, noise = (torch.randn(24, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    valid = torch.ones(24, dtype=torch.bool)
    active = torch.arange(24) < 16
    assert torch.autograd.gradcheck(lambda x, n: at_snr(x, n, 3.0, active, valid), (clip, noise))


def test_noise_on_what_is_seen_spares_what_is_heard() -> None:
    victim = linear(SOUND, SIGHT)
    draw = torch.Generator().manual_seed(0)
    inputs = {"audio": torch.randn(2, 40, generator=draw), "video": torch.rand(2, *PICTURE, generator=draw)}
    valid = {name: torch.ones_like(value, dtype=torch.bool) for name, value in inputs.items()}
    batch = Batch(("a", "b"), inputs, torch.zeros(2).long(), valid)
    found = apply(AdditiveNoise(10, modality="video"), victim, batch)
    assert torch.equal(found.inputs["audio"], inputs["audio"])
    noise = (found.inputs["video"] - inputs["video"]).flatten(1).double()
    ratio = 10 * torch.log10(inputs["video"].flatten(1).double().square().sum(dim=1) / noise.square().sum(dim=1))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 10.0), atol=0.01, rtol=0)


@pytest.mark.parametrize("rt60_s", [0.3, 0.5, 0.8])
def test_rooms_ring_as_long_as_asked(rt60_s: float) -> None:
    for number in range(3):
        found = room_response(draw_geometry(np.random.default_rng(number)), rt60_s, SAMPLE_RATE)
        energy = np.square(found.samples.double().numpy())
        left = 10 * np.log10(energy[::-1].cumsum()[::-1] / energy.sum())
        fit = (left <= -5) & (left >= -25)
        slope, _ = np.polyfit(np.arange(len(left))[fit] / SAMPLE_RATE, left[fit], 1)
        assert -60 / slope == pytest.approx(rt60_s, rel=0.2)  # T20, by hand
        assert found.rt60_s == pytest.approx(rt60_s, rel=0.2)
        direct, rest = energy[:41].sum(), energy[41:].sum()
        assert found.drr_db == pytest.approx(10 * math.log10(direct / rest), abs=1e-6)


def test_direct_path_is_at_once_and_of_unit_energy() -> None:
    for number in range(6):
        geometry = draw_geometry(np.random.default_rng(number))
        assert geometry.distance >= 1
        assert all(0.5 <= place <= side - 0.5 for place, side in zip(geometry.source, geometry.size, strict=True))
        samples = room_response(geometry, 0.25, SAMPLE_RATE).samples
        assert int(samples.abs().argmax()) == 0 or samples.abs().max() < 1.2
        assert float(samples[0]) == pytest.approx(1, abs=0.06)
        # The nearest wall's reflection comes after the direct path, by geometry.
        images = []
        for axis in range(3):
            for wall in (0.0, geometry.size[axis]):
                mirrored = list(geometry.source)
                mirrored[axis] = 2 * wall - mirrored[axis]
                images.append(math.dist(mirrored, geometry.microphone))
        first = (min(images) - geometry.distance) / 343 * SAMPLE_RATE
        quiet = samples[4 : max(4, int(first) - 6)]
        assert not len(quiet) or float(quiet.abs().max()) < 0.1
        peak = int(samples[max(3, int(first) - 2) :][:5].abs().argmax()) + max(3, int(first) - 2)
        assert abs(peak - first) < 3 or first < 6


def test_convolution_agrees_with_scipy_and_has_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    clips, responses = torch.randn(3, 501, generator=draw), torch.randn(3, 800, generator=draw)
    expected = signal.fftconvolve(clips.double().numpy(), responses.double().numpy(), axes=1)[:, :501]
    np.testing.assert_allclose(convolve(clips, responses).numpy(), expected, atol=1e-4)
    few = [value[:, :9].double().requires_grad_() for value in (clips, responses)]
    assert torch.autograd.gradcheck(convolve, few)
    impulse = torch.zeros(3, 4)
    impulse[:, 0] = 1
    torch.testing.assert_close(convolve(clips, impulse), clips)


def test_a_clip_is_in_one_room_at_all_levels(listener: Victim) -> None:
    condition, batch = Room(0.3, rooms=4), recordings()
    assert condition.geometry("rec/0", 0) == Room(0.8, rooms=4).geometry("rec/0", 0)
    assert len({condition.geometry(f"rec/{n}", 0) for n in range(40)}) == 4
    assert condition.geometry("rec/0", 0) != condition.geometry("rec/0", 1)
    found = apply(condition, listener, batch)
    response = room_response(condition.geometry("rec/0", 0), 0.3, SAMPLE_RATE)
    expected = signal.fftconvolve(batch.inputs["audio"][0].numpy(), response.samples.numpy())[:SAMPLE_RATE]
    np.testing.assert_allclose(found.inputs["audio"][0].numpy(), expected, atol=1e-5)
    assert (found.inputs["audio"][1, 9000:] == 0).all()
    assert (found.inputs["audio"][3] == 0).all()
    assert found.columns["room_over_range"][4] > 0
    none = apply(Room(0), listener, batch)
    assert torch.equal(none.inputs["audio"], batch.inputs["audio"])
    assert none.columns["rt60_s_measured"] == [0.0] * 5


def test_what_padding_holds_is_heard_in_no_room(listener: Victim) -> None:
    batch = recordings()
    real = batch.valid["audio"].expand_as(batch.inputs["audio"])
    assert not real.all()
    dirty = Batch(batch.ids, {"audio": torch.where(real, batch.inputs["audio"], 0.7)}, batch.labels, batch.valid)
    clean, other = (apply(Room(0.3), listener, one).inputs["audio"] for one in (batch, dirty))
    assert torch.equal(clean[real], other[real])
    assert (other[~real] == 0.7).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdditiveNoise(math.nan), "-200 to 200"),
        (lambda: AdditiveNoise(-math.inf), "-200 to 200"),
        (lambda: AdditiveNoise(0, "pinc"), "Did you mean 'pink'"),
        (lambda: AdditiveNoise(0, "pink", "video"), "for waveforms"),
        (lambda: Room(0.01), "0.2 to 1.5 s"),
        (lambda: Room(math.nan), "0.2 to 1.5 s"),
        (lambda: Room(-1), "0.2 to 1.5 s"),
        (lambda: Room(0.3, rooms=0), "at least one"),
        (lambda: find_sweep("nois"), "Did you mean 'noise'"),
        (lambda: coloured_noise(1, "pink", SAMPLE_RATE, torch.Generator()), "too short"),
    ],
)
def test_refuses_what_cannot_be(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ThreatModelError, match=words):
        make()


def test_refuses_what_the_victim_cannot_take(listener: Victim) -> None:
    batch = recordings()
    for condition in (AdditiveNoise(0, modality="video"), Room(0.3, modality="video")):
        with pytest.raises(ThreatModelError, match="Unknown modality 'video'"):
            apply(condition, listener, batch)
    with pytest.raises(ThreatModelError, match="sample rate"):
        AdditiveNoise(0).apply(lambda inputs: inputs["audio"], batch, torch.zeros(5, 2), 0)


def test_sweeps_go_from_easy_to_hard() -> None:
    assert find_sweep("noise").ordered([0, 20, 10, 20]) == (20, 10, 0)
    assert find_sweep("rt60").ordered([0.8, 0.2]) == (0.2, 0.8)
    for name, sweep in SWEEPS.items():
        assert sweep.name == sweep.axis["name"] == name
        assert sweep.ordered() == sweep.usual
        names = {sweep.condition(level, "audio").name for level in sweep.usual}
        assert len(names) == len(sweep.usual)
    with pytest.raises(ValueError, match="twice"):
        register_sweep(SWEEPS["noise"])
    with pytest.raises(ValueError, match="axis"):
        Sweep("x", {"name": "x"}, (1.0,), SWEEPS["noise"].condition)


def test_a_shipped_victim_hears_less_and_less() -> None:
    victim, data = load_victim("m5"), load_data("events", limit=24)
    scores = [
        evaluate(victim, data, SWEEPS["noise"].condition(snr, "audio")).changed.score for snr in (40.0, 0.0, -10.0)
    ]
    assert scores[0] > scores[1] > scores[2]
    assert scores[0] - scores[2] > 0.3


def test_a_room_at_a_shipped_audio_visual_victim() -> None:
    victim, data = load_victim("av-mid"), load_data("events", limit=8)
    found = evaluate(victim, data, Room(0.4, rooms=2))
    assert found.records["rt60_s_measured"].between(0.32, 0.48).all()
    other = evaluate(victim, data, Room(0.4, rooms=2), batch_size=3)
    assert found.records.equals(other.records)
