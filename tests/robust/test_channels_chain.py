"""Channels one after another."""

from __future__ import annotations

import pytest
import torch

from attacks.errors import ThreatModelError
from robust.channels.backgrounds import Noise
from robust.channels.chain import Chain
from robust.channels.condition import Through
from robust.channels.devices import BandPass, Gain, Offset, Shift
from robust.channels.quantisation import MuLaw, Quantise
from robust.channels.transmission import PacketLoss, Resample
from robust.types import Batch, VictimSpec
from tests.robust.channel_contract import check_contract, generators, gradient_is_exact, voices

RATE = 8000


def line(sample_rate: int = RATE) -> Chain:
    band = BandPass(sample_rate, 0.02 * sample_rate, (0.3 * sample_rate, 0.4 * sample_rate))
    noise = Noise(sample_rate, "pink", (5, 20))
    return Chain([band, noise, Gain(sample_rate, (-6, 6)), noise], sample_rate=sample_rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_chain_is_the_identity_to_the_bit(dtype: torch.dtype) -> None:
    impulse = torch.zeros(2, 100, dtype=dtype)
    impulse[0, 17], impulse[1, 0] = 1.0, -1e-30
    chain = Chain([], sample_rate=RATE)
    assert chain.draw(impulse, generators(2)) == {}
    assert torch.equal(chain(impulse, {}), impulse)
    assert chain.measure(impulse, impulse, {}, torch.ones_like(impulse, dtype=torch.bool)) == {}
    assert chain.describe() == {"channel": "chain", "parts": []}
    assert chain.gradient == "exact"


def test_keeps_to_the_contract() -> None:
    check_contract(line(), voices(3, RATE))
    parts = [PacketLoss(RATE, 0.2, mode="repeat"), Quantise(RATE, 8), Shift(RATE, (0, 0.01)), Resample(RATE, 4000)]
    check_contract(Chain(parts, sample_rate=RATE), voices(3, RATE))
    check_contract(Chain([line(), Chain([], sample_rate=RATE), line()], sample_rate=RATE), voices(3, RATE))


def test_is_its_parts_one_after_another() -> None:
    chain, clips = line(), voices(2, RATE)
    drawn = chain.draw(clips, generators(2))
    own, heard, stages = generators(2), clips, []
    for part in chain.parts:
        parameters = part.draw(clips, own)
        before, heard = heard, part(heard, parameters)
        stages.append((part, before, heard, parameters))
    assert torch.equal(chain(clips, drawn), heard)
    valid = torch.ones_like(clips, dtype=torch.bool)
    measured = chain.measure(clips, heard, drawn, valid)
    for place, (part, before, after, parameters) in enumerate(stages):
        for name, value in part.measure(before, after, parameters, valid).items():
            assert torch.allclose(measured[f"{place}_{part.name}_{name}"], value, rtol=1e-4), name


def test_names_of_parameters_and_measures() -> None:
    chain = Chain([Offset(RATE, 0.1), MuLaw(RATE), PacketLoss(RATE, 0.1), line()], sample_rate=RATE)
    clips = voices(2, RATE)
    drawn = chain.draw(clips, generators(2))
    assert {"0_offset", "2_packet_loss_rate", "2_packet_loss_lost", "3_chain_1_noise_snr_db"} <= drawn.keys()
    valid = torch.ones_like(clips, dtype=torch.bool)
    told = chain.measure(clips, chain(clips, drawn), drawn, valid)
    assert {"0_offset_level_db", "1_mu_law_snr_db", "3_chain_3_noise_snr_db"} <= told.keys()


def test_two_noises_of_one_chain_differ() -> None:
    drawn = line().draw(voices(2, RATE), generators(2))
    assert not torch.equal(drawn["1_noise"], drawn["3_noise"])
    assert not torch.equal(drawn["1_noise_snr_db"], drawn["3_noise_snr_db"])


def test_snr_holds_for_what_the_part_hears() -> None:
    chain = Chain([BandPass(RATE, high_hz=500), Noise(RATE, "white", 10.0)], sample_rate=RATE)
    clips = voices(3, RATE)
    drawn = chain.draw(clips, generators(3))
    told = chain.measure(clips, chain(clips, drawn), drawn, torch.ones_like(clips, dtype=torch.bool))
    assert torch.allclose(told["1_noise_snr_db"], torch.tensor(10.0).double(), atol=0.05)


def test_gradients() -> None:
    clips = 0.1 * torch.randn(2, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert line(1000).gradient == "exact"
    assert gradient_is_exact(line(1000), clips)
    band, gain = BandPass(1000, high_hz=200), Gain(1000, 6.0)
    through = Chain([band, Quantise(1000, 8), gain], sample_rate=1000)
    assert through.gradient == "straight-through"
    assert Chain([through], sample_rate=1000).gradient == "straight-through"
    assert Chain([band], sample_rate=1000).gradient == "exact"
    weights, slopes = torch.arange(100.0, dtype=torch.float64).view(2, 50), []
    for chain in (through, Chain([band, gain], sample_rate=1000)):  # backwards as if nothing were rounded
        leaf = clips.clone().requires_grad_()
        heard = chain(leaf, chain.draw(leaf, generators(2)))
        slopes.append(torch.autograd.grad((heard * weights).sum(), leaf)[0])
    assert torch.allclose(*slopes)


def test_describe_lists_the_parts() -> None:
    told = Chain([Gain(RATE, 3.0), MuLaw(RATE)], sample_rate=RATE, name="radio").describe()
    gain = {"channel": "gain", "gain_db": [3.0, 3.0]}
    assert told == {"channel": "radio", "parts": [gain, {"channel": "mu-law", "levels": 256}]}


def test_parts_of_another_rate_are_refused() -> None:
    with pytest.raises(ThreatModelError, match=r"part 1 \(gain\) is made for 16000 Hz, the chain for 8000 Hz"):
        Chain([MuLaw(RATE), Gain(16_000, 1.0)], sample_rate=RATE)


def test_as_a_condition() -> None:
    class Deaf(torch.nn.Module):
        spec = VictimSpec("deaf", ("a", "b"), sample_rate=RATE, clip_seconds=0.5)

    clips = voices(3, RATE)
    valid = torch.ones_like(clips, dtype=torch.bool)
    batch = Batch(("x", "y", "z"), {"audio": clips}, torch.zeros(3, dtype=torch.int64), {"audio": valid})
    found = Through(line()).apply(Deaf(), batch, torch.zeros(3, 2), 0)
    assert found.inputs["audio"].shape == clips.shape
    assert {"1_noise_snr_db", "measured_1_noise_snr_db", "measured_3_noise_snr_db"} <= found.columns.keys()
    assert all(len(column) == 3 for column in found.columns.values())
    one = Batch(("y",), {"audio": clips[1:2]}, batch.labels[1:2], {"audio": valid[1:2]})
    alone = Through(line()).apply(Deaf(), one, torch.zeros(1, 2), 0)
    assert torch.equal(alone.inputs["audio"][0], found.inputs["audio"][1])
    assert all(column[0] == found.columns[name][1] for name, column in alone.columns.items())
