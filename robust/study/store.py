"""Reads what a study left: `read_study(folder)`; a run, or runs in one folder, count as a study of them.

    STUDY/study.json        what was asked, and the state of every cell
    STUDY/cells/NAME/       one run folder per cell (`robust.evaluation.store`)

Both may lie behind any address that fsspec knows.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from robust.atomic import Folder, open_folder
from robust.errors import StoreError
from robust.evaluation.store import Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CellRun:
    """One cell of a study: a run folder and what it was asked.

    Attributes:
        victim, condition, kind, data, seed: Which cell; `kind` is `attack`, `curve`, `change`, `universal`...
        folder: The run folder.
        state: `done`, `failed` or `waiting`.
        error: Why it failed.
        key: Hash of all that decides its result; empty of a run that belongs to no study.
    """

    victim: str
    condition: str
    kind: str
    data: str
    seed: int
    folder: Folder
    state: str = "done"
    error: str | None = None
    key: str = ""

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `--json` printed."""
        return _json(self.folder / "summary.json")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was run on what; of a universal perturbation, that of its scoring."""
        own = self.folder / "manifest.json"
        return _json(own if own.is_file() else self.folder / "universal" / "manifest.json")

    def records(self) -> pd.DataFrame:
        """One row per clip."""
        return Store.read(self.folder).records()

    def table(self) -> pd.DataFrame:
        """The table of a run that has no records: thresholds, surface, latents, latency."""
        import pandas as pd

        path = self.folder / "table.parquet"
        try:
            return pd.read_parquet(io.BytesIO(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}.") from error


@dataclass(frozen=True)
class StudyStore:
    """A study folder.

    Attributes:
        folder: Where it is.
        name: Of the study; of a single run, of its folder.
        told: `study.json`; of a single run, the same keys about its one cell.
    """

    folder: Folder
    name: str
    told: dict[str, Any]
    every: tuple[CellRun, ...]

    def cells(
        self, kind: str | None = None, condition: str | None = None, victim: str | None = None, data: str | None = None
    ) -> list[CellRun]:
        """Cells of any state in the order of the study, narrowed by what is given."""
        wanted = {"kind": kind, "condition": condition, "victim": victim, "data": data}
        asked = {name: value for name, value in wanted.items() if value is not None}
        return [cell for cell in self.every if all(getattr(cell, name) == value for name, value in asked.items())]


def read_study(folder: str | Folder) -> StudyStore:
    """The study, or the runs, that `folder` holds.

    Args:
        folder: A path, or an address that `robust.atomic.open_folder` knows.

    Raises:
        StoreError: If it holds neither, or it cannot be read.
    """
    folder = open_folder(folder)
    if (folder / "study.json").is_file():
        told = _json(folder / "study.json")
        try:
            cells = tuple(_cell(folder, cell) for cell in told["cells"])
            return StudyStore(folder, str(told["name"]), told, cells)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{folder / 'study.json'} is not the file of a study: {error!r}.") from error
    runs = [folder] if (folder / "summary.json").is_file() else _beside(folder)
    if not runs:
        raise StoreError(
            f"{folder} holds neither a study (study.json) nor a finished run (summary.json); give the folder of one."
        )
    cells = tuple(_single(run) for run in runs)
    names = ("victim", "condition", "kind", "data", "seed", "state", "error")
    listed = [{**{name: getattr(cell, name) for name in names}, "folder": cell.folder.name} for cell in cells]
    return StudyStore(folder, folder.name, {"name": folder.name, "cells": listed}, cells)


def _beside(folder: Folder) -> list[Folder]:
    """Runs that lie in one folder, as `robust curve` leaves them."""
    inside = sorted(folder.iterdir(), key=str) if folder.is_dir() else []
    return [place for place in inside if (place / "summary.json").is_file()]


def _cell(folder: Folder, told: dict[str, Any]) -> CellRun:
    named = {name: str(told[name]) for name in ("victim", "condition", "kind", "data", "state")}
    where = folder / str(told["folder"])
    return CellRun(folder=where, seed=int(told["seed"]), error=told.get("error"), key=str(told.get("key", "")), **named)


def _single(folder: Folder) -> CellRun:
    """A run folder as a cell."""
    summary = _json(folder / "summary.json")
    data = summary.get("data")
    kind = summary.get("kind") or ("change" if "changed" in summary else "attack")
    cell = CellRun(
        victim=str(summary.get("victim", "")),
        condition=str(kind),
        kind=str(kind),
        data=str(data.get("name", "")) if isinstance(data, dict) else str(data or ""),
        seed=int(summary.get("seed") or 0),
        folder=folder,
    )
    has_manifest = any((folder / place).is_file() for place in ("manifest.json", "universal/manifest.json"))
    manifest = cell.manifest if has_manifest else {}
    condition, seed = str(manifest.get("condition", cell.condition)), int(manifest.get("seed", cell.seed))
    return replace(cell, condition=condition, seed=seed)


def _json(path: Folder) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    if not isinstance(told, dict):
        raise StoreError(f"{path} holds no JSON object.")
    return told


def read_table(cell: CellRun, name: str) -> pd.DataFrame:
    """`table`, `classes` or `clips` of a run of `robust geometry`.

    Raises:
        StoreError: If it is not there or cannot be read.
    """
    import pandas as pd

    path = cell.folder / f"{name}.parquet"
    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
