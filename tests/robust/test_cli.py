"""The command line as its users meet it: what it prints, and what it says to bad input."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from robust.cli import main, options
from robust.data import RangeWarning

RATE = 8000
MODEL = """
import torch
from torch import nn
from robust import Victim


class Net(nn.Module):
    def __init__(self, detach=False, probabilities=False):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.basis = nn.Parameter(torch.randn(2, 800, generator=generator))
        self.detach, self.probabilities = detach, probabilities

    def forward(self, audio):
        # energy in two fixed directions after a log, as a front end has it: silence is its hard case
        power = (audio @ self.basis.T).square()
        logits = torch.log(power.clamp_min(1e-10))
        if self.detach:
            logits = logits.detach()
        return logits.softmax(1) if self.probabilities else logits


def _wrap(**options):
    return Victim.wrap(Net(**options), sample_rate=8000, labels=["one", "two"], clip_seconds=0.1, name="mine")


def build():
    return _wrap()


def detached():
    return _wrap(detach=True)


def probable():
    return _wrap(probabilities=True)


def silly():
    return 7
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command line; gives exit code, stdout and stderr."""
    (tmp_path / "mine.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robust", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A good recording of 0.1 s."""
    path = tmp_path / "good.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(800) / 3), RATE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten recordings of each of two classes, in train and test folders."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("one", "two"):
            place = tmp_path / "recordings" / split / label
            place.mkdir(parents=True)
            for index in range(10):
                soundfile.write(place / f"{index}.wav", 0.2 * generator.standard_normal(800).clip(-4, 4), RATE)
    return tmp_path / "recordings"


def attack(run: Run, *words: object, model: str = "mine.py:build") -> tuple[int, str, str]:
    return run("attack", "--model", model, "--out", "out", "--steps", 3, *words)


def test_prints_scores_with_intervals_and_where_it_saved_what(run: Run, folder: Path) -> None:
    code, out, _ = attack(run, "--data", "folder", "--root", folder, "--eps", 0.01, "--by", "label_name")
    assert code == 0
    for word in (
        "victim   mine",
        "folder test, 20 clips",
        "linf 0.01",
        "dBFS",
        "median SNR",
        "clean    accuracy",
        "robust ",
    ):
        assert word in out
    assert "label_name=one: 10 clips" in out
    assert (Path("out") / "summary.json").is_file()
    triples = sorted(path.name for path in Path("out/audio").iterdir())
    attacked = json.loads((Path("out") / "summary.json").read_text())["success"]["clips"]
    assert len(triples) == 3 * min(8, attacked)
    kinds = [soundfile.read(Path("out/audio") / name)[0] for name in triples[:3]]
    adversarial, difference, original = kinds
    np.testing.assert_allclose(original + difference, adversarial, atol=1e-7)
    assert 0 < np.abs(difference).max() <= 0.01 * (1 + 1e-6)


def test_json_has_the_keys_that_other_programs_rely_on(run: Run, folder: Path) -> None:
    code, out, _ = attack(run, "--data", "folder", "--root", folder, "--json")
    told = json.loads(out)
    assert code == 0
    assert set(told) >= {
        "victim", "data", "clips", "task", "threat", "clean", "robust", "audit", "checks", "forwards_per_clip",
        "backwards_per_clip", "seconds", "run",
    }  # fmt: skip
    assert set(told["threat"]["audio"]) >= {"norm", "radius", "unit", "radius_amplitude", "snr_db_median"}
    assert set(told["clean"]) >= {"score", "low", "high", "metric"}
    assert set(told["audit"]) == {"violations", "worst_ratio"}
    assert {check["verdict"] for check in told["checks"]} <= {"pass", "warn", "fail", "skipped"}


def test_units_agree(run: Run, folder: Path) -> None:
    """The same radius, said in amplitude, dBFS and 16-bit steps, gives the same run."""
    found = []
    for place, words in enumerate(
        [("--eps", 0.015625), ("--eps", 512, "--unit", "lsb16"), ("--eps", -36.123599479677743, "--unit", "dbfs")]
    ):
        words_all = ("attack", "--model", "mine.py:build", "--data", "folder", "--root", folder, "--steps", 5, "--json")
        code, out, _ = run(*words_all, "--out", f"out{place}", *words)
        assert code == 0
        found.append(json.loads(out))
    radii = [run_["threat"]["audio"]["radius_amplitude"] for run_ in found]
    np.testing.assert_allclose(radii, 0.015625, rtol=1e-7)
    assert len({run_["robust"]["score"] for run_ in found}) == 1


def test_single_file_and_quick_check(run: Run, sound: Path) -> None:
    code, out, _ = attack(run, "--audio", sound, "--check")
    assert code == 0
    assert "1 clips" in out


