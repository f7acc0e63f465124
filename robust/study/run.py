"""A study from its file to its tables: plans, trains what must be, computes what is not there, decides the claims.

STUDY/study.json    what was asked, and the state of every cell
STUDY/cells/...     one run folder per cell; its name ends in the key of the cell, so that nothing stale is reused
STUDY/table.csv, table.md, claims.json, and of geometry correlations.csv, correlations.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust.atomic import Folder, absolute, clear, in_memory, open_folder, write_atomically
from robust.errors import RobustError, StoreError
from robust.evaluation.progress import Bars, bars
from robust.study import cells as work
from robust.study.claims import Question, questions
from robust.study.config import Study, read_study_file
from robust.study.correlation_files import write_correlations
from robust.study.executors import Executor, Job, Local
from robust.study.kinds import CHANGES
from robust.study.kinship import kinship
from robust.study.opening import forget
from robust.study.plan import Cell, make_cells, untrained, with_keys
from robust.study.source import Source
from robust.study.store import CellRun, read_study
from robust.study.tables import claims_json, table_csv, table_md
from robust.study.values import Values
from robust.study.verdicts import Verdict, decide

DONE, FAILED, WAITING = "done", "failed", "waiting"


@dataclass(frozen=True)
class Plan:
    """A study, checked, with what there is to do.

    Attributes:
        study, source: As read.
        cells: All cells; without keys where a victim is still to be trained.
        trainings: What must be trained first.
        claims: What is to be decided.
        folder: Of the study.
        check: Smoke run.
        device: For victims.
    """

    study: Study
    source: Source
    cells: list[Cell]
    trainings: list[dict[str, Any]]
    claims: list[Question]
    folder: Folder
    check: bool
    device: str

    def keyed(self) -> Plan:
        """The same once every victim is there, with the keys of all cells."""
        known = with_keys(self.cells, self.study, self.source, self.device)
        return Plan(self.study, self.source, known, [], self.claims, self.folder, self.check, self.device)

    def state(self, cell: Cell) -> str:
        """What became of a cell, as its folder tells."""
        folder = self.folder / cell.folder
        if not cell.key:
            return WAITING
        if (folder / "summary.json").is_file():
            return DONE
        return FAILED if (folder / "error.json").is_file() else WAITING


@dataclass(frozen=True)
class StudyRun:
    """What a study came to.

    Attributes:
        folder: With everything in it.
        cells: All cells and their states.
        verdicts: On the claims.
        correlations: The page of what geometry goes with what robustness; None of a study without geometry.
    """

    folder: Folder
    cells: list[CellRun]
    verdicts: list[Verdict]
    correlations: Folder | None = None

    @property
    def failed(self) -> list[CellRun]:
        """Cells without a result."""
        return [cell for cell in self.cells if cell.state != DONE]


def plan_study(
    path: str | Path,
    *,
    out: str | Folder | None = None,
    check: bool = False,
    roots: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Plan:
    """Reads and checks a study; computes nothing and writes nothing.

    Args:
        path: YAML file.
        out: Folder or address of the store; `runs/NAME` when None (`runs/NAME-check` for a smoke run).
        check: One step on four clips for every cell.
        roots: Data set of the study -> its folder, instead of the one in the file.
        device: For victims.

    Raises:
        RobustError: For whatever the file asks that cannot be, with the line.
    """
    forget()
    study, source = read_study_file(path)
    cells = make_cells(study, source, check=check, roots=roots)
    claims = questions(study, cells, source)
    folder = open_folder(out if out is not None else Path("runs") / f"{study.name}{'-check' if check else ''}")
    _check_folder(folder)
    plan = Plan(study, source, cells, untrained(cells), claims, folder, check, device)
    if not plan.trainings:
        return plan.keyed()
    with_keys([cell for cell in cells if not untrained([cell])], study, source, device)  # mistakes are told now
    return plan


def run_study(plan: Plan, *, executor: Executor | None = None, retry: bool = False) -> StudyRun:
    """Computes what is not there yet, writes the tables and decides the claims.

    Args:
        plan: From `plan_study`.
        executor: Where cells are computed; in this process when None.
        retry: Compute failed cells again, too.

    Raises:
        StoreError: If the store cannot be written; what it holds stays valid.
        RobustError: If a training fails.
    """
    executor = executor or Local()
    if in_memory(plan.folder) and executor.name != "local":
        raise StoreError(f"A store in memory is this process's own; {executor.name!r} needs one that its workers see.")
    if plan.trainings:
        _train(plan, executor)
        plan = plan.keyed()
    states = {cell.folder: plan.state(cell) for cell in plan.cells}
    todo = [cell for cell in plan.cells if states[cell.folder] in ((WAITING, FAILED) if retry else (WAITING,))]
    there = len(plan.cells) - len(todo)
    for cell in todo:
        if states[cell.folder] == FAILED:
            clear(plan.folder / cell.folder / "error.json")
            states[cell.folder] = WAITING
    _write_state(plan, states)
    with bars(len(todo), f"{plan.study.name}: {there} of {len(plan.cells)} cells were there") as bar:
        for finished in executor.run(_jobs(plan, todo), work.compute, poll=_watch(plan, todo, bar)):
            cell = next(cell for cell in todo if cell.folder == finished.key)
            if finished.error is not None:
                told = {"error": finished.error, "details": finished.details, "attempts": finished.attempts}
                write_atomically(plan.folder / cell.folder / "error.json", json.dumps(told, indent=2).encode())
            states[cell.folder] = plan.state(cell)
            _write_state(plan, states)
            bar.hide(cell.folder)
            bar.advance(f"{plan.study.name}: {cell.name}")
    return _conclude(plan)


def _check_folder(folder: Folder) -> None:
    """Whether a study may go there, or lies there and can be read; a kill may have left the half of a file."""
    try:
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; choose a folder for --out.")
        if (folder / "study.json").is_file():
            read_study(folder)
        elif folder.is_dir() and any(not place.name.startswith(".") for place in folder.iterdir()):
            raise StoreError(f"{folder} is not empty and holds no study; choose another --out.")
    except OSError as error:
        raise StoreError(f"Cannot read {folder}: {error.strerror or error}. Choose another --out.") from error


def _train(plan: Plan, executor: Executor) -> None:
    jobs = [
        Job(
            training["victim"]["weights"],
            {**_placed_training(training), "check": plan.check, "device": plan.device},
            plan.study.resources,
        )
        for training in plan.trainings
    ]
    with bars(len(jobs), f"{plan.study.name}: training") as bar:
        for finished in executor.run(jobs, work.train):
            if finished.error is not None:
                raise RobustError(f"The training of {finished.key} failed: {finished.error}")
            bar.advance(f"trained {finished.key}")


def _placed_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """A training whose files are named from the root, since a worker may be elsewhere."""
    victim, data = training["victim"], training["data"]
    root = None if data["root"] is None else str(Path(data["root"]).absolute())
    placed = {**victim, "weights": str(Path(victim["weights"]).absolute())}
    return {**training, "victim": placed, "data": {**data, "root": root}}


def _jobs(plan: Plan, cells: Sequence[Cell]) -> list[Job]:
    """Jobs for cells; those that belong to one victim lie together, since a worker keeps what it has opened."""
    jobs = []
    for cell in sorted(cells, key=lambda cell: (cell.data, cell.victim, cell.seed)):
        facts = {"cell": {name: getattr(cell, name) for name in ("victim", "condition", "data", "seed", "key")}}
        where = {"folder": str(absolute(plan.folder) / cell.folder), "device": plan.device}
        resources = plan.study.conditions[cell.condition].resources or plan.study.resources
        jobs.append(Job(cell.folder, {**where, "task": _placed(cell.task), "facts": facts}, resources))
    return jobs


def _placed(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task whose files are named from the root, since a worker may be elsewhere."""

    def place(name: str | None) -> str | None:
        return str(Path(name).absolute()) if name is not None and Path(name).exists() else name

    victims = [task["victim"], *task["others"].values()]
    placed = [{**one, "weights": place(one["weights"]), "model": _model(one["model"])} for one in victims]
    others = dict(zip(task["others"], placed[1:], strict=True))
    return {
        **task,
        "victim": placed[0],
        "others": others,
        "data": {**task["data"], "root": place(task["data"]["root"])},
    }


