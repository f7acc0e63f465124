"""Convolution with cached spectra, and clips in rooms: against SciPy, finite differences and each other."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from attacks.errors import ThreatModelError
from robust.channels.bank import RoomBank
from robust.channels.condition import Through, heard_through
from robust.channels.convolution import Responses, convolve, fast_length
from robust.channels.rooms import Reverberation
from robust.seeds import generators_for
from robust.types import Batch
from robust.victims import Victim
from tests.robust.test_channels_rooms_simulation import decay_by_hand

RATE = 8_000


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decaying(count: int = 6, length: int = 900) -> Tensor:
    """Responses whose RT60 is 50 ms and more, direct path 1 at once; the first is no room at all."""
    rt60_s = 0.05 + 0.01 * torch.arange(count)[:, None]
    tails = noise(count, length, seed=1) * 10 ** (-3 * torch.arange(length) / RATE / rt60_s) * 0.2
    tails[:, 0] = 1
    tails[0, 1:] = 0
    return tails


def bank() -> RoomBank:
    responses = decaying()
    table = [
        {"split": split, "room": room} for split, count in (("train", 4), ("held-out", 2)) for room in range(count)
    ]
    return RoomBank(responses[:4], responses[4:], RATE, table, {"rooms": "toys"})


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("samples", [300, 2000])  # shorter than the responses, and longer
def test_convolution_agrees_with_scipy(samples: int, dtype: torch.dtype, atol: float) -> None:
    clips, responses = noise(5, samples, dtype=dtype), decaying()
    index = torch.tensor([3, 0, 5, 3, 1])
    expected = np.stack(
        [
            signal.oaconvolve(clip, response)[:samples]
            for clip, response in zip(clips.double().numpy(), responses[index].double().numpy(), strict=True)
        ]
    )
    kept = Responses(responses)
    heard = kept.one_each(clips, index)
    assert heard.dtype == dtype
    np.testing.assert_allclose(heard.numpy(), expected, atol=atol)
    np.testing.assert_allclose(convolve(clips, responses[index].to(dtype)).numpy(), expected, atol=atol)
    for at_once in (1, 4, 100):
        pieces = list(kept.every(clips, at_once=at_once))
        assert torch.equal(torch.cat([rows for rows, _ in pieces]), torch.arange(6))
        assert max(len(rows) for rows, _ in pieces) <= at_once
        every = torch.cat([heard for _, heard in pieces])
        np.testing.assert_allclose(every[index, torch.arange(5)].numpy(), expected, atol=atol)
    (rows, some), *_ = kept.every(clips[:1], torch.tensor([4, 2]))
    assert rows.tolist() == [4, 2]
    torch.testing.assert_close(some[0, 0], every[4, 0], atol=atol, rtol=0)


def test_gradients_agree_with_finite_differences() -> None:
    kept, clips = Responses(decaying(length=12)), noise(3, 10, dtype=torch.float64).requires_grad_()
    index = torch.tensor([2, 5, 1])
    for heard in (lambda x: kept.one_each(x, index), lambda x: next(iter(kept.every(x)))[1]):
        assert torch.autograd.gradcheck(heard, (clips,))
        assert torch.autograd.gradgradcheck(heard, (clips,))


def test_gradients_over_all_rooms_are_those_of_torch() -> None:
    kept, clips, weights = Responses(decaying()), noise(3, 1000), noise(6, 3, 1000, seed=2)
    ours, theirs = clips.clone().requires_grad_(), clips.clone().requires_grad_()
    for rows, heard in kept.every(ours, at_once=4):
        (heard * weights[rows]).square().sum().backward()
    for row in range(6):
        (convolve(theirs, kept.samples[row : row + 1]) * weights[row]).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)


def test_spectra_made_without_gradients_serve_those_that_want_them() -> None:
    kept, clips, index = Responses(decaying()), noise(4, 300), torch.arange(4)
    with torch.inference_mode():
        kept.one_each(clips, index)
    kept.one_each(clips.requires_grad_(), index).sum().backward()
    assert clips.grad is not None


def test_lengths_are_fast_and_long_enough() -> None:
    for samples in (1, 2, 21, 39, 100, 11_999, 23_999, 55_999, 175_999):
        length = fast_length(samples)
        assert samples <= length <= 1.15 * samples
        assert samples < 1000 or length % 64 == 0
        for prime in (2, 3, 5):
            while length % prime == 0:
                length //= prime
        assert length == 1


def test_spectra_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, clips = Responses(decaying()), noise(4, 1000)
    kept.one_each(clips, torch.zeros(4).long())
    rows, transform = [], torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda x, n: rows.append(len(x)) or transform(x, n))
    for _ in range(3):
        kept.one_each(clips, torch.ones(4).long())
    assert rows == [4, 4, 4]
    kept.one_each(clips[:, :999], torch.ones(4).long())
    kept.one_each(clips[:, :999].double(), torch.ones(4).long())
    assert sum(rows) == 12 + 2 * (6 + 4)


def test_a_clip_is_in_the_room_it_drew_and_is_told_of_it() -> None:
    rooms = Reverberation(bank())
    clips, ids = noise(40, 1000), [f"clip/{n}" for n in range(40)]
    drawn = rooms.draw(clips, generators_for(0, ids, rooms.name))
    assert drawn["room"].dtype == torch.int64
    assert set(drawn["room"].tolist()) == set(range(4))
    again = rooms.draw(clips[7:9], generators_for(0, ids[7:9], rooms.name))
    assert torch.equal(again["room"], drawn["room"][7:9])
    assert not torch.equal(rooms.draw(clips, generators_for(1, ids, rooms.name))["room"], drawn["room"])
    heard = rooms(clips, drawn)
    told = rooms.measure(clips, heard, drawn, torch.ones_like(clips, dtype=torch.bool))
    for row in range(0, 40, 7):
        response = bank().train[drawn["room"][row]].numpy()
        np.testing.assert_allclose(heard[row], signal.oaconvolve(clips[row], response)[:1000], atol=2e-5)
        if drawn["room"][row]:
            assert float(told["rt60_s"][row]) == pytest.approx(decay_by_hand(response), rel=0.02)
            energy = np.square(response.astype(np.float64))
            assert float(told["drr_db"][row]) == pytest.approx(10 * math.log10(energy[:21].sum() / energy[21:].sum()))
            assert float(told["c50_db"][row]) == pytest.approx(10 * math.log10(energy[:401].sum() / energy[401:].sum()))
    json.dumps(rooms.describe())
    assert rooms.describe() != Reverberation(bank(), split="held-out").describe()
    assert Reverberation(bank(), split="held-out")(clips, {"room": torch.ones(40).long()}).isfinite().all()


def test_no_room_changes_no_bit() -> None:
    rooms, clips = Reverberation(bank()), noise(3, 1000)
    clips[0] = 0
    clips[0, 0] = 1
    heard = rooms(clips, {"room": torch.tensor([0, 0, 2])})
    assert torch.equal(heard[:2], clips[:2])
    assert not torch.equal(heard[2], clips[2])
    none = rooms.measure(clips, heard, {"room": torch.tensor([0])}, torch.ones_like(clips, dtype=torch.bool))
    assert (float(none["rt60_s"]), float(none["drr_db"])) == (0.0, math.inf)


def test_neighbours_change_nothing() -> None:
    rooms, clips = Reverberation(bank()), noise(24, 1500)
    drawn = {"room": torch.arange(24) % 4}
    whole = heard_through(rooms, clips, drawn, None)
    for few in (slice(0, 1), slice(3, 8), slice(8, 24)):
        part = heard_through(rooms, clips[few], {"room": drawn["room"][few]}, None)
        assert torch.equal(part, whole[few]), "to the bit in full lanes"
        torch.testing.assert_close(rooms(clips[few], {"room": drawn["room"][few]}), whole[few], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_and_padding(dtype: torch.dtype) -> None:
    rooms, clips = Reverberation(bank()), noise(3, 1000, dtype=dtype)
    valid = torch.ones(3, 1000, dtype=torch.bool)
    valid[1, 400:] = False
    clips[0] = 0
    clips.requires_grad_()
    drawn = {"room": torch.tensor([1, 2, 3])}
    heard = rooms(clips, drawn, valid)
    assert heard.dtype == dtype
    assert (heard[0] == 0).all()
    assert torch.equal(heard[1, 400:], clips[1, 400:])
    heard.square().sum().backward()
    assert clips.grad is not None
    assert clips.grad.isfinite().all()
    assert (clips.grad[0] == 0).all()
    other = clips.detach().clone()
    other[1, 400:] = 7  # padding is not heard
    assert torch.equal(rooms(other, drawn, valid)[1, :400], heard[1, :400].detach())


def test_gradient_through_the_channel() -> None:
    rooms, clips = Reverberation(bank()), noise(3, 9, dtype=torch.float64).requires_grad_()
    valid = torch.ones(3, 9, dtype=torch.bool)
    valid[2, 6:] = False
    assert torch.autograd.gradcheck(lambda x: rooms(x, {"room": torch.tensor([0, 3, 2])}, valid), (clips,))


class Deaf(torch.nn.Module):
    """Something that takes sound."""

    def forward(self, audio: Tensor) -> Tensor:
        return torch.stack([audio.mean(dim=1), audio.std(dim=1)], dim=1)


def test_as_a_condition_rooms_are_written_down() -> None:
    victim = Victim.wrap(Deaf(), sample_rate=RATE, labels=("a", "b"))
    clips = noise(3, 1000) * 0.1
    batch = Batch(("a", "b", "c"), {"audio": clips}, torch.zeros(3).long(), {"audio": torch.ones(1, 1).bool()})
    found = Through(Reverberation(bank())).apply(victim, batch, torch.zeros(3, 2), 0)
    assert found.columns.keys() == {"room", "measured_rt60_s", "measured_drr_db", "measured_c50_db", "over_range"}
    assert all(isinstance(room, int) for room in found.columns["room"])
    other = Victim.wrap(Deaf(), sample_rate=16_000, labels=("a", "b"))
    with pytest.raises(ThreatModelError, match="made for 8000 Hz"):
        Through(Reverberation(bank())).apply(other, batch, torch.zeros(3, 2), 0)


def test_refuses_a_split_that_is_not_there() -> None:
    with pytest.raises(ThreatModelError, match="Did you mean 'train'"):
        Reverberation(bank(), split="trains")
