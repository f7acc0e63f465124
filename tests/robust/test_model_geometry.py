"""`robust.geometry`: what it measures equals what the measures say on their own, and it stands in the folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from attacks.gradients import frozen
from robust import GeometrySettings, Victim, geometry, load_data, load_victim
from robust.cli import app, main
from robust.errors import DataError, StoreError
from robust.evaluation.engine import AlignedData
from robust.evaluation.geometry_settings import groups_of, make_settings
from robust.metrics.geometry import InputSpace, LatentSpace, WeightLoss, convexity, worst_case_sharpness

FEW = {"steps": 2, "draws": 2, "iterations": 3, "pairs": 40, "neighbours": 2, "probes": 2}


@pytest.fixture(scope="module")
def victim() -> Victim:
    return load_victim("m3")


@pytest.fixture(scope="module")
def data():
    return load_data("events", split="test", limit=24)


@pytest.fixture(scope="module")
def found(victim, data):
    return geometry(
        victim, data, settings=make_settings({"groups": groups_of("sharpness,input,density,convexity"), **FEW})
    )


def value(found, group: str, space: str, measure: str) -> float:
    rows = found.table.query("group == @group and space == @space and measure == @measure")
    return float(rows["value"].iloc[0])


def test_numbers_are_those_of_the_measures(victim, data, found) -> None:
    batch = AlignedData(data, victim.spec).batch(range(24))
    with frozen(victim), torch.no_grad():
        latents = victim.embed(batch.inputs)["fused"]
    loss = WeightLoss(victim, [(batch.inputs, batch.labels)], normalise_logits=True, include="matrices")
    worst = worst_case_sharpness(loss, rho=1e-3, steps=2)
    assert value(found, "sharpness", "weights", "worst-linf") == pytest.approx(worst.loss.value, rel=1e-4)
    purity = LatentSpace(latents, batch.labels, neighbours=2).purity()
    assert value(found, "density", "fused", "local-purity") == pytest.approx(purity.overall.value)
    convex = convexity(latents, batch.labels, victim.head, pairs=40, classes=len(victim.spec.labels))
    assert value(found, "convexity", "fused", "conditional") == pytest.approx(convex.conditional.value)
    norms = InputSpace(victim, batch.inputs, batch.labels, valid=batch.valid).gradient_norms()
    assert value(found, "input", "audio", "gradient-l2") == pytest.approx(norms["l2"].overall.value, rel=1e-4)
    own = found.clips["input.audio.gradient-l2"]
    np.testing.assert_allclose(own, norms["l2"].values, rtol=1e-3)
    assert found.clips["sharpness.weights.worst-linf"].mean() == pytest.approx(worst.loss.value, rel=1e-4)


def test_every_number_has_an_interval_around_it(found) -> None:
    rated = found.table.dropna(subset=["value", "low"])
    assert len(rated) > 20
    assert (rated["low"] <= rated["value"] + 1e-9).all()
    assert (rated["value"] <= rated["high"] + 1e-9).all()
    assert set(found.classes["label"]) == set(load_victim("m3").spec.labels)


def test_batches_change_no_result(victim, data, found) -> None:
    again = geometry(
        victim, data, settings=make_settings({"groups": groups_of("density,convexity"), **FEW}), batch_size=5
    )
    merged = found.table.merge(again.table, on=["group", "space", "measure"])
    assert len(merged) == 9
    np.testing.assert_allclose(merged["value_x"], merged["value_y"], rtol=1e-5)


def test_modalities_have_spaces_of_their_own(data) -> None:
    fused = load_victim("av-mid")
    settings = make_settings({"groups": ("density", "convexity"), **FEW})
    table = geometry(fused, load_data("events", limit=16), settings=settings).table
    assert set(table["space"]) == {"audio", "video", "fused"}
    alone = geometry(load_victim("av-audio"), load_data("events", limit=16), settings=settings).table
    assert set(alone["space"]) == {"fused"}


def test_a_module_without_embeddings_is_measured_as_far_as_it_goes(data) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16_000, len(data.labels))

        def forward(self, audio: torch.Tensor) -> torch.Tensor:
            return self.layer(audio)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    wrapped = Victim.wrap(net, sample_rate=16_000, labels=data.labels)
    found = geometry(wrapped, data, settings=make_settings({"groups": ("sharpness", "density", "convexity"), **FEW}))
    assert set(found.table["group"]) == {"sharpness"}
    assert set(found.left_out) == {"density", "convexity"}
    assert "embed()" in found.left_out["density"]


def test_the_folder_holds_everything_and_is_not_overwritten(victim, data, tmp_path: Path) -> None:
    settings = make_settings({"groups": ("density",), **FEW})
    found = geometry(victim, data, settings=settings, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    told = summary["density"]["fused"]["local-purity"]
    assert told["value"] == pytest.approx(value(found, "density", "fused", "local-purity"))
    assert summary["density"]["fused"]["knn-class-log-density"]["count"] >= 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "clips.parquet"), found.clips)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]["neighbours"] == 2
    with pytest.raises(StoreError, match="another --out"):
        geometry(victim, data, settings=settings, out=tmp_path / "run")


def test_curvature(data) -> None:
    few = load_data("events", limit=8)
    found = geometry(load_victim("cnn-transformer"), few, settings=make_settings({"groups": ("curvature",), **FEW}))
    assert value(found, "curvature", "weights", "eigenvalue-1") > 0
    assert 0 <= value(found, "curvature", "weights", "negative-share") <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": ("sharpnes",)}, "sharpness"),
        ({"neighbour": 3}, "neighbours"),
        ({"neighbours": "many"}, "neighbours takes"),
        ({"groups": ()}, "Name a group"),
        ({"sharpness_batch": 0}, "1 clip or more"),
        ({"linearity_eps": 0.1}, "by modality"),
    ],
)
def test_settings_that_cannot_be(given, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_settings(given)


def test_the_command_tells_all_and_refuses_nonsense(capsys, monkeypatch) -> None:
    done = CliRunner().invoke(app, ["geometry", "--model", "m3", "--measures", "density", "--check", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["clips"] == 4
    assert set(told["density"]["fused"]) >= {"local-purity", "intra-inter-ratio"}
    monkeypatch.setattr("sys.argv", ["robust", "geometry", "--model", "m3", "--measures", "beauty"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "beauty" in capsys.readouterr().err


def test_defaults_are_the_documented_groups() -> None:
    assert GeometrySettings().groups == ("sharpness", "input", "density", "convexity")
    assert groups_of("all") == ("sharpness", "curvature", "input", "density", "convexity")
