"""Music against a detector: level, pairing, controls, the run from data to store, the command."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from attacks.errors import ThreatModelError
from attacks.jamming import Jamming
from attacks.music import LOUDNESS_LUFS, Music
from attacks.score import Note, Score
from robust.channels.bank import RoomBank
from robust.channels.rooms import Reverberation
from robust.cli import app
from robust.data import load_data
from robust.errors import DataError, StoreError
from robust.evaluation.engine import AlignedData
from robust.evaluation.jamming import (
    Jammed,
    against_plain,
    at_loudness,
    detected,
    speech_loudness,
    wake_index,
    white_loop,
)
from robust.evaluation.store import Store
from robust.jamming import jam
from robust.metrics.perceptual import loudness_lufs
from robust.victims import load_victim

SHORT = Score((Note(0.0, 4, 2, 0.2), Note(0.15, 3, 0, 0.2), Note(0.3, 5, 3, 0.2)), 0.5, "short")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def victim():
    return load_victim("wakeword")


@pytest.fixture(scope="module")
def test_set():
    return load_data("events-wake", split="test", clips=24)


def bank(rate: int = 16_000) -> RoomBank:
    """Two short decays to train in and two others held out."""
    generator = torch.Generator().manual_seed(0)
    responses = torch.randn(4, 800, generator=generator) * torch.exp(-torch.arange(800) / 150) * 0.2
    responses[:, 0] = 1
    table = [{"split": split, "room": room} for split in ("train", "held-out") for room in (0, 1)]
    return RoomBank(responses[:2], responses[2:], rate, table, {"rooms": "toy"})


class TestLevels:
    def test_maskers_are_of_one_loudness(self):
        music = Music(SHORT, 16_000)
        for sound in (music.render(music.plain(torch.Generator().manual_seed(0))), 0.01 * torch.randn(8000)):
            loop, measured = at_loudness(sound, 16_000)
            assert measured == pytest.approx(LOUDNESS_LUFS, abs=0.01)
            assert loudness_lufs(loop.double().repeat(2).numpy(), 16_000) == pytest.approx(LOUDNESS_LUFS, abs=0.01)
        with pytest.raises(ThreatModelError, match="to have a loudness"):
            at_loudness(torch.zeros(8000), 16_000)

    def test_speech_is_measured_where_it_is(self):
        noise = white_loop(16_000, 16_000, torch.Generator().manual_seed(0))
        clip = torch.zeros(1, 64_000)
        clip[0, 16_000:32_000] = noise
        everywhere = torch.ones_like(clip, dtype=torch.bool)
        assert float(speech_loudness(clip, everywhere, 16_000)) == pytest.approx(LOUDNESS_LUFS, abs=0.3)
        assert float(speech_loudness(0 * clip, everywhere, 16_000)) == -70

    def test_realised_ratio(self, victim, test_set):
        """What is added to a clip without rooms is as much softer than it as asked."""
        batch = AlignedData(test_set, victim.spec).batch(range(4))
        loop = white_loop(32_000, 16_000, torch.Generator().manual_seed(1))
        for ratio in (0.0, 12.0):
            condition = Jammed("noise", ratio, loop, None, None, len(loop))
            outcome = condition.apply(victim, batch, torch.empty(0), 0)
            added = outcome.inputs["audio"] - batch.inputs["audio"]
            valid = torch.ones_like(added, dtype=torch.bool)
            speech, played = (speech_loudness(part, valid, 16_000) for part in (batch.inputs["audio"], added))
            torch.testing.assert_close(speech - played, torch.full((4,), ratio), rtol=0, atol=0.3)


class TestCondition:
    def test_maskers_meet_a_clip_alike_whatever_its_company(self, victim, test_set):
        data, loop = AlignedData(test_set, victim.spec), white_loop(8000, 16_000, torch.Generator().manual_seed(1))
        rooms = [Reverberation(bank(), split="held-out") for _ in range(2)]
        one, other = (Jammed(name, 30.0, sound, *rooms, 8000) for name, sound in (("noise", loop), ("plain", -loop)))
        together = one.apply(victim, data.batch(range(5)), torch.empty(0), 3)
        alone = one.apply(victim, data.batch([3]), torch.empty(0), 3)
        assert torch.equal(alone.inputs["audio"][0], together.inputs["audio"][3])
        assert alone.columns["music_room"][0] == together.columns["music_room"][3]
        flipped = other.apply(victim, data.batch([3]), torch.empty(0), 3)
        silent = Jammed("silence", 0.0, None, *rooms, 8000).apply(victim, data.batch([3]), torch.empty(0), 3)
        for name in ("music_start_s", "speech_room", "music_room"):
            assert flipped.columns[name] == silent.columns[name] == alone.columns[name]
        middle = (alone.inputs["audio"] + flipped.inputs["audio"]) / 2
        unclipped = torch.maximum(alone.inputs["audio"].abs(), flipped.inputs["audio"].abs()) < 1
        assert unclipped.double().mean() > 0.99
        torch.testing.assert_close(middle[unclipped], silent.inputs["audio"][unclipped], rtol=0, atol=1e-5)

    def test_it_says_what_it_is(self):
        loop = torch.ones(10)
        one, two = (Jammed("noise", 5.0, part, None, None, 10).describe() for part in (loop, 2 * loop))
        assert json.loads(json.dumps(one)) == one
        assert one["loop"] != two["loop"]
        assert Jammed("noise", 5.0, loop, None, None, 10).name == "jam-noise-5dB"
        assert Jammed("silence", 5.0, None, None, None, 10).name == "jam-silence"

    def test_the_word_is_found(self):
        assert wake_index(("other", "wake"), None) == 1
        assert wake_index(("alexa", "negative"), None) == 0
        assert wake_index(("a", "b", "c"), "b") == 1
        with pytest.raises(DataError, match="--wake"):
            wake_index(("a", "b", "c"), None)
        with pytest.raises(DataError, match="Did you mean 'wake'"):
            wake_index(("other", "wake"), "wakes")


def records(predictions: list[int]) -> pd.DataFrame:
    labels = [1] * 10 + [0] * 10
    return pd.DataFrame(
        {
            "index": range(20),
            "id": [f"clip-{place}" for place in range(20)],
            "label": labels,
            "prediction": predictions,
            "correct": np.equal(labels, predictions),
        }
    )


def test_the_table_by_hand():
    plain, adversarial = records([1] * 8 + [0] * 2 + [1] * 2 + [0] * 8), records([1] * 2 + [0] * 18)
    assert detected(plain, 1).f1.score == pytest.approx(0.8)
    told = against_plain({("plain", 5.0): plain, ("adversarial", 5.0): adversarial}, 1, 5.0)
    assert told["ratio"] == pytest.approx((2 * 2 / 12) / 0.8)
    assert told["low"] < told["ratio"] < told["high"]
    assert told["recall_difference"]["difference"] == pytest.approx(-0.6)
    assert told["recall_difference"]["p"] == pytest.approx(2 * 0.5**6)
    nothing = records([0] * 20)
    assert against_plain({("plain", 5.0): nothing, ("adversarial", 5.0): nothing}, 1, 5.0)["ratio"] is None


class TestRun:
    def test_from_clips_to_store(self, victim, test_set, tmp_path):
        training = load_data("events-wake", split="train", clips=24)
        config = Jamming(steps=12, clips_per_step=8, step=0.08, smr_db=(-10.0, -10.0))
        settings = {"bank": bank(), "score": SHORT, "config": config, "smr_db": (-10.0, 20.0), "fit_clips": 6}
        run = jam(victim, training, test_set, out=tmp_path / "run", **settings)
        told = run.summary
        assert [(row["masker"], row["smr_db"]) for row in told["cells"]] == [
            ("silence", None),
            *((name, ratio) for ratio in (-10.0, 20.0) for name in ("adversarial", "plain", "noise")),
        ]
        assert told["audit"]["violations"] == 0
        assert told["audit"]["worst_loudness_error_lu"] < 0.05
        assert told["trace"][-1] > told["trace"][0]
        f1 = {(row["masker"], row["smr_db"]): row["f1"] for row in told["cells"]}
        assert f1["silence", None] > 0.6
        assert f1["adversarial", -10.0] <= f1["plain", -10.0] <= f1["silence", None] + 0.1
        assert f1["adversarial", 20.0] > 0.6
        # Kept: records of every cell, what is played, what is heard.
        kept = Store.read(tmp_path / "run" / "jam-plain-20dB")
        assert kept.manifest["smr_db"] == 20.0
        assert kept.manifest["speech_channel"]["split"] == "held-out"
        found = kept.records()
        assert len(found) == 24
        assert found["speech_room"].between(0, 1).all()
        sound, rate = soundfile.read(tmp_path / "run" / "music-adversarial.wav", dtype="float32")
        assert rate == 16_000
        np.testing.assert_array_equal(sound[:8000], run.loops["adversarial"].numpy())
        assert len(list((tmp_path / "run" / "audio").glob("*.wav"))) == 4 * 4
        assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(told))
        with pytest.raises(StoreError, match="holds something"):
            jam(victim, training, test_set, out=tmp_path / "run", **settings)

    def test_the_plain_music_is_where_the_fit_began(self, victim, test_set):
        training = load_data("events-wake", split="train", clips=12)
        config = Jamming(steps=1, clips_per_step=2, step=1e-9)
        run = jam(victim, training, test_set, score=SHORT, config=config, smr_db=[0.0])
        torch.testing.assert_close(run.loops["adversarial"], run.loops["plain"], rtol=0, atol=1e-5)
        assert run.summary["rooms"] is None
        assert math.isnan(next(iter(run.records))[1])

    def test_bad_input_is_refused(self, victim, test_set):
        for settings, error, message in (
            ({"smr_db": ()}, ThreatModelError, "one or more"),
            ({"smr_db": (math.nan,)}, ThreatModelError, "-60 to 60"),
            ({"bank": bank(8000)}, ThreatModelError, "8000 Hz"),
            ({"wake": "marisko"}, DataError, "class to be missed"),
        ):
            with pytest.raises(error, match=message):
                jam(victim, test_set, test_set, **settings)


def test_the_command(tmp_path):
    if "music" not in {command.callback.__name__ for command in app.registered_commands}:
        from robust.cli.music import music

        app.command()(music)
    runner = CliRunner()
    options = [
        "music",
        "--check",
        "--rooms",
        "none",
        "--chords",
        "Am",
        "--data-option",
        "clips=24",
        "--out",
        str(tmp_path / "run"),
    ]
    told = runner.invoke(app, options)
    assert told.exit_code == 0, told.output
    assert "adversarial  -5 dB" in told.output
    assert "listening for 'wake'" in told.output
    assert (tmp_path / "run" / "music-noise.wav").is_file()
    told = runner.invoke(app, [*options[:-2], "--json"])
    assert json.loads(told.stdout)["kind"] == "music"
    assert runner.invoke(app, ["music", "--smr", "loud"]).exit_code == 2
    assert runner.invoke(app, [*options[:-2], "--fit-smr", "1:2:3"]).exit_code == 2
