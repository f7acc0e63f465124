"""The engine and its store: the same records however they are made, and nothing lost when a run is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.pgd import PGD
from robust.api import attack
from robust.errors import DataError, StoreError
from robust.evaluation.engine import align_labels
from robust.evaluation.store import Store
from robust.seeds import derived_seed
from robust.types import VictimSpec
from tests.robust.toys import LABELS, ToyData, victim

EPS = 0.01


def run(tmp_path: Path, name: str, **options: object) -> pd.DataFrame:
    model = victim()
    data = ToyData(30, model, padded=True)
    return attack(model, data, eps=EPS, steps=12, out=tmp_path / name, checks=False, **options).records


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_records_do_not_depend_on_batch_size(tmp_path: Path, batch_size: int) -> None:
    reference = run(tmp_path, "reference", batch_size=16)
    assert 0 < reference["correct"].sum() < len(reference)  # otherwise there is nothing to compare
    same(reference, run(tmp_path, "other", batch_size=batch_size))


def test_records_depend_on_the_seed(tmp_path: Path) -> None:
    one, other = run(tmp_path, "one", seed=0), run(tmp_path, "other", seed=1)
    assert (one["l2_audio"] != other["l2_audio"]).any()


def test_resumed_run_has_the_records_of_an_uninterrupted_one(tmp_path: Path) -> None:
    reference = run(tmp_path, "reference", batch_size=4)
    run(tmp_path, "broken", batch_size=4)
    parts = sorted((tmp_path / "broken" / "records").glob("part-*.parquet"))
    kept = parts[1].stat().st_mtime_ns
    for part in (parts[0], *parts[3:]):
        part.unlink()
    same(reference, run(tmp_path, "broken", batch_size=8, resume=True))
    assert parts[1].stat().st_mtime_ns == kept  # a finished part is never computed again


KILLED = """
import sys, torch
from robust.api import attack
from tests.robust.toys import ToyData, victim
model = victim()
print("ready", flush=True)
attack(model, ToyData(30, model, padded=True), eps=0.01, steps=12, out=sys.argv[1], checks=False, batch_size=1,
       resume=len(sys.argv) > 2)
"""


def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    reference = run(tmp_path, "reference")
    moments, environment = random.Random(5), {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    folder = tmp_path / "killed"
    for attempt in range(5):
        words = [
            sys.executable,
            "-c",
            KILLED,
            str(folder),
            *(["resume"] if (folder / "manifest.json").exists() else []),
        ]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.05, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        leftovers = [path for path in folder.rglob("*") if path.is_file() and path.name.startswith(".")]
        assert all(not path.name.endswith(".parquet") for path in leftovers), f"half a part after kill {attempt}"
    same(reference, run(tmp_path, "killed", resume=(folder / "manifest.json").exists()))


def test_only_right_clips_are_attacked_and_others_stay_as_they_were(tmp_path: Path) -> None:
    records = run(tmp_path, "run")
    wrong = records[~records["clean_correct"]]
    assert len(wrong) > 0
    assert not wrong["attacked"].any()
    assert (wrong["l2_audio"] == 0).all()
    assert (wrong["backwards"] == 0).all()
    assert (records["backwards"][records["attacked"] & records["correct"]] == 12).all()


def test_padding_is_never_touched_and_budgets_hold(tmp_path: Path) -> None:
    records = run(tmp_path, "run")
    assert not records["violated"].any()
    assert records["ratio_audio"].max() <= 1
    assert records["ratio_audio"].max() > 0.99


def test_multilabel_scores_fall_and_every_clip_is_attacked(tmp_path: Path) -> None:
    model = victim("multilabel")
    result = attack(model, ToyData(40, model), eps=0.02, steps=10, out=tmp_path / "run")
    assert result.clean.metric == "mAP"
    assert result.robust.score < result.clean.score - 0.1
    assert result.records["attacked"].all()


def test_targeted_attack_leaves_clips_of_the_target_alone(tmp_path: Path) -> None:
    model = victim()
    data = ToyData(30, model)
    records = attack(model, data, eps=0.3, steps=20, target="high", checks=False).records
    own = records["label_name"] == "high"
    assert own.any()
    assert not records["attacked"][own].any()
    hit = records[records["success"]]
    assert len(hit) > 0
    assert (hit["prediction"] == LABELS.index("high")).all()


def test_labels_are_matched_by_name() -> None:
    data = ToyData(3, victim())
    order = align_labels(data, VictimSpec("other", ("low", "extra", "middle", "high")))
    assert order.tolist() == [3, 0, 2]
    with pytest.raises(DataError, match=r"does not know 1 of the 3 classes.*middle"):
        align_labels(data, VictimSpec("other", ("low", "high")))
    with pytest.raises(DataError, match=r"multilabel"):
        align_labels(data, VictimSpec("other", LABELS, task="multilabel"))


def test_store_refuses_what_it_should(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Store.open(folder, {"seed": 0})
    with pytest.raises(StoreError, match="--resume"):
        Store.open(folder, {"seed": 0})
    with pytest.raises(StoreError, match="seed: 0 there, 1 here"):
        Store.open(folder, {"seed": 1}, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(StoreError, match="not empty"):
        Store.open(tmp_path / "other", {"seed": 0})
    with pytest.raises(StoreError, match="no records"):
        Store.open(tmp_path / "fresh", {}).records()


def test_store_writes_parts_whole(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run", {})
    store.add({"index": [3, 2], "id": ["d", "c"], "value": [0.5, 0.25]})
    store.add({"index": [0], "id": ["a"], "value": [1.0]})
    assert store.done() == {"a", "c", "d"}
    assert store.records()["value"].tolist() == [1.0, 0.25, 0.5]


def test_seeds_differ_by_every_part() -> None:
    seeds = {
        derived_seed(*parts) for parts in [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"), (0, "ax", "")]
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_bf16_search_reports_what_holds_in_full_precision(tmp_path: Path) -> None:
    model = victim()
    data = ToyData(24, model)
    config = PGD(steps=10, search_dtype=torch.bfloat16)
    records = attack(model, data, eps=0.05, config=config, checks=False).records
    logits = np.stack(records["logits"])
    assert ((logits.argmax(1) == records["label"]) == records["correct"]).all()
    assert not records["correct"][records["attacked"]].all()
