"""What a worker does: one cell, or the training of one victim. Both write what they find and may be repeated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from robust.atomic import Folder, clear, open_folder, write_atomically
from robust.study.conditions import AnyCondition
from robust.study.opening import open_data, open_victim

WARNINGS = "warnings.json"


def warnings_of(folder: Folder) -> list[str]:
    """What computing a cell warned of, e.g. of recordings beyond full scale."""
    path = folder / WARNINGS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def compute(payload: Mapping[str, Any]) -> None:
    """Measures one cell into its folder, unless that is done.

    Args:
        payload: `folder`, where the run goes (path or address); `task` and `facts` of the cell; `device`.

    Raises:
        RobustError: For whatever keeps the cell from being computed.
    """
    from robust.study import kinds

    folder, task = open_folder(payload["folder"]), payload["task"]
    if (folder / "summary.json").is_file():
        return
    _clear_unbegun(folder)
    condition: Any = TypeAdapter(AnyCondition).validate_python(task["condition"])
    device = payload["device"]
    with warnings.catch_warnings(record=True) as caught:  # a worker's terminal is nobody's; the study tells them
        warnings.simplefilter("default")
        kinds.run(
            kinds.Opened(
                victim=open_victim(task["victim"], device),
                data=open_data(task["data"]),
                condition=condition,
                seed=task["seed"],
                facts=payload["facts"],
                folder=folder,
                training=lambda limit: open_data(task["data"], split="train", limit=limit),
                others={role: open_victim(other, device) for role, other in task["others"].items()},
            )
        )
    told = sorted({str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)})
    if told:
        write_atomically(folder / WARNINGS, json.dumps(told, indent=2).encode())


def _clear_unbegun(folder: Folder) -> None:
    """Removes folders of runs that a kill left without a manifest: those hold at most the half of one."""
    levels = folder / "levels"
    for place in [folder, *(levels.iterdir() if levels.is_dir() else ())]:
        if not (place / "manifest.json").is_file():
            clear(place)


def train(payload: Mapping[str, Any]) -> None:
    """Trains the victim of a cell into the checkpoint that the study names, unless that is there.

    Args:
        payload: `victim` and `data` as of tasks, `seed`, `check` (one step alone) and `device`.
    """
    from robust import training
    from robust.training_defense import TrainingDefense

    victim, data = payload["victim"], payload["data"]
    if is_trained(victim["weights"]):
        return
    asked = victim["train"]
    recipe = training.with_limits(
        training.default_recipe(victim["model"]),
        epochs=1 if payload["check"] else asked["epochs"],
        max_steps=1 if payload["check"] else asked["max_steps"],
        learning_rate=asked["learning_rate"],
        weight_decay=asked["weight_decay"],
        mixup_alpha=asked["mixup"],
        patience=asked["patience"],
        seed=payload["seed"],
    )
    training.train(
        victim["model"],
        data["set"],
        root=data["root"],
        out=victim["weights"],
        recipe=recipe,
        config=asked["config"],
        init=asked["init"],
        batch_size=asked["batch_size"],
        device=payload["device"],
        half=asked["half"],
        clips=asked["clips"],
        augment=asked["augment"],
        defense=None if asked["defense"] is None else TrainingDefense(**asked["defense"]),
        resume=True,
        **data["options"],
    )


def is_trained(weights: str) -> bool:
    """Whether a checkpoint and its card are there."""
    path = Path(weights)
    return path.is_file() and path.with_suffix(".json").is_file()
