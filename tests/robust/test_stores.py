"""Stores on any file system, and stores that cannot be: a full disk, a folder that nobody may write, a broken one."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robust import atomic
from robust.atomic import clear, in_memory, open_folder, write_atomically
from robust.cli import main
from robust.errors import StoreError
from robust.evaluation.store import Store
from robust.study import cells as work
from robust.study.executors import Processes
from robust.study.run import plan_study, run_study
from robust.study.store import read_study
from tests.robust.studies import as_text, furnish, run_file, start, states, tables

Run = Callable[..., tuple[int, str, str]]
STUDY: dict[str, Any] = {
    "name": "small",
    "victims": {"mine": {"model": "mine.py:build"}},
    "data": {"rec": {"set": "folder", "root": "recordings"}},
    "conditions": {
        "linf": {"kind": "curve", "eps": [0.003, 0.03], "steps": 2, "checks": False},
        "attack": {"kind": "attack", "eps": 0.02, "steps": 2},
        "noise": {"kind": "curve", "against": "noise", "eps": [20, 0]},
        "hidden": {"kind": "occlude", "pattern": "first-half"},
        "shared": {"kind": "universal", "eps": 0.05, "epochs": 1, "fit_limit": 9},
        "timing": {"kind": "latency", "repeats": 1},
    },
    "claims": [{"text": "mine[attack].robust < mine[hidden].robust"}, {"text": "mine[noise].auc > 0.5"}],
}
NAMES = ("table.csv", "table.md", "claims.json")


@pytest.fixture(scope="module")
def shared_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = furnish(tmp_path_factory.mktemp("room"))
    (folder / "study.yaml").write_text(as_text(STUDY))
    return folder


@pytest.fixture
def room(shared_room: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shared_room)
    monkeypatch.setattr("robust.study.plan.code_hash", lambda: "code")
    torch.set_num_threads(1)
    return shared_room


@pytest.fixture
def whole(room: Path) -> dict[str, bytes]:
    if not (room / "whole").exists():
        run_file(room / "study.yaml", out="whole")
    return tables(room / "whole")


@pytest.fixture(params=["path", "file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may lie."""
    return {
        "path": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}/store",
    }[request.param]


