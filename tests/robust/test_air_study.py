"""Rooms, corruptions and channels as conditions of a study, and claims about success over the air."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from robust.channels.presets import read_channel
from robust.study.channel_files import channel_identity
from robust.study.claims import Question, Term
from robust.study.conditions import AirKind, shortened
from robust.study.source import StudyError
from robust.study.values import Values
from robust.study.verdicts import decide
from tests.robust.studies import furnish, run_file, stored, tables

CHANNEL = """\
name: hall
channels:
  - {kind: noise, sound: white, snr_db: [0, 20]}
  - {kind: gain, gain_db: [-12, 0]}
"""
STUDY = """\
name: s
victims: {mine: {model: 'mine.py:build'}}
data: {d: {set: folder, root: recordings, split: test, limit: 12}}
conditions:
  air: {kind: air, channel: hall.yaml, eps: 0.02, steps: 8, draws: 2, situations: 3, checks: false}
  hum: {kind: corruption, corruption: white, severity: 5}
  hall: {kind: channel, channel: hall.yaml}
claims:
  - {name: eot, text: 'mine[air].eot >= mine[air].plain'}
  - {name: noise, text: 'mine[air].random < 0.9'}
  - {name: half, text: 'mine[air].eot >= mine[air].halfway'}
"""


def written(folder: Path, text: str = STUDY) -> Path:
    furnish(folder)
    (folder / "hall.yaml").write_text(CHANNEL)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_a_study_over_the_air(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_file(written(tmp_path))
    store = tmp_path / "runs" / "s"
    found = tables(store)
    csv = found["table.csv"].decode()
    assert "eot, held out rooms" in csv
    assert "random, no channel" in csv
    claims = {claim["name"]: claim for claim in json.loads(found["claims.json"])}
    assert claims["eot"]["a"] is not None
    assert claims["half"]["test"].startswith("paired t-test") or "costs the plain" in claims["half"]["reason"]
    assert claims["noise"]["b"] == 0.9
    run_file(tmp_path / "study.yaml")  # nothing is computed again
    assert tables(store) == found


def test_another_channel_file_is_another_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, STUDY.split("claims:")[0])
    run_file(path)
    cells = tmp_path / "runs" / "s" / "cells"
    before = {place.name for place in cells.iterdir()}
    (tmp_path / "hall.yaml").write_text(CHANNEL.replace("-12", "-20"))
    run_file(path)
    fresh = {place.name for place in cells.iterdir()} - before
    assert {name.split("--")[1] for name in fresh} == {"air", "hall"}


def test_another_recording_behind_the_same_channel_file_is_another_channel(tmp_path: Path) -> None:
    path, noise = tmp_path / "street.yaml", tmp_path / "noise"
    path.write_text("name: street\nchannels:\n  - {kind: noise, sound: folder, folder: noise, snr_db: 5}\n")
    noise.mkdir()
    absent = channel_identity(str(path))
    found = [absent]
    for content in (b"one", b"two"):
        (noise / "car.wav").write_bytes(content)
        found.append(channel_identity(str(path)))
        assert channel_identity(str(path)) == found[-1]
    (noise / "car.wav").rename(noise / "bus.wav")
    found.append(channel_identity(str(path)))
    (noise / ".hidden").write_bytes(b"")
    assert channel_identity(str(path)) == found[-1]
    assert len({json.dumps(one) for one in found}) == 4
    assert channel_identity("room") == {"text": read_channel("room")}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("channel: hall.yaml, eps", "channel: hall.yml, eps", "hall.yml"),
        ("channel: hall.yaml, eps", "channel: kitchen, eps", "kitchen"),
        ("severity: 5", "severity: 6", "severity"),
        ("corruption: white", "corruption: wite", "white"),
        ("draws: 2", "draws: 0", "draws"),
        ("mine[air].random < 0.9", "mine[air].robust < 0.9", "over the air, ask for"),
        ("mine[air].random < 0.9", "mine[hum].eot < 0.9", "of the kind 'air' alone"),
        ("mine[air].eot >= mine[air].plain", "mine[air].eot >= mine[hum].robust", "compared with another"),
    ],
)
def test_mistakes_are_told_by_line(
    old: str, new: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, STUDY.replace(old, new))
    with pytest.raises(StudyError, match=r"study\.yaml:\d+:.*" + words):
        run_file(path)
    assert not (tmp_path / "runs").exists()


def test_successes_are_tested_by_clip(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    unperturbed = draw.random((30, 8)) < 0.9
    eot, plain = draw.random((30, 8)) < 0.3, draw.random((30, 8)) < 0.6
    columns = {
        "unperturbed_held_out_rooms": unperturbed.tolist(),
        "eot_held_out_rooms": eot.tolist(),
        "plain_held_out_rooms": plain.tolist(),
        "clean_correct": [True] * 30,
    }
    cell = stored(tmp_path, "a", "room", columns, kind="air")
    asked = Question("c", "t", "w", "d", Term("a", "room", "eot"), ">", Term("a", "room", "plain"))
    found = decide([asked], Values([cell], [0]), "holm", 0.05)[0]
    won = [unperturbed & ~version for version in (eot, plain)]
    tests = [
        stats.ttest_rel(*(version.sum(axis=axis) / unperturbed.sum(axis=axis).mean() for version in won))
        for axis in (0, 1)
    ]
    assert found.a == pytest.approx((unperturbed & ~eot).sum() / unperturbed.sum())
    assert found.effect == pytest.approx(found.a - (unperturbed & ~plain).sum() / unperturbed.sum())
    assert found.p == pytest.approx(max(test.pvalue for test in tests))
    intervals = [test.confidence_interval() for test in tests]
    assert found.low == pytest.approx(min(ends.low for ends in intervals))
    assert found.high == pytest.approx(max(ends.high for ends in intervals))
    assert found.verdict == "supported"


def test_one_room_alone_decides_nothing(tmp_path: Path) -> None:
    """Many clips agree on a difference that one of five rooms makes by itself."""
    unperturbed, plain = np.ones((100, 5), dtype=bool), np.ones((100, 5), dtype=bool)
    eot = plain.copy()
    eot[:80, 0] = False
    columns = {
        "unperturbed_held_out_rooms": unperturbed.tolist(),
        "eot_held_out_rooms": eot.tolist(),
        "plain_held_out_rooms": plain.tolist(),
        "clean_correct": [True] * 100,
    }
    cell = stored(tmp_path, "a", "room", columns, kind="air")
    asked = Question("c", "t", "w", "d", Term("a", "room", "eot"), ">", Term("a", "room", "plain"))
    found = decide([asked], Values([cell], [0]), "holm", 0.05)[0]
    assert found.verdict == "undecided"
    assert "over rooms" in found.test


def test_nothing_lost_is_nothing_won_back(tmp_path: Path) -> None:
    stands = {"unperturbed": True, "plain": False, "eot": False}
    columns = {
        f"{version}_{place}": [[value] * 4 if place == "held_out_rooms" else value] * 9
        for version, value in stands.items()
        for place in ("no_channel", "held_out_rooms")
    }
    cell = stored(tmp_path, "a", "room", {**columns, "clean_correct": [True] * 9}, kind="air")
    asked = Question("c", "t", "w", "d", Term("a", "room", "eot"), ">=", Term("a", "room", "halfway"))
    found = decide([asked], Values([cell], [0]), "holm", 0.05)[0]
    assert found.verdict == "undecided"
    assert "costs the plain attack nothing" in found.reason


def test_a_smoke_run_counts_to_one() -> None:
    short = shortened(AirKind(kind="air", plain_steps=100, draws=8))
    assert isinstance(short, AirKind)
    assert (short.steps, short.plain_steps, short.draws, short.situations, short.checks) == (1, 1, 1, 1, False)