@pytest.mark.parametrize("samples", [80, 8000])
def test_silence_is_attacked_without_nan(run: Run, tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(samples), RATE)
    code, out, _ = attack(run, "--audio", tmp_path / "silence.wav", "--json")
    assert code == 0
    assert json.loads(out)["audit"]["violations"] == 0


def test_odd_but_good_recordings_are_read(run: Run, tmp_path: Path) -> None:
    time = np.arange(960) / 96_000
    soundfile.write(tmp_path / "eight.wav", np.tile(0.3 * np.sin(2000 * time)[:, None], (1, 8)), 96_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(600 * RATE, dtype=np.int16), RATE)
    for place, name in enumerate(("eight.wav", "long.wav")):
        code, _, err = run("attack", "--model", "mine.py:build", "--steps", 2, "--audio", name, "--out", f"out{place}")
        assert code == 0, err


def test_floats_beyond_full_scale_are_scaled_and_told(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hot.wav", 1.5 * np.sin(np.arange(800) / 3), RATE, subtype="FLOAT")
    with pytest.warns(RangeWarning, match=r"1\.5"):
        code, _, _ = attack(run, "--audio", "hot.wav")
    assert code == 0


def write_bad(folder: Path) -> dict[str, tuple[Path, str]]:
    """Bad recordings and a word of what must be said of each."""
    good = np.sin(np.arange(800) / 3)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is a shopping list, not a recording. " * 50)
    soundfile.write(folder / "whole.wav", 0.5 * good, RATE)
    (folder / "truncated.wav").write_bytes((folder / "whole.wav").read_bytes()[:600])
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        broken = good.copy()
        broken[100] = value
        soundfile.write(folder / f"{name}.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(folder / "integers.wav", 3e4 * good, RATE, subtype="FLOAT")
    soundfile.write(folder / "zero.wav", good[:0], RATE)
    words = {
        "missing": "no such|not exist|missing|no file|there is no",
        "empty": "empty",
        "text": "not|cannot|format",
        "truncated": "truncated|cut|bytes",
        "nan": "nan",
        "infinite": "inf",
        "integers": "32768",
        "zero": "no samples|zero|empty|no frames|length",
    }
    return {name: (folder / f"{name}.wav", word) for name, word in words.items()}


@pytest.mark.parametrize("name", ["missing", "empty", "text", "truncated", "nan", "infinite", "integers", "zero"])
def test_bad_recordings(run: Run, tmp_path: Path, name: str) -> None:
    path, words = write_bad(tmp_path)[name]
    code, out, err = attack(run, "--audio", path)
    assert code == 2
    assert out == ""
    assert any(word in err.lower() for word in words.split("|")), err
    assert path.name in err
    assert "Traceback" not in err
    assert not Path("out").exists()


def test_one_bad_recording_in_a_folder_stops_the_run_before_it_writes(run: Run, folder: Path) -> None:
    (folder / "test" / "one" / "9.wav").write_bytes(b"not a recording")
    code, _, err = attack(run, "--data", "folder", "--root", folder)
    assert code == 2
    assert "9.wav" in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--norm", "l3"], "norm 'l3'"),
        (["--unit", "decibel"], "unit 'decibel'"),
        (["--loss", "hinge"], "loss 'hinge'"),
        (["--schedule", "linear"], "schedule 'linear'"),
        (["--precision", "fp8"], "precision 'fp8'"),
        (["--modality", "video"], "modality"),
        (["--eps", "-0.1"], "must not be negative"),
        (["--eps", "nan"], "finite"),
        (["--eps", "2.5"], "Give a smaller radius"),
        (["--steps", "0"], "steps must be 1 or more"),
        (["--target", "tow"], "Did you mean 'two'?"),
        (["--by", "lable_name"], "Did you mean 'label_name'?"),
        (["--limit", "21"], "21"),
        (["--limit", "0"], "0"),
        (["--split", "tset"], "tset"),
        (["--batch-size", "many"], "batch size"),
        (["--batch-size", "0"], "batch size"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--data", "folders"], "Did you mean 'folder'?"),
        (["--root", "nowhere"], "nowhere"),
        (["--model", "m19"], "Did you mean 'm18'?"),
        (["--model", "nowhere.py:build"], "nowhere.py"),
        (["--model", "mine.py:biuld"], "biuld"),
        (["--model", "mine.py:silly"], "must return a robust.Victim"),
        (["--model", "mine.py:detached"], "detaches gradients"),
        (["--audio", "good.wav", "--label", "tow"], "Did you mean 'two'?"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
        (["--out", "mine.py"], "mine.py"),
        (["--out", "recordings"], "not empty"),
        (["--resume", "--out", "recordings"], "recordings"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_message_and_code_2(
    run: Run, folder: Path, sound: Path, words: list[str], told: str
) -> None:
    given = {"--model": "mine.py:build", "--data": "folder", "--root": str(folder), "--out": "out", "--steps": "2"}
    flags = [word for word in words if word == "--resume"]
    rest = [word for word in words if word != "--resume"]
    given |= dict(zip(rest[::2], rest[1::2], strict=True))
    code, out, err = run("attack", *(part for pair in given.items() for part in pair), *flags)
    assert code == 2, err
    assert out == ""
    assert told in err
    assert "Traceback" not in err
    assert not (Path("out")).exists()


def test_probabilities_are_warned_of(run: Run, folder: Path) -> None:
    code, out, _ = attack(run, "--data", "folder", "--root", folder, model="mine.py:probable")
    assert code == 0
    assert "WARN S10 logits: outputs look like probabilities" in out


def test_pickled_checkpoint_that_would_run_code_is_refused(run: Run, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "exploded"), "w"))

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"model": Bomb()}))
    torch.save({"model": Bomb()}, tmp_path / "zipped.pth")
    for name in ("bomb.pth", "zipped.pth"):
        for model in ("cnn14", "m3", "mine.py:build"):
            code, _, err = attack(run, "--weights", tmp_path / name, model=model)
            assert code == 2
            assert "Traceback" not in err
    assert not (tmp_path / "exploded").exists()
    assert not Path("out").exists()


