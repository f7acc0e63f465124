"""From a study file to its cells: which there are, what each is made of, and the key under which its result is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from attacks.weights import weights_hash
from robust.data import data_entry
from robust.errors import RobustError, StoreError, unknown
from robust.evaluation.engine import align_labels
from robust.study.cells import is_trained
from robust.study.channel_files import channel_identity, purifier_identity
from robust.study.conditions import WHERE, Condition, ThresholdsKind, shortened
from robust.study.config import Study
from robust.study.fitting import check
from robust.study.opening import code_hash, open_data, open_victim, source_of
from robust.study.source import Source
from robust.victims.loading import find_device
from robust.victims.registry import victim_entry

CHECK_CLIPS = 4


@dataclass(frozen=True)
class Cell:
    """One victim under one condition on one data set with one seed.

    Attributes:
        victim, condition, kind, data, seed: Names as the study has them.
        task: All that a worker needs to compute it, as JSON.
        key: Hash of everything that its result depends on; empty while its victim is still to be trained.
    """

    victim: str
    condition: str
    kind: str
    data: str
    seed: int
    task: Mapping[str, Any] = field(compare=False)
    key: str = ""

    @property
    def name(self) -> str:
        """Victim, condition, data and seed."""
        return f"{self.victim}--{self.condition}--{self.data}--{self.seed}"

    @property
    def folder(self) -> str:
        """Where its run lies in the study folder."""
        return f"cells/{self.name}--{self.key[:12]}"


def make_cells(
    study: Study, source: Source, *, check: bool = False, roots: Mapping[str, str] | None = None
) -> list[Cell]:
    """All cells of a study, without keys.

    Args:
        study: As read.
        source: Of its lines.
        check: Smoke run: every count set to one, four clips.
        roots: Data set of the study, or its registered name -> folder, instead of the one in the file.

    Raises:
        StudyError: If a victim, a data set or the file of one is unknown, or a condition has no cell.
    """
    known = {*study.data, *(entry.set for entry in study.data.values() if entry.set)}
    for name in roots or {}:
        if name not in known:
            raise StoreError(unknown("data set of the study", name, known))
    data = {name: _data(name, study, source, check, roots or {}) for name in study.data}
    for name, entry in study.victims.items():
        model = entry.model or name
        if ":" not in model:
            _told(source, ("victims", name, "model"), victim_entry, model)
    cells: list[Cell] = []
    for name, condition in study.conditions.items():
        asked = shortened(condition) if check else condition
        others = _others(name, condition, study, source)
        for where in condition.data or study.data:
            for victim in condition.victims or study.victims:
                for seed in study.seeds_of(victim):
                    roles = {"": victim, **others}
                    named = {role: _victim(study, source, one, where, seed, check) for role, one in roles.items()}
                    task = {
                        "victim": named.pop(""),
                        "others": named,
                        "data": dict(data[where]),
                        "condition": _told(source, ("conditions", name), asked.on, where).model_dump(
                            mode="json", exclude=set(WHERE)
                        ),
                        "seed": seed,
                    }
                    cells.append(Cell(victim, name, asked.kind, where, seed, task))
    _check_trainings(cells, source)
    return cells


def _check_trainings(cells: Sequence[Cell], source: Source) -> None:
    """Two recipes, or two sets to train on, must not share a file: the second would silently get the first's victim."""
    wanted: dict[str, str] = {}
    for cell in cells:
        victim, data = cell.task["victim"], cell.task["data"]
        if victim["train"] is None:
            continue
        trained_on = {name: data[name] for name in ("set", "root", "options")}
        recipe = json.dumps([victim["model"], victim["train"], trained_on], sort_keys=True, default=str)
        if wanted.setdefault(victim["weights"], recipe) != recipe:
            told = f"different trainings would share {victim['weights']}; put {{victim}} or {{set}} into its name."
            raise source.error(("victims", cell.victim, "weights"), told)


def _data(name: str, study: Study, source: Source, check: bool, roots: Mapping[str, str]) -> dict[str, Any]:
    """A data set as tasks name it."""
    entry = study.data[name]
    chosen = entry.set or name
    _told(source, ("data", name, "set"), data_entry, chosen)
    root = roots.get(name, roots.get(chosen, entry.root))
    told = {"set": chosen, "split": entry.split, "root": root, "limit": entry.limit, "options": entry.options}
    if check:
        every = _told(source, ("data", name), open_data, {**told, "limit": None})
        return {**told, "limit": min(len(every), entry.limit or CHECK_CLIPS, CHECK_CLIPS)}
    _told(source, ("data", name), open_data, told)
    return told


def _told(source: Source, place: Sequence[str | int], ask: Any, *words: Any) -> Any:
    """What `ask` answers, its complaint with the line in the file."""
    try:
        return ask(*words)
    except RobustError as error:
        raise source.error(place, str(error)) from error


