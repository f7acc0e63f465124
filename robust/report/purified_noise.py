"""A run under corruptions before and after a purifier as a table; what it costs on clean clips comes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust.report.defended import purifier_name
from robust.report.formats import NOTHING, Shown, interval, number, p_value, percent, points, shown
from robust.report.reading import Run

FIGURES = {
    "mean_error": "Mean error",
    "degradation": "Lost of the clean score",
    "mce": "mCE",
    "relative_mce": "Relative mCE",
}
SHARES = ("mean_error", "degradation")


@dataclass(frozen=True)
class Row:
    """A corruption at a severity, or the clean clips: scores, their paired difference, its interval and p-value.

    `sign` is `better`, `worse` or nothing, where the interval of the difference leaves out 0.
    """

    name: str
    severity: str
    value: str
    before: Shown
    after: Shown
    difference: str
    ends: str
    p: str
    sign: str


@dataclass(frozen=True)
class PurifiedView:
    """What the section shows: the purifier, rows, figures over all cells (name, before, after), and the test."""

    purifier: str
    rows: list[Row]
    totals: list[tuple[str, str, str]]
    test: str


def purified_view(run: Run) -> PurifiedView | None:
    """The table of a run of `robust noise --purify`; None of any other."""
    told = run.summary.get("purified")
    if run.kind != "noise" or not isinstance(told, Mapping):
        return None
    cells = [_row(str(cell["corruption"]), cell) for cell in told["cells"]]
    return PurifiedView(
        purifier_name(told),
        [_row("Clean clips", told["clean"]), *cells],
        _totals(told),
        str((told["clean"].get("difference") or {}).get("test") or "a paired test"),
    )


def _row(name: str, told: Mapping[str, Any]) -> Row:
    difference = told.get("difference") or {}
    low, high = difference.get("low"), difference.get("high")
    sign, ends = "", ""
    if low is not None and high is not None:
        sign = "better" if low > 0 else "worse" if high < 0 else ""
        ends = f"{points(low)} to {points(high)}"
    value = "" if told.get("value") is None else f" {number(float(told['value']), 3)}"
    return Row(
        name.removeprefix("audiomentations:"),
        str(told.get("severity") or ""),
        f"{told.get('parameter') or ''}{value}",
        shown("clean", told["before"]),
        shown("changed", told["after"]),
        points(difference.get("difference")),
        ends,
        p_value(difference.get("p")),
        sign,
    )


def _totals(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    before, after = (told.get(side) or {} for side in ("before", "after"))
    found = []
    for name, words in FIGURES.items():
        sides = _figure(name, before), _figure(name, after)
        if sides != (NOTHING, NOTHING):
            found.append((words, *sides))
    return found


def _figure(name: str, told: Mapping[str, Any]) -> str:
    value, low, high = (told.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if name in SHARES:
        text, ends = percent(value), interval(low, high)
    else:
        text, ends = number(value, 3), "" if low is None or high is None else f"{number(low, 3)} to {number(high, 3)}"
    return f"{text} ({ends})" if ends else text