def test_checkpoint_of_another_architecture_or_none(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(os.urandom(200))
    for name, words in (("other", "do not fit"), ("noise", "not a readable safetensors")):
        code, _, err = attack(run, "--weights", f"{name}.safetensors")
        assert code == 2
        assert words in err
    (tmp_path / "other.json").write_text(
        json.dumps({"model": "m5", "config": {}, "labels": ["a", "b"], "task": "multiclass"})
    )
    code, _, err = attack(run, "--weights", "other.safetensors", model="m3")
    assert code == 2
    assert "'m5'" in err
    code, _, err = attack(run, "--weights", "other.safetensors", model="m5")
    assert code == 2
    assert "do not fit" in err


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, folder: Path) -> None:
    """A process that may write no file over 4 KiB: what a full disk looks like to it."""
    (tmp_path / "mine.py").write_text(MODEL)
    words = [
        "attack",
        "--model",
        "mine.py:build",
        "--data",
        "folder",
        "--root",
        str(folder),
        "--steps",
        "2",
        "--out",
        "out",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from robust.cli import main; main()", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(path.name == "manifest.json" for path in files)
    for path in files:
        json.loads(path.read_text())


def test_finished_run_is_not_overwritten_and_can_be_resumed(run: Run, folder: Path) -> None:
    words = ("--data", "folder", "--root", folder, "--json")
    code, first, _ = attack(run, *words)
    assert code == 0
    code, _, err = attack(run, *words)
    assert code == 2
    assert "--resume" in err
    code, again, _ = attack(run, *words, "--resume", "--batch-size", 3)
    assert code == 0
    assert json.loads(first)["robust"] == json.loads(again)["robust"]
    code, _, err = attack(run, *words, "--resume", "--eps", 0.5)
    assert code == 2
    assert "another run" in err


def test_lists_and_doctor(run: Run) -> None:
    for command in ("victims", "data", "doctor"):
        code, out, _ = run(command)
        assert code == 0
        assert out
        code, out, _ = run(command, "--json")
        assert code == 0
        assert json.loads(out)


def test_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import robust.cli; robust.cli.app(['--help'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "attack" in told.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in told.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "pandas", "transformers", "scipy"}


@pytest.mark.data
def test_shipped_ast_on_a_real_recording(run: Run, real_data: Path) -> None:
    """A spoken digit is none of the classes of `events`: the attack asks what changes the model's own answer."""
    path = sorted((real_data / "fsdd" / "recordings").glob("7_*_0.wav"))[0]
    code, out, err = run("attack", "--audio", path, "--eps", 0.005, "--out", "out", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["clean"]["score"] == 1.0
    assert told["robust"]["score"] == 0.0
    assert told["audit"]["violations"] == 0
    original, rate = soundfile.read(next(Path("out/audio").glob("*-original.wav")))
    assert rate == 16_000
    assert len(original) == 16_000
    recording, _ = soundfile.read(path)
    assert not original[2 * len(recording) :].any()
    difference, _ = soundfile.read(next(Path("out/audio").glob("*-difference.wav")))
    assert not difference[2 * len(recording) :].any()  # padding is nobody's to change


AV = ("attack", "--model", "av-mid", "--data", "events", "--limit", "6", "--steps", "2", "--no-checks")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--modality", "both", "--eps", "audio=0.001,video=0.01"), "threat   video linf 0.01"),
        (("--modality", "both", "--eps", "audio=-60,video=4", "--unit", "audio=dbfs,video=pixel255"), "4 pixel255"),
        (("--modality", "joint", "--norm", "l2", "--eps", "0.1", "--scale", "video=16"), "threat   joint l2 0.1"),
        (("--band", "500:2000", "--window", "0:0.5", "--cut", "--rescale"), "threat   audio linf 0.002"),
        (("--modality", "logmel", "--mels", "0:20"), "threat   logmel linf 0.1"),
        (("--missing", "video", "--fill", "mean"), "missing-video-mean"),
        (("--swap", "audio"), "decides"),
        (("--missing", "logmel", "--fill", "mean"), "missing-logmel-mean"),
        (("--occlude", "first-half"), "occlusion-audio-first-half"),
    ],
)
def test_threats_over_modalities(run: Run, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    code, out, _ = run(*AV, *options, "--out", str(tmp_path / "run"))
    assert code == 0
    assert said in out
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["clips"] == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--modality", "smell"), "audio, both, joint, video"),
        (("--eps", "audio=loud"), "number"),
        (("--modality", "both", "--band", "500:2000"), "one modality"),
        (("--band", "500"), "colon"),
        (("--mels", "0:20"), "FrequencyBand"),
        (("--missing", "video", "--swap", "video"), "one of them"),
        (("--missing", "smell"), "video"),
        (("--missing", "video", "--fill", "noise"), "silence"),
        (("--occlude", "half"), "first-half"),
        (("--swap", "video", "--batch-size", "many"), "batch size"),
        (("--cut",), "--window"),
        (("--rescale", "--window", "0:0.5"), "--cut"),
        (("--cut", "--mels", "0:20"), "FrequencyBand"),
        (("--success", "top-gone"), "one label"),
    ],
)
def test_mistakes_about_modalities(run: Run, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    code, _, errors = run(*AV, *options, "--out", str(tmp_path / "run"))
    assert code == 2
    assert said in errors
    assert not (tmp_path / "run").exists()


def test_universal_command(run: Run) -> None:
    command = ("universal", "--model", "av-audio", "--modality", "logmel", "--epochs", "2", "--fit-limit", "16")
    code, out, _ = run(*command, "--limit", "16", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["threat"]["logmel"]["realised"] <= 0.1 * (1 + 1e-6)
    code, out, _ = run(*command, "--limit", "16", "--legacy-step", "0.1")
    assert code == 0
    assert "LEGACY" in out


def test_thresholds_command(run: Run, tmp_path: Path) -> None:
    words = ("thresholds", "--limit", "4", "--steps", "3", "--tolerance", "2", "--out", str(tmp_path / "t.parquet"))
    code, out, _ = run(*words)
    assert code == 0
    assert "parts disagree" in out
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert len(frame) == 4
    assert {"eps_A", "eps_A_to_AV", "eps_V", "eps_V_to_AV", "agree"} <= set(frame)
    for wrong, said in ((("--largest", "0.1"), "names modalities"), (("--model", "av-audio"), "modalit")):
        code, _, errors = run(*words, *wrong)
        assert code == 2
        assert said in errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "pooling=lin"), "linear"),
        (("--set", "poolng=max"), "poolng"),
        (("--set", "pooling"), "NAME=VALUE"),
        (("--data-option", "fold=2"), "clips"),
        (("--data-option", "seed"), "NAME=VALUE"),
    ],
)
def test_mistakes_in_settings(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    command = ("train", "--model", "av-mid", "--data", "events", "--out", str(tmp_path / "c"), "--check")
    code, _, errors = run(*command, *words)
    assert code == 2
    assert said in errors
    assert not (tmp_path / "c.safetensors").exists()


def test_swap_has_a_smoke_run(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("attack", "--model", "av-mid", "--swap", "video", "--check", "--out", str(tmp_path / "run"))
    assert code == 0
    assert "2 clips" in out


def test_universal_refuses_a_full_folder_before_it_fits(run: Run, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note.txt").write_text("mine")
    code, _, errors = run("universal", "--model", "av-audio", "--check", "--out", str(taken))
    assert code == 2
    assert "holds something already" in errors
    assert [path.name for path in taken.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("model", ["hf:lab/model", "hear:module:/a/file.pt", "mine.py:factory", "concat:m3+m5"])
def test_names_of_models_make_one_part_of_a_path(model: str) -> None:
    name = options.file_name(model, "events")
    assert Path(name).parts == (name,)
    assert name.endswith("-events")
    assert ":" not in name


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime.datetime:
            return cls(2026, 11, 22, 9, 5, 7)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options.datetime, "datetime", Stopped)
    names = []
    for _ in range(3):
        folder = options.new_run("certify", "ast", "events")
        folder.mkdir(parents=True)
        names.append(folder.name)
    first = "20261122-090507-certify-ast-events"
    assert names == [first, f"{first}-2", f"{first}-3"]
