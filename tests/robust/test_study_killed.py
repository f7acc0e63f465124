"""Studies that are killed in the middle, as a whole or one of their workers, end as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robust.study.executors import Processes
from robust.study.run import plan_study, run_study
from tests.robust.studies import as_text, folders, furnish, rng, run_file, snapshot, start, states, tables

CLIPS, PARTS_EACH = 140, 3  # batches of 64
STUDY: dict[str, Any] = {
    "name": "killed",
    "victims": {"mine": {"model": "mine.py:slow"}, "other": {"model": "mine.py:other"}},
    "data": {"rec": {"set": "folder", "root": "recordings"}},
    "conditions": {
        "linf": {"kind": "curve", "eps": [0.003, 0.03], "steps": 2, "checks": False, "victims": ["mine"]},
        "attack": {"kind": "attack", "eps": 0.02, "steps": 2, "checks": False},
        "noise": {"kind": "curve", "against": "noise", "eps": [20, 0]},
        "hidden": {"kind": "occlude", "pattern": "first-half"},
        "shared": {"kind": "universal", "eps": 0.05, "epochs": 2, "fit_limit": 9, "victims": ["mine"]},
    },
    "claims": [
        {"text": "mine[attack].robust > other[attack].robust"},
        {"text": "mine[linf].auc > 0.3"},
        {"text": "mine[noise].robust@20 > mine[noise].robust@0"},
        {"text": "mine[shared].robust < mine[shared].clean"},
    ],
}
CELLS = 8


@pytest.fixture
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust.study.plan.code_hash", lambda: "code")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = furnish(tmp_path_factory.mktemp("room"), clips=CLIPS)
    (folder / "study.yaml").write_text(as_text(STUDY))
    return folder


@pytest.fixture(scope="module")
def whole(room: Path) -> dict[str, bytes]:
    """The tables of a run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        patch.setattr("robust.study.plan.code_hash", lambda: "code")
        torch.set_num_threads(1)
        assert not run_file(room / "study.yaml", out="whole").failed
    return tables(room / "whole")


def parts(store: Path) -> dict[str, tuple[int, int]]:
    """Finished parts of records."""
    return {name: file for name, file in snapshot(store).items() if Path(name).name.startswith("part-")}


def kept(name: str) -> bool:
    """Whether a run goes on from a part; a universal perturbation is fitted anew."""
    return "--shared--" not in name


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def until_more(store: Path, before: int, process: subprocess.Popen[str] | None = None) -> None:
    """Waits for the next part, or the end of the process."""
    until(
        lambda: (process is not None and process.poll() is not None) or (store.exists() and len(parts(store)) > before)
    )


def check_whole(store: Path, whole: dict[str, bytes], room: Path) -> None:
    assert tables(store) == whole
    assert set(states(store).values()) == {"done"}
    assert len(folders(store)) == CELLS
    assert folders(store) == folders(room / "whole")
    names = {"/".join(Path(name).parts) for name in parts(store)}
    assert names == set(parts(room / "whole"))  # no part is lost, and none is there twice
    assert not [path for path in store.rglob("*") if path.name == "error.json"]


@pytest.mark.usefixtures("same_code")
def test_sigkill_at_random_moments(room: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    store, draw, hits = room / "killed", rng(4), 0
    for _ in range(3):
        before = parts(store) if store.exists() else {}
        process = start(["study", "study.yaml", "--out", "killed"], room)
        try:
            until_more(store, len(before), process)
            time.sleep(float(draw.random()) * 0.6)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        hits += process.returncode == -signal.SIGKILL
        after = parts(store)
        assert len(after) > len(before)
        assert {name: after[name] for name in before if kept(name)} == {
            name: file for name, file in before.items() if kept(name)
        }, "a finished part was written again"
    assert hits >= 2
    assert "waiting" in states(store).values()
    before = {name: file for name, file in parts(store).items() if kept(name)}
    finished = {name: file for name, file in snapshot(store).items() if name.endswith("summary.json")}
    assert not run_file(room / "study.yaml", out="killed").failed
    after = snapshot(store)
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in finished} == finished
    check_whole(store, whole, room)


@pytest.mark.usefixtures("same_code")
@pytest.mark.parametrize("left", ["manifest", "level", "study", "part", "error"])
def test_what_a_kill_leaves_half_written(
    left: str, room: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments that chance seldom meets: between the making of a temporary file and its renaming."""
    monkeypatch.chdir(room)
    store = room / f"left-{left}"
    cells = {(cell.victim, cell.condition): store / cell.folder for cell in plan_study("study.yaml").cells}
    attack, noise = cells["other", "attack"], cells["other", "noise"]
    if left != "study":
        shutil.copytree(room / "whole", store)
    debris = {
        "study": store / ".study.json.k1ll3d",
        "manifest": attack / ".manifest.json.k1ll3d",
        "error": attack / ".error.json.k1ll3d",
        "level": noise / "levels" / "01" / ".manifest.json.k1ll3d",
        "part": attack / "records" / ".part-0000064-0000127.parquet.k1ll3d",
    }[left]
    if left in ("manifest", "error"):
        shutil.rmtree(attack)
    elif left == "level":
        (noise / "summary.json").unlink()
        shutil.rmtree(noise / "levels" / "01")
    elif left == "part":
        (attack / "summary.json").unlink()
        (attack / "records" / "part-0000064-0000127.parquet").unlink()
    debris.parent.mkdir(parents=True, exist_ok=True)
    debris.write_bytes(b'{"half')
    if left == "study":
        assert {cell.key for cell in plan_study("study.yaml", out=str(store)).cells} != {""}
        return
    assert not run_file(room / "study.yaml", out=str(store)).failed
    check_whole(store, whole, room)


@pytest.mark.usefixtures("same_code")
def test_a_killed_worker_is_replaced(room: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    store, killed = room / "workers", []

    def kill_one() -> None:
        until_more(store, 0)
        time.sleep(0.05)
        worker = next(child for child in multiprocessing.active_children() if child.is_alive())
        os.kill(worker.pid or 0, signal.SIGKILL)
        killed.append(worker.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        done = run_study(plan_study("study.yaml", out="workers"), executor=Processes(2))
    finally:
        killer.join()
    assert killed
    assert not done.failed
    check_whole(store, whole, room)
