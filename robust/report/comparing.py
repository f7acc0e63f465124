"""Two runs on the same clips against each other, clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.atomic import Folder
from robust.errors import StoreError
from robust.evaluation.condition_summary import comparison_dict
from robust.evaluation.paired import clean_view, compare, sign_flip_p
from robust.evaluation.store import Store
from robust.report.differences import differences
from robust.report.levels import axis_words, searched, stands
from robust.report.reading import Run, open_run

if TYPE_CHECKING:
    import pandas as pd

PAIRED = ("attack", "change", "universal")
"""Kinds with one result for each clip."""
LISTED = 10
NEAR = 1e-9
"""Levels nearer than this, relatively, are the same level."""


def compare_runs(a: Folder | str, b: Folder | str) -> dict[str, Any]:
    """What changed from run A to run B, as JSON; every difference is A minus B.

    Args:
        a: Run folder.
        b: Run folder, on the same clips. Attack, change and universal runs go with one another, curves with curves
            over the same axis.

    Returns:
        `a` and `b` (`run`, `victim`, `kind`), `task`, `clips`, `clean` (a comparison: `a`, `b`, `difference`, `low`,
        `high`, `p`, `test`, `only_a`, `only_b`), and `manifest`, a list of `entry`, `heading`, `a`, `b`.
        Of runs with one result a clip: `robust`, a comparison of the scores under the two conditions, and `changed`:
        for `only_a` and `only_b` the `count` of clips that this run alone has right, and the first ten as `clips`
        (`id`, `label`, `a`, `b`: what was said under each).
        Of curves: `levels`, a list of `level` and comparison, and `smallest` (searches alone): in how many clips A
        stands longer (`longer_a`), B (`longer_b`), neither (`equal`), and `p` of the exact sign test.

    Raises:
        StoreError: If a folder holds no finished run, or the two are of different clips, tasks, kinds or axes.
    """
    runs = open_run(a), open_run(b)
    records = _comparable(*runs)
    one, other = runs
    curves = one.kind == "curve"
    clean = compare(clean_view(records[0]), clean_view(records[1]), one.task)
    told: dict[str, Any] = {
        **{
            side: {"run": run.name, "victim": run.victim, "kind": run.kind}
            for side, run in zip("ab", runs, strict=True)
        },
        "task": one.task,
        "clips": clean.clips,
        "clean": comparison_dict(clean),
        **(_curves(runs, records) if curves else _conditions(runs, records)),
        "manifest": [asdict(found) for found in differences(one.manifest, other.manifest)],
    }
    return told


def _comparable(a: Run, b: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records of both, if they can be held against each other."""
    for run in (a, b):
        if run.kind not in (*PAIRED, "curve"):
            raise StoreError(
                f"{run.name} is a run of kind {run.kind!r}; those compared clip by clip are {', '.join(PAIRED)}, curve."
            )
    if (a.kind == "curve") != (b.kind == "curve"):
        raise StoreError(f"A curve goes with a curve; {a.name} is of kind {a.kind!r} and {b.name} of kind {b.kind!r}.")
    if a.task != b.task:
        raise StoreError(f"{a.name} is {a.task} and {b.name} is {b.task}; their scores have nothing in common.")
    if a.kind == "curve":
        axes = [{name: run.summary["axis"].get(name) for name in ("name", "modality", "unit")} for run in (a, b)]
        if axes[0] != axes[1]:
            raise StoreError(f"The curves run over different axes: {_axis(a)} and {_axis(b)}.")
    return _records(a), _records(b)


def _records(run: Run) -> pd.DataFrame:
    if run.records is not None:
        return run.records
    levels = level_records(run)
    if not levels:
        raise StoreError(f"{run.cell.folder} keeps no records, one row a clip; they are what is compared.")
    return levels[0]


def level_records(run: Run) -> list[pd.DataFrame]:
    """Of a sweep: the records of every level."""
    folder = run.cell.folder / "levels"
    if not folder.is_dir():
        return []
    return [Store(folder / f"{place:02d}", {}).records() for place in range(len(run.summary["radii"]))]


