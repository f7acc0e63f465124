"""Studies from file to tables: every kind of cell, once; what changed is computed anew, and nothing else."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robust import api
from robust.cli import main
from robust.evaluation.store import Store
from robust.study import cells as work
from robust.study.executors import Processes
from robust.study.run import plan_study, run_study
from robust.study.store import read_study
from robust.victims import load_victim
from tests.robust import studies
from tests.robust.studies import as_text, folders, furnish, run_file, snapshot, states, tables, told

Run = Callable[..., tuple[int, str, str]]

STUDY: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny study",
    "victims": {"mine": {"model": "mine.py:build"}, "other": {"model": "mine.py:other"}, "av-mid": {}},
    "data": {
        "rec": {"set": "folder", "root": "recordings"},
        "events": {"split": "validation", "limit": 6, "options": {"clips": 16}},
    },
    "conditions": {
        "clean": {"kind": "clean", "victims": ["mine"], "data": ["rec"]},
        "attack": {"kind": "attack", "eps": 0.02, "steps": 3, "victims": ["mine", "other"], "data": ["rec"]},
        "linf": {"kind": "curve", "eps": "1e-3:1e-1:5", "steps": 3, "victims": ["mine", "other"], "data": ["rec"]},
        "snr": {
            "kind": "curve",
            "norm": "snr",
            "eps": [40, 20, 0],
            "steps": 2,
            "checks": False,
            "victims": ["mine"],
            "data": ["rec"],
        },
        "noise": {"kind": "curve", "against": "noise", "eps": [20, 10, 0], "victims": ["mine"], "data": ["rec"]},
        "hidden": {"kind": "occlude", "pattern": "first-half", "victims": ["mine"], "data": ["rec"]},
        "white": {"kind": "noise", "std": 0.1, "victims": ["mine"], "data": ["rec"]},
        "shared": {
            "kind": "universal",
            "eps": 0.05,
            "epochs": 2,
            "fit_limit": 9,
            "victims": ["mine"],
            "data": ["rec"],
        },
        "surface": {
            "kind": "surface",
            "eps": 0.02,
            "points": 3,
            "clips": 2,
            "steps": 1,
            "victims": ["mine"],
            "data": ["rec"],
        },
        "timing": {"kind": "latency", "repeats": 1, "victims": ["mine"], "data": ["rec"]},
        "no-video": {"kind": "missing", "modality": "video", "victims": ["av-mid"], "data": ["events"]},
        "both": {
            "kind": "curve",
            "modality": "both",
            "scale": {"video": 16},
            "eps": [1e-4, 1e-3],
            "steps": 1,
            "checks": False,
            "victims": ["av-mid"],
            "data": ["events"],
        },
        "swapped": {"kind": "swap", "modality": "audio", "victims": ["av-mid"], "data": ["events"]},
    },
    "claims": [
        {"text": "mine[linf].robust@0.01 > other[linf].robust@0.01", "data": "rec"},
        {"text": "mine[linf].auc > other[linf].auc", "data": "rec", "name": "areas", "words": "Larger on the whole."},
        {"text": "mine[linf].radius > other[linf].radius", "data": "rec"},
        {"text": "mine[noise].robust@20 >= mine[noise].clean - 0.2", "data": "rec"},
        {"text": "mine[attack].robust < mine[attack].clean", "data": "rec"},
        {"text": "mine[shared].robust < mine[shared].clean", "data": "rec"},
        {"text": "mine[white].robust < 0.9", "data": "rec"},
        {"text": "av-mid[no-video].robust < av-mid[no-video].clean", "data": "events"},
    ],
}
CELLS = 15


def part(*names: str, **more: Any) -> dict[str, Any]:
    """The study with a few of its conditions, on recordings, of one victim, without claims."""
    conditions = {name: {k: v for k, v in STUDY["conditions"][name].items() if k != "data"} for name in names}
    victims = {name: STUDY["victims"][name] for name in ("mine", "other")}
    kept = {**STUDY, "victims": victims, "conditions": conditions, "claims": [], "data": {"rec": STUDY["data"]["rec"]}}
    return {**kept, **more}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a study is run."""
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], room: Path) -> Run:
    """Runs `robust study` on what is given; exit code, stdout, stderr."""

    def call(parts: dict[str, Any], *words: object) -> tuple[int, str, str]:
        (room / "study.yaml").write_text(as_text(parts))
        monkeypatch.setattr(sys, "argv", ["robust", "study", "study.yaml", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the conditions of cells, as they are computed."""
    found: list[str] = []
    compute = work.compute

    def counting(payload: dict[str, Any]) -> None:
        found.append(payload["facts"]["cell"]["condition"])
        compute(payload)

    monkeypatch.setattr(work, "compute", counting)
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole study, run once by the executor `local`."""
    folder = furnish(tmp_path_factory.mktemp("done"))
    (folder / "study.yaml").write_text(as_text(STUDY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert not run_file(folder / "study.yaml", out=str(folder / "store")).failed
    return folder


def test_every_kind_of_cell_leaves_a_run(done: Path) -> None:
    store = read_study(done / "store")
    assert len(store.every) == CELLS
    assert {cell.state for cell in store.every} == {"done"}
    assert len(folders(done / "store")) == CELLS
    kinds = {cell.condition: cell.kind for cell in store.every}
    assert kinds["hidden"] == kinds["white"] == kinds["no-video"] == kinds["swapped"] == kinds["clean"] == "change"
    for cell in store.every:
        assert cell.summary["victim"]
        assert cell.summary["data"]["name"] in ("folder", "events")
        assert cell.summary["kind"] == cell.kind
        own = cell.manifest["cell"]
        assert (own["victim"], own["condition"], own["data"], own["seed"]) == (
            cell.victim,
            cell.condition,
            cell.data,
            cell.seed,
        )
        assert own["key"] == cell.key
        assert cell.folder.name.endswith(cell.key[:12])
        if cell.condition in ("surface", "timing"):
            assert len(cell.table())
    # A cell is what the one call gives that it stands for.
    (cell,) = store.cells(condition="attack", victim="mine")
    victim = load_victim(f"{done / 'mine.py'}:build")
    data = robust_data(done)
    single = api.attack(victim, data, eps=0.02, steps=3)
    assert cell.summary["robust"] == single.summary["robust"]
    assert [check["verdict"] for check in cell.summary["checks"]] == [check.verdict for check in single.checks]
    np.testing.assert_array_equal(np.stack(cell.records()["logits"]), np.stack(single.records["logits"]))


def robust_data(folder: Path) -> Any:
    from robust.data import load_data

    return load_data("folder", root=folder / "recordings")


def test_tables_tell_what_the_cells_hold(done: Path) -> None:
    store = read_study(done / "store")
    with (done / "store" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + 2 + 2 * 5 + 3 + 3 + 1 + 1 + 1 + 1 + 2 + 1
    for cell in store.every:
        own = [row for row in rows if (row["victim"], row["condition"]) == (cell.victim, cell.condition)]
        if cell.kind == "curve":
            assert [float(row["level"]) for row in own] == cell.summary["radii"]
            assert [float(row["score"]) for row in own] == cell.summary["scores"]
            assert {row["unit"] for row in own} == {cell.summary["axis"]["unit"]}
        elif cell.kind in ("attack", "change", "universal"):
            (row,) = own
            score = cell.summary["changed" if cell.kind == "change" else "robust"]
            assert (float(row["score"]), float(row["low"])) == (score["score"], score["low"])
            assert (row["level"], row["metric"]) == ("", "accuracy")
            assert float(row["clean"]) == cell.summary["clean"]["score"]
        else:
            assert own == []
    claims = json.loads((done / "store" / "claims.json").read_text())
    assert [claim["text"] for claim in claims] == [claim["text"] for claim in STUDY["claims"]]
    assert all(claim["p"] is not None and claim["p_corrected"] >= claim["p"] for claim in claims)
    by_name = {claim["name"]: claim for claim in claims}
    mine = store.cells(condition="linf", victim="mine")[0].summary
    assert by_name["areas"]["a"] == pytest.approx(mine["auc"])
    assert by_name["claim 1"]["a"] == pytest.approx(mine["scores"][2])
    assert by_name["claim 4"]["a"] == pytest.approx(store.cells(condition="noise")[0].summary["scores"][0])
    shared = store.cells(condition="shared")[0].summary
    told_of_shared = by_name["claim 6"]
    assert (told_of_shared["a"], told_of_shared["b"]) == pytest.approx(
        (shared["robust"]["score"], shared["clean"]["score"])
    )
    text = (done / "store" / "table.md").read_text()
    for word in ("# A tiny study", "## Claims", "Larger on the whole.", "**supported**", "## linf on rec", "| other |"):
        assert word in text


def test_a_second_run_computes_nothing(done: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str]) -> None:
    monkeypatch.chdir(done)
    before, content = snapshot(done / "store"), tables(done / "store")
    run_file(done / "study.yaml", out=str(done / "store"))
    assert computed == []
    after = snapshot(done / "store")
    # Tables and states are written again, from what is there; no run is touched.
    runs = {name for name in before if name.startswith("cells/")}
    assert {name: before[name] for name in runs} == {name: after[name] for name in after if name.startswith("cells/")}
    assert before.keys() == after.keys()
    assert tables(done / "store") == content


def test_worker_processes_find_the_same(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    run_file(done / "study.yaml", out=str(done / "parallel"), executor=Processes(2))
    assert tables(done / "parallel") == tables(done / "store")
    assert folders(done / "parallel") == folders(done / "store")
    for cell, other in zip(read_study(done / "store").every, read_study(done / "parallel").every, strict=True):
        if cell.kind in ("attack", "change") or "grid" in cell.manifest:
            one, two = cell.records(), other.records()
            assert (
                one.drop(columns=["forwards", "backwards"], errors="ignore")
                .astype(str)
                .equals(two.drop(columns=["forwards", "backwards"], errors="ignore").astype(str))
            )


def test_what_changes_a_result_is_computed_anew(
    room: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, base = room / "study.yaml", part("white", "hidden", "attack")
    base["conditions"]["attack"] |= {"checks": False, "victims": ["mine"]}
    everything = ["attack", "hidden", "white"]

    def again(parts: dict[str, Any], **options: Any) -> list[str]:
        path.write_text(as_text(parts))
        del computed[:]
        assert not run_file(path, out="store", **options).failed
        return sorted(computed)

    assert again(base) == everything
    assert again(base) == []
    # Words do not change results.
    assert again({**base, "title": "Another", "thesis": "9", "claims": [{"text": "mine[white].robust > 0.1"}]}) == []
    # Another setting: that cell alone; and back again, none.
    louder = json.loads(json.dumps(base))
    louder["conditions"]["white"]["std"] = 0.2
    assert again(louder) == ["white"]
    assert again(base) == []
    assert len(folders(room / "store")) == 4
    assert len(states(room / "store")) == 3
    # A seed more.
    assert again({**base, "seeds": [0, 1]}) == everything
    assert again({**base, "seeds": [1]}) == []
    # A name alone is no reason, but a run of another name lies elsewhere.
    renamed = json.loads(json.dumps(base).replace("white", "bright"))
    assert again(renamed) == ["bright"]
    # The same settings twice, and the same victim twice, are computed twice.
    twice = json.loads(json.dumps(base))
    twice["conditions"]["again"] = twice["conditions"]["hidden"]
    twice["victims"]["same"] = twice["victims"]["mine"]
    del twice["conditions"]["attack"]["victims"]
    assert again(twice) == ["again", "attack", "attack"]
    # Data: another clip, fewer clips, another place of the same clips.
    assert again({**base, "data": {"rec": {**base["data"]["rec"], "limit": 9}}}) == everything
    (room / "recordings").rename(room / "moved")
    assert again(base, roots={"rec": "moved"}) == []
    clip = next((room / "moved" / "test" / "low").iterdir())
    clip.write_bytes(next((room / "moved" / "test" / "high").iterdir()).read_bytes())
    assert again(base, roots={"rec": "moved"}) == everything
    # The victim's code, and its weights.
    (room / "mine.py").write_text(studies.MODEL + "\n# a word more\n")
    assert again(base, roots={"rec": "moved"}) == everything
    state = {name: value.contiguous() for name, value in load_victim("mine.py:build").state_dict().items()}
    save_file(state, room / "w.safetensors")
    weighted = {**base, "victims": {"mine": {"model": "mine.py:build", "weights": "w.safetensors"}}}
    assert again(weighted, roots={"rec": "moved"}) == []  # the same weights from elsewhere
    save_file({name: value * 1.01 for name, value in state.items()}, room / "w.safetensors")
    assert again(weighted, roots={"rec": "moved"}) == everything
    # The suite's own code.
    monkeypatch.setattr("robust.study.plan.code_hash", lambda: "newer")
    assert again(weighted, roots={"rec": "moved"}) == everything


def test_a_failed_cell_is_told_and_can_be_retried(room: Path, run: Run, computed: list[str]) -> None:
    (room / "broken").touch()
    parts = part(
        "white", "linf", "shared", victims={"mine": {"model": "mine.py:build"}, "weak": {"model": "mine.py:frail"}}
    )
    parts["conditions"] = {
        name: {key: value for key, value in asked.items() if key != "victims"}
        for name, asked in parts["conditions"].items()
    }
    parts["claims"] = [
        {"text": "mine[white].robust > weak[white].robust", "words": "Order helps."},
        {"text": "mine[white].robust > 0.01"},
    ]
    code, out, _ = run(parts, "--out", "store")
    assert code == 1
    assert "3 done, 3 failed" in out
    assert out.count("RuntimeError: out of order") == 3
    assert "--retry" in out
    assert sorted(computed) == ["linf", "linf", "shared", "shared", "white", "white"]
    store = room / "store"
    failed = [cell for cell in told(store)["cells"] if cell["state"] == "failed"]
    assert {cell["victim"] for cell in failed} == {"weak"}
    for cell in failed:
        assert cell["error"] == "RuntimeError: out of order"
        error = json.loads((store / cell["folder"] / "error.json").read_text())
        assert "Traceback" in error["details"]
        assert not (store / cell["folder"] / "summary.json").exists()
    verdicts = json.loads((store / "claims.json").read_text())
    assert verdicts[0]["verdict"] == "undecided"
    assert "weak under white on rec, seed 0: failed" in verdicts[0]["reason"]
    assert verdicts[1]["verdict"] == "supported"
    assert "**3 of 6 cells have no result:**" in (store / "table.md").read_text()
    assert "weak," not in (store / "table.csv").read_text()
    # Not retried unless asked for, and in vain while it is not mended.
    del computed[:]
    assert run(parts, "--out", "store")[0] == 1
    assert computed == []
    assert run(parts, "--out", "store", "--retry")[0] == 1
    assert sorted(computed) == ["linf", "shared", "white"]
    (room / "broken").unlink()
    del computed[:]
    assert run(parts, "--out", "store", "--retry")[0] == 0
    assert sorted(computed) == ["linf", "shared", "white"]
    assert set(states(store).values()) == {"done"}
    assert not list(store.rglob("error.json"))
    del computed[:]
    assert run(parts, "--out", "store", "--retry")[0] == 0
    assert computed == []
    fresh = tables(store)
    run(parts, "--out", "fresh")
    assert tables(room / "fresh") == fresh


def test_dry_run_prints_every_cell_and_writes_nothing(room: Path, run: Run, computed: list[str]) -> None:
    before = sorted(room.rglob("*"))
    code, out, _ = run(STUDY, "--dry-run")
    assert code == 0
    lines = out.splitlines()
    assert sum(line.startswith("cell ") for line in lines) == CELLS
    for condition, asked in STUDY["conditions"].items():
        for victim in asked["victims"]:
            assert any(victim in line and f" {condition} " in line for line in lines)
    assert f"cells    {CELLS}, 0 done, 0 failed" in lines
    assert "about" in lines[-1]
    code, out, _ = run(STUDY, "--dry-run", "--json", "--executor", "processes", "--workers", 2)
    plan = json.loads(out)
    assert code == 0
    assert len(plan["cells"]) == CELLS
    assert plan["workers"] == 2
    assert all(cell["state"] == "waiting" and cell["seconds"] > 0 and len(cell["key"]) == 32 for cell in plan["cells"])
    assert computed == []
    assert [
        path
        for path in sorted(room.rglob("*"))
        if path.name not in ("study.yaml", "__pycache__") and path.suffix != ".pyc"
    ] == [path for path in before if path.suffix != ".pyc" and path.name != "__pycache__"]
    few = part("white", "hidden")
    run(few)
    code, out, _ = run(few, "--dry-run")
    assert "cells    2, 2 done, 0 failed" in out
    assert "about 0 s" in out.splitlines()[-1]


def test_check_is_the_whole_study_at_its_smallest(room: Path, run: Run) -> None:
    code, out, _ = run(STUDY, "--check", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["check"] is True
    assert found["run"] == "runs/tiny-check"
    for key in ("name", "title", "thesis", "claim", "cells", "claims"):
        assert key in found
    for claim in found["claims"]:
        assert {"text", "verdict", "p", "effect", "name", "words", "test", "clips", "seeds"} <= claim.keys()
        assert claim["clips"] == 4
    for cell in read_study("runs/tiny-check").every:
        assert cell.state == "done"
        assert cell.summary.get("clips", 4) <= 4
        assert cell.manifest["data"]["clips"] == 4
        if cell.kind == "curve" and "config" in cell.manifest:
            assert cell.manifest["config"]["steps"] == 1
            assert len(cell.summary["radii"]) == len(cell.manifest["levels"])
    assert not (room / "runs" / "tiny").exists()


def test_a_study_trains_what_is_not_there(room: Path, run: Run, computed: list[str]) -> None:
    recipe = {"max_steps": 2, "epochs": 1, "batch_size": 4, "config": {"width": 0.0625}}
    parts = part("hidden", seeds=[0, 1])
    parts["victims"] = {"m3": {"weights": "made/{victim}-{set}-{seed}.safetensors", "train": recipe}}
    parts["conditions"]["hidden"]["victims"] = ["m3"]
    code, out, err = run(parts, "--dry-run")
    assert code == 0, err
    assert out.count("train  ") == 2
    assert not (room / "made").exists()
    # A smoke run trains files of its own: one step must not stand for the training.
    assert run(parts, "--check")[0] == 0
    smoke = {"m3-folder-0.check.safetensors", "m3-folder-1.check.safetensors"}
    assert {path.name for path in (room / "made").glob("*.safetensors")} == smoke
    code, _, err = run(parts)
    assert code == 0, err
    made = {path.name for path in (room / "made").glob("*.safetensors")}
    assert made - smoke == {"m3-folder-0.safetensors", "m3-folder-1.safetensors"}
    keys = {cell.key for cell in read_study("runs/tiny").every}
    assert len(keys) == 2
    card = json.loads((room / "made" / "m3-folder-1.json").read_text())
    assert (card["seed"], card["training"]["steps"]) == (1, 2)
    stamps = snapshot(room / "made")
    del computed[:]
    assert run(parts)[0] == 0
    assert computed == []
    assert snapshot(room / "made") == stamps
    # What needs no training is held against the study before any is begun.
    parts["victims"] |= {"late": {"weights": "made/late.safetensors", "train": recipe, "model": "m3"}}
    parts["victims"]["mine"] = {"model": "mine.py:build"}
    parts["conditions"]["wrong"] = {"kind": "attack", "modality": "video", "victims": ["mine"]}
    code, _, err = run(parts)
    assert code == 2
    assert "'video'" in err
    assert not (room / "made" / "late.safetensors").exists()


def test_python_reads_what_the_command_wrote(done: Path) -> None:
    plan_path = done / "store" / "study.json"
    content = json.loads(plan_path.read_text())
    assert {cell["key"] for cell in content["cells"]} == {cell.key for cell in read_study(done / "store").every}
    (cell,) = read_study(done / "store").cells(kind="curve", condition="noise")
    levels = sorted(path.name for path in (cell.folder / "levels").iterdir())
    assert levels == ["00", "01", "02"]
    for place, level in enumerate(cell.summary["radii"]):
        records = Store.read(cell.folder / "levels" / f"{place:02d}").records()
        assert records["correct"].mean() == pytest.approx(cell.summary["scores"][place])
        assert cell.summary["radii"][place] == level


def test_interrupting_leaves_what_is_done(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = room / "study.yaml"
    path.write_text(as_text(part("white", "hidden", "attack")))
    compute, begun = work.compute, []

    def stopping(payload: dict[str, Any]) -> None:
        begun.append(payload["folder"])
        if len(begun) == 2:
            raise KeyboardInterrupt
        compute(payload)

    monkeypatch.setattr(work, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan_study(path, out="store"))
    assert sorted(states(room / "store").values()) == ["done", "waiting", "waiting", "waiting"]
    monkeypatch.setattr(work, "compute", compute)
    assert not run_study(plan_study(path, out="store")).failed
