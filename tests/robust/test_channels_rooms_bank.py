"""Banks of rooms: apart, the same however they were made, and made once."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.errors import ThreatModelError
from robust.channels import bank as bank_module
from robust.channels import rooms as rooms_module
from robust.channels.bank import RoomBank, check_apart, load_bank
from robust.channels.response_cache import path_of
from robust.channels.room_sets import ROOM_SETS, RoomSet, draw_geometry
from robust.channels.rooms import room_response
from robust.channels.simulation import Geometry
from tests.robust.test_channels_rooms_simulation import decay_by_hand

RATE = 8_000
CLOSETS = RoomSet("closets", (2, 3), (2, 3), (2, 2.5), rt60_s=(0.1, 0.16), apart_m=0.7)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of one's own; what rooms are kept in memory is forgotten."""
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path))
    room_response.cache_clear()
    yield tmp_path
    room_response.cache_clear()


def small(**changed: object) -> RoomBank:
    return load_bank(CLOSETS, **{"train": 5, "held_out": 3, "sample_rate": RATE, "workers": 1} | changed)


def never(*_: object, **__: object) -> object:
    raise AssertionError("simulated again")


def test_a_bank_is_what_its_table_says() -> None:
    bank = small()
    assert bank.split("train").shape == (5, bank.train.shape[1])
    assert bank.split("held-out").shape[0] == 3
    assert bank.train.dtype == torch.float32
    assert [(row["split"], row["room"]) for row in bank.table] == [
        *(("train", room) for room in range(5)),
        *(("held-out", room) for room in range(3)),
    ]
    for split in ("train", "held-out"):
        for response, row in zip(bank.split(split), bank.rows(split), strict=True):
            samples = response.numpy()
            assert row["rt60_s_measured"] == pytest.approx(decay_by_hand(samples[: row["samples"]]), rel=0.02)
            assert row["rt60_s_measured"] == pytest.approx(row["rt60_s"], rel=0.2)
            assert 0.1 <= row["rt60_s"] <= 0.16
            energy = np.square(samples.astype(np.float64))
            assert row["drr_db"] == pytest.approx(10 * np.log10(energy[:21].sum() / energy[21:].sum()), abs=1e-3)
            assert row["c50_db"] == pytest.approx(10 * np.log10(energy[:401].sum() / energy[401:].sum()), abs=1e-3)
            assert (samples[row["samples"] :] == 0).all()
    json.dumps([bank.describe(), list(bank.table)])
    energies = small(normalise="energy").train.double().square().sum(dim=1)
    torch.testing.assert_close(energies, torch.ones(5, dtype=torch.float64), atol=1e-5, rtol=0)


def test_no_geometry_and_no_seed_is_on_both_sides() -> None:
    bank = small(train=12, held_out=12)
    sides = {split: {tuple(row["size_m"]) for row in bank.rows(split)} for split in ("train", "held-out")}
    assert not sides["train"] & sides["held-out"]
    assert len({row["seed"] for row in bank.table}) == 24
    other = small(train=12, held_out=12, seed=1)
    assert not sides["train"] & {tuple(row["size_m"]) for row in other.rows("held-out")}
    shared = [dict(bank.rows("train")[0]), {**bank.rows("train")[0], "split": "held-out", "seed": 0}]
    with pytest.raises(AssertionError, match="share size_m"):
        check_apart(shared)


def test_a_room_is_the_same_whatever_others_there_are() -> None:
    few, more = small(train=2, held_out=1), small()
    length = few.train.shape[1]
    assert torch.equal(few.train, more.train[:2, :length])
    assert torch.equal(few.held_out, more.held_out[:1, :length])
    assert not torch.equal(more.train, small(seed=1).train)


def test_workers_change_no_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone = small(workers=1)
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "other"))
    together = small(workers=2)
    assert torch.equal(alone.train, together.train)
    assert torch.equal(alone.held_out, together.held_out)
    assert alone.table == together.table


