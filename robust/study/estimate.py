"""How long cells may take, from one measured gradient step of each victim on the study's own clips."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attacks.gradients import Oracle, frozen
from attacks.losses import Goal, margin
from robust.curves import CHECKED_CLIPS
from robust.errors import RobustError
from robust.evaluation.engine import AlignedData, fitting_batch
from robust.study.opening import open_data, open_victim
from robust.study.plan import Cell
from robust.study.run import Plan

START_SECONDS = 1.0
"""Opening, writing and checking what a cell holds."""
FORWARD = 0.35
"""A forward pass in gradient steps."""
STANDING = 0.6
"""Share of an attack's steps that are made: broken clips leave the batch."""


SEARCH_RUNS = 1.5
"""Runs of all steps that the search behind a curve is worth, for each clip: one that fails and some that succeed."""


def estimate(plan: Plan, states: Sequence[str]) -> list[float | None]:
    """Seconds of each cell on this machine, roughly; None where its victim is untrained yet, 0 where it is done."""
    known: dict[str, float | None] = {}
    found: list[float | None] = []
    for cell, state in zip(plan.cells, states, strict=True):
        asked = json.dumps([cell.task["victim"], cell.task["data"]], sort_keys=True)
        if state != "done" and asked not in known:
            known[asked] = _step_seconds(cell, plan.device)
        step = 0.0 if state == "done" else known[asked]
        found.append(0.0 if state == "done" else None if step is None else START_SECONDS + step * steps(cell))
    return found


def steps(cell: Cell) -> float:
    """How many gradient steps of one clip a cell is worth."""
    settings = dict(cell.task["condition"])
    clips = float(len(open_data(cell.task["data"])))
    one_run = settings.get("steps", 1) * settings.get("restarts", 1) * STANDING
    if settings["kind"] == "curve":
        levels = len(settings["eps"] or range(20))
        if settings["against"] != "attack":
            return float(clips * 2 * FORWARD * levels)
        return float(clips * SEARCH_RUNS * settings["steps"] * settings["restarts"]) + _checks(settings, CHECKED_CLIPS)
    if settings["kind"] == "attack":
        return float(clips * one_run) + _checks(settings, 32)
    if settings["kind"] == "air":
        return clips * _air(settings)
    if settings["kind"] in ("purify", "certificate"):
        return clips * (_purify(settings) if settings["kind"] == "purify" else _certificate(settings))
    if settings["kind"] == "universal":
        return float(settings["fit_limit"] * settings["epochs"] + 4 * clips)
    if settings["kind"] == "thresholds":
        return float(clips * one_run * 4 * (3 + math.log(16) / math.log(settings["tolerance"]) / 4))
    if settings["kind"] == "surface":
        return float(settings["clips"] * (one_run + settings["points"] ** 2 * FORWARD))
    if settings["kind"] == "latency":
        return float(settings["repeats"] * settings["batch_size"])
    return float(clips * (one_run + 2 * FORWARD))


def _air(settings: Mapping[str, Any]) -> float:
    """Of one clip over the air: both attacks to their ends, and four versions of it in the rooms of two splits."""
    plain = settings["plain_steps"] or settings["steps"]
    attacks = settings["restarts"] * (settings["steps"] * settings["draws"] + plain)
    hiding = settings["inaudible"] * (settings["draws"] + 1)
    return float(attacks + hiding + 8 * settings["situations"] * FORWARD)


def _purify(settings: Mapping[str, Any]) -> float:
    """Of one clip at one radius: transfer, BPDA, full gradient and queries, with a purifier as dear as the victim."""
    gradients = settings["restarts"] * settings["steps"] * (1 + STANDING * (2 + 4))
    heard = (STANDING * 2 * settings["queries"] + 16 * settings["draws"]) * FORWARD
    return float(len(settings["eps"]) * (gradients + heard))


def _certificate(settings: Mapping[str, Any]) -> float:
    """Of one clip: its votes, and at each radius an attack and the votes on what it found."""
    attacks = len(settings["radii"] or range(8)) * (settings["steps"] * settings["draws"] + settings["n"] * FORWARD)
    return float((settings["n0"] + settings["n"]) * FORWARD + settings["attack"] * attacks)


def _checks(settings: Mapping[str, Any], clips: int) -> float:
    """Steps that the believability checks take: four attacks on a few clips, and a hundred draws of noise on eight."""
    return float(4 * clips * settings["steps"] + 800 * FORWARD) if settings["checks"] else 0.0


def spoken(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _step_seconds(cell: Cell, device: str) -> float | None:
    """Seconds of a gradient step of one clip, in a batch as attacks make them; the better of two."""
    try:
        victim = open_victim(cell.task["victim"], device)
    except RobustError:
        return None
    data = AlignedData(open_data(cell.task["data"]), victim.spec)
    place = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(range(min(fitting_batch(victim, data), len(data)))).to(place)
    goal, rows = Goal(batch.labels), torch.arange(len(batch), device=place)
    loss = margin if batch.labels.ndim == 1 else _summed
    best = math.inf
    with frozen(victim):
        for _ in range(2):
            started = time.perf_counter()
            Oracle(victim, len(batch), place).gradients(batch.inputs, goal, loss, rows, batch.inputs)
            best = min(best, time.perf_counter() - started)
    return best / len(batch)


def _summed(logits: torch.Tensor, goal: Goal) -> torch.Tensor:
    """Any loss will do to time a step."""
    return logits.sum(dim=1)
