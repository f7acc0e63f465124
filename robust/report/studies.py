"""A study on the page: its claims with their verdicts in words, and a table of its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust.report import defended, geometry
from robust.report.formats import NOTHING, Shown, count, number, p_value, percent, points, shown
from robust.report.geometry_study import StudyGeometry, study_geometry
from robust.report.meanings import counted, explained
from robust.report.reading import Run, claims_of
from robust.report.tellers import TELLERS
from robust.study.store import CellRun, StudyStore

MARKS = {"supported": "✓", "not supported": "✕", "undecided": "?"}
AFTER = {"attack": "robust", "universal": "robust", "change": "changed"}


@dataclass(frozen=True)
class Claim:
    """A claim: its name, what it says in words and as it was asked, on which data, verdict, its meaning, numbers."""

    name: str
    data: str
    words: str
    text: str
    verdict: str
    mark: str
    meaning: str
    effect: str
    test: str


@dataclass(frozen=True)
class Cell:
    """A row of the table of cells.

    Attributes:
        anchor: The section of its run, empty where it has none.
        note: What a curve says instead of a score, and a run over the air beside it.
        checks: How many passed and did not, in words.
        failed: How many failed.
    """

    victim: str
    condition: str
    kind: str
    data: str
    seed: int
    state: str
    error: str
    anchor: str
    clean: Shown | None
    after: Shown | None
    note: str
    checks: str
    failed: int


@dataclass(frozen=True)
class StudyView:
    """A study as the page shows it."""

    title: str
    claim: str
    thesis: str
    check: bool
    states: str
    claims: list[Claim]
    cells: list[Cell]
    geometry: StudyGeometry | None


def study_view(study: StudyStore, anchors: Mapping[str, str], runs: Sequence[Run]) -> StudyView:
    """The study's words, claims and cells.

    Args:
        study: As read.
        anchors: Folder of a finished cell -> id of its section.
        runs: Its finished runs.
    """
    told, finished = study.told, {str(run.cell.folder): run for run in runs}
    cells = [_cell(cell, finished.get(str(cell.folder)), anchors) for cell in study.every]
    counts = [(state, sum(cell.state == state for cell in study.every)) for state in ("done", "failed", "waiting")]
    return StudyView(
        title=str(told.get("title") or study.name),
        claim=str(told.get("claim") or ""),
        thesis=str(told.get("thesis") or ""),
        check=bool(told.get("check")),
        states=f"{count(len(cells), 'cell')}: "
        + ", ".join(f"{number_of} {state}" for state, number_of in counts if number_of),
        claims=[_claim(claim) for claim in claims_of(study)],
        cells=cells,
        geometry=study_geometry(study, runs),
    )


def outcome(run: Run) -> Shown | None:
    """The score that a run is about; of a curve its mean over the axis is said in words instead."""
    if run.kind in TELLERS:
        return next(iter(TELLERS[run.kind].scores(run)[1:]), None)
    name = AFTER.get(run.kind)
    return None if name is None else shown(name, run.summary[name])


def _cell(cell: CellRun, run: Run | None, anchors: Mapping[str, str]) -> Cell:
    checks = explained(run.summary.get("checks") or []) if run else []
    clean = shown("clean", run.summary["clean"]) if run and isinstance(run.summary.get("clean"), Mapping) else None
    return Cell(
        cell.victim,
        cell.condition,
        cell.kind,
        cell.data,
        cell.seed,
        cell.state,
        cell.error or "",
        anchors.get(str(cell.folder), ""),
        clean,
        outcome(run) if run else None,
        _note(run),
        counted(checks),
        sum(check.verdict == "fail" for check in checks),
    )


def _note(run: Run | None) -> str:
    if run is not None and run.kind == "air":
        success = {name: run.summary[name]["held_out_rooms"]["success"]["score"] for name in ("eot", "plain")}
        return f"success in held-out rooms: EOT {percent(success['eot'])}, plain {percent(success['plain'])}"
    if run is not None and run.kind in defended.KINDS:
        return defended.note(run)
    if run is not None and run.kind in geometry.KINDS:
        return geometry.note(run)
    if run is None or run.kind != "curve":
        return ""
    auc, half = run.summary.get("auc"), run.summary.get("radius_half")
    told = [] if auc is None else [f"AUC {number(auc, 3)}"]
    return ", ".join(told + ([] if half is None else [f"half at {number(half, 3)}"]))


def _claim(told: Mapping[str, Any]) -> Claim:
    verdict = str(told.get("verdict", "undecided"))
    return Claim(
        name=str(told.get("name") or ""),
        data=str(told.get("data") or ""),
        words=str(told.get("words") or told.get("name") or ""),
        text=str(told.get("text", "")),
        verdict=verdict,
        mark=MARKS.get(verdict, "?"),
        meaning=_meaning(verdict, told.get("reason")),
        effect=_effect(told),
        test=_test(told),
    )


def _meaning(verdict: str, reason: Any) -> str:
    if reason:
        return f"It could not be decided: {str(reason).rstrip('.')}."
    return {
        "supported": "The data speak for the claim.",
        "not supported": "The data speak against the claim.",
        "undecided": "The data do not decide it; more clips might.",
    }.get(verdict, "")


def _effect(told: Mapping[str, Any]) -> str:
    """Both sides, the difference and its interval: in points of shares; of radii their ratio and the clips."""
    a, b, effect, low, high = (_number(told.get(name)) for name in ("a", "b", "effect", "low", "high"))
    counts = [told.get(name) for name in ("more", "fewer")]
    clips = "" if None in counts else f"larger on {count(int(counts[0] or 0), 'clip')}, smaller on {counts[1]}"
    if effect is None:
        return clips or NOTHING
    if low is None or high is None:
        sides = f" ({number(a, 3)} against {number(b, 3)})" if a is not None and b is not None else ""
        return ", ".join(part for part in (f"ratio of medians {number(effect, 3)}{sides}", clips) if part)
    sides = f" ({percent(a)} against {percent(b)})" if a is not None and b is not None else ""
    return f"{points(effect)} points{sides}, 95\u00a0% interval {points(low)} to {points(high)}"


def _test(told: Mapping[str, Any]) -> str:
    """The p-value, corrected where it was, and on how much it stands."""
    raw, corrected = _number(told.get("p")), _number(told.get("p_corrected"))
    if raw is None and corrected is None:
        return NOTHING
    p = p_value(raw if corrected is None else corrected)
    if raw is not None and corrected is not None and raw != corrected:
        p += f", corrected for the number of claims ({p_value(raw)} alone)"
    sizes = [count(int(told[key]), noun) for key, noun in (("clips", "clip"), ("seeds", "seed")) if told.get(key)]
    return ", ".join([p, *([str(told["test"])] if told.get("test") else []), *sizes])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