def _model(name: str) -> str:
    """`FILE.py:FACTORY` by the whole path of the file."""
    place, _, factory = name.rpartition(":")
    return f"{Path(place).absolute()}:{factory}" if place.endswith(".py") and Path(place).is_file() else name


def _watch(plan: Plan, cells: Sequence[Cell], bar: Bars) -> Callable[[], None]:
    """Shows how many clips the cells under way have, by the parts that lie in the store."""

    def look() -> None:
        for cell in cells:
            folder = plan.folder / cell.folder
            if (folder / "summary.json").is_file() or not folder.is_dir():
                continue
            try:
                bar.show(cell.folder, cell.name, sum(_clips(folder)), None)
            except OSError:  # a worker begins a cell anew while we look
                continue

    return look


def _clips(folder: Folder) -> Iterator[int]:
    """Clips in the parts of a run, as their names tell."""
    for part in folder.glob("**/part-*.parquet"):
        _, first, last = part.stem.split("-")
        yield int(last) - int(first) + 1


def _write_state(plan: Plan, states: Mapping[str, str]) -> None:
    """Writes `study.json`: what was asked, and the state of every cell as its folder tells."""
    told = []
    for cell in plan.cells:
        state = states[cell.folder]
        error = _error(plan.folder / cell.folder / "error.json") if state == FAILED else None
        names = {name: getattr(cell, name) for name in ("key", "folder", "victim", "condition", "data", "seed")}
        kind = "change" if cell.kind in CHANGES else cell.kind
        told.append({**names, "kind": kind, "asked": dict(cell.task["condition"]), "state": state, "error": error})
    study = plan.study
    head = {name: getattr(study, name) for name in ("name", "title", "thesis", "claim", "seeds", "correction", "level")}
    content = json.dumps({**head, "check": plan.check, "victims": kinship(plan.cells), "cells": told}, indent=2)
    write_atomically(plan.folder / "study.json", content.encode())


def _error(path: Folder) -> str:
    """Why a cell failed."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"it failed, but {path.name} cannot be read"


def _conclude(plan: Plan) -> StudyRun:
    """Tables and verdicts from what the store holds now."""
    found = read_study(plan.folder)
    cells = list(found.every)
    verdicts = decide(plan.claims, Values(cells, plan.study.seeds), plan.study.correction, plan.study.level)
    write_atomically(plan.folder / "table.csv", table_csv(cells))
    write_atomically(plan.folder / "claims.json", claims_json(verdicts))
    write_atomically(plan.folder / "table.md", table_md(plan.study, cells, verdicts))
    return StudyRun(plan.folder, cells, verdicts, write_correlations(found))
