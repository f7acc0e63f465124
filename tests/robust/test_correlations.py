"""Correlations of a study: SciPy's coefficients on points that are known, honest p, and files that are not stale."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robust.errors import StoreError
from robust.metrics.geometry.ranks import family_correlation
from robust.metrics.multilabel import class_table
from robust.study import class_ranks, correlation_files
from robust.study.class_ranks import complete, within_victims
from robust.study.correlation_files import CSV, measure_name, read_correlations, write_correlations
from robust.study.correlations import COLUMNS, correlate, rates, strongest
from robust.study.kinship import kinship
from robust.study.plan import Cell
from robust.study.points import class_points, victim_points
from robust.study.store import StudyStore, read_study
from tests.robust import stores
from tests.robust.geometry_stores import (
    DEFENSES,
    MODELS,
    geometry_run,
    geometry_study,
    plain_study,
    rewritten,
    scored_study,
    table_of,
)

FAST = {"resamples": 60, "permutations": 199}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    """Three models, four defenses, two seeds; measures go with what stands the attack, but not strictly."""
    return read_study(geometry_study(tmp_path_factory.mktemp("study") / "kin", slope=0.35))


@pytest.fixture(scope="module")
def table(study: StudyStore) -> pd.DataFrame:
    return correlate(study, **FAST).table


def numbers(study: StudyStore, name: tuple[str, str, str], condition: str) -> pd.DataFrame:
    """Victim, seed, measure and score, read from the folders by other means."""
    rows = []
    for cell in study.cells(kind="geometry"):
        own = table_of(Path(str(cell.folder))).set_index(["group", "space", "measure"])
        (other,) = [one for one in study.cells(condition=condition, victim=cell.victim) if one.seed == cell.seed]
        told = json.loads((Path(str(other.folder)) / "summary.json").read_text())
        score = told["robust" if other.kind == "attack" else "changed"]["score"]
        family = cell.victim.removesuffix(next(end for end in DEFENSES[::-1] if cell.victim.endswith(f"-{end}")))
        rows.append((cell.victim, family, cell.seed, float(own.loc[name, "value"]), score))
    return pd.DataFrame(rows, columns=["victim", "family", "seed", "x", "y"])


def row_of(table: pd.DataFrame, name: str, number: str, over: str = "victims") -> dict[str, Any]:
    found = [row for row in table[table["over"] == over].to_dict("records") if measure_name(row) == name]
    (row,) = [row for row in found if row["number"] == number]
    return row


@pytest.mark.parametrize("condition", ["pgd", "hiss"])
@pytest.mark.parametrize("name", [("sharpness", "weights", "sam"), ("convexity", "fused", "top")])
def test_coefficients_are_scipys(
    study: StudyStore, table: pd.DataFrame, name: tuple[str, str, str], condition: str
) -> None:
    points, row = numbers(study, name, condition), row_of(table, ".".join(name), condition)
    families = [own for _, own in points.groupby("family")]
    recipes = points.groupby(["family", "victim"])[["x", "y"]].mean()
    for method, measure in (("kendall", stats.kendalltau), ("spearman", stats.spearmanr)):
        assert row[f"{method}_across"] == pytest.approx(measure(points["x"], points["y"]).statistic)
        within = np.mean([measure(own["x"], own["y"]).statistic for own in families])
        assert row[f"{method}_within"] == pytest.approx(within)
        means = [measure(own["x"], own["y"]).statistic for _, own in recipes.groupby(level="family")]
        assert row[f"{method}_recipes"] == pytest.approx(np.mean(means))
        everyone = measure(recipes["x"], recipes["y"]).statistic
        assert row[f"{method}_means"] == pytest.approx(everyone)
        assert row[f"{method}_within_low"] <= row[f"{method}_within"] <= row[f"{method}_within_high"]
    assert (row["n"], row["families"], row["recipes"], row["left_out"]) == (24, 3, 12, "")
    assert abs(row["kendall_within"]) < 1, "the toy is not so plain that a sign alone would do"


def test_every_measure_meets_every_score(study: StudyStore, table: pd.DataFrame) -> None:
    measures = len(table_of(Path(str(study.cells(kind="geometry")[0].folder))))
    own = table[table["over"] == "victims"]
    assert len(own) == measures * 3
    assert own.groupby("kind").size().to_dict() == {"clean": measures, "adversarial": measures, "noise": measures}
    assert own.loc[own["kind"] == "clean", "kendall_within"].isna().all(), "all have one clean score"
    pairs = table[table["over"] == "scores"]
    told = {(row.measure, row.number): row.kendall_within for row in pairs.itertuples()}
    assert set(told) == {("clean", "pgd"), ("clean", "hiss"), ("pgd", "hiss")}
    assert told["pgd", "hiss"] < -0.9, "in the toy, what stands the attack fails in noise"


def test_q_is_of_all_pairs_of_a_table(table: pd.DataFrame) -> None:
    for over, primary in (("victims", "kendall"), ("classes", "spearman")):
        own = table[table["over"] == over]
        p = own[f"{primary}_within_p"]
        assert own.loc[p.notna(), "q_within"].to_numpy() == pytest.approx(stats.false_discovery_control(p.dropna()))
        assert own.loc[p.isna(), "q_within"].isna().all()
    assert rates(pd.Series([np.nan, np.nan])).tolist() == pytest.approx([np.nan] * 2, nan_ok=True)


def test_strongest_first(table: pd.DataFrame) -> None:
    for over, primary in (("victims", "kendall"), ("classes", "spearman")):
        sizes = strongest(table, over)[f"{primary}_within"].abs().to_numpy()
        known = sizes[~np.isnan(sizes)]
        assert (np.diff(known) <= 1e-12).all()
        assert np.isnan(sizes[len(known) :]).all()
    assert len(strongest(table, "victims", 5)) == 5


def test_chance_is_not_called_real(tmp_path: Path) -> None:
    """Measures that have nothing to do with robustness: hardly any survives the correction."""
    chance = read_study(geometry_study(tmp_path / "study", slope=0.0, seeds=(0,)))
    own = correlate(chance, **FAST).table
    victims = own[(own["over"] == "victims") & (own["kind"] != "clean")]
    assert len(victims) == 44
    assert (victims["q_within"] < 0.05).sum() == 0
    assert (victims["kendall_within_p"] < 0.05).mean() < 0.2
    one = victims[victims["number"] == "pgd"]
    assert (one["kendall_recipes"] == one["kendall_within"]).all(), "with one seed both are the same"


def test_seeds_that_share_weights_are_one_point(tmp_path: Path) -> None:
    folder = geometry_study(tmp_path / "study", models=("av-mid",))
    for run in (folder / "cells").iterdir():
        told = json.loads((run / "manifest.json").read_text())
        rewritten(run / "manifest.json", weights=told["weights"].rpartition("-")[0])
    study = read_study(folder)
    points, values = victim_points(study), numbers(study, ("sharpness", "weights", "sam"), "pgd")
    own = points.geometry[points.geometry["measure"] == "sam"]
    assert len(own) == len(DEFENSES)
    assert own["value"].to_numpy() == pytest.approx(values.groupby("victim", sort=False)["x"].mean().to_numpy())
    row = row_of(correlate(study, **FAST).table, "sharpness.weights.sam", "pgd")
    assert (row["n"], row["recipes"]) == (4, 4)


def test_small_families_are_named_and_unheard(tmp_path: Path) -> None:
    folder = geometry_study(tmp_path / "study", models=("av-mid", "av-late"), seeds=(0,))
    told = json.loads((folder / "study.json").read_text())
    told["cells"] = [cell for cell in told["cells"] if cell["victim"] != "av-late-pgd"]
    (folder / "study.json").write_text(json.dumps(told))
    row = row_of(correlate(read_study(folder), **FAST).table, "sharpness.weights.sam", "pgd")
    assert (row["n"], row["families"], row["left_out"]) == (7, 1, "av-late")


def test_geometry_of_training_clips_goes_with_scores_on_test_clips(tmp_path: Path) -> None:
    """The study has two entries of one set; another set has nothing to do with them."""
    folder = geometry_study(tmp_path / "study", models=("av-mid",), seeds=(0,))
    told = json.loads((folder / "study.json").read_text())
    for cell in told["cells"]:
        cell["data"] = "seen" if cell["kind"] == "geometry" else "unseen"
    (folder / "study.json").write_text(json.dumps(told))
    row = row_of(correlate(read_study(folder), **FAST).table, "sharpness.weights.sam", "pgd")
    assert (row["data"], row["measured_on"], row["geometry"], row["n"]) == ("unseen", "seen", "geometry", 4)
    for run in (folder / "cells").glob("*-geometry"):
        rewritten(run / "manifest.json", data={"name": "digits"})
    own = correlate(read_study(folder), **FAST).table
    assert set(own["over"]) == {"scores"}


def test_scores_of_every_kind(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    runs = [stores.curve_run(cells / "linf"), stores.curve_run(cells / "snr", norm="noise", half=10.0)]
    runs += [stores.change_run(cells / "half"), geometry_run(cells / "geometry")]
    plain_study(tmp_path, runs)
    scores = victim_points(read_study(tmp_path)).scores
    kinds = scores.groupby("condition", sort=False)["kind"].unique().map(list).to_dict()
    assert kinds == {"clean": ["clean"], "linf": ["adversarial"], "snr": ["noise"], "half": ["change"]}
    told = json.loads((runs[0] / "summary.json").read_text())
    found = scores[scores["condition"] == "linf"].set_index("number")["value"]
    assert len(found) == len(told["radii"]) + 1
    assert found["linf auc"] == told["auc"]
    for level, score in zip(told["radii"], told["scores"], strict=True):
        assert found[f"linf@{level:.6g}"] == score


def test_classes_are_those_of_the_records(study: StudyStore, table: pd.DataFrame) -> None:
    points = class_points(study)
    cell = study.cells(condition="pgd")[3]
    shares = cell.records().groupby("label_name")["correct"].mean()
    found = points.scores[(points.scores["number"] == "pgd") & (points.scores["victim"] == cell.victim)]
    own = found[found["point"] == cell.manifest["weights"]].set_index("label")["value"]
    assert own.to_dict() == pytest.approx(shares.to_dict())
    row, coefficients, means = row_of(table, "convexity.audio.top", "pgd", "classes"), [], []
    for one in study.cells(kind="geometry"):
        (attacked,) = [c for c in study.cells(condition="pgd", victim=one.victim) if c.seed == one.seed]
        place = ["group", "space", "measure", "label"]
        by_class = table_of(Path(str(one.folder)), "classes").set_index(place)["value"].sort_index()
        x = by_class.loc["convexity", "audio", "top"].loc[list(stores.CLASSES)].to_numpy()
        y = attacked.records().groupby("label_name")["correct"].mean().loc[list(stores.CLASSES)].to_numpy()
        means.append((x, y))
        if len(set(y)) > 1:
            coefficients.append(stats.spearmanr(x, y).statistic)
    assert row["spearman_within"] == pytest.approx(np.mean(coefficients))
    assert (row["n"], row["families"]) == (6, len(coefficients))
    across = stats.spearmanr(*np.mean(means, axis=0)).statistic
    assert row["spearman_across"] == pytest.approx(across)
    assert any("hiss" in words and "no records" in words for words in correlate(study, **FAST).left_out)


def test_many_labels_a_clip_are_rated_by_average_precision(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    run = stores.attack_run(tmp_path / "cells" / "pgd")
    records = table_of(run / "records", "part-0000000-0000095")
    labels = generator.random((96, 6)) < 0.3
    logits = generator.standard_normal((96, 6)) + labels
    records = records.assign(label=labels.astype(int).tolist(), logits=logits.tolist())
    records.to_parquet(next((run / "records").iterdir()))
    rewritten(run / "summary.json", task="multilabel")
    plain_study(tmp_path, [run, geometry_run(tmp_path / "cells" / "geometry")])
    found = class_points(read_study(tmp_path)).scores
    own = found[found["number"] == "pgd"].set_index("label")["value"]
    assert own.to_dict() == pytest.approx(
        class_table(logits, labels, stores.CLASSES).set_index("class")["ap"].to_dict()
    )


def test_within_victims_is_the_mean_of_scipys() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 5, 8))
    y[:, ::2] = np.round(y[:, ::2])
    for method, measure in (("kendall", stats.kendalltau), ("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        found = within_victims(x, y, method=method, **FAST)
        assert found.estimate.value == pytest.approx(
            np.mean([measure(*rows).statistic for rows in zip(x, y, strict=True)])
        )
        assert found.estimate.count == 8
        assert found.estimate.low < found.estimate.value < found.estimate.high


@pytest.mark.parametrize("method", ["spearman", "kendall"])
def test_p_over_classes_is_that_of_every_order(method: str) -> None:
    """Against the exact permutation test, classes exchanged in all victims at once."""
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((2, 4, 5))
    y += 0.6 * x
    measure = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}[method]

    def mean(orders: np.ndarray) -> float:
        return float(np.mean([measure(a, b).statistic for a, b in zip(x, y[:, orders], strict=True)]))

    every = np.array([mean(np.array(order)) for order in itertools.permutations(range(5))])
    exact = float((np.abs(every) >= abs(mean(np.arange(5))) - 1e-12).mean())
    found = within_victims(x, y, method=method, resamples=50, permutations=9999)
    assert found.p == pytest.approx(exact, abs=0.015)
    assert 0.02 < exact < 0.9


def test_the_same_classes_in_every_victim_are_no_new_evidence() -> None:
    """Two profiles that have nothing to do with each other, seen in forty victims: still only six classes."""
    generator = np.random.default_rng(12)
    rejected = {"joint": 0, "apart": 0}
    for _ in range(40):
        profiles = generator.standard_normal((2, 1, 6))
        x, y = profiles + 0.05 * generator.standard_normal((2, 40, 6))
        rejected["joint"] += within_victims(x, y, resamples=10, permutations=199).p < 0.05
        names = np.repeat(np.arange(40), 6).tolist()
        apart = family_correlation(x.ravel(), y.ravel(), names, resamples=10, permutations=199).within
        rejected["apart"] += apart.p < 0.05
    assert rejected["joint"] <= 6
    assert rejected["apart"] > 20, "the test that takes them for independent is fooled"


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(1).standard_normal((2, 7, 9))
    whole = [within_victims(x, y, method=method, **FAST) for method in ("spearman", "kendall")]
    monkeypatch.setattr(class_ranks, "CELLS", 200)
    assert [within_victims(x, y, method=method, **FAST) for method in ("spearman", "kendall")] == whole


def test_what_is_unknown_is_left_out() -> None:
    x, y = np.random.default_rng(4).standard_normal((2, 4, 6))
    x[0, :4] = np.nan  # knows fewer than half
    y[1, 2] = np.nan  # a class that one victim lacks
    x[3] = 1.0  # says nothing
    kept = complete(x, y)
    assert [side.shape for side in kept] == [(2, 5)] * 2
    assert (kept[0] == x[1:3][:, [0, 1, 3, 4, 5]]).all()
    found = within_victims(x, y, **FAST)
    assert found.estimate.count == 5
    for nothing in (np.full((3, 4), np.nan), np.ones((3, 4)), np.empty((0, 4)), np.empty((0, 0))):
        found = within_victims(nothing, nothing, **FAST)
        assert np.isnan([found.estimate.value, found.estimate.low, found.p]).all()
    few = within_victims(x[1:3, 3:], y[1:3, 3:], **FAST)
    assert np.isnan([few.estimate.low, few.estimate.high]).all()
    assert np.isfinite(few.estimate.value)


def test_files_hold_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = geometry_study(tmp_path / "study", models=("av-mid",))
    monkeypatch.setattr(correlation_files, "correlated", lambda *points: correlate(read_study(folder), **FAST))
    page = write_correlations(read_study(folder))
    assert page == folder / "correlations.md"
    read = read_correlations(read_study(folder))
    assert read is not None
    expected = correlate(read_study(folder), **FAST).table
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    text = page.read_text()
    best = strongest(expected, "victims").iloc[0].to_dict()
    assert f"| {measure_name(best)} | {best['number']} | events | {best['kendall_within']:+.2f} [" in text
    rows = text.split("## Geometry against robustness, over victims and seeds")[1].split("##")[0]
    assert rows.count("\n| ") == 1 + 40
    assert f"{len(strongest(expected, 'victims')) - 40} more pairs are in `correlations.csv`" in rows
    held = int(
        (expected[(expected["over"] == "victims") & (expected["kind"] == "adversarial")]["q_within"] < 0.05).sum()
    )
    assert f"Against attacks: {held} of 22 pairs hold within families" in rows
    assert "nan" not in text


def test_nothing_is_computed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = geometry_study(tmp_path / "study", models=("av-mid",), seeds=(0,))
    calls: list[int] = []

    def counting(*points: Any) -> Any:
        calls.append(1)
        return correlate(read_study(folder), **FAST)

    monkeypatch.setattr(correlation_files, "correlated", counting)
    for expected in (1, 1):
        write_correlations(read_study(folder))
        assert len(calls) == expected
    table = table_of(folder / "cells" / "av-mid-pgd-0-geometry")
    table.loc[0, "value"] += 1
    table.to_parquet(folder / "cells" / "av-mid-pgd-0-geometry" / "table.parquet")
    write_correlations(read_study(folder))
    assert len(calls) == 2
    (folder / CSV).unlink()
    write_correlations(read_study(folder))
    assert len(calls) == 3


def test_a_study_without_geometry_or_without_scores_has_no_page(tmp_path: Path) -> None:
    for name, run in (("scores", stores.attack_run), ("geometry", geometry_run)):
        store = read_study(plain_study(tmp_path / name, [run(tmp_path / name / "cells" / "one")]))
        assert write_correlations(store) is None
        assert read_correlations(store) is None
        assert not (tmp_path / name / CSV).exists()


def test_noise_and_attacks_are_ranked_without_geometry(tmp_path: Path) -> None:
    shares = {"a": (0.1, 0.2), "b": (0.3, 0.4), "c": (0.5, 0.8), "d": (0.9, 0.6)}
    scored_study(tmp_path, shares)
    study = read_study(tmp_path)
    assert write_correlations(study) is not None
    table = read_correlations(study)
    (row,) = table[(table["space"] == "adversarial") & (table["kind"] == "noise")].to_dict("records")
    assert row["kendall_means"] == pytest.approx(stats.kendalltau(*zip(*shares.values(), strict=True)).statistic)
    assert row["n"] == 4


def test_damaged_runs_are_named(tmp_path: Path) -> None:
    folder = geometry_study(tmp_path / "study", models=("av-mid",), seeds=(0,))
    run = folder / "cells" / "av-mid-none-0-pgd"
    kept = (run / "summary.json").read_text()
    rewritten(run / "summary.json", robust=None)
    with pytest.raises(StoreError, match=r"av-mid-none-0-pgd is no whole run of kind 'attack'.*make it again"):
        correlate(read_study(folder))
    (run / "summary.json").write_text(kept)
    (folder / "cells" / "av-mid-none-0-geometry" / "table.parquet").write_bytes(b"no table")
    with pytest.raises(StoreError, match=r"table\.parquet cannot be read"):
        correlate(read_study(folder))
    (folder / CSV).write_text("over,data\nvictims,events\n")
    with pytest.raises(StoreError, match=r"lacks the columns geometry.*run `robust study`"):
        read_correlations(read_study(folder))
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_kin_are_told_by_model_and_defense(tmp_path: Path) -> None:
    """What the card tells comes before what the study asks for."""
    card = tmp_path / "trained.json"
    card.write_text(json.dumps({"recipe": {"mixup_alpha": 0.2}, "defense": {"name": "pgd+mixup"}}))

    def cell(name: str, model: str, weights: str | None, train: dict[str, Any] | None = None) -> Cell:
        task = {"victim": {"model": model, "weights": weights, "train": train}, "others": {}}
        return Cell(name, "c", "attack", "d", 0, task)

    asked = {"defense": {"name": "trades"}, "mixup": None}
    (tmp_path / "plain.json").write_text(json.dumps({"recipe": {"mixup_alpha": 0.2}}))
    (tmp_path / "broken.json").write_text("{")
    found = kinship(
        [
            cell("a", "cnn14", str(tmp_path / "trained.safetensors"), asked),
            cell("b", "some/where/mine.py:build", None),
            cell("c", "cnn14", "there/is/none.safetensors", asked),
            cell("d", "cnn14", str(tmp_path / "plain.safetensors")),
            cell("e", "cnn14", str(tmp_path / "broken.safetensors")),
            cell("f", "cnn14", "none.safetensors", {"defense": None, "mixup": 0.4}),
        ]
    )
    assert {name: told["defense"] for name, told in found.items()} == {
        "a": "pgd+mixup", "b": "none", "c": "trades", "d": "mixup", "e": "none", "f": "mixup",
    }  # fmt: skip
    assert found["b"]["model"] == "mine.py:build"
    assert {told["model"] for name, told in found.items() if name != "b"} == {"cnn14"}


def test_models_of_the_toy_are_families(study: StudyStore) -> None:
    points = victim_points(study)
    assert set(points.geometry["family"]) == set(MODELS)
    assert set(points.scores["defense"]) == set(DEFENSES)
