"""`robust curve` at the command line: lines for victims, norms and modalities, and what it says to bad options."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import robust
from robust.cli import main
from robust.data import load_data
from robust.evaluation.store import Store
from robust.victims import load_victim
from tests.robust.studies import furnish

Run = Callable[..., tuple[int, str, str]]
OWN = ("--model", "mine.py:build", "--data", "folder", "--root", "recordings", "--steps", 3)


@pytest.fixture(scope="module")
def shared_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("room"))


@pytest.fixture
def run(shared_room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `robust curve`; exit code, stdout, stderr. What it writes goes where the test is alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "recordings"):
        (tmp_path / name).symlink_to(shared_room / name)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robust", "curve", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return code, *capsys.readouterr()

    return call


def test_several_victims_and_norms(run: Run, tmp_path: Path) -> None:
    code, out, err = run(
        *OWN,
        *("--model", "mine.py:other"),
        *("--norm", "linf", "--norm", "l2", "--eps", "linf=1e-3:1e-1:4", "--eps", "l2=0.01,0.1,1"),
        *("--out", "store", "--plot", "own/picture.svg", "--threshold", 0.6),
    )
    assert code == 0, err
    folders = {path.name for path in (tmp_path / "store").iterdir() if path.is_dir()}
    assert folders == {f"mine.py-{name}--{norm}-audio" for name in ("build", "other") for norm in ("linf", "l2")}
    for name, head in (("curve.pdf", b"%PDF"), ("curve.png", b"\x89PNG"), ("curve.svg", b"<?xml")):
        assert (tmp_path / "store" / name).read_bytes().startswith(head)
    assert (tmp_path / "own" / "picture.svg").is_file()
    with (tmp_path / "store" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 + 3)
    for word in ("mine.py-build, linf on audio, 24 clips, accuracy", "below 60 % at", "area ", "store/curve.pdf"):
        assert word in out
    # The same in Python.
    data = load_data("folder", root=tmp_path / "recordings")
    for name in ("build", "other"):
        curve = robust.curve(load_victim(f"mine.py:{name}"), data, norm="l2", eps=[0.01, 0.1, 1], steps=3)
        own = [row for row in rows if row["victim"] == f"mine.py-{name}" and row["axis"] == "l2"]
        assert [float(row["score"]) for row in own] == curve.scores.tolist()
        told = json.loads((tmp_path / "store" / f"mine.py-{name}--l2-audio" / "summary.json").read_text())
        assert told["auc"] == pytest.approx(curve.auc)
        records = Store.read(tmp_path / "store" / f"mine.py-{name}--l2-audio").records()
        assert (records["scale"] > 0).mean() == curve.clean


def test_json_and_going_on(run: Run, tmp_path: Path) -> None:
    words = (*OWN, "--eps", "1e-3:1e-1:4", "--out", "store", "--json")
    code, out, _ = run(*words)
    told = json.loads(out)
    assert code == 0
    assert told["run"] == "store"
    for key in ("victim", "data", "clips", "task", "clean", "radii", "scores", "low", "high", "auc", "radius_half"):
        assert key in told
        assert told["curves"][0][key] == told[key]
    assert told["radii"] == pytest.approx(np.geomspace(1e-3, 1e-1, 4))
    code, _, err = run(*words)
    assert code == 2
    assert "--resume" in err
    (tmp_path / "store" / "mine.py-build--linf-audio" / "summary.json").unlink()
    code, out, _ = run(*words, "--resume", "--batch-size", 5)
    assert code == 0
    assert json.loads(out)["scores"] == told["scores"]
    code, _, err = run(*words, "--resume", "--eps", "1e-3:1e-1:5")
    assert code == 2
    assert "another run" in err


def test_modalities_and_noise(run: Run) -> None:
    events = ("--model", "av-mid", "--split", "validation", "--limit", 4, "--data-option", "clips=16")
    both = (
        "--modality",
        "audio",
        "--modality",
        "both",
        "--scale",
        "video=16",
        "--eps",
        "1e-4,1e-3",
        "--steps",
        1,
        "--no-checks",
    )
    code, out, err = run(*events, *both, "--out", "av", "--json")
    assert code == 0, err
    found = json.loads(out)["curves"]
    assert [one["axis"]["modality"] for one in found] == ["audio", "both"]
    assert found[1]["scores"][-1] <= found[0]["scores"][-1]
    noise = ("--against", "noise", "--eps", "40:0:3")
    code, out, err = run(*OWN, *noise, "--out", "noise", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["axis"]["name"] == "noise"
    assert told["radii"] == [40, 20, 0]
    code, out, _ = run(*OWN, *noise, "--out", "words", "--threshold", 0.01)
    assert code == 0
    assert "noise on audio" in out
    assert "no level tried" in out


def test_check_is_quick_and_the_folder_is_named_by_time(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*OWN, "--check", "--eps", "1e-3:1e-1:3")
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-curve")
    assert "1 clips" in out


BAD = {
    "norm": (("--norm", "lnif"), "Did you mean 'linf'"),
    "norm twice": (("--norm", "l2", "--norm", "l2"), "given twice"),
    "modality twice": (("--modality", "audio", "--modality", "audio"), "given twice"),
    "modality": (("--modality", "vidio"), "'vidio'"),
    "second modality": (("--modality", "audio", "--modality", "video"), "'video'"),
    "both of one": (("--modality", "both"), "several"),
    "unit": (("--unit", "dbsf"), "Did you mean 'dbfs'"),
    "levels in words": (("--eps", "low:high:3"), "--eps"),
    "levels of two parts": (("--eps", "1e-3:1e-1"), "first:last:count"),
    "levels that fall": (("--eps", "0.1,0.01"), "ascending"),
    "no levels": (("--eps", ""), "--eps"),
    "levels of another norm": (("--eps", "l2=0.1,1"), "not among the norms: linf"),
    "levels for which norm": (("--norm", "l2", "--norm", "l1", "--eps", "0.1,1"), "l2=0.1,1"),
    "a second norm that is none": (("--norm", "linf", "--norm", "lnif"), "Did you mean 'linf'"),
    "beyond the range": (("--eps", "0.1,3"), "differ by 2 at most"),
    "sweep": (("--against", "noies"), "Did you mean 'noise'"),
    "SNRs that rise": (("--against", "noise", "--eps", "0,20"), "descending"),
    "scale": (("--modality", "both", "--scale", "16"), "--scale"),
    "threshold": (("--threshold", "50"), "between 0 and 1"),
    "weights": (("--weights", "a", "--weights", "b"), "once for each --model"),
    "a victim twice": (("--model", "mine.py:build"), "given twice"),
    "a second victim that is none": (("--model", "mine.py:nobody"), "'nobody'"),
    "a victim of other classes": (("--model", "mine.py:elsewhere"), "does not know"),
    "picture": (("--plot", "a.gif"), ".pdf, .png, .svg"),
    "batch size": (("--batch-size", "some"), "'some'"),
    "steps": (("--steps", "0"), "steps"),
    "clips": (("--limit", "1000"), "1000"),
    "out": (("--out", "mine.py"), "Cannot write mine.py/"),
    "out in a file": (("--out", "mine.py/store"), "Cannot write"),
    "root": (("--root", "nowhere"), "does not exist"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_options(mistake: str, run: Run, tmp_path: Path) -> None:
    options, words = BAD[mistake]
    out = () if "--out" in options else ("--out", "store")
    code, said, err = run(*OWN, *out, *options)
    assert (code, said) == (2, ""), err
    assert words in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"mine.py", "recordings"}, (
        "something written"
    )
