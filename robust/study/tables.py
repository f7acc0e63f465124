"""From the cells of a study to its tables: `table.csv` for programs, `table.md` for readers, `claims.json`."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from robust.evaluation.summary import grouped_checks
from robust.study.cells import warnings_of
from robust.study.config import Study
from robust.study.store import CellRun
from robust.study.verdicts import Verdict

COLUMNS = (
    *("victim", "condition", "kind", "data", "seed", "level", "unit", "metric"),
    *("clips", "clean", "score", "low", "high"),
)


def rows(cell: CellRun) -> Iterator[dict[str, Any]]:
    """One row for a cell with a score, one for each level of a curve; none for what has no score."""
    told = cell.summary
    own = {name: getattr(cell, name) for name in ("victim", "condition", "kind", "data", "seed")}
    if cell.kind == "curve":
        clean = {"metric": told["metric"], "clips": told["clips"], "clean": told["clean"]["score"]}
        for level, score, low, high in zip(told["radii"], told["scores"], told["low"], told["high"], strict=True):
            ends = {"score": score, "low": low, "high": high}
            yield {**own, "level": level, "unit": told["axis"]["unit"], **clean, **ends}
        return
    if cell.kind == "air":
        yield from ({**own, **row} for row in air_rows(told))
        return
    if cell.kind == "purify":
        yield from ({**own, **row} for row in purify_rows(told))
        return
    if cell.kind == "certificate":
        shared = {"metric": "certified accuracy", "unit": "l2", "clips": told["clips"], "clean": told["clean"]["score"]}
        for radius, found in zip(told["radii"], told["certified"], strict=True):
            yield {**own, "level": radius, **shared, **{end: found[end] for end in ("score", "low", "high")}}
        return
    score = told.get("changed") or told.get("robust")
    if score is not None:
        clean = told["clean"]
        ends = {name: score[name] for name in ("score", "low", "high")}
        yield {**own, "metric": clean["metric"], "clips": told["clips"], "clean": clean["score"], **ends}


def air_rows(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Success of each attack, and of noise, at each place; the level says which."""
    for version in ("random", "plain", "eot"):
        scores = told[version] if version in told else told["controls"][version]
        for place in ("no_channel", "train_rooms", "held_out_rooms"):
            found = scores[place]["success"]
            ends = {name: found[name] for name in ("score", "low", "high")}
            clean = {"metric": found["metric"], "clips": told["clips"], "clean": told["clean"]["score"]}
            yield {"level": f"{version}, {place.replace('_', ' ')}", **clean, **ends}


def purify_rows(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """At each radius without a purifier, and behind it: under the transfer attack, and under the worst of all."""
    for radius, level in zip(told["radii"], told["levels"], strict=True):
        behind = {"clips": told["clips"], "metric": told["clean"]["metric"], "clean": told["clean"]["score"]}
        bare = {**behind, "metric": "accuracy", "clean": told["bare_clean"]["score"]}
        transfer = level["attacks"].get("transfer", {}).get("robust")
        found = (("no purifier", level["bare_robust"], bare), ("transfer", transfer, behind))
        for name, score, shared in (*found, (level["label"].partition(":")[0], level["robust"], behind)):
            if score is not None:
                ends = {end: score[end] for end in ("score", "low", "high")}
                yield {"level": f"{radius:g}, {name}", "unit": told["axis"]["unit"], **shared, **ends}


def doubtful(cells: Sequence[CellRun]) -> list[str]:
    """What the automatic checks warn of or fail, over all cells that were checked."""
    done = [cell for cell in cells if cell.state == "done"]
    runs = [(f"{cell.victim}, {cell.condition}, {cell.data}, seed {cell.seed}", cell.summary) for cell in done]
    return grouped_checks([(name, told) for name, told in runs if told.get("checks")])


def warned(cells: Sequence[CellRun]) -> list[tuple[str, int]]:
    """What computing the cells warned of, and in how many."""
    return sorted(Counter(text for cell in cells for text in warnings_of(cell.folder)).items())


def table_csv(cells: Sequence[CellRun]) -> bytes:
    """Every score with its interval; holds nothing that differs between two runs of the same study."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for cell in cells:
        if cell.state == "done":
            table.writerows(rows(cell))
    return text.getvalue().encode()


def claims_json(verdicts: Sequence[Verdict]) -> bytes:
    """The verdicts."""
    return json.dumps([verdict.as_json() for verdict in verdicts], indent=2).encode()


def table_md(study: Study, cells: Sequence[CellRun], verdicts: Sequence[Verdict]) -> bytes:
    """What the study asked, what came of its claims, and the scores."""
    lines = [f"# {study.title or study.name}", ""]
    lines += [line for line in (study.thesis and f"Thesis: {study.thesis}", study.claim.strip()) if line]
    failed = [cell for cell in cells if cell.state != "done"]
    if failed:
        lines += ["", f"**{len(failed)} of {len(cells)} cells have no result:**", ""]
        lines += [f"- {cell.victim}, {cell.condition}, {cell.data}, seed {cell.seed}: {cell.error}" for cell in failed]
    doubts = doubtful(cells)
    if doubts:
        lines += ["", "**Checks that warn or fail:**", "", *(f"- {line}" for line in doubts)]
    if verdicts:
        lines += ["", "## Claims", "", f"p corrected by: {study.correction}; level {study.level:g}.", ""]
        lines += ["| claim | verdict | A | B | effect, its 95 % interval, test |", "|" + "---|" * 5]
        lines += [_claim_line(verdict) for verdict in verdicts]
    for data in study.data:
        for name in study.conditions:
            own = [cell for cell in cells if (cell.data, cell.condition) == (data, name) and cell.state == "done"]
            lines += _score_lines(f"## {name} on {data}", own)
    return ("\n".join(lines) + "\n").encode()


def _claim_line(verdict: Verdict) -> str:
    said = verdict.words or verdict.name
    sides = ["" if number is None else f"{number:.3g}" for number in (verdict.a, verdict.b)]
    cells = [f"{said} (`{verdict.text}`, {verdict.data})", f"**{verdict.verdict}**", *sides, verdict.told()]
    return f"| {' | '.join(cells)} |"


def _score_lines(head: str, cells: Sequence[CellRun]) -> list[str]:
    """A table of one condition on one data set: victims by levels, means over seeds."""
    found: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for cell in cells:
        for row in rows(cell):
            found.setdefault(row["victim"], {}).setdefault(row.get("level"), []).append(row)
    if not found:
        return []
    levels = list(dict.fromkeys(level for own in found.values() for level in own))
    heads = ["score" if level is None else level if isinstance(level, str) else f"{level:.3g}" for level in levels]
    lines = ["", head, "", f"| victim | clean | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 2)]
    for victim, own in found.items():
        shown = [_mean(own[level], "score") if level in own else "" for level in levels]
        first = next(iter(own.values()))
        lines.append(f"| {victim} | {_mean(first, 'clean', ends=False)} | {' | '.join(shown)} |")
    return lines


def _mean(rows_: Sequence[dict[str, Any]], name: str, *, ends: bool = True) -> str:
    """A score in per cent, with its interval where there is one seed; the spread of several is in `table.csv`."""
    values = [row[name] for row in rows_ if row[name] is not None]
    if not values:
        return ""
    shown = f"{100 * float(np.mean(values)):.1f}"
    if ends and len(rows_) == 1:
        return f"{shown} [{100 * rows_[0]['low']:.0f}, {100 * rows_[0]['high']:.0f}]"
    return f"{shown} ({100 * min(values):.0f} to {100 * max(values):.0f})" if ends and len(values) > 1 else shown