def _others(name: str, condition: Condition, study: Study, source: Source) -> dict[str, str]:
    """Role -> further victims that a condition names."""
    if not isinstance(condition, ThresholdsKind):
        return {}
    found = {"audio": condition.audio_victim, "video": condition.video_victim}
    for role, other in found.items():
        if other not in study.victims:
            raise source.error(("conditions", name, f"{role}_victim"), unknown("victim", other, study.victims))
    return found


def _victim(study: Study, source: Source, name: str, data: str, seed: int, check: bool) -> dict[str, Any]:
    """A victim as tasks name it: model and weights, placeholders filled in.

    What a smoke run trains goes into files of its own, since one step is no training.
    """
    entry = study.victims[name]
    by_data = {("weights",): entry.weights, ("train", "clips"): entry.train and entry.train.clips}
    for key, given in by_data.items():
        for where in given if isinstance(given, dict) else ():
            if where not in study.data:
                told = unknown("data set of the study", where, study.data)
                raise source.error(("victims", name, *key, where), told)
    weights = entry.weights.get(data) if isinstance(entry.weights, dict) else entry.weights
    if weights is not None:
        try:
            known = study.data[data].set or data
            weights = weights.format(seed=seed, data=data, set=known, victim=name)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            told = f"weights know {{seed}}, {{data}}, {{set}} and {{victim}} alone; given {weights!r}."
            raise source.error(("victims", name, "weights"), told) from error
        if check and entry.train is not None and not Path(weights).is_file():
            weights = str(Path(weights).with_suffix(".check.safetensors"))
    train = None
    if entry.train is not None and weights is not None:
        train = entry.train.model_dump(mode="json")
        if isinstance(entry.train.clips, dict):
            train["clips"] = entry.train.clips.get(data)
    return {"model": entry.model or name, "weights": weights, "train": train}


def untrained(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Trainings that must come first: one for each victim with a recipe whose weights are not there."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for victim in (cell.task["victim"], *cell.task["others"].values()):
            weights = victim["weights"]
            if victim["train"] is not None and not is_trained(weights):
                found.setdefault(weights, {"victim": victim, "data": cell.task["data"], "seed": cell.seed})
    return list(found.values())


def with_keys(cells: Sequence[Cell], study: Study, source: Source, device: str) -> list[Cell]:
    """The same cells with their keys; loads every victim once and holds it against the data.

    Raises:
        StudyError: If one cannot be loaded, or does not fit the data.
    """
    known: dict[str, dict[str, Any]] = {}
    checked: set[str] = set()

    def identity(name: str, victim: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        asked = json.dumps([victim["model"], victim["weights"], data], sort_keys=True)
        if asked not in known:
            known[asked] = _told(source, ("victims", name), _identity, victim, data, device)
        return known[asked]

    for cell in sorted(cells, key=lambda cell: (cell.data, cell.victim, cell.seed)):  # each victim is opened once
        identity(cell.victim, cell.task["victim"], cell.task["data"])
        asked = json.dumps([cell.condition, cell.task["victim"], cell.data], sort_keys=True)
        if asked not in checked:
            checked.add(asked)
            _told(source, ("conditions", cell.condition), _check, cell, study, device)
    return [replace(cell, key=_key(cell, identity, device)) for cell in cells]


def _check(cell: Cell, study: Study, device: str) -> None:
    """Whether the condition of a cell can be on its victim and its data."""
    victim, data = open_victim(cell.task["victim"], device), open_data(cell.task["data"])
    check(victim, data, study.conditions[cell.condition].on(cell.data))


def _identity(victim: Mapping[str, Any], data: Mapping[str, Any], device: str) -> dict[str, Any]:
    """All of a victim that results depend on, once it is seen to fit the data."""
    loaded = open_victim(victim, device)
    align_labels(open_data(data), loaded.spec)
    told = {"spec": asdict(loaded.spec), "config": loaded.config, "weights": weights_hash(loaded)}
    return {**told, "source": source_of(victim["model"])}


def _key(cell: Cell, identity: Any, device: str) -> str:
    """Hash of everything that the result of a cell depends on."""
    task = cell.task
    beside: dict[str, Any] = {}
    if isinstance(limit := task["condition"].get("fit_limit"), int):  # fitted on other clips than it is scored on
        beside["fitted"] = open_data(task["data"], split="train", limit=limit).fingerprint()
    if isinstance(channel := task["condition"].get("channel"), str):  # files of the user's own may change
        beside["channel"] = channel_identity(channel)
    for name in ("purifier", "denoiser"):
        if isinstance(given := task["condition"].get(name), str):
            beside[name] = purifier_identity(given)
    if cell.kind == "latency":
        beside["device"] = str(find_device(device))
    parts = {
        "victim": identity(cell.victim, task["victim"], task["data"]),
        "others": {
            role: identity(task["condition"][f"{role}_victim"], other, task["data"])
            for role, other in task["others"].items()
        },
        "data": {**{k: v for k, v in task["data"].items() if k != "root"}, "is": open_data(task["data"]).fingerprint()},
        "condition": task["condition"],
        "seed": cell.seed,
        "code": code_hash(),
        **beside,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