def test_a_bank_is_simulated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = small()
    monkeypatch.setattr(bank_module, "simulated_room", never)
    again = small()
    assert torch.equal(first.train, again.train)
    assert first.table == again.table
    for changed in ({"seed": 1}, {"train": 6}, {"sample_rate": 8_001}, {"normalise": "energy"}, {"method": "hybrid"}):
        with pytest.raises(AssertionError, match="simulated again"):
            small(**changed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
        lambda whole: b"not an archive",
    ],
    ids=["killed half-way", "empty", "one bit", "something else"],
)
def test_what_is_damaged_is_made_anew(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    first = small(train=2, held_out=1)
    (path,) = (cache / "rooms").glob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    (cache / "rooms" / f".{path.name}.half").write_bytes(whole[:100])  # what a killed writer leaves
    again = small(train=2, held_out=1)
    assert torch.equal(first.train, again.train)
    assert first.table == again.table
    assert path.read_bytes() == whole


def build(_: int) -> tuple[bytes, list[dict[str, object]]]:
    found = small(train=3, held_out=1)
    return found.train.numpy().tobytes(), list(found.table)


def test_two_processes_at_once_do_no_harm(cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:  # daemons: they simulate by themselves
        one, other = pool.map(build, range(2), chunksize=1)
    assert one == other
    assert build(0) == one
    assert len(list((cache / "rooms").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="Set ROBUST_CACHE"):
        assert len(small(train=1, held_out=0).train) == 1


def test_one_room_is_kept_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry((2.5, 3.0, 2.4), (0.6, 0.7, 1.0), (1.9, 2.0, 1.4))
    first = room_response(geometry, 0.2, RATE)
    room_response.cache_clear()
    monkeypatch.setattr(rooms_module, "simulate", never)
    again = room_response(geometry, 0.2, RATE)
    assert torch.equal(first.samples, again.samples)
    assert (first.rt60_s, first.drr_db, first.c50_db) == (again.rt60_s, again.drr_db, again.c50_db)
    with pytest.raises(AssertionError, match="simulated again"):
        room_response(geometry, 0.21, RATE)


def test_files_are_named_by_their_settings(cache: Path) -> None:
    one, other = {"a": 1, "b": [2.0]}, {"b": [2.0], "a": 1}
    assert path_of(one) == path_of(other)
    assert path_of(one).parent == cache / "rooms"
    assert path_of(one) != path_of({"a": 1, "b": [2.5]})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: load_bank("generick"), "Did you mean 'generic'"),
        (lambda: small(train=0, held_out=0), "1 room or more"),
        (lambda: small(train=-1), "given train=-1"),
        (lambda: small(sample_rate=0), "1000 Hz"),
        (lambda: small(method="images"), "Did you mean 'image'"),
        (lambda: small(normalise="peak"), "Allowed: direct, energy"),
        (lambda: small(train=1, held_out=0).split("held-out"), "no held-out rooms; make one with some: held_out="),
        (lambda: small(train=1, held_out=0).split("test"), "Allowed: held-out, train"),
        (lambda: load_bank(RoomSet("one", (3, 3), (3, 3), (3, 3), rt60_s=(0.2, 0.2))), "have one size"),
        (
            lambda: load_bank(RoomSet("two", (3, 5), (4, 4), (4, 4), absorption=0.5, size_step_m=2.0), workers=1),
            "no size for the split",
        ),
        (
            lambda: RoomSet("grid", (3.2, 3.8), (3, 4), (2, 3), absorption=0.5, size_step_m=1.0),
            "x_m .*no multiple of 1",
        ),
        (lambda: RoomSet("wall", (3, 4), (3, 4), (2, 3), absorption=0.5, from_wall_m=math.nan), "from_wall_m .*nan"),
        (lambda: RoomSet("near", (3, 4), (3, 4), (2, 3), absorption=0.5, apart_m=-1.0), "apart_m .*-1"),
        (lambda: RoomSet("step", (3, 4), (3, 4), (2, 3), absorption=0.5, place_step_m=math.nan), "place_step_m .*nan"),
    ],
)
def test_refuses_what_cannot_be(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ThreatModelError, match=words):
        make()


@pytest.mark.parametrize("name", ["generic", "adapted"])
def test_named_sets_ring_as_long_as_asked(name: str) -> None:
    bank = load_bank(name, train=6, held_out=2, sample_rate=RATE, seed=1, workers=1)
    for response, row in zip([*bank.train, *bank.held_out], bank.table, strict=True):
        by_hand = decay_by_hand(response.numpy()[: row["samples"]])
        assert by_hand == pytest.approx(row["rt60_s"], rel=0.25)
        assert row["rt60_s_measured"] == pytest.approx(by_hand, rel=0.02)


def test_a_room_turned_on_its_side_is_not_held_out_from_itself() -> None:
    """Of sets on a grid: 3 x 4 x 4 m and 4 x 4 x 3 m are one room."""
    sides = {
        split: {
            tuple(sorted(draw_geometry(ROOM_SETS["qin"], np.random.default_rng(seed), split).size))
            for seed in range(150)
        }
        for split in ("train", "held-out")
    }
    assert all(sides.values())
    assert not sides["train"] & sides["held-out"]


def test_places_are_inside_even_where_walls_may_be_touched() -> None:
    touching = RoomSet("touching", (3, 3.1), (3, 3.1), (2, 2.1), absorption=0.5, from_wall_m=0.0, place_step_m=1.0)
    for seed in range(50):
        draw_geometry(touching, np.random.default_rng(seed))  # a place on a wall is refused by Geometry


@pytest.mark.parametrize(("place", "byte"), [(8, 99), (6, 1)])
def test_flags_of_methods_and_passwords_are_damage_too(cache: Path, place: int, byte: int) -> None:
    """Of the archive's directory; zipfile has an error of another kind for each."""
    whole = small()
    (path,) = cache.rglob("*.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + place + 2] = byte
    path.write_bytes(bytes(content))
    assert torch.equal(small().train, whole.train)
