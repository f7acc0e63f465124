"""Two runs against each other: the numbers are those of the paired tests, and what differs is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.stats import binomtest
from typer.testing import CliRunner

from robust.api import attack
from robust.change import evaluate, missing
from robust.cli.compare import compare as command
from robust.errors import StoreError
from robust.evaluation.paired import clean_view, compare
from robust.evaluation.store import Store
from robust.report import compare_runs
from robust.report.differences import differences
from tests.robust import av_toys, stores, table_stores
from tests.robust.toys import ToyData, victim


def app() -> typer.Typer:
    """The command by itself."""
    made = typer.Typer()
    made.command()(command)
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One victim under a weak and a strong attack."""
    home, model = tmp_path_factory.mktemp("runs"), victim()
    for name, eps, steps in (("weak", 0.002, 3), ("strong", 0.01, 6)):
        attack(model, ToyData(32, model), eps=eps, steps=steps, out=home / name, checks=False)
    return home / "weak", home / "strong"


def test_differences_are_those_of_the_paired_tests(runs: tuple[Path, Path]) -> None:
    told = compare_runs(*runs)
    weak, strong = (Store.read(folder).records() for folder in runs)
    expected = compare(weak, strong, "multiclass")
    assert expected.only_a
    for name in ("a", "b", "difference", "low", "high", "p", "test", "only_a", "only_b"):
        assert told["robust"][name] == getattr(expected, name), name
    assert told["clean"]["difference"] == 0
    assert told["clean"]["p"] == 1
    assert told["clips"] == 32
    json.dumps(told, allow_nan=False)


def test_clips_that_changed_are_listed_with_what_was_said(runs: tuple[Path, Path]) -> None:
    told = compare_runs(*runs)["changed"]
    weak, strong = (Store.read(folder).records().set_index("id") for folder in runs)
    alone = weak.index[weak["correct"] & ~strong["correct"]]
    assert told["only_a"]["count"] == len(alone) > 10
    assert [clip["id"] for clip in told["only_a"]["clips"]] == list(alone[:10])
    assert told["only_b"] == {"count": int((strong["correct"] & ~weak["correct"]).sum()), "clips": []}
    labels = ("high", "low", "middle")
    for clip in told["only_a"]["clips"]:
        assert clip["label"] == weak.loc[clip["id"], "label_name"]
        assert clip["a"] == labels[weak.loc[clip["id"], "prediction"]] == clip["label"]
        assert clip["b"] == labels[strong.loc[clip["id"], "prediction"]] != clip["label"]


def test_sides_turn_round(runs: tuple[Path, Path]) -> None:
    one, other = compare_runs(*runs), compare_runs(*reversed(runs))
    assert one["robust"]["difference"] == -other["robust"]["difference"]
    assert one["robust"]["p"] == other["robust"]["p"]
    assert one["changed"]["only_a"]["count"] == other["changed"]["only_b"]["count"]


def test_order_of_the_records_does_not_matter(runs: tuple[Path, Path], tmp_path: Path) -> None:
    shuffled = shutil.copytree(runs[1], tmp_path / "shuffled")
    part = next((shuffled / "records").iterdir())
    records = pd.read_parquet(part)
    records["index"] = records["index"].to_numpy()[::-1].copy()
    records.to_parquet(part)
    assert compare_runs(runs[0], shuffled)["changed"] == compare_runs(*runs)["changed"]


def test_what_the_manifests_differ_in_is_said(runs: tuple[Path, Path]) -> None:
    told = {found["entry"]: (found["heading"], found["a"], found["b"]) for found in compare_runs(*runs)["manifest"]}
    assert told == {
        "threat.audio.radius": ("Budget audio radius", "0.002", "0.01"),
        "config.steps": ("Attack setting steps", "3", "6"),
    }


def test_manifests_in_words() -> None:
    one = {
        "victim": {"name": "ast", "config": {"layers": 4, "heads": 4}, "labels": list("abcdefg")},
        "weights": "0f", "data": {"name": "events", "fingerprint": "1"}, "config": {"steps": 10, "loss": None},
        "versions": {"torch": "2.6"}, "command": "robust attack", "created": "now",
    }  # fmt: skip
    other = {
        "victim": {"name": "cnn14", "config": {"width": 6}, "labels": list("abcdefgh")},
        "weights": "ff", "data": {"name": "events", "fingerprint": "2"}, "config": {"steps": 10, "loss": "ce"},
        "versions": {"torch": "2.7"}, "command": "robust", "created": "then", "target": 3,
    }  # fmt: skip
    assert [str(found) for found in differences(one, other)] == [
        "Model: ast in A, cnn14 in B",
        "Model labels: 7 values, a, b, c... in A, 8 values, a, b, c... in B",
        "Model configuration (3 entries differ): 2 settings in A, 1 settings in B",
        "Weights: 0f in A, ff in B",
        "Data hash: 1 in A, 2 in B",
        "Attack setting loss: automatic in A, ce in B",
        "Class wanted: not there in A, 3 in B",
        "Version of torch: 2.6 in A, 2.7 in B",
    ]
    same = {"victim": {"name": "ast", "config": {"layers": 4}}}
    assert str(differences(same, {"victim": {"name": "ast", "config": {"layers": 6}}})[0]) == (
        "Model setting layers: 4 in A, 6 in B"
    )
    assert differences(one, dict(one)) == []


