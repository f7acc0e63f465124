"""Purifiers and certificates as conditions of a study: cells, what is shared between them, tables, claims, mistakes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from robust.data import load_data
from robust.purified_curve import purified_curve
from robust.study.channel_files import purifier_identity
from robust.study.conditions import CertificateKind, PurifyKind, shortened
from robust.study.source import StudyError
from robust.victims import load_victim
from tests.robust.studies import furnish, run_file, tables

STUDY = """\
name: s
victims: {mine: {model: 'mine.py:build'}}
data: {d: {set: folder, root: recordings, split: test, limit: 6}}
conditions:
  median: &how {kind: purify, purifier: "median:3", eps: [0.002, 0.02], steps: 4,
                attacks: [transfer, bpda, full-1], checks: false}
  average: {<<: *how, purifier: {d: "average:3"}}
  promise: {kind: certificate, sigma: 0.05, n0: 10, n: 40, radii: [0, 0.03], steps: 2, draws: 1, checks: false}
claims:
  - {name: known, text: 'mine[median].robust@0.02 <= mine[median].transfer@0.02'}
  - {name: clean, text: 'mine[average].clean >= mine[average].bare@0.02'}
"""


def written(folder: Path, text: str = STUDY) -> Path:
    furnish(folder)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_a_study_of_defenses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_file(written(tmp_path))
    found = tables(tmp_path / "runs" / "s")
    rows = list(csv.DictReader(io.StringIO(found["table.csv"].decode())))
    told = {(row["condition"], row["level"]): row for row in rows}
    for purifier in ("median", "average"):
        for radius in ("0.002", "0.02"):
            worst = float(told[purifier, f"{radius}, non-adaptive"]["score"])
            assert worst <= float(told[purifier, f"{radius}, transfer"]["score"])
        same = [told[one, "0.02, no purifier"]["score"] for one in ("median", "average")]
        assert same[0] == same[1]  # the attack on the bare victim does not know what stands before it
    certified = [float(told["promise", level]["score"]) for level in ("0.0", "0.03")]
    assert certified[0] >= certified[1]
    claims = {claim["name"]: claim for claim in json.loads(found["claims.json"])}
    assert claims["known"]["a"] <= claims["known"]["b"]
    assert claims["clean"]["a"] is not None
    run_file(tmp_path / "study.yaml")  # nothing is computed again
    assert tables(tmp_path / "runs" / "s") == found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"median:3"', '"medium:3"', "median"),
        ('"median:3"', '"median:4"', "odd"),
        ("{d: \"average:3\"}", "{e: \"average:3\"}", "none for 'd'"),
        ("bpda, full-1]", "bpada, full-1]", "bpda"),
        ("eps: [0.002, 0.02]", "eps: [-1, 0.02]", "radius"),
        ("mine[median].transfer@0.02", "mine[median].transfer", "needs a level"),
        ("mine[median].transfer@0.02", "mine[median].transfer@0.5", "no level"),
        ("mine[median].transfer@0.02", "mine[promise].transfer@0.02", "no scores to compare"),
        ("sigma: 0.05", "sigma: -1", "sigma"),
        ("model: 'mine.py:build'", "model: 'mine.py:build', weights: {e: w.safetensors}", "data set of the study"),
    ],
)  # fmt: skip
def test_mistakes_are_told_by_line(
    old: str, new: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert old in STUDY
    path = written(tmp_path, STUDY.replace(old, new))
    with pytest.raises(StudyError, match=r"study\.yaml:\d+:.*" + words):
        run_file(path)
    assert not (tmp_path / "runs").exists()


def test_what_the_transfer_attack_found_is_the_same_from_memory() -> None:
    victim, data = load_victim("m3"), load_data("events", limit=4)
    memory: dict[float, dict] = {0.001: {}, 0.002: {}}
    settings = {"eps": [0.002, 0.001], "steps": 3, "attacks": ["transfer", "bpda"], "checks": False}
    purified_curve(victim, data, purifier="average:3", transfers=memory, **settings)
    kept = {radius: sorted(clips) for radius, clips in memory.items()}
    again = purified_curve(victim, data, purifier="median:3", transfers=memory, **settings)
    alone = purified_curve(victim, data, purifier="median:3", **settings)
    assert again.radii == [0.001, 0.002]
    assert kept[0.001]
    for one, other in zip(again.runs, alone.runs, strict=True):
        assert one.records.equals(other.records)
    assert [level["robust"] for level in again.summary["levels"]] == [run.summary["robust"] for run in alone.runs]


def test_other_weights_behind_the_same_name_are_another_purifier(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    found = []
    for content in (b"one", b"other"):
        path.write_bytes(content)
        found.append(purifier_identity(f"low-pass:4000+{path}:3"))
    assert found[0]["text"] == found[1]["text"]
    assert found[0]["weights"] != found[1]["weights"]
    assert purifier_identity("waveform:3")["weights"] != purifier_identity("mel:3")["weights"]
    assert purifier_identity("median:3")["weights"] == []


def test_smoke_runs_are_short() -> None:
    purify = shortened(PurifyKind(kind="purify", purifier="median:3", eps=[0.001]))
    assert {name: getattr(purify, name) for name in ("steps", "draws", "queries", "sure", "checks")} == {
        "steps": 1, "draws": 1, "queries": 1, "sure": 1, "checks": False,
    }  # fmt: skip
    certificate = shortened(CertificateKind(kind="certificate"))
    assert (certificate.n0, certificate.n, certificate.steps) == (1, 10, 1)
