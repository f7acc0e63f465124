"""Opens what a page tells of: runs, and studies with their cells, refused early where something is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from robust.atomic import Folder, open_folder
from robust.errors import StoreError
from robust.evaluation.store import Store
from robust.study.store import CellRun, StudyStore, read_study
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd

NEEDED = {
    "attack": ("victim", "clips", "clean", "robust", "threat"),
    "change": ("victim", "clips", "clean", "changed"),
    "curve": ("victim", "axis", "radii", "scores", "low", "high", "clean"),
    "universal": ("victim", "clean", "robust", "random", "threat"),
    "air": ("victim", "clips", "clean", "robust", "threat", "plain", "eot", "controls"),
    "noise": ("victim", "clips", "clean", "cells"),
    "music": ("victim", "clips", "cells"),
    "stickers": ("victim", "clips", "source", "jittered"),
    "purification": ("victim", "clips", "clean", "robust", "threat", "attacks", "bare_clean", "label"),
    "purify": ("victim", "clips", "clean", "bare_clean", "axis", "radii", "levels", "label"),
    "geometry": ("victim", "clips"),
    "certificate": ("victim", "clips", "clean", "sigma", "radii", "certified", "ceiling"),
}
"""Entries of a summary without which nothing can be said of a run."""
PARTS = ("universal", "jam-silence", "stickers")
"""Stores within the folders of kinds that keep several: the one that tells of the run."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        cell: Where it is, and what kind it is.
        name: What the page calls it; no path, so that a page does not depend on where a store lies.
        study: Whether it is a cell of a study.
    """

    cell: CellRun
    name: str
    study: bool = field(default=False)

    @property
    def kind(self) -> str:
        """`attack`, `change`, `curve`, `air`, `noise`...: what the summary says, not what a study called it."""
        return str(self.summary.get("kind") or ("change" if "changed" in self.summary else "attack"))

    @property
    def summary(self) -> dict[str, Any]:
        """What `--json` printed."""
        return self.cell.summary

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was run on what; empty where there is none."""
        for place in ("", *PARTS):
            path = (self.cell.folder / place if place else self.cell.folder) / "manifest.json"
            if path.is_file():
                return _object(path)
        return {}

    @property
    def victim(self) -> str:
        """Name of the victim."""
        return str(self.summary.get("victim", self.cell.victim))

    @property
    def task(self) -> Task:
        """`multiclass` or `multilabel`."""
        usual = "multilabel" if self.summary.get("metric") == "mAP" else "multiclass"
        return "multilabel" if self.summary.get("task", usual) == "multilabel" else "multiclass"

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        victim = self.manifest.get("victim")
        return list(victim.get("labels", ())) if isinstance(victim, dict) else []

    @cached_property
    def records(self) -> pd.DataFrame | None:
        """One row per clip, or None of a run that keeps none."""
        return self.part("universal" if self.kind == "universal" else "")

    def part(self, name: str) -> pd.DataFrame | None:
        """Records of a store within the folder, of the folder itself without a name; None where there are none."""
        folder = self.cell.folder / name if name else self.cell.folder
        if not (folder / "records").is_dir() or (name and not (folder / "manifest.json").is_file()):
            return None
        return Store.read(folder).records()


@dataclass(frozen=True)
class Source:
    """One folder that was given: a study, a single run, or runs side by side.

    Attributes:
        runs: Its finished runs.
        study: The study; None of a single run.
    """

    runs: tuple[Run, ...]
    study: StudyStore | None = None


def open_sources(folders: Sequence[Folder | str]) -> list[Source]:
    """Every folder read.

    Raises:
        StoreError: If one holds neither a study nor a finished run, or cannot be read.
    """
    if not folders:
        raise StoreError("A report needs the folder of at least one run or study.")
    sources = [open_source(folder) for folder in folders]
    if not any(source.runs or source.study for source in sources):
        raise StoreError("There is no finished run in what was given.")
    return sources


def open_source(folder: Folder | str) -> Source:
    """One folder read; see `open_sources`."""
    folder = open_folder(folder)
    inner = _runs_within(folder)
    if inner:
        return Source(tuple(_checked(Run(read_study(run).every[0], run.name)) for run in inner))
    _check_finished(folder)
    store = read_study(folder)
    if not (folder / "study.json").is_file():
        cell = store.every[0]
        return Source((_checked(Run(cell, cell.folder.name)),))
    done = [cell for cell in store.every if cell.state == "done"]
    return Source(tuple(_checked(Run(cell, _cell_name(cell, store), study=True)) for cell in done), store)


def _cell_name(cell: CellRun, store: StudyStore) -> str:
    """Victim and condition, and what else tells the cells of a study apart."""
    several_data = len({one.data for one in store.every}) > 1
    several_seeds = len({one.seed for one in store.every}) > 1
    beside = [*([cell.data] if several_data else []), *([f"seed {cell.seed}"] if several_seeds else [])]
    return ", ".join([cell.victim, cell.condition, *beside])


def open_run(folder: Folder | str) -> Run:
    """One finished run.

    Raises:
        StoreError: If the folder holds a study, no run or an unfinished one.
    """
    source = open_source(folder)
    if source.study is not None:
        raise StoreError(f"{folder} holds a study; give the folder of one of its cells, {folder}/cells/...")
    if len(source.runs) > 1 or source.runs[0].cell.folder != open_folder(folder):
        names = ", ".join(run.name for run in source.runs)
        raise StoreError(f"{folder} holds runs and is none; give the folder of one of them: {names}.")
    return source.runs[0]


def _runs_within(folder: Folder) -> list[Folder]:
    """The finished runs that lie side by side in a folder that is none, as `robust curve` leaves them."""
    if not folder.is_dir() or any(
        (folder / name).is_file() for name in ("study.json", "manifest.json", "summary.json")
    ):
        return []
    return sorted((path for path in folder.iterdir() if (path / "summary.json").is_file()), key=lambda path: path.name)


def _check_finished(folder: Folder) -> None:
    """A run that was interrupted has no summary; one made of nothing is no run."""
    if not folder.is_dir():
        what = "is a file, not the folder of a run" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder that `robust attack --out` made, or a study's.")
    if (folder / "summary.json").is_file() or (folder / "study.json").is_file():
        return
    if (folder / "manifest.json").is_file():
        store = Store.read(folder)
        wanted = store.manifest.get("data", {}).get("clips", "?")
        raise StoreError(
            f"{folder} holds a run that is not finished: {len(store.done())} of {wanted} clips are done and there is "
            "no summary.json. Go on with it: the same command with --resume."
        )
    raise StoreError(f"{folder} holds neither a study (study.json) nor a run (manifest.json, summary.json).")


def _checked(run: Run) -> Run:
    """The run, if its summary has what a page cannot do without."""
    lacking = [name for name in NEEDED.get(run.kind, ("victim",)) if run.summary.get(name) is None]
    if lacking:
        raise StoreError(
            f"{run.cell.folder / 'summary.json'} is not the summary of a run of kind {run.kind!r}: it lacks "
            f"{', '.join(lacking)}. Run it again, or take the folder out of what is reported."
        )
    return run


def _object(path: Folder) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    if not isinstance(told, dict):
        raise StoreError(f"{path} holds no JSON object.")
    return told


def claims_of(study: StudyStore) -> list[dict[str, Any]]:
    """What a study claims and what came of it; empty before there is a verdict."""
    path = study.folder / "claims.json"
    if not path.is_file():
        return []
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    if not isinstance(told, list) or not all(isinstance(claim, dict) for claim in told):
        raise StoreError(f"{path} holds no list of claims.")
    return told