def test_changes_and_attacks_go_together(tmp_path: Path) -> None:
    model, data = av_toys.linear(av_toys.SOUND, av_toys.SIGHT), av_toys.clips(18)
    evaluate(model, data, missing(model, data, "audio"), out=tmp_path / "deaf")
    attack(model, data, modality="video", eps=0.1, steps=3, out=tmp_path / "attacked", checks=False)
    told = compare_runs(tmp_path / "deaf", tmp_path / "attacked")
    assert (told["a"]["kind"], told["b"]["kind"]) == ("change", "attack")
    deaf, attacked = (Store.read(tmp_path / name).records() for name in ("deaf", "attacked"))
    assert told["robust"]["difference"] == pytest.approx(deaf["correct"].mean() - attacked["correct"].mean())


def test_multilabel_runs_compare_map(tmp_path: Path) -> None:
    model = victim("multilabel")
    for name, eps in (("weak", 0.001), ("strong", 0.01)):
        attack(model, ToyData(24, model), eps=eps, steps=4, out=tmp_path / name, checks=False)
    told = compare_runs(tmp_path / "weak", tmp_path / "strong")
    weak, strong = (Store.read(tmp_path / name).records() for name in ("weak", "strong"))
    assert told["robust"]["metric"] == "mAP"
    assert told["robust"]["difference"] == compare(weak, strong, "multilabel").difference > 0
    assert told["changed"]["only_a"]["count"] == int((weak["correct"] & ~strong["correct"]).sum())
    shown = CliRunner().invoke(app(), [str(tmp_path / "weak"), str(tmp_path / "strong")]).output
    assert "with a true label left in A alone" in shown


def test_other_clips_tasks_and_kinds_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    model, many = victim(), victim("multilabel")
    attack(model, ToyData(8, model), eps=0.01, steps=1, out=tmp_path / "fewer", checks=False)
    with pytest.raises(StoreError, match="same clips"):
        compare_runs(runs[0], tmp_path / "fewer")
    attack(many, ToyData(32, many), eps=0.01, steps=1, out=tmp_path / "many", checks=False)
    with pytest.raises(StoreError, match="multiclass and many is multilabel"):
        compare_runs(runs[0], tmp_path / "many")
    with pytest.raises(StoreError, match=r"kind 'latency'; those compared .* attack, change, universal, curve"):
        compare_runs(runs[0], table_stores.latency_run(tmp_path / "latency"))
    with pytest.raises(StoreError, match="curve goes with a curve"):
        compare_runs(runs[0], search(tmp_path / "curve", 1.0))
    with pytest.raises(StoreError, match="keeps no records"):
        compare_runs(*[stores.change_run(tmp_path / name) for name in ("deaf", "blind")])
    stores.write_study(tmp_path / "study", [stores.curve_run(tmp_path / "study" / "cells" / "one")])
    with pytest.raises(StoreError, match="holds a study"):
        compare_runs(runs[0], tmp_path / "study")
    with pytest.raises(StoreError, match="does not exist"):
        compare_runs(runs[0], tmp_path / "nowhere")


LEVELS = [0.001, 0.002, 0.004, 0.008]


def search(folder: Path, factor: float, levels: list[float] = LEVELS, norm: str = "linf") -> Path:
    """A curve that was searched: 40 clips, the first two wrong at first, the last ten never broken."""
    draw = np.random.default_rng(5)
    scale = factor * np.exp(draw.normal(-1.5, 0.8, 40))
    scale[scale > 1], scale[:2], scale[-10:] = np.inf, 0.0, np.inf
    right = scale > 0
    records = pd.DataFrame(
        {
            "index": range(40),
            "id": [f"clip/{place}" for place in range(40)],
            "label": 0,
            "label_name": "bell",
            "clean_correct": right,
            "clean_prediction": 0,
            "correct": scale == np.inf,
            "scale": scale,
        }
    )
    standing = [(scale > level / levels[-1] * (1 + 1e-9)).mean() for level in levels]
    summary: dict[str, Any] = {
        "kind": "curve",
        "victim": "toy",
        "metric": "accuracy",
        "axis": {"name": norm, "modality": "audio", "unit": "amplitude", "label": f"{norm} radius", "log": True,
                 "harder": "up"},
        "radii": levels, "scores": standing, "low": standing, "high": standing, "clean": stores.score(38, 40),
    }  # fmt: skip
    return stores.write_run(folder, summary, manifest={"condition": "curve"}, records=records)


