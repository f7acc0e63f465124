"""A whole run against a purifier: the call, its checks, the command, its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from attacks.channel import Channel
from robust.cli import app
from robust.errors import RobustError, StoreError
from robust.evaluation.engine import AlignedData
from robust.evaluation.purification_masking import Few, gap, masking, more_draws, spread
from robust.plots.purification import draw_purifiers, draw_steps, point_of, points_of
from robust.purified_attack import PurifiedRun, attack_purified, suite
from tests.robust.purifiers import LinearData, Noisy, Rounded, RoundedOpenly, linear_victim
from tests.robust.test_purification import condition
from tests.robust.toys import SAMPLE_RATE, ToyData, victim

FAST: dict[str, Any] = {"eps": 0.01, "steps": 20, "queries": 100, "draws": 4, "sure": 4}


def run(purifier: Channel, **asked: Any) -> PurifiedRun:
    return attack_purified(linear_victim(), LinearData(), purifier=purifier, **{**FAST, **asked})


def verdicts(found: PurifiedRun) -> dict[str, str]:
    return {check.name.split()[0]: check.verdict for check in found.checks}


def test_a_whole_run(tmp_path: Path) -> None:
    model = victim()
    data = ToyData(12, model, padded=True)
    found = attack_purified(model, data, purifier=Noisy(SAMPLE_RATE), **FAST, out=tmp_path / "run")
    told = found.summary
    assert told == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["kind"] == "purification"
    assert told["purifier"] == {
        "name": "noisy",
        "random": True,
        "gradient": "exact",
        "settings": {"channel": "noisy", "sigma": 0.02},
    }
    assert told["audit"]["violations"] == 0
    assert 0 <= found.robust.low <= found.robust.score <= found.robust.high <= found.clean.score <= 1
    assert found.bare is not None
    assert found.bare.score < told["bare_clean"]["score"]
    numbers = [int(check.name.split()[0][1:]) for check in found.checks]
    assert numbers == sorted(numbers) == [2, 3, 7, 8, 9, 10, 12, 13, 15, 16, 19, 20, 21]
    assert "fail" not in verdicts(found).values()
    sounds = [Path(name) for name in told["audio"]]
    assert len(sounds) == 4 * 3
    assert {path.stem.split("-", 3)[3] for path in sounds} == {"clean", "adversarial", "purified-adversarial"}
    assert all(path.is_file() for path in sounds)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, settings = victim(), {**FAST, "batch_size": 1, "checks": False}
    data = ToyData(10, model)
    whole = attack_purified(model, data, purifier=Noisy(SAMPLE_RATE), **settings, out=tmp_path / "run")
    parts = sorted((tmp_path / "run" / "records").iterdir())
    assert len(parts) == 3
    parts[1].unlink()
    before = parts[0].stat().st_mtime_ns
    again = attack_purified(model, data, purifier=Noisy(SAMPLE_RATE), **settings, out=tmp_path / "run", resume=True)
    pd.testing.assert_frame_equal(whole.records, again.records)
    assert parts[0].stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="another run"):
        attack_purified(model, data, purifier=Noisy(SAMPLE_RATE, 0.1), **settings, out=tmp_path / "run", resume=True)


def test_a_hidden_gradient_fails_loudly() -> None:
    found = run(Rounded(), attacks=("transfer", "bpda", "full-1"))
    said = verdicts(found)
    assert said["S19"] == said["S8"] == said["S3"] == "fail"
    assert "full-1 100.0 %" in next(check.detail for check in found.checks if check.name.startswith("S19"))
    assert found.robust.score < 0.7  # the number itself is that of the attacks that were not misled
    assert found.summary["label"] == "non-adaptive: no black box"


def test_the_same_purifier_with_an_honest_gradient_passes() -> None:
    found = run(RoundedOpenly())
    said = verdicts(found)
    assert "fail" not in said.values()
    assert said["S8"] == said["S20"] == said["S21"] == "skipped"
    assert found.adaptive
    assert set(found.summary["skipped"]) == {"full-1"}


def test_what_is_hidden_is_found_without_a_cascade_too() -> None:
    found = run(Rounded(), attacks=("bpda", "full-1", "square"), cascade=False)
    assert verdicts(found)["S19"] == "fail"


def few_clips(purifier: Channel, *attacks: str) -> tuple[Few, pd.DataFrame]:
    found = run(purifier, attacks=attacks, checks=False)
    asked = condition(purifier, *attacks, draws=FAST["draws"], sure=FAST["sure"])
    model = linear_victim()
    few = Few.of(model, AlignedData(LinearData(), model.spec), asked, found.records, 0)
    assert few is not None
    return few, found.records


def test_gaps_are_paired() -> None:
    own, other = np.array([1.0, 0.8, 0.5, 0.1]), np.array([0.9, 0.6, 0.4, 0.1])
    surplus, error = gap(own, other)
    assert surplus == pytest.approx(0.1)
    assert error == pytest.approx(np.std([0.1, 0.2, 0.1, 0.0], ddof=1) / 2)
    assert gap(own[:1], other[:1])[1] == np.inf


def test_more_draws_that_change_the_result_are_told() -> None:
    few, records = few_clips(Noisy(), "full-1", "full-5")
    weaker = records.assign(**{"full-1_scoring": [[True] * 4] * len(records)})
    stronger = weaker.assign(**{"full-5_scoring": [[False] * 4] * len(records)})
    assert more_draws(few, weaker.assign(**{"full-5_scoring": weaker["full-1_scoring"]})).verdict == "pass"
    assert more_draws(few, stronger).verdict == "warn"


def test_a_black_box_ahead_by_a_little_is_a_warning() -> None:
    few, records = few_clips(Noisy(), "full-1", "square")
    count = len(records)
    few = replace(few, condition=replace(few.condition, cascade=False))

    def verdict(squares: list[list[bool]]) -> str:
        columns = {"full-1_scoring": [[True] * 100] * count, "square_scoring": squares, "attacked": [True] * count}
        return masking(few, records.assign(**columns)).verdict

    assert verdict([[True] * 100] * count) == "pass"
    assert verdict([[True] * 97 + [False] * 3] * count) == "warn"
    assert verdict([[True] * 50 + [False] * 50] * count) == "fail"
    assert verdict([[True] * 100] * (count - 1) + [[False] * 100]) == "pass"  # one clip is no more than chance


def test_too_few_draws_are_told() -> None:
    mixed, clear = (pd.DataFrame({"worst_scoring": [row] * 20}) for row in ([True, False], [True, True]))
    assert spread(mixed).verdict == "warn"
    assert spread(clear).verdict == "pass"
    assert spread(pd.DataFrame({"worst_scoring": [[True]] * 20})).verdict == "skipped"


def test_the_usual_suite() -> None:
    assert suite("linf", None) == ("transfer", "bpda", "full-1", "square")
    assert suite("l1", None) == ("transfer", "bpda", "full-1", "nes")
    assert suite("l1", ["fixed"]) == ("fixed",)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"eps": -1.0}, "must not be negative"),
        ({"modality": "video"}, "modality"),
        ({"target": "nothing"}, "class"),
        ({"loss": "lost"}, "loss"),
        ({"attacks": ("everything",)}, "attack on a purifier"),
        ({"purifier": "wavefrom:3"}, "waveform"),
        ({"norm": "l1", "eps": 1.0, "attacks": ("square",)}, "nes"),
        ({"purifier": Noisy(44_100)}, "44100 Hz"),
    ],
)
def test_mistakes_leave_nothing_behind(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = victim()
    given = {"purifier": Noisy(SAMPLE_RATE), **FAST, **asked}
    with pytest.raises(RobustError, match=words):
        attack_purified(model, ToyData(3, model), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["attack", "--model", "m5", "--limit", "3", "--purify", "median:3"]
    done = CliRunner().invoke(app, [*asked, "--check", "--json", "--out", "run"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {"purifier", "attacks", "clean", "robust", "bare_clean", "bare_robust", "adaptive", "checks"} <= told.keys()
    assert told["steps"] == told["queries"] == told["draws"] == told["clips"] == 1
    assert not told["adaptive"]
    words = [*asked, "--attacks", "transfer,bpda", "--steps", "2", "--no-checks", "--out", "again"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "non-adaptive: no full gradient, no black box" in shown.stdout
    assert "behind median:3" in shown.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ["--purify", "median:3", "--by", "label_name"],
        ["--purify", "median:3", "--missing", "audio"],
        ["--purify", "median:3", "--cut", "--window", "0:0.5"],
        ["--draws", "0"],
        ["--attacks", "transfer"],
        ["--no-cascade"],
    ],
)
def test_options_that_cannot_act_are_refused(wrong: list[str]) -> None:
    done = CliRunner().invoke(app, ["attack", "--model", "m5", "--limit", "1", *wrong])
    assert done.exit_code == 2
    assert "--purify" in done.output


def summary(name: str, steps: int | None, eps: float, *, adaptive: bool = True, robust: float = 0.2) -> dict[str, Any]:
    def score(value: float) -> dict[str, float]:
        return {"score": value, "low": value - 0.05, "high": value + 0.05}

    return {
        "victim": "toy",
        "data": {"name": "toys"},
        "purifier": {"name": name, "settings": {} if steps is None else {"steps": steps}},
        "adaptive": adaptive,
        "attacks": {"transfer": {"robust": score(0.6)}, "full-1": {"robust": None}},
        "threat": {"audio": {"norm": "linf", "radius": eps, "unit": "amplitude"}},
        "clean": score(0.9),
        "robust": score(robust),
        "bare_clean": score(0.95),
        "bare_robust": score(0.1),
    }


def test_lines_over_steps_are_where_their_numbers_are() -> None:
    runs = [summary(f"waveform:{steps}", steps, eps) for steps in (1, 3, 10) for eps in (0.001, 0.002)]
    runs += [summary("mel:3", 3, 0.001, adaptive=False, robust=0.5), summary("median:3", None, 0.001)]
    wave, mel = draw_steps(list(map(point_of, runs))).axes
    assert [text.get_text() for text in wave.get_xticklabels()] == ["0", "1", "3", "10"]
    lines = {
        (line.get_linestyle(), line.get_markerfacecolor(), line.get_color()): line.get_ydata() for line in wave.lines
    }
    solid = [drawn for (style, face, colour), drawn in lines.items() if style == "-"]
    assert len(lines) == 5
    assert len(solid) == 2
    np.testing.assert_allclose(solid, [[10, 20, 20, 20]] * 2)
    hollow = [drawn for (style, face, colour), drawn in lines.items() if face == "white"]
    np.testing.assert_allclose(hollow, [[10, 60, 60, 60]] * 2)
    hollow = [line for line in mel.lines if line.get_linestyle() == "None"]
    assert [line.get_markerfacecolor() for line in hollow] == ["white"]  # not adaptive, and not drawn as if it were
    np.testing.assert_allclose([line.get_ydata() for line in hollow], [[50]])
    alone = {**summary("mel:3", 3, 0.001, adaptive=False), "attacks": {"transfer": {"robust": runs[0]["robust"]}}}
    assert [name for name, one in point_of(alone).scores.items() if one] == ["clean", "unaware attack"]
    with pytest.raises(StoreError, match="reverse steps"):
        draw_steps([point_of(summary("median:3", None, 0.001))])


def test_bars_of_purifiers() -> None:
    runs = [summary("median:3", None, 0.001), summary("gate", None, 0.001, adaptive=False, robust=0.5)]
    (axes,) = draw_purifiers(list(map(point_of, runs))).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["no defense", "median:3", "gate"]
    widths = sorted((round(bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in axes.patches)
    np.testing.assert_allclose(widths, [(0, 10), (0, 95), (1, 20), (1, 60), (1, 90), (2, 50), (2, 60), (2, 90)])
    with pytest.raises(StoreError, match="no run"):
        draw_purifiers([])


def test_a_curve_is_a_point_at_each_radius_with_its_own_label() -> None:
    path = "checkpoints/diffusion-waveform-fsdd.safetensors:3"
    levels = [summary(path, 3, eps, adaptive=eps < 0.002, robust=0.3) for eps in (0.001, 0.002)]
    names = {True: "adaptive", False: "non-adaptive: no BPDA"}
    curve: dict[str, Any] = {**levels[0], "kind": "purify", "adaptive": False}
    curve["purifier"] = {"name": path, "settings": {"channel": "waveform:3", "steps": 3}}
    of_level = ("robust", "bare_robust", "attacks", "threat")
    curve["levels"] = [
        {"label": names[level["adaptive"]], **{name: level[name] for name in of_level}} for level in levels
    ]
    found = points_of(curve)
    assert [(point.purifier, point.family) for point in found] == [("waveform:3", "waveform")] * 2
    assert [point.radius for point in found] == ["L∞ 10⁻³", "L∞ 2·10⁻³"]
    adaptive, other = (point.scores for point in found)
    assert [one and one["score"] for one in adaptive.values()] == [0.9, 0.6, None, 0.3]
    assert [one and one["score"] for one in other.values()] == [0.9, 0.6, 0.3, None]
    (axes,) = draw_steps(found).axes
    hollow = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert len(hollow) == 1, "the larger radius was not attacked adaptively"
    assert hollow[0].get_markerfacecolor() == "white"
