"""Over the air: who stands where, counted right, in situations that all versions share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import robust
from attacks.channel import Channel, Parameters, drawn, where_valid
from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.cli import app
from robust.errors import RobustError
from robust.evaluation.air import OverTheAir
from robust.evaluation.air_checks import _stronger
from robust.evaluation.air_summary import (
    air_scores,
    halfway_by_clip,
    held_out_score,
    success_by_clip,
    success_by_room,
)
from robust.evaluation.conditions import Attack
from robust.metrics.classification import wilson
from robust.over_the_air import air
from tests.robust.toys import ToyData, victim


class Fading(Channel):
    """Each half of the clip fades by a gain of its own."""

    name = "fading"

    def __init__(self, sample_rate: int, low: float = 0.3, part: str = "train") -> None:
        super().__init__(sample_rate)
        self.low, self.part = low, part

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        return {name: drawn((self.low, 1.0), generators, clips) for name in ("first", "second")}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        half = clips.shape[1] // 2
        first, second = (parameters[name][:, None].to(clips) for name in ("first", "second"))
        return where_valid(torch.cat([clips[:, :half] * first, clips[:, half:] * second], dim=1), clips, valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "low": self.low, "part": self.part}


def channels(rate: int) -> tuple[Channel, Channel]:
    return Fading(rate), Fading(rate, part="held-out")


def table(unperturbed: list[list[bool]], eot: list[list[bool]], plain: list[list[bool]]) -> pd.DataFrame:
    """Records of clips x rooms, the same in both splits; without a channel every clip stands but under attack."""
    columns: dict[str, Any] = {}
    for version, found in (("unperturbed", unperturbed), ("random", unperturbed), ("plain", plain), ("eot", eot)):
        columns[f"{version}_no_channel"] = [version in ("unperturbed", "random")] * len(found)
        for place in ("train_rooms", "held_out_rooms"):
            columns[f"{version}_{place}"] = found
    return pd.DataFrame(columns)


def test_success_counts_pairs_in_which_the_unperturbed_clip_stands() -> None:
    records = table(
        unperturbed=[[True, True, False], [True, False, False]],
        eot=[[False, True, False], [False, True, False]],
        plain=[[True, True, True], [False, False, False]],
    )
    told = air_scores(records)
    eot, plain = (told[version]["held_out_rooms"] for version in ("eot", "plain"))
    assert eot["success"]["score"] == pytest.approx(2 / 3)  # of three pairs that count, two are broken
    assert plain["success"]["score"] == pytest.approx(1 / 3)
    assert eot["pairs"] == 3
    assert eot["standing"]["score"] == pytest.approx(2 / 6)
    assert told["controls"]["random"]["held_out_rooms"]["success"]["score"] == 0
    assert told["controls"]["unperturbed"]["held_out_rooms"]["standing"]["score"] == pytest.approx(0.5)
    assert success_by_clip(records, "eot", "held_out_rooms").mean() == pytest.approx(2 / 3)
    np.testing.assert_allclose(success_by_room(records, "eot", "held_out_rooms"), [1.0, 0.0])
    # Without a channel the plain attack wins on both clips; the air costs it two thirds, of which EOT wins back half.
    assert told["recovered"]["score"] == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert halfway_by_clip(records).mean() == pytest.approx((1 + 1 / 3) / 2)


def test_worst_decile_is_that_of_the_rooms_where_it_succeeds_least() -> None:
    rooms = 20
    unperturbed = [[True] * rooms for _ in range(10)]
    eot = [[clip >= room for room in range(rooms)] for clip in range(10)]  # room r is broken on min(9 - ... ) clips
    records = table(unperturbed, eot, unperturbed)
    by_room = success_by_room(records, "eot", "held_out_rooms")
    expected = np.sort([sum(clip < room for clip in range(10)) / 10 for room in range(rooms)])
    np.testing.assert_allclose(np.sort(by_room), expected)
    assert air_scores(records)["eot"]["worst_decile"]["held_out_rooms"] == pytest.approx(expected[:2].mean())


def test_where_nothing_varies_the_interval_is_still_one() -> None:
    everywhere, nowhere = ([[stands] * 20 for _ in range(10)] for stands in (True, False))
    told = air_scores(table(everywhere, nowhere, everywhere))
    eot, plain = (told[version]["held_out_rooms"]["success"] for version in ("eot", "plain"))
    assert (plain["score"], plain["low"], plain["high"]) == pytest.approx((0, *wilson(0, 10)))  # 10 clips, 20 rooms
    assert (eot["score"], eot["low"], eot["high"]) == pytest.approx((1, *wilson(10, 10)))
    score = held_out_score(table(everywhere, nowhere, everywhere), "plain")
    assert score.low == pytest.approx(wilson(10, 10)[0])


def test_a_channel_without_parameters_is_heard_and_checked() -> None:
    """Three clips in lanes of eight, through a channel that draws nothing."""

    class Softer(Fading):
        name = "softer"

        def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
            return {}

        def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
            return where_valid(0.9 * clips, clips, valid)

    model = victim()
    way = Softer(model.spec.sample_rate)
    run = air(model, ToyData(3, model), channel=(way, way), eps=0.05, steps=2, draws=2, situations=2)
    assert next(check for check in run.checks if check.name == "S8 gradients").verdict == "pass"


def test_targeted_success_counts_clips_that_are_right_and_of_another_class() -> None:
    """What a room has spoilt already, and what is of the class wanted, is no merit of an attack."""
    model = victim()
    data = ToyData(24, model)
    train, held_out = channels(model.spec.sample_rate)
    told = air(model, data, channel=(train, held_out), eps=0.3, steps=2, draws=1, situations=4, target="low")
    records = told.records
    labels, target = records["label"].to_numpy(), list(model.spec.labels).index("low")
    assert (labels == target).any()
    for place in ("no_channel", "train_rooms", "held_out_rooms"):
        counted = np.stack([np.atleast_1d(row) for row in records[f"unperturbed_{place}"]])
        assert counted[labels != target].any()
        assert not counted[labels == target].any()
    plain = air(model, data, channel=(train, held_out), eps=0.3, steps=2, draws=1, situations=4).records
    others = labels != target
    right = np.stack(plain["unperturbed_held_out_rooms"].to_list())[others]
    assert not right.all()  # some room spoils some clip
    np.testing.assert_array_equal(np.stack(records["unperturbed_held_out_rooms"].to_list())[others], right)


def test_a_plain_attack_ahead_by_chance_is_no_failure() -> None:
    everywhere = [[True] * 4 for _ in range(8)]
    eot = [[clip % 2 == 0] * 4 for clip in range(8)]
    chance = [[(clip % 2 == 0) != (clip == 2)] * 4 for clip in range(8)]  # one clip more than EOT
    verdicts = {}
    for name, plain in (("chance", chance), ("beyond", [[False] * 4 for _ in range(8)])):
        records = table(everywhere, eot, plain)
        verdicts[name] = _stronger(air_scores(records, seed=-1), records).verdict
    assert verdicts == {"chance": "warn", "beyond": "fail"}
    records = table(everywhere, eot, everywhere)
    assert _stronger(air_scores(records), records).verdict == "pass"


def test_nothing_to_count_is_none_and_not_zero() -> None:
    nowhere = [[False, False], [False, False]]
    told = air_scores(table(nowhere, nowhere, nowhere))
    assert told["eot"]["held_out_rooms"]["success"]["score"] is None
    assert told["eot"]["worst_decile"]["held_out_rooms"] is None
    json.dumps(told, allow_nan=False)


def test_a_whole_run(tmp_path: Path) -> None:
    model = victim()
    data = ToyData(12, model, padded=True)
    found = air(
        model,
        data,
        channel=channels(model.spec.sample_rate),
        eps=0.02,
        steps=20,
        situations=5,
        draws=3,
        out=tmp_path / "run",
    )
    told = found.summary
    assert told == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["audit"]["violations"] == 0
    assert told["eot"]["train_rooms"]["success"]["score"] >= told["plain"]["train_rooms"]["success"]["score"]
    assert (
        told["controls"]["random"]["held_out_rooms"]["success"]["score"]
        < told["eot"]["held_out_rooms"]["success"]["score"]
    )
    assert [check.name.split()[0] for check in found.checks] == sorted(
        (check.name.split()[0] for check in found.checks), key=lambda name: int(name[1:])
    )
    assert {check.verdict for check in found.checks} <= {"pass", "warn", "skipped"}
    assert found.records["backwards"].tolist() == [20 + 20 * 3] * 12
    assert len(told["rooms"]) == 10
    assert 0 <= found.robust.low <= found.robust.score <= found.robust.high <= 1
    sounds = [Path(name) for name in told["audio"]]
    assert len(sounds) == 4 * 4 * 2
    assert all(path.is_file() for path in sounds)


def test_records_do_not_depend_on_batches() -> None:
    model = victim()
    data = ToyData(9, model, padded=True)
    asked: dict[str, Any] = {"eps": 0.02, "steps": 5, "situations": 3, "draws": 2, "checks": False}
    one, other = (
        air(model, data, channel=channels(model.spec.sample_rate), batch_size=size, **asked).records for size in (2, 9)
    )
    pd.testing.assert_frame_equal(one, other)


def test_all_versions_meet_the_same_situations_and_splits_differ() -> None:
    model = victim()
    condition = OverTheAir(Attack({"audio": Ball("linf", 0.01)}, PGD(2)), *channels(model.spec.sample_rate))
    clips = torch.zeros(3, 100)
    first, again = (condition.situation("held_out_rooms", 1, clips, seed=0) for _ in range(2))
    assert torch.equal(first["first"], again["first"])
    assert first["first"].unique().numel() == 1  # one room for all clips
    others = [condition.situation(*where, clips, seed)["first"] for *where, seed in (("held_out_rooms", 2, 0),)]
    others.append(condition.situation("train_rooms", 1, clips, seed=0)["first"])
    others.append(condition.situation("held_out_rooms", 1, clips, seed=1)["first"])
    assert all(not torch.equal(first["first"], other) for other in others)


def test_more_gradients_do_not_make_a_plain_attack_survive() -> None:
    """Against a channel that turns the sign of half of the clip, only expectation finds the other half."""

    class Turning(Fading):
        name = "turning"

        def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
            sign = torch.where(parameters["first"] > 0.65, 1.0, -1.0)[:, None].to(clips)
            half = clips.shape[1] // 2
            moved = torch.cat([sign * clips[:, :half], clips[:, half:]], dim=1)
            return where_valid(moved, clips, valid)

    model = victim()
    rate = model.spec.sample_rate
    found = air(
        model,
        ToyData(12, model),
        channel=(Turning(rate), Turning(rate, part="held-out")),
        eps=0.03,
        steps=30,
        draws=4,
        situations=8,
        plain_steps=120,
        checks=False,
    )
    told = found.summary
    assert found.records["backwards"].tolist() == [120 + 120] * 12
    assert told["eot"]["held_out_rooms"]["success"]["score"] >= told["plain"]["held_out_rooms"]["success"]["score"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"draws": 0}, "draws must be 1 or more"),
        ({"situations": 0}, "situations must be 1 or more"),
        ({"eps": -1.0}, "must not be negative"),
        ({"modality": "video"}, "modality"),
        ({"target": "nothing"}, "class"),
        ({"channel": "kitchen"}, "Unknown|unknown"),
        ({"loss": "lost"}, "loss"),
    ],
)
def test_mistakes(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = victim()
    given = {"channel": channels(model.spec.sample_rate), "eps": 0.01, "steps": 1, **asked}
    with pytest.raises(RobustError, match=words):
        air(model, ToyData(3, model), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_channel_for_another_rate_is_refused() -> None:
    model = victim()
    with pytest.raises(ThreatModelError, match="made for 44100 Hz"):
        air(model, ToyData(3, model), channel=channels(44_100), eps=0.01, steps=1)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quiet.yaml").write_text(
        "channels:\n  - {kind: gain, gain_db: [-6, 6]}\n  - {kind: noise, sound: pink, snr_db: 20}\n"
    )
    asked = ["air", "--model", "m5", "--limit", "4", "--channel", "quiet.yaml", "--steps", "2", "--situations", "2"]
    done = CliRunner().invoke(app, [*asked, "--json", "--out", "run"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    for attack in ("plain", "eot"):
        assert {"no_channel", "train_rooms", "held_out_rooms", "worst_decile"} <= told[attack].keys()
    assert told["threat"]["audio"]["radius"] == 0.002
    assert told["perceptual"]["eot"]["snr_db"] > 0
    shown = CliRunner().invoke(app, [*asked, "--out", "again"])
    assert "held-out rooms" in shown.stdout
    assert "EOT" in shown.stdout


def test_the_api_is_public() -> None:
    assert robust.air is air


def test_speech_figures_come_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pystoi")
    victim_ = robust.load_victim("m5")
    data = robust.load_data("events", split="test", limit=2)
    asked: dict[str, Any] = {"eps": 0.01, "steps": 2, "checks": False}
    assert "stoi" not in robust.attack(victim_, data, **asked).records
    found = robust.attack(victim_, data, speech=True, **asked)
    assert found.records["stoi"].between(-1, 1).any()
    assert found.summary["perceptual"]["stoi"] < 1
    monkeypatch.setattr("robust.evaluation.conditions.available", lambda: ())
    with pytest.raises(ThreatModelError, match=r"pip install 'robust-audio\[perceptual\]'"):
        robust.attack(victim_, data, speech=True, **asked)