def test_searches_compare_level_by_level_and_clip_by_clip(tmp_path: Path) -> None:
    told = compare_runs(search(tmp_path / "a", 1.0), search(tmp_path / "b", 0.5))
    assert told["clean"]["difference"] == 0
    scales = [Store.read(tmp_path / name).records()["scale"].to_numpy() for name in "ab"]
    stood = [np.stack([scale > level / 0.008 * (1 + 1e-9) for level in LEVELS]) for scale in scales]
    for place, level in enumerate(told["levels"]):
        one, other = stood[0][place], stood[1][place]
        assert level["level"] == LEVELS[place]
        assert level["difference"] == pytest.approx(one.mean() - other.mean())
        assert (level["only_a"], level["only_b"]) == ((one & ~other).sum(), (other & ~one).sum())
    longer = stood[0].sum(0) - stood[1].sum(0)
    counts = int((longer > 0).sum()), int((longer < 0).sum())
    found = told["smallest"]
    assert (found["longer_a"], found["longer_b"], found["equal"]) == (*counts, 40 - sum(counts))
    assert found["p"] == pytest.approx(binomtest(counts[0], sum(counts)).pvalue)


def test_curves_of_other_axes_or_without_a_common_level_are_refused(tmp_path: Path) -> None:
    one = search(tmp_path / "a", 1.0)
    with pytest.raises(StoreError, match="different axes: linf radius of audio and l2 radius of audio"):
        compare_runs(one, search(tmp_path / "l2", 1.0, norm="l2"))
    with pytest.raises(StoreError, match="no level in common"):
        compare_runs(one, search(tmp_path / "far", 1.0, levels=[0.1, 0.2]))
    some = compare_runs(one, search(tmp_path / "some", 1.0, levels=[0.0005, 0.002, 0.008]))
    assert [level["level"] for level in some["levels"]] == [0.002, 0.008]


def test_sweeps_compare_level_by_level(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    summary = {
        "kind": "curve", "victim": "toy", "task": "multiclass", "metric": "accuracy", "radii": [20.0, 10.0],
        "axis": {"name": "noise", "modality": "audio", "unit": "dB", "label": "SNR (dB)", "log": False,
                 "harder": "down"},
        "scores": [1, 1], "low": [1, 1], "high": [1, 1], "clean": stores.score(32, 32),
    }  # fmt: skip
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        stores.write_run(tmp_path / name, summary, manifest={})
        for place, run in enumerate(order):
            shutil.copytree(runs[run] / "records", tmp_path / name / "levels" / f"{place:02d}" / "records")
    told = compare_runs(tmp_path / "a", tmp_path / "b")
    expected = compare_runs(*runs)["robust"]
    assert [level["difference"] for level in told["levels"]] == [expected["difference"], -expected["difference"]]
    assert "smallest" not in told
    with pytest.raises(StoreError, match="different axes"):
        compare_runs(tmp_path / "a", search(tmp_path / "searched", 1.0))


def test_command_prints_and_gives_json(runs: tuple[Path, Path], tmp_path: Path) -> None:
    words = [str(folder) for folder in runs]
    told = compare_runs(*runs)
    assert json.loads(CliRunner().invoke(app(), [*words, "--json"]).output) == told
    shown = CliRunner().invoke(app(), words).output
    count = told["changed"]["only_a"]["count"]
    assert f"changed  {count} clips right in A alone" in shown
    assert f"and {count - 10} more" in shown
    assert "Budget audio radius: 0.002 in A, 0.01 in B" in shown
    assert f"p = {told['robust']['p']:.2g} (exact McNemar)" in shown
    curves = [str(search(tmp_path / name, factor)) for name, factor in (("a", 1.0), ("b", 0.5))]
    shown = CliRunner().invoke(app(), curves).output
    assert "at 0.004" in shown
    assert "stand longer in A" in shown
    alike = CliRunner().invoke(app(), [words[0], words[0]]).output
    assert "alike in both" in alike


def test_clean_view_of_an_attack_is_its_clean_score(runs: tuple[Path, Path]) -> None:
    records = Store.read(runs[0]).records()
    assert clean_view(records)["correct"].equals(records["clean_correct"].rename("correct"))