def test_any_store_holds_a_study(
    address: str, room: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, begun = work.compute, []

    def flaky(payload: dict[str, Any]) -> None:
        begun.append(payload["facts"]["cell"]["condition"])
        if len(begun) == 3:
            raise RuntimeError("out of order")
        if len(begun) == 5:
            raise KeyboardInterrupt
        compute(payload)

    monkeypatch.setattr(work, "compute", flaky)
    with pytest.raises(KeyboardInterrupt):
        run_file(room / "study.yaml", out=address)
    found = read_study(address)
    assert sorted(cell.state for cell in found.every) == ["done"] * 3 + ["failed"] + ["waiting"] * 2
    monkeypatch.setattr(
        work, "compute", lambda payload: (begun.append(payload["facts"]["cell"]["condition"]), compute(payload))
    )
    done = run_file(room / "study.yaml", out=address, retry=True)
    assert not done.failed
    assert len(begun) == 5 + 3
    assert {name: (done.folder / name).read_bytes() for name in NAMES} == whole
    run_file(room / "study.yaml", out=address)
    assert len(begun) == 5 + 3
    store, other = read_study(address), read_study(room / "whole")
    assert [cell.key for cell in store.every] == [cell.key for cell in other.every]
    for cell, same in zip(store.every, other.every, strict=True):
        if cell.condition in ("linf", "attack", "hidden"):
            assert cell.records().drop(columns="seed").equals(same.records().drop(columns="seed"))
    assert len(store.cells(kind="latency")[0].table()) > 0
    listened = store.cells(condition="attack")[0].folder / "audio"
    assert len(list(listened.glob("*.wav"))) == len(
        list((other.cells(condition="attack")[0].folder / "audio").glob("*"))
    )


def test_half_a_cell_is_gone_on_with(address: str, room: Path, whole: dict[str, bytes]) -> None:
    """A run that was interrupted at a batch: its parts stay, the rest is computed."""
    plan = plan_study(room / "study.yaml", out=address)
    (cell,) = [cell for cell in plan.cells if cell.condition == "hidden"]
    (source,) = read_study(room / "whole").cells(condition="hidden")
    place = plan.folder / cell.folder
    write_atomically(place / "manifest.json", (source.folder / "manifest.json").read_bytes())
    records = source.records().head(10)
    Store.read(place).add({name: column.tolist() for name, column in records.items()})
    write_atomically(plan.folder / "study.json", b'{"name": "small", "cells": []}')
    done = run_study(plan)
    parts = sorted(path.name for path in (place / "records").iterdir())
    assert parts == ["part-0000000-0000009.parquet", "part-0000010-0000023.parquet"]
    assert {name: (done.folder / name).read_bytes() for name in NAMES} == whole


def test_a_store_in_memory_is_not_for_workers(room: Path) -> None:
    plan = plan_study(room / "study.yaml", out="memory://nowhere/store")
    assert in_memory(plan.folder)
    with pytest.raises(StoreError, match="in memory is this process's own; 'processes' needs one"):
        run_study(plan, executor=Processes(2))
    assert not plan.folder.exists()


@pytest.fixture
def run(room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `robust study study.yaml`; exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robust", "study", "study.yaml", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return code, *capsys.readouterr()

    return call


def test_addresses_at_the_command_line(run: Run, tmp_path: Path, whole: dict[str, bytes]) -> None:
    code, out, _ = run("--out", f"file://{tmp_path}/store")
    assert code == 0
    assert f"{tmp_path}/store/table.md" in out
    assert tables(tmp_path / "store") == whole
    code, out, _ = run("--out", "memory://command/store", "--json")
    assert code == 0
    assert json.loads(out)["run"] == "memory://command/store"
    code, _, err = run("--out", "memory://command/store", "--executor", "processes")
    assert code == 2
    assert "in memory" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_full_disk_ends_in_one_message_and_a_store_that_can_be_finished(
    executor: str, room: Path, whole: dict[str, bytes]
) -> None:
    """Files may not grow beyond 16 KiB: manifests fit, records with many logits or recordings do not."""
    name = f"full-{executor}"
    process = start(
        ["study", "study.yaml", "--out", name, "--executor", executor],
        room,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, (out, err)
    assert "Cannot write" in err
    assert "File too large" in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("robust: ")]) == 1
    for path in (room / name).rglob("*.json"):
        json.loads(path.read_text())
    assert not [path for path in (room / name).rglob("*") if path.is_file() and path.name.startswith(".")]
    assert {"waiting"} <= set(states(room / name).values()) <= {"waiting", "done"}
    assert not run_file(room / "study.yaml", out=name).failed
    assert tables(room / name) == whole


@pytest.mark.parametrize("place", ["/proc/nowhere/store", "study.yaml/store", "x" * 300])
def test_places_where_nothing_can_be_written(place: str, run: Run) -> None:
    code, out, err = run("--out", place)
    assert (code, out) == (2, "")
    assert err.startswith("robust: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"name": "small", "cells": [', "cannot be read"),
        (b"[]", "holds no JSON object"),
        (b'{"name": "small"}', "not the file of a study"),
        (b'{"name": "small", "cells": [{"victim": "mine"}]}', "not the file of a study"),
        (b'{"name": "small", "cells": [7]}', "not the file of a study"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_broken_study_is_told_and_left_alone(content: bytes, words: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes(content)
    code, out, err = run("--out", tmp_path)
    assert (code, out) == (2, "")
    assert words in err
    assert "study.json" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
    assert (tmp_path / "study.json").read_bytes() == content


@pytest.mark.parametrize("broken", ["summary.json", "manifest.json", "records/part-0000000-0000023.parquet", "records"])
def test_a_broken_cell_is_told(broken: str, run: Run, room: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    shutil.copytree(room / "whole", tmp_path / "store")
    (cell,) = read_study(tmp_path / "store").cells(condition="attack")
    if broken == "records":
        shutil.rmtree(cell.folder / broken)
    else:
        (cell.folder / broken).write_bytes(b"{broken")
    code, _, err = run("--out", tmp_path / "store")
    assert code == 2
    assert err.startswith("robust: ")
    assert "Traceback" not in err
    assert cell.folder.name in err
    # What the message names can be removed, and the study goes on.
    shutil.rmtree(cell.folder)
    assert run("--out", tmp_path / "store")[0] == 0
    assert tables(tmp_path / "store") == whole


def test_a_broken_error_is_still_one(run: Run, room: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    shutil.copytree(room / "whole", tmp_path / "store")
    (cell,) = read_study(tmp_path / "store").cells(condition="attack")
    (cell.folder / "summary.json").unlink()
    (cell.folder / "error.json").write_bytes(b"{broken")
    code, out, _ = run("--out", tmp_path / "store")
    assert code == 1
    assert "error.json cannot be read" in out
    assert run("--out", tmp_path / "store", "--retry")[0] == 0
    assert tables(tmp_path / "store") == whole


def test_a_store_that_vanishes(
    room: Path, run: Run, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, begun = work.compute, []

    def vanishing(payload: dict[str, Any]) -> None:
        begun.append(payload["folder"])
        if len(begun) == 3:
            shutil.rmtree(tmp_path / "store")
            (tmp_path / "store").write_text("a file")
        compute(payload)

    monkeypatch.setattr(work, "compute", vanishing)
    code, _, err = run("--out", tmp_path / "store")
    assert code == 2
    assert "Cannot write" in err
    assert err.count("\n") == 1
    (tmp_path / "store").unlink()
    assert run("--out", tmp_path / "store")[0] == 0
    assert tables(tmp_path / "store") == whole


def test_writing_whole_or_not_at_all(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(address)
    write_atomically(folder / "a" / "b.txt", b"first")
    write_atomically(folder / "a" / "b.txt", b"second")
    assert (folder / "a" / "b.txt").read_bytes() == b"second"
    assert [path.name for path in (folder / "a").iterdir()] == ["b.txt"]
    if isinstance(folder, Path):
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        monkeypatch.setattr(
            type(folder.fs), "pipe_file", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
    with pytest.raises(StoreError, match="No space left on device"):
        write_atomically(folder / "a" / "b.txt", b"third")
    assert (folder / "a" / "b.txt").read_bytes() == b"second"
    assert [path.name for path in (folder / "a").iterdir()] == ["b.txt"]
    monkeypatch.undo()
    clear(folder / "a" / "b.txt")
    assert list((folder / "a").iterdir()) == []
    write_atomically(folder / "a" / "c" / "d.txt", b"deep")
    clear(folder)
    assert not folder.exists()
    clear(folder)


def test_where_a_put_is_not_whole_a_file_is_put_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "WHOLE_PUTS", set())
    folder = open_folder(f"memory://{uuid.uuid4().hex}")
    put: list[str] = []
    pipe = type(folder.fs).pipe_file

    def noting(self: Any, path: str, value: bytes, **more: Any) -> Any:
        put.append(path)
        return pipe(self, path, value, **more)

    monkeypatch.setattr(type(folder.fs), "pipe_file", noting)
    for content in (b"first", b"second"):
        write_atomically(folder / "b.txt", content)
        assert (folder / "b.txt").read_bytes() == content
    assert [path.name for path in folder.iterdir()] == ["b.txt"]
    assert all("/.b.txt." in path for path in put)


def test_addresses_that_are_none() -> None:
    with pytest.raises(StoreError, match=r"'nosuch://a/b' cannot be used"):
        open_folder("nosuch://a/b")
    assert open_folder("file:///a/b") == Path("/a/b")
    assert open_folder("a/b") == Path("a/b")
