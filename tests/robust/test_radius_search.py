"""Levels of a curve as shares of one budget, and the search that bisects over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import robust
from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.evaluation.conditions import Attack
from robust.evaluation.curve_summary import level_range
from robust.evaluation.radius_search import RadiusSearch, level_at, shares
from robust.types import Batch
from tests.robust.av_toys import SOUND, clips, linear
from tests.robust.toys import SAMPLES, ToyData, victim

UNITS = {
    "amplitude": [1e-4, 1e-3, 0.1],
    "lsb16": [1, 7, 300],
    "pixel255": [0.5, 1, 16],
    "dbfs": [-80, -43, -6],
    "snr_db": [70, 31, -3],
}


@pytest.mark.parametrize("unit", UNITS)
def test_shares_are_of_budgets_as_balls_have_them(unit: str) -> None:
    levels = UNITS[unit]
    clean = torch.linspace(-0.5, 0.5, 50)[None]
    budgets = [float(Ball("l2", level, unit).radius_amplitude(clean)) for level in levels]
    found = shares(levels, unit)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, np.array(budgets) / budgets[-1])
    assert float(found[-1]) == 1
    for share, level in zip(found.tolist(), levels, strict=True):
        assert level_at(share, levels[-1], unit) == pytest.approx(level)
    worst = {"dbfs": (-math.inf, math.inf), "snr_db": (math.inf, -math.inf)}.get(unit, (0.0, math.inf))
    assert (level_at(0.0, levels[-1], unit), level_at(math.inf, levels[-1], unit)) == worst


@pytest.mark.parametrize(
    ("levels", "unit"),
    [
        ([], "amplitude"),
        ([0.1, 0.01], "amplitude"),
        ([0.1, 0.1], "amplitude"),
        ([0.0, 0.1], "amplitude"),
        ([-0.1, 0.1], "lsb16"),
        ([0.1, math.inf], "amplitude"),
        ([math.nan], "amplitude"),
        ([-6, -43], "dbfs"),
        ([0, 40], "snr_db"),
        ([40, 40], "snr_db"),
    ],
)
def test_levels_that_are_no_curve(levels: Sequence[float], unit: str) -> None:
    with pytest.raises(ThreatModelError, match="radi"):
        shares(levels, unit)
    model = victim()
    with pytest.raises(ThreatModelError, match="radi"):
        robust.curve(model, ToyData(3, model), norm="snr" if unit == "snr_db" else "l2", eps=levels, unit=unit)
    labels = victim("multilabel")  # here nothing is searched, and order matters all the same
    with pytest.raises(ThreatModelError, match="radi"):
        robust.curve(labels, ToyData(3, labels), norm="snr" if unit == "snr_db" else "l2", eps=levels, unit=unit)


def test_ranges_of_levels() -> None:
    assert level_range(1e-3, 1.0, 4) == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
    assert level_range(60, 0, 4) == pytest.approx([60, 40, 20, 0])
    assert level_range(0, 1, 3) == pytest.approx([0, 0.5, 1])
    assert level_range(-60, -20, 3) == pytest.approx([-60, -40, -20])
    assert level_range(0.5, 2, 1) == [0.5]


def test_a_linear_victim_breaks_at_its_known_distance() -> None:
    """The nearest adversarial example of a linear victim: margin over the dual norm of the weights' difference."""
    model, data = linear(sound=3 * SOUND), clips(12)
    weights = 3 * SOUND
    logits = data.audio @ weights.T
    levels = np.geomspace(0.02, 1.0, 12)
    config = PGD(steps=30, restarts=3)  # one for each class: the nearest boundary need not be that of the second answer
    for norm, dual in (("linf", 1), ("l2", 2)):
        exact = []
        for row, label in enumerate(data.target.tolist()):
            gaps = [
                (logits[row, label] - logits[row, k]) / (weights[label] - weights[k]).norm(dual)
                for k in range(3)
                if k != label
            ]
            exact.append(float(min(gaps)))
        found = robust.curve(model, data, norm=norm, eps=levels, config=config)
        # A grid has no more to say than between which levels it is; on the very edge the search may miss one.
        assert found.smallest is not None
        for smallest, distance in zip(found.smallest, exact, strict=True):
            assert smallest >= distance * (1 - 1e-4)
            assert smallest <= levels[np.searchsorted(levels, distance * 1.02)] * (1 + 1e-9)
        scores = [(np.array(exact) > level).mean() for level in levels]
        np.testing.assert_allclose(found.scores, scores, atol=1 / 12 + 1e-9)


def test_a_silent_clip_has_no_budget_in_snr() -> None:
    model = victim()
    data = ToyData(16, model)
    data.audio[:4] = 0
    with torch.no_grad():
        answers = model({"audio": data.audio}).argmax(dim=1)
    data.target[1:4] = answers[1:4]
    data.target[0] = (answers[0] + 1) % 3
    found = robust.curve(model, data, norm="snr", eps=[60, 20, -10], steps=10)
    assert found.smallest is not None
    assert found.smallest[0] == math.inf  # wrong at first: lost at any SNR
    assert (found.smallest[1:4] == -math.inf).all()  # an SNR allows nothing of silence
    assert found.scores[-1] == pytest.approx((found.smallest < -10 - 1e-6).mean())
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores[-1] >= 3 / 16


def test_all_clips_silent_or_wrong() -> None:
    model = victim()
    data = ToyData(4, model)
    data.audio[:] = 0
    with torch.no_grad():
        answers = model({"audio": data.audio}).argmax(dim=1)
    data.target[:] = answers
    found = robust.curve(model, data, norm="snr", eps=[60, 20], steps=2)
    assert found.scores.tolist() == [1, 1]
    assert found.radius_half == -math.inf
    data.target[:] = (answers + 1) % 3
    found = robust.curve(model, data, norm="linf", eps=[1e-3, 1e-2], steps=2)
    assert found.scores.tolist() == [0, 0]
    assert found.clean == 0
    assert found.radius_half == 0


def test_what_is_asked_again_keeps_to_the_radius_told() -> None:
    model = victim()
    data = ToyData(16, model, padded=True)
    batch = Batch.collate([data.clip(index, model.spec) for index in range(16)])
    condition = RadiusSearch(
        Attack({"audio": Ball("linf", 0.1)}, PGD(steps=10)), tuple(shares([1e-3, 1e-2, 0.1], "amplitude").tolist())
    )
    with torch.no_grad():
        clean = model(batch.inputs)
        outcome = condition.apply(model, batch, clean, seed=0)
        after = model(outcome.inputs).argmax(dim=1)
    scale = torch.tensor(outcome.columns["scale"])
    size = (outcome.inputs["audio"] - batch.inputs["audio"]).abs().amax(dim=1)
    found = (scale > 0) & scale.isfinite()
    assert found.any()
    assert (after[found] != batch.labels[found]).all()
    np.testing.assert_allclose(size[found], 0.1 * scale[found], rtol=1e-5)
    assert (size[~found] == 0).all()
    assert ((scale == 0) == (clean.argmax(dim=1) != batch.labels)).all()
    assert not any(outcome.columns["violated"])
    assert (outcome.inputs["audio"][:, SAMPLES * 3 // 4 :] == 0).all()
    assert outcome.columns["success"] == found.tolist()
    assert condition.describe()["grid"] == [pytest.approx(0.01), pytest.approx(0.1), 1.0]
