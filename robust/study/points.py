"""What a study found of each victim as long tables: its geometry, and what it scores under everything done to it.

A point is a victim with its weights. Seeds that share weights measured one victim several times: their mean is one
point, while the seeds of a training are as many points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.errors import StoreError
from robust.evaluation.sweeps import SWEEPS
from robust.metrics.multilabel import class_table
from robust.study.claims import Term
from robust.study.kinship import UNDEFENDED
from robust.study.store import CellRun, StudyStore, read_table
from robust.study.values import Values

if TYPE_CHECKING:
    import pandas as pd

SUBJECT = ("victim", "point", "family", "defense")
MEASURE = ("group", "space", "measure")
NUMBER = ("kind", "condition", "number")
KINDS: Mapping[str, str] = {
    "clean": "the clean score",
    "adversarial": "attacks",
    "noise": "noise and corruptions",
    "change": "rooms, and parts hidden, missing or exchanged",
}
"""Kinds of score."""
LEAST_VICTIMS = 4
"""Fewer have no ranking worth a number."""
SCORED = ("attack", "curve", "change", "universal")
_Row = dict[str, Any]


@dataclass(frozen=True)
class Points:
    """Two long tables with a `value` in each row.

    Attributes:
        geometry: Columns of `SUBJECT` and `MEASURE`, and `set`, `data`, `condition`: where it was measured. `set` is
            the data set's own name, `data` what the study calls it: geometry of training clips goes with robustness on
            test clips of the same set.
        scores: Columns of `SUBJECT` and `NUMBER`, `set` and `data`; shares, 0 to 1. `number` is the condition, of
            curves `CONDITION@LEVEL` or `CONDITION auc`.
        left_out: What could not be read, in words.
    """

    geometry: pd.DataFrame
    scores: pd.DataFrame
    left_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is something to hold against something: geometry, or attacks and noise on several victims."""
        kinds = set(self.scores["kind"])
        ranked = {"adversarial", "noise"} <= kinds and self.scores["victim"].nunique() >= LEAST_VICTIMS
        return not self.scores.empty and (ranked or not self.geometry.empty)


def victim_points(study: StudyStore) -> Points:
    """One value for each victim, seed and measure.

    Raises:
        StoreError: If a run lacks what it must hold.
    """
    return _points(study, _measures, _scores, ())


def class_points(study: StudyStore) -> Points:
    """The same by class (column `label`): accuracy of its clips, average precision where clips have many labels.

    Raises:
        StoreError: As above; a run without records is left out, and told.
    """
    return _points(study, _class_measures, _class_scores, ("label",))


def _points(
    study: StudyStore,
    measures: Callable[[CellRun], Iterator[_Row]],
    scores: Callable[[CellRun], Iterator[_Row]],
    more: tuple[str, ...],
) -> Points:
    kin, left_out = study.told.get("victims") or {}, []
    found: dict[str, list[_Row]] = {"geometry": [], "scores": []}
    for cell in study.every:
        if cell.state != "done" or cell.kind not in ("geometry", *SCORED):
            continue
        side, read = ("geometry", measures) if cell.kind == "geometry" else ("scores", scores)
        if side == "scores" and more and not _has_records(cell):
            left_out.append(f"{cell.victim}, {cell.condition}, {cell.data}, seed {cell.seed}: it keeps no records")
            continue
        found[side] += _whole(cell, kin, read)
    where = ("set", "data")
    return Points(
        _averaged(found["geometry"], (*where, "condition", *SUBJECT, *MEASURE, *more)),
        _averaged(found["scores"], (*where, *SUBJECT, *NUMBER, *more)),
        tuple(left_out),
    )


