"""One run as the page shows it: a section each, put together from what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust.errors import StoreError
from robust.evaluation.paired import Comparison, compare
from robust.report.budgets import Budget, budgets
from robust.report.classes import ClassTable, Confusion, class_table, confusion, label_changes
from robust.report.command import cell_name, environment, repeat_command, settings, was_typed
from robust.report.formats import Shown, number, p_value, percent, points, shown
from robust.report.meanings import Check, counted, explained
from robust.report.reading import Run
from robust.report.words import condition_name, data_name, told_of

SCORES = ("clean", "robust", "changed", "random")
KNOWN = {
    *SCORES, "victim", "data", "run", "kind", "clips", "task", "threat", "checks", "audio", "video", "multilabel",
    "condition", "success", "audit", "difference", "against_random", "trace", "axis", "radii", "scores", "low", "high",
    "metric", "seed", "dominance", "by",
}  # fmt: skip
"""Entries of a summary that have their own place on the page; what else it says goes into a table."""
TABLE_ROWS = 25


@dataclass(frozen=True)
class RunView:
    """Everything that the page shows of one run but its gallery."""

    anchor: str
    name: str
    kind: str
    victim: str
    data: str
    condition: str
    sentences: list[str]
    scores: list[Shown]
    checks: list[Check]
    counted: str
    failed: list[Check]
    warned: list[Check]
    violations: int
    budgets: list[Budget]
    classes: ClassTable | None
    confusion: Confusion | None
    label_changes: list[tuple[str, int, int, int, int]]
    extra: list[tuple[str, str]]
    table: tuple[list[str], list[list[str]]] | None
    environment: list[tuple[str, str]]
    settings: list[tuple[str, list[tuple[str, str]]]]
    command: str
    typed: bool
    cell: str


@dataclass(frozen=True)
class Pair:
    """One run against the first, clip by clip."""

    first: str
    second: str
    scores: str
    difference: str
    interval: str
    p: str
    only_first: str
    only_second: str


def run_view(run: Run, anchor: str, most_rows: int) -> RunView:
    """The sections of a run.

    Args:
        run: Finished.
        anchor: Id of its section.
        most_rows: Rows of the table of classes at most.
    """
    told = run.summary
    checks = explained(told.get("checks") or [])
    return RunView(
        anchor=anchor,
        name=run.name,
        kind=run.kind,
        victim=run.victim,
        data=data_name(run),
        condition=condition_name(run),
        sentences=told_of(run),
        scores=[shown(name, told[name]) for name in SCORES if isinstance(told.get(name), Mapping)],
        checks=checks,
        counted=counted(checks),
        failed=[check for check in checks if check.verdict == "fail"],
        warned=[check for check in checks if check.verdict == "warn"],
        violations=int((told.get("audit") or {}).get("violations", 0)),
        budgets=budgets(run.records, told.get("threat", {})) if run.kind in ("attack", "universal") else [],
        classes=class_table(run, most_rows),
        confusion=confusion(run),
        label_changes=label_changes(run),
        extra=_extra(told),
        table=_table(run),
        environment=environment(run),
        settings=settings(run.manifest),
        command=repeat_command(run),
        typed=was_typed(run),
        cell=cell_name(run),
    )


def against_first(runs: Sequence[Run]) -> list[Pair]:
    """Runs with one result a clip against the first of them, where they are of the same clips."""
    paired = [run for run in runs if run.kind in ("attack", "change") and run.records is not None]
    found = []
    for run in paired[1:]:
        first = paired[0]
        try:
            found.append(_pair(first, run, compare(first.records, run.records, first.task)))
        except (StoreError, ValueError):  # other clips or another task: nothing to say
            continue
    return found


def _pair(first: Run, second: Run, found: Comparison) -> Pair:
    counts = ["" if number_of is None else str(number_of) for number_of in (found.only_a, found.only_b)]
    return Pair(
        first.name,
        second.name,
        f"{percent(found.a)} and {percent(found.b)}",
        f"{points(found.difference)} points",
        f"{points(found.low)} to {points(found.high)}",
        f"{p_value(found.p)} ({found.test})",
        *counts,
    )


def _extra(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Numbers and words of a summary that have no other place, flattened."""
    return [(name.replace("_", " "), value) for name, value in _flat({k: v for k, v in told.items() if k not in KNOWN})]


def _flat(told: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in told.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name} ")
        elif isinstance(value, (bool, str, int)):
            rows.append((name, str(value)))
        elif isinstance(value, float):
            rows.append((name, number(value)))
    return rows


def _table(run: Run) -> tuple[list[str], list[list[str]]] | None:
    """The first rows of the table of a run that has no records, the longest of a latency first."""
    if not (run.cell.folder / "table.parquet").is_file():
        return None
    frame = run.cell.table()
    if "milliseconds" in frame:
        frame = frame.sort_values("milliseconds", ascending=False, kind="stable")
    rows = [[_cell(value) for value in row] for row in frame.head(TABLE_ROWS).itertuples(index=False)]
    return [str(name).replace("_", " ") for name in frame.columns], rows


def _cell(value: Any) -> str:
    return number(float(value)) if isinstance(value, float) else str(value)
