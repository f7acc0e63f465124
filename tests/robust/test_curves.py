"""Curves by one search: against attacks radius by radius, and as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import robust
from robust.api import attack
from robust.errors import DataError, RobustError
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


def test_refuses_what_bisection_cannot_say() -> None:
    model = victim("multilabel")
    with pytest.raises(DataError, match="one label"):
        robust.curve(model, ToyData(8, model), eps=GRID)
    single = victim()
    with pytest.raises(RobustError, match="ascending"):
        robust.curve(single, ToyData(8, single), eps=GRID[::-1])