def _averaged(rows: list[_Row], columns: tuple[str, ...]) -> pd.DataFrame:
    """One row for each combination, in the order in which they were found: the mean of its values."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[*columns, "value"]).astype({"value": "float64"})
    return frame.groupby(list(columns), sort=False, dropna=False)["value"].mean().reset_index()


def _whole(cell: CellRun, kin: Mapping[str, Any], read: Callable[[CellRun], Iterator[_Row]]) -> list[_Row]:
    """All rows of a cell with whose they are."""
    try:
        subject = _subject(cell, kin)
        return [{**subject, **row} for row in read(cell)]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{cell.folder} is no whole run of kind {cell.kind!r} ({type(error).__name__}: {error}); make it again."
        ) from error


def _subject(cell: CellRun, kin: Mapping[str, Any]) -> _Row:
    manifest, told = cell.manifest, kin.get(cell.victim, {})
    data, weights = manifest.get("data"), manifest.get("weights")
    return {
        "set": str(data["name"]) if isinstance(data, Mapping) else cell.data,
        "data": cell.data,
        "victim": cell.victim,
        "point": f"seed {cell.seed}" if weights is None else str(weights),
        "family": str(told.get("model") or cell.summary["victim"]),
        "defense": str(told.get("defense") or UNDEFENDED),
    }


def _measures(cell: CellRun) -> Iterator[_Row]:
    for row in read_table(cell, "table").to_dict("records"):
        yield {"condition": cell.condition, **{name: row[name] for name in (*MEASURE, "value")}}


def _class_measures(cell: CellRun) -> Iterator[_Row]:
    for row in read_table(cell, "classes").to_dict("records"):
        yield {"condition": cell.condition, **{name: row[name] for name in (*MEASURE, "label", "value")}}


def _scores(cell: CellRun) -> Iterator[_Row]:
    """The clean score, and all that the cell is about."""
    told, kind = cell.summary, _kind(cell)
    yield _number("clean", "clean", "clean", told["clean"]["score"])
    if cell.kind == "curve":
        for level, score in zip(told["radii"], told["scores"], strict=True):
            yield _number(kind, cell.condition, _at(cell.condition, level), score)
        yield _number(kind, cell.condition, f"{cell.condition} auc", told["auc"])
    elif kind != "clean":
        score = told["changed" if cell.kind == "change" else "robust"]["score"]
        yield _number(kind, cell.condition, cell.condition, score)


def _class_scores(cell: CellRun) -> Iterator[_Row]:
    kind, name, values = _kind(cell), cell.condition, Values([cell], [cell.seed])
    asked = [(("clean", "clean", "clean"), Term(cell.victim, name, "clean"))]
    if cell.kind == "curve":
        levels = [float(level) for level in cell.summary["radii"]]
        asked += [((kind, name, _at(name, level)), Term(cell.victim, name, "robust", level)) for level in levels]
    elif kind != "clean":
        asked.append(((kind, name, name), Term(cell.victim, name, "robust")))
    for number, term in asked:
        (records,) = values.views(term, cell.data)
        for label, score in _by_class(cell, records):
            yield {**_number(*number, score), "label": label}


def _by_class(cell: CellRun, records: pd.DataFrame) -> list[tuple[str, float]]:
    if cell.summary.get("task", "multiclass") == "multilabel":
        logits, labels = (np.stack(records[name].to_list()) for name in ("logits", "label"))
        rated = class_table(logits, labels, cell.manifest["victim"]["labels"])
        return list(zip(rated["class"], rated["ap"], strict=True))
    shares = records.groupby("label_name")["correct"].mean()
    return [(str(name), float(share)) for name, share in shares.items()]


def _number(kind: str, condition: str, number: str, score: float | None) -> _Row:
    value = np.nan if score is None else float(score)
    return {"kind": kind, "condition": condition, "number": number, "value": value}


def _at(condition: str, level: float) -> str:
    return f"{condition}@{level:.6g}"


def _kind(cell: CellRun) -> str:
    """Of the score: a key of `KINDS`."""
    if cell.kind == "curve":
        name = str(cell.summary["axis"]["name"])
        return "noise" if name == "noise" else "change" if name in SWEEPS else "adversarial"
    if cell.kind != "change":
        return "adversarial"
    told = cell.summary.get("condition")
    told = told if isinstance(told, Mapping) else {"condition": told}
    if told.get("condition") == "clean":
        return "clean"
    return "noise" if {"corruption", "std"} & told.keys() else "change"


def _has_records(cell: CellRun) -> bool:
    inside = "universal" if cell.kind == "universal" else ""
    folder = cell.folder / inside if inside else cell.folder
    return (folder / "records").is_dir() or (cell.folder / "levels").is_dir()


__all__ = ["KINDS", "MEASURE", "NUMBER", "SUBJECT", "Points", "class_points", "victim_points"]
