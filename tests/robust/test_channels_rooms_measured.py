"""Measured responses: files written here, of several rates, channels and faults."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from attacks.errors import ThreatModelError
from robust.channels.measured import load_responses
from robust.channels.rooms import Reverberation
from robust.errors import DataError
from tests.robust.test_channels_rooms_simulation import decay_by_hand

RATE = 16_000


def response(rate: int = RATE, rt60_s: float = 0.25, seed: int = 0, seconds: float = 0.5) -> NDArray[np.float64]:
    """A direct path of 0.1 after 12.5 ms, a stronger reflection 6 ms later, and a decaying tail."""
    time = np.arange(round(seconds * rate)) / rate
    tail = np.random.default_rng(seed).normal(size=len(time)) * 10 ** (-3 * time / rt60_s)
    found = np.zeros(len(time))
    direct, reflected = round(0.0125 * rate), round(0.0185 * rate)
    found[reflected:] = 0.02 * tail[: len(time) - reflected]
    found[direct] = 0.1
    found[reflected] = -0.3
    return found


def write(folder: Path, name: str, samples: NDArray[np.float64], rate: int = RATE, subtype: str = "FLOAT") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        write(tmp_path, f"hall/{number}.wav", response(seed=number))
    (tmp_path / "notes.txt").write_text("not audio")
    write(tmp_path, ".hidden/6.wav", response(seed=6))
    return tmp_path


def test_the_direct_path_is_the_onset_and_not_the_peak(folder: Path) -> None:
    bank = load_responses(folder)
    assert (len(bank.train), len(bank.held_out)) == (4, 1)
    for found, row in zip([*bank.train, *bank.held_out], bank.table, strict=True):
        assert row["onset_s"] == pytest.approx(0.0125, abs=1 / RATE)
        original = response(seed=int(Path(row["file"]).stem))[200:]
        np.testing.assert_allclose(found[: row["samples"]].numpy(), original[: row["samples"]] * 10, atol=1e-6)
        assert float(found[0]) == pytest.approx(1, abs=1e-6)
        assert abs(int(found.abs().argmax()) - 96) < 1
        assert row["rt60_s"] is None
        assert row["rt60_s_measured"] == pytest.approx(decay_by_hand(original, RATE), rel=0.02)
    energy = load_responses(folder, normalise="energy")
    torch.testing.assert_close(energy.train.double().square().sum(dim=1), torch.ones(4, dtype=torch.float64))
    json.dumps([bank.describe(), list(bank.table)])


@pytest.mark.parametrize(("rate", "ending", "subtype"), [(44_100, "wav", "PCM_24"), (8_000, "flac", "PCM_16")])
def test_any_rate_and_any_channel(tmp_path: Path, rate: int, ending: str, subtype: str) -> None:
    stereo = np.stack([response(rate, rt60_s=0.1, seed=1), response(rate, rt60_s=0.25, seed=2)], axis=1)
    write(tmp_path, f"one.{ending}", stereo, rate, subtype)
    found = [load_responses(tmp_path, channel=channel, held_out=0) for channel in (0, 1)]
    for bank, rt60_s in zip(found, (0.1, 0.25), strict=True):
        (row,) = bank.table
        assert row["file_rate"] == rate
        assert row["rt60_s_measured"] == pytest.approx(rt60_s, rel=0.25)
        assert row["onset_s"] == pytest.approx(0.0125, abs=3e-4)
        assert abs(int(bank.train[0].abs().argmax()) - 96) < 5
    assert not torch.equal(*(bank.train[0, :500] for bank in found))


def test_the_tail_ends_in_the_noise_of_the_recording(tmp_path: Path) -> None:
    quiet = response(rt60_s=0.25, seconds=3.0)
    write(tmp_path, "noisy.wav", quiet + 1e-4 * np.random.default_rng(9).normal(size=len(quiet)))
    write(tmp_path, "clean.wav", quiet)
    clean, noisy = load_responses(tmp_path, held_out=0).table
    assert clean["samples"] < 0.35 * RATE  # 60 dB
    assert 0.08 * RATE < noisy["samples"] < 0.3 * RATE
    assert noisy["rt60_s_measured"] == pytest.approx(clean["rt60_s_measured"], rel=0.15)


def test_long_responses_are_cut_and_the_table_says_so(tmp_path: Path) -> None:
    write(tmp_path, "cathedral.wav", response(rt60_s=2.0, seconds=3.0))
    bank = load_responses(tmp_path, held_out=0, longest_seconds=1.0)
    assert bank.train.shape == (1, RATE)
    assert 0.8 < bank.table[0]["cut_s"] < 2.0
    clips = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    heard = Reverberation(bank)(clips, {"room": torch.zeros(2).long()})
    assert heard.shape == clips.shape
    expected = np.convolve(clips[0].double().numpy(), bank.train[0].double().numpy())[:4000]
    np.testing.assert_allclose(heard[0].numpy(), expected, atol=1e-4)


def test_rooms_are_held_out_whole_and_by_seed(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path, f"room{number // 3}/{number}.wav", response(seed=number, seconds=0.2))
    by_file = [load_responses(tmp_path, held_out=0.25, seed=seed) for seed in (0, 0, 1, 2)]
    held = [frozenset(row["file"] for row in bank.rows("held-out")) for bank in by_file]
    assert {len(names) for names in held} == {3}
    assert held[0] == held[1]
    assert len(set(held)) > 1
    for seed in range(3):
        bank = load_responses(tmp_path, held_out=0.25, seed=seed, rooms_are="folder")
        rooms = {split: {row["file"].split("/")[0] for row in bank.rows(split)} for split in ("train", "held-out")}
        assert (len(rooms["train"]), len(rooms["held-out"])) == (3, 1)
        assert not rooms["train"] & rooms["held-out"]
    assert len(load_responses(tmp_path, held_out=1).held_out) == 12
    assert by_file[0].describe() != by_file[2].describe()
    assert by_file[0].describe() == by_file[1].describe()


def spoil(folder: Path, name: str) -> None:
    """Makes one file of the folder a bad one."""
    path = folder / "hall" / "3.wav"
    if name == "zero":
        soundfile.write(path, np.zeros(4000), RATE)
    elif name == "nan":
        soundfile.write(path, np.full(4000, math.nan), RATE, subtype="FLOAT")
    elif name == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif name == "text":
        path.write_text("version https://example.org/pointer")
    elif name == "rate":
        soundfile.write(path, response(), 100)
    elif name == "same":
        for other in (0, 1, 2, 4):
            (folder / "hall" / f"{other}.wav").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("zero", "3.wav has no energy in channel 0"),
        ("nan", "3.wav holds NaN"),
        ("cut", "3.wav is truncated"),
        ("text", "3.wav is not audio"),
        ("rate", "sample rate of 100 Hz"),
        ("same", "are the same recording"),
    ],
)
def test_refuses_bad_files(folder: Path, fault: str, words: str) -> None:
    spoil(folder, fault)
    with pytest.raises(DataError, match=words):
        load_responses(folder)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda folder: load_responses(folder / "none"), DataError, "does not exist"),
        (lambda folder: load_responses(folder / "notes.txt"), DataError, "is a file"),
        (lambda folder: load_responses(folder, channel=2), DataError, "has one channel, and no channel 2"),
        (lambda folder: load_responses(folder, channel=-1), ThreatModelError, "from 0"),
        (lambda folder: load_responses(folder, held_out=1.5), ThreatModelError, "0 to 1"),
        (lambda folder: load_responses(folder, rooms_are="folder"), DataError, "holds one room"),
        (lambda folder: load_responses(folder, rooms_are="folders"), ThreatModelError, "Did you mean 'folder'"),
        (lambda folder: load_responses(folder, normalise="energie"), ThreatModelError, "Did you mean 'energy'"),
        (lambda folder: load_responses(folder, sample_rate=0), ThreatModelError, "1000 Hz"),
        (lambda folder: load_responses(folder, longest_seconds=0), ThreatModelError, "above 0"),
    ],
)
def test_refuses_what_cannot_be(folder: Path, make: Callable[[Path], object], kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        make(folder)


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("none here")
    with pytest.raises(DataError, match="holds no audio file"):
        load_responses(tmp_path)
