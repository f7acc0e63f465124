"""Curves by one search: against attacks radius by radius, and as pictures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import robust
from robust.api import attack
from robust.curve_levels import attack_axis
from robust.errors import RobustError
from robust.evaluation.curve_summary import Curve, curves_csv, from_scales, from_scores, from_summary
from robust.evaluation.radius_search import shares
from robust.evaluation.sweeps import find_sweep
from robust.metrics.classification import Score
from tests.robust.av_toys import SIGHT, SOUND, clips, linear
from tests.robust.toys import ToyData, victim

GRID = robust.geomspace(1e-3, 0.1, 6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_higher_than_attacks_radius_by_radius(norm: str) -> None:
    model = victim()
    data, scale = ToyData(20, model, padded=True), 1.0 if norm == "linf" else 15.0
    found = robust.curve(model, data, norm=norm, eps=GRID * scale, config=robust.PGD(steps=20))
    single = [attack(model, data, norm=norm, eps=eps * scale, steps=20, checks=False).robust.score for eps in GRID]
    assert found.clean == pytest.approx(17 / 20)
    assert (np.diff(found.scores) <= 0).all()
    assert 0 < found.scores.mean() < found.clean
    assert (found.scores <= np.array(single) + 1e-9).all()
    assert (found.low <= found.scores).all()
    assert (found.scores <= found.high).all()
    assert 0 <= found.auc <= 1


def test_does_not_depend_on_batch_size() -> None:
    model = victim()
    data = ToyData(20, model)
    found = [
        robust.curve(model, data, eps=GRID, batch_size=size, config=robust.PGD(steps=8)).smallest for size in (1, 16)
    ]
    np.testing.assert_array_equal(*found)


def test_draws_a_vector_picture(tmp_path: Path) -> None:
    model = victim()
    curve = robust.curve(model, ToyData(10, model), eps=GRID, config=robust.PGD(steps=3))
    curve.plot(tmp_path / "curve.pdf")
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(RobustError, match="Cannot write"):
        curve.plot("/proc/nowhere/curve.pdf")


def test_the_same_radii_in_another_unit_are_the_same_curve() -> None:
    model = victim()
    data, amplitudes = ToyData(16, model, padded=True), np.array([1 / 512, 1 / 64, 1 / 8])
    config = robust.PGD(steps=10)
    curve = robust.curve(model, data, eps=amplitudes, config=config)
    in_bits = robust.curve(model, data, eps=amplitudes * 32768, unit="lsb16", config=config)
    in_db = robust.curve(model, data, eps=20 * np.log10(amplitudes), unit="dbfs", config=config)
    assert curve.smallest is not None
    assert in_bits.smallest is not None
    assert in_db.smallest is not None
    np.testing.assert_array_equal(curve.scores, in_bits.scores)
    np.testing.assert_array_equal(curve.scores, in_db.scores)
    np.testing.assert_allclose(curve.smallest * 32768, in_bits.smallest)
    lost = curve.smallest > 0
    np.testing.assert_allclose(20 * np.log10(curve.smallest[lost]), in_db.smallest[lost], atol=1e-3)
    assert (in_db.smallest[~lost] == -np.inf).all()
    # Both axes are in decibels then: the mean over one is the mean over the other.
    assert curve.auc == pytest.approx(in_db.auc)
    assert curve.auc == pytest.approx(in_bits.auc)
    assert in_db.radius_half == pytest.approx(20 * np.log10(curve.radius_half), abs=1e-3)


def test_an_snr_is_an_l2_ball_of_each_clips_own_size() -> None:
    model = victim()
    data = ToyData(16, model)
    data.audio /= data.audio.norm(dim=1, keepdim=True)  # all of one energy, so that one radius is one SNR
    with torch.no_grad():
        data.target = model({"audio": data.audio}).argmax(dim=1)
    found = robust.curve(model, data, norm="snr", eps=[60, 30, 10], steps=10)
    same = robust.curve(model, data, norm="l2", eps=10 ** (-np.array([60, 30, 10]) / 20), steps=10)
    np.testing.assert_array_equal(found.scores, same.scores)
    assert found.axis["harder"] == "down"
    assert found.auc == pytest.approx(same.auc)
    assert found.radius_below(0.7) == pytest.approx(-20 * np.log10(same.radius_below(0.7)), abs=1e-3)


def direct(smallest: np.ndarray, threshold: float, falling: bool, of: str = "scores") -> float:
    """The first level, from the easy side, at which the share of clips that stand is under the threshold."""
    for level in sorted(set(smallest.tolist()), reverse=falling):
        standing = int((smallest < level).sum() if falling else (smallest > level).sum())
        ends = stats.binomtest(standing, len(smallest)).proportion_ci(method="wilson")
        if {"scores": standing / len(smallest), "low": ends.low, "high": ends.high}[of] < threshold:
            return float(level)
    return -np.inf if falling else np.inf


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unit", ["amplitude", "snr_db"])
def test_radius_below_is_a_count_of_clips(seed: int, unit: str) -> None:
    draw = np.random.default_rng(seed)
    scale = np.where(draw.random(24) < 0.2, np.inf, draw.choice([0, 0.001, 0.01, 0.3, 0.31, 0.9], 24))
    levels = [0.001, 0.1, 1.0] if unit == "amplitude" else [60.0, 20.0, 0.0]
    axis = attack_axis("linf" if unit == "amplitude" else "snr", "audio", unit)
    records = pd.DataFrame({"scale": scale, "backwards": 3})
    curve = from_scales(records, shares(levels, unit).tolist(), levels, "toy", axis)
    assert curve.smallest is not None
    for threshold in (0.05, 0.2, 0.5, 0.7, 0.95):
        for of in ("scores", "low", "high"):
            expected = direct(curve.smallest, threshold, unit == "snr_db", of)
            assert curve.radius_below(threshold, of) == pytest.approx(expected), (threshold, of)
    # The score at a level is the share of clips whose smallest radius lies beyond it.
    for level, score in zip(levels, curve.scores, strict=True):
        beyond = curve.smallest < level - 1e-6 if unit == "snr_db" else curve.smallest > level * (1 + 1e-6)
        assert score == beyond.mean()


def swept(scores: list[float], levels: list[float], log: bool, harder: str) -> Curve:
    axis = {"name": "x", "modality": "audio", "unit": "dB", "label": "", "log": log, "harder": harder}
    found = [Score(score, score - 0.1, score + 0.1, "accuracy", 50) for score in scores]
    return from_scores(found, Score(1.0, 0.9, 1.0, "accuracy", 50), levels, "toy", axis)


def test_a_sweep_is_read_between_its_levels() -> None:
    falling = swept([0.9, 0.7, 0.3, 0.1], [40, 20, 10, 0], False, "down")
    assert falling.radius_half == pytest.approx(15)
    assert falling.radius_below(0.8) == pytest.approx(30)
    assert falling.radius_below(0.8, "high") == pytest.approx(20)
    assert falling.radius_below(0.95) == 40
    assert falling.radius_below(0.05) == -np.inf
    assert falling.auc == pytest.approx((0.8 * 20 + 0.5 * 10 + 0.2 * 10) / 40)
    rising = swept([0.9, 0.1], [0.01, 1.0], True, "up")
    assert rising.radius_half == pytest.approx(0.1)
    assert rising.auc == pytest.approx(0.5)
    assert rising.radius_below(0.05) == np.inf
    assert swept([0.9, 0.1], [0, 1], False, "up").radius_half == pytest.approx(0.5)
    assert swept([0.4], [3], False, "up").auc == pytest.approx(0.4)


def test_both_senses_share_a_radius_by_their_scale() -> None:
    model, data = linear(sound=3 * SOUND, sight=3 * SIGHT), clips(9)
    levels, config = robust.geomspace(0.02, 0.3, 9), robust.PGD(steps=20)
    found = robust.curve(model, data, modality="both", eps=levels, scale={"video": 2}, config=config)
    for level, score in zip(levels, found.scores, strict=True):
        eps = {"audio": level, "video": 2 * level}
        single = attack(model, data, modality="both", eps=eps, config=config, checks=False).robust.score
        assert score == pytest.approx(single, abs=1 / 9 + 1e-9)
    wider = robust.curve(model, data, modality="both", eps=levels, scale={"video": 3}, config=config)
    assert (wider.scores <= found.scores).all()
    assert found.smallest is not None
    assert wider.smallest is not None
    assert (wider.smallest <= found.smallest).all()
    assert (wider.smallest < found.smallest).any()
    plain = robust.curve(model, data, modality="both", eps=levels, config=config)
    same = robust.curve(model, data, modality="both", eps=levels, scale={"video": 1, "audio": 1}, config=config)
    np.testing.assert_array_equal(plain.smallest, same.smallest)
    with pytest.raises(RobustError, match=r"Unknown modality 'vidio'\. Did you mean 'video'"):
        robust.curve(model, data, modality="both", eps=levels, scale={"vidio": 2})
    with pytest.raises(RobustError, match="both or joint"):
        robust.curve(model, data, modality="audio", eps=levels, scale={"video": 2})
    joint = robust.curve(model, data, modality="joint", norm="l2", eps=levels * 3, config=config)
    assert (np.diff(joint.scores) <= 0).all()


def test_many_labels_a_clip_are_measured_level_by_level(tmp_path: Path) -> None:
    model = victim("multilabel")
    data, config = ToyData(16, model), robust.PGD(steps=4)
    found = robust.curve(model, data, eps=GRID[::2], config=config, out=tmp_path / "run")
    assert found.metric == "mAP"
    assert found.smallest is None
    single = [attack(model, data, eps=eps, config=config, checks=False).robust.score for eps in GRID[::2]]
    np.testing.assert_allclose(found.scores, single)
    assert found.scores[-1] < found.clean
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (told["metric"], told["task"], told["clips"]) == ("mAP", "multilabel", 16)
    assert sorted(path.name for path in (tmp_path / "run" / "levels").iterdir()) == [f"{n:02d}" for n in range(3)]
    with pytest.raises(RobustError, match="differ by 2 at most"):
        robust.curve(model, data, eps=[0.1, 3.0], out=tmp_path / "beyond")
    assert not (tmp_path / "beyond").exists()


@pytest.mark.parametrize("against", ["attack", "noise"])
def test_a_summary_makes_the_curve_again(against: str, tmp_path: Path) -> None:
    model = victim()
    levels = GRID if against == "attack" else [20, 10, 0]
    curve = robust.curve(model, ToyData(12, model), eps=levels, against=against, steps=4, out=tmp_path, threshold=0.7)
    told = json.loads((tmp_path / "summary.json").read_text())
    again = from_summary(told)
    for name in ("radii", "scores", "low", "high"):
        np.testing.assert_array_equal(getattr(again, name), getattr(curve, name))
    for name in ("auc", "clean", "victim", "axis", "metric", "clips", "backwards_per_clip", "norm", "label"):
        assert getattr(again, name) == getattr(curve, name)
    assert told["kind"] == "curve"
    assert told["threshold"] == 0.7
    below = curve.radius_below(0.7)
    assert told["radius_threshold"] == (below if np.isfinite(below) else None)
    assert told["clean"]["score"] == pytest.approx(curve.clean)
    # Resumed, it is the same; without, refused.
    with pytest.raises(RobustError, match="--resume"):
        robust.curve(model, ToyData(12, model), eps=levels, against=against, steps=4, out=tmp_path)
    same = robust.curve(model, ToyData(12, model), eps=levels, against=against, steps=4, out=tmp_path, resume=True)
    np.testing.assert_array_equal(same.scores, curve.scores)
    rows = list(csv.DictReader(curves_csv([curve, again.named("again")]).decode().splitlines()))
    assert len(rows) == 2 * len(levels)
    assert [float(row["score"]) for row in rows] == [*curve.scores.tolist()] * 2
    assert [float(row["level"]) for row in rows[: len(levels)]] == curve.radii.tolist()
    assert [row["victim"] for row in rows] == ["toy"] * len(levels) + ["again"] * len(levels)


def test_noise_is_measured_at_every_level() -> None:
    model = victim()
    data = ToyData(24, model)
    found = robust.curve(model, data, against="noise", eps=[60, 10, -20])
    single = [
        robust.evaluate(model, data, find_sweep("noise").condition(level, "audio")).changed.score
        for level in (60, 10, -20)
    ]
    assert found.scores.tolist() == single
    assert found.scores[0] == pytest.approx(found.clean, abs=1 / 24 + 1e-9)
    assert found.scores[-1] < found.clean
    assert found.axis["harder"] == "down"
    assert found.smallest is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "lnif"}, "Unknown norm 'lnif'. Did you mean 'linf'"),
        ({"unit": "dbsf"}, "Unknown unit 'dbsf'. Did you mean 'dbfs'"),
        ({"modality": "vidio"}, "'vidio'"),
        ({"modality": "both"}, "several"),
        ({"against": "noies"}, "Did you mean 'noise'"),
        ({"against": "noise", "eps": [0, 20]}, "descending"),
        ({"against": "noise", "eps": []}, "descending"),
        ({"eps": GRID[::-1]}, "ascending"),
        ({"eps": []}, "at least one"),
        ({"eps": [0.1, 3]}, "differ by 2 at most"),
        ({"unit": "dbfs"}, "no usual radii in dbfs"),
        ({"threshold": 0}, "between 0 and 1"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"batch_size": 0}, "batch size"),
        ({"stepz": 3}, "Did you mean 'steps'"),
        ({"steps": 0}, "steps"),
    ],
)
def test_refuses_before_anything_is_written(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = victim()
    with pytest.raises(RobustError, match=re.escape(words)):
        robust.curve(model, ToyData(8, model), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
