"""The figure of measured against nominal RT60: from a table, and from its script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from attacks.errors import ThreatModelError
from robust.channels import room_sets
from robust.channels.bank import load_bank
from robust.errors import StoreError
from robust.plots import saving, script
from robust.plots.rooms import draw_rt60
from robust.plots.style import COLUMN_INCHES
from tests.robust.drawing import module
from tests.robust.test_channels_rooms_bank import CLOSETS


def rows(*pairs: tuple[str, float | None, float]) -> list[dict[str, object]]:
    return [{"split": split, "rt60_s": nominal, "rt60_s_measured": measured} for split, nominal, measured in pairs]


def test_points_are_where_the_numbers_are() -> None:
    table = rows(("train", 0.3, 0.33), ("train", 0.5, 0.5), ("held-out", 0.8, 0.6))
    figure = draw_rt60({"mine": table, "other": rows(("train", 0.4, 0.44)), "qin": rows(("train", None, 0.5))})
    above, below = figure.axes
    drawn = {line.get_label(): np.transpose(line.get_data()).tolist() for line in above.lines}
    assert drawn["mine, train: 2 rooms"] == [[0.3, 0.33], [0.5, 0.5]]
    assert drawn["mine, held-out: 1 rooms"] == [[0.8, 0.6]]
    assert not any("qin" in label for label in drawn)
    deviations = np.concatenate([line.get_ydata() for line in below.lines if line.get_marker() != "None"])
    np.testing.assert_allclose(sorted(deviations), [-25, 0, 10, 10], atol=1e-9)
    assert "(s)" in below.get_xlabel()
    assert "(%)" in below.get_ylabel()
    markers = {line.get_marker() for line in above.lines if line.get_marker() != "None"}
    assert len(markers) == 2  # sets differ in more than colour
    assert figure.get_figwidth() == COLUMN_INCHES
    assert saving.rendered(figure, "pdf").startswith(b"%PDF")


def test_refuses_rooms_without_a_nominal_rt60() -> None:
    with pytest.raises(StoreError, match="nominal RT60"):
        draw_rt60({"qin": rows(("train", None, 0.5))})


def test_the_script_reads_banks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room_sets, "ROOM_SETS", {"closets": CLOSETS})
    figures = module("rt60_measured")
    kept: dict[str, Figure] = {}
    monkeypatch.setattr(script, "save_all", lambda found, out, dpi: kept.update(found))
    figures.main(["closets"], train=3, held_out=2, sample_rate=8_000, out="unused")
    (figure,) = kept.values()
    table = load_bank(CLOSETS, train=3, held_out=2, sample_rate=8_000).table
    drawn = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].lines}
    assert drawn["closets, train: 3 rooms"] == [row["rt60_s_measured"] for row in table[:3]]
    assert drawn["closets, held-out: 2 rooms"] == [row["rt60_s_measured"] for row in table[3:]]
    with pytest.raises(ThreatModelError, match="Did you mean 'closets'"):
        figures.main(["closet"], out="unused")
