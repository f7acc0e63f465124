"""A run of music against a detector as tables: F1 by what plays and how loud it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust.report.formats import NOTHING, Shown, interval, number, p_value, percent, points, shown
from robust.report.physical import MASKERS, ratio_words
from robust.report.reading import Run

DOTS = {"silence": "clean", "noise": "random", "plain": "changed", "adversarial": "robust"}


@dataclass(frozen=True)
class Row:
    """A speech-to-music ratio: F1 under each masker (None where there is none), and what is left of plain music's.

    `recall` is the recall under adversarial minus that under plain music, with the p-value.
    """

    ratio: str
    scores: list[Shown | None]
    left: str
    left_ends: str
    recall: str


@dataclass(frozen=True)
class MusicView:
    """What the section shows.

    Attributes:
        maskers: Headings of the columns of F1.
        rows: Loudest music first; silence is the same in all.
        detail: Masker, ratio, precision and recall with their intervals.
        facts: Names and values below.
    """

    maskers: list[str]
    rows: list[Row]
    detail: list[tuple[str, str, str, str]]
    facts: list[tuple[str, str]]


def music_view(run: Run) -> MusicView | None:
    """The section of a run of music; None of another kind."""
    if run.kind != "music":
        return None
    told = run.summary
    cells = {(cell["masker"], cell["smr_db"]): cell for cell in told["cells"]}
    ratios = sorted({ratio for _, ratio in cells if ratio is not None})
    maskers = [name for name in MASKERS if any(masker == name for masker, _ in cells)]
    against = {row["smr_db"]: row for row in told.get("adversarial_over_plain") or []}
    rows = [
        _row(ratio, [cells.get((name, None if name == "silence" else ratio)) for name in maskers], against.get(ratio))
        for ratio in ratios
    ]
    detail = [
        (MASKERS.get(masker, masker), ratio_words(ratio) or NOTHING, _share(cell, "precision"), _share(cell, "recall"))
        for (masker, ratio), cell in cells.items()
    ]
    return MusicView([MASKERS[name].capitalize() for name in maskers], rows, detail, _facts(told))


def _row(ratio: float, cells: list[Mapping[str, Any] | None], against: Mapping[str, Any] | None) -> Row:
    scores = [None if cell is None else shown(DOTS[cell["masker"]], {**cell, "score": cell["f1"]}) for cell in cells]
    told = against or {}
    low, high = told.get("low"), told.get("high")
    ends = "" if low is None else f"{number(low, 3)} to {'∞' if high is None else number(high, 3)}"
    recall = told.get("recall_difference") or {}
    words = NOTHING
    if recall.get("difference") is not None:
        words = f"{points(recall['difference'])} points; {p_value(recall.get('p'))}"
    return Row(ratio_words(ratio), scores, number(told.get("ratio"), 3), ends, words)


def _share(cell: Mapping[str, Any], name: str) -> str:
    told = cell.get(name) or {}
    ends = interval(told.get("low"), told.get("high"))
    return percent(told.get("score")) + (f" ({ends})" if ends else "")


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    loudness, audit = told.get("loudness_lufs") or {}, told.get("audit") or {}
    facts = []
    if loudness:
        levels = ", ".join(f"{MASKERS.get(name, name)} {number(value, 4)}" for name, value in loudness.items())
        facts.append(("Loudness (LUFS)", levels))
    if "violations" in audit:
        broken = audit["violations"]
        facts.append(
            ("Valid set", "all settings of the instrument within it" if not broken else f"{broken} outside it")
        )
    trace = told.get("trace") or []
    if len(trace) > 1:
        facts.append(("Loss in the fit", f"{number(trace[0], 3)} to {number(trace[-1], 3)} in {len(trace)} steps"))
    return facts
