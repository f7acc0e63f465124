"""`robust noise` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from robust.cli.noise import noise
from robust.corruptions import CORRUPTIONS
from robust.errors import RobustError

RUNNER = CliRunner()
DATA = ["--data", "events", "--data-option", "clips=24"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path_factory.getbasetemp() / "noise-cache"))


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(noise)
    return app


def test_one_run_writes_cells_pictures_and_table(app, tmp_path):
    words = [*DATA, "--model", "m3", "--corruption", "white,low-pass", "--severity", "1:5", "--json"]
    found = RUNNER.invoke(app, [*words, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    cells = told["cells"]
    assert [(cell["corruption"], cell["severity"]) for cell in cells] == [
        (name, severity) for name in ("white", "low-pass") for severity in range(1, 6)
    ]
    assert {"score", "low", "high", "snr_db", "ece"} <= cells[0].keys()
    assert cells[0]["snr_db"] == pytest.approx(20, abs=0.05)
    assert told["mce"] > 0  # the first clips of the split are in the pinned table
    assert told["reference"]["model"] == "m5"
    run = Path(told["run"])
    assert json.loads((run / "summary.json").read_text())["mce"] == told["mce"]
    assert (run / "corruptions.pdf").read_bytes()[:4] == b"%PDF"
    assert (run / "corruptions.png").stat().st_size > 1000
    assert len((run / "corruptions.csv").read_text().splitlines()) == 11
    again = RUNNER.invoke(app, [*words, "--out", str(tmp_path / "out"), "--resume"], catch_exceptions=False)
    assert json.loads(again.stdout)["cells"] == cells


def test_several_models_against_a_reference(app, tmp_path):
    words = ["--model", "m3", "--model", "m5", "--corruption", "gap", "--severity", "5", "--reference", "m3", *DATA]
    found = RUNNER.invoke(app, [*words, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert found.exit_code == 0
    assert found.stdout.count("victim ") == 2
    assert "mCE      1.00 [1.00, 1.00], relative mCE 1.00; 1 is as bad as m3" in found.stdout
    assert {place.name for place in (tmp_path / "out").iterdir()} == {"m3", "m5", "reference"}


def test_a_smoke_run_and_a_transform_of_audiomentations(app, tmp_path):
    words = ["--model", "m3", "--corruption", "audiomentations:Gain,min_gain_db=-3,max_gain_db=-3", "--check"]
    found = RUNNER.invoke(app, [*DATA, *words, "--json", "--out", str(tmp_path / "out")], catch_exceptions=False)
    (cell,) = json.loads(found.stdout)["cells"]
    assert cell["severity"] is None
    assert cell["corruption"] == "audiomentations:Gain,max_gain_db=-3,min_gain_db=-3"
    assert json.loads(found.stdout)["clips"] == 1


def test_the_list_has_every_corruption_with_its_parameter(app):
    found = RUNNER.invoke(app, ["--list"])
    for name, one in CORRUPTIONS.items():
        assert any(line.startswith(name) and one.parameter in line for line in found.stdout.splitlines())
    rows = json.loads(RUNNER.invoke(app, ["--list", "--json"]).stdout)
    assert {row["name"]: row["values"] for row in rows} == {name: list(one.values) for name, one in CORRUPTIONS.items()}


@pytest.mark.parametrize("severity", ["a", "1:b", ""])
def test_severities_that_are_no_numbers(app, severity):
    found = RUNNER.invoke(app, ["--model", "m3", "--severity", severity, *DATA])
    assert found.exit_code == 2
    assert "first:last" in found.output


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--corruption", "whit"], "Did you mean 'white'"),
        (["--severity", "0:5"], "1 to 5"),
        (["--severity", "1:99999999999999"], "1 to 5"),
        (["--severity", "-99999999999999:3"], "1 to 5"),
        (["--severity", "5:1"], "1 to 5"),
        (["--corruption", "video"], "No corruption of 'video'"),
        (["--cache-gib", "nan", "--corruption", "gap"], "GiB from 0"),
        (["--reference", "m4"], "m4"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(app, tmp_path, words, match):
    out = tmp_path / "out"
    with pytest.raises(RobustError, match=match):
        RUNNER.invoke(app, ["--model", "m3", *words, *DATA, "--out", str(out)], catch_exceptions=False)
    assert not out.exists()