def _conditions(runs: Sequence[Run], records: Sequence[pd.DataFrame]) -> dict[str, Any]:
    one, other = records
    found = compare(one, other, runs[0].task)
    other = other.set_index("id").loc[one["id"]].reset_index()
    right = [side["correct"].to_numpy(dtype=bool) for side in (one, other)]
    rows = {"only_a": right[0] & ~right[1], "only_b": right[1] & ~right[0]}
    changed = {name: {"count": int(mask.sum()), "clips": _clips(runs, one, other, mask)} for name, mask in rows.items()}
    return {"robust": comparison_dict(found), "changed": changed}


def _clips(
    runs: Sequence[Run], one: pd.DataFrame, other: pd.DataFrame, mask: NDArray[np.bool_]
) -> list[dict[str, str]]:
    places = np.flatnonzero(mask)[:LISTED].tolist()
    return [
        {
            "id": str(one["id"].iloc[place]),
            "label": str(one["label_name"].iloc[place]) if "label_name" in one else str(one["label"].iloc[place]),
            "a": _said(runs[0], one.iloc[place]),
            "b": _said(runs[1], other.iloc[place]),
        }
        for place in places
    ]


def _said(run: Run, row: pd.Series) -> str:
    """The answer by name; with many labels a clip, those above 0."""
    labels = run.labels
    if run.task == "multilabel" and "logits" in row:
        told = [place for place, logit in enumerate(row["logits"]) if logit > 0]
        return ", ".join(_name(labels, place) for place in told) or "no label"
    return _name(labels, int(row["prediction"]))


def _name(labels: Sequence[str], place: int) -> str:
    return labels[place] if place < len(labels) else str(place)


def _curves(runs: Sequence[Run], records: Sequence[pd.DataFrame]) -> dict[str, Any]:
    places = _common([run.summary["radii"] for run in runs])
    if not places:
        raise StoreError("The two curves have no level in common; run both over the same levels.")
    levels = [runs[0].summary["radii"][place] for place, _ in places]
    if searched(records[0]) and searched(records[1]):
        return _searches(runs, records, places, levels)
    sweeps = [level_records(run) for run in runs]
    if not all(sweeps):
        raise StoreError("One of the curves was searched clip by clip and the other measured level by level.")
    found = [compare(sweeps[0][place], sweeps[1][other], runs[0].task) for place, other in places]
    return {"levels": _levels(levels, found)}


def _searches(
    runs: Sequence[Run], records: Sequence[pd.DataFrame], places: Sequence[tuple[int, int]], levels: Sequence[float]
) -> dict[str, Any]:
    sides = []
    for side, (run, frame) in enumerate(zip(runs, records, strict=True)):
        standing = stands(frame, run.summary)
        sides.append([frame.assign(correct=standing[:, place[side]]) for place in places])
    found = [compare(one, other, "multiclass") for one, other in zip(*sides, strict=True)]
    ids = records[0]["id"]
    lasted = []
    for frame, levels_of in zip(records, sides, strict=True):
        right = np.stack([frame["clean_correct"].to_numpy(), *(level["correct"].to_numpy() for level in levels_of)])
        lasted.append(dict(zip(frame["id"], right.astype(int).sum(axis=0).tolist(), strict=True)))
    gains = np.sign(np.array([lasted[0][clip] - lasted[1][clip] for clip in ids], dtype=np.int64))
    smallest = {
        "longer_a": int((gains > 0).sum()),
        "longer_b": int((gains < 0).sum()),
        "equal": int((gains == 0).sum()),
        "p": sign_flip_p(gains),
        "test": "exact sign test of the smallest levels that break a clip",
    }
    return {"levels": _levels(levels, found), "smallest": smallest}


def _levels(levels: Sequence[float], found: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"level": level, **comparison_dict(one)} for level, one in zip(levels, found, strict=True)]


def _common(grids: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Places of the levels that both grids have."""
    pairs = []
    for place, level in enumerate(grids[0]):
        near = [other for other, value in enumerate(grids[1]) if abs(value - level) <= NEAR * max(abs(level), 1e-300)]
        pairs += [(place, near[0])] if near else []
    return pairs


def _axis(run: Run) -> str:
    name, unit = axis_words(run.summary["axis"])
    return f"{name}{f' in {unit}' if unit else ''} of {run.summary['axis'].get('modality') or 'the input'}"
