"""A purifier under attack as tables: with and without it, attack by attack, radius by radius."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robust.report.charts import Chart, scores_line
from robust.report.defended import purifier_name, unit, weak_where, why_weak
from robust.report.formats import NOTHING, Shown, count, norm_name, number, percent, shown
from robust.report.reading import Run

WEAK = "non-adaptive"
"""Of what is left before the last attack, and under one alone."""


@dataclass(frozen=True)
class Row:
    """With or without the purifier: scores on clean clips, under the worst attack, and in all draws."""

    name: str
    clean: Shown
    robust: Shown | None
    always: Shown | None


@dataclass(frozen=True)
class AttackRow:
    """One attack.

    Attributes:
        name: As `--attacks` has it.
        what: It does.
        clips: On how many it worked.
        alone: What stands under it alone; None where a cascade gave it some clips only.
        left: What stands under it and all above it.
        worst_for: To how many clips none did worse.
        passes: Forward and backward, per clip.
        held: Share that stands in the very draw that a fixed attack saw; empty of others.
    """

    name: str
    what: str
    clips: str
    alone: Shown | None
    left: Shown | None
    worst_for: str
    passes: str
    held: str


@dataclass(frozen=True)
class Level:
    """One radius: without the purifier, under the transferred attack alone, under the worst, and which that was."""

    radius: str
    bare: Shown | None
    transfer: Shown | None
    robust: Shown
    always: Shown | None
    worst: str


@dataclass(frozen=True)
class PurifierView:
    """What the section shows.

    Attributes:
        weak: What must be said first of robust numbers that are not adaptive; empty where they are.
        rows: Of a run at one radius: without the purifier, with it.
        attacks: Likewise; from cheap to dear.
        skipped: Attacks that were asked for and not run, and why.
        levels: Of a curve.
        facts: Names and values below.
        chart: Of a curve with more than one radius.
    """

    weak: str
    axis: str = ""
    rows: list[Row] = field(default_factory=list)
    attacks: list[AttackRow] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    chart: Chart | None = None

    @property
    def held(self) -> bool:
        """Whether an attack on one held draw was made."""
        return any(row.held for row in self.attacks)


def purifier_view(run: Run, key: str) -> PurifierView | None:
    """The section of a run against a purifier; None of another kind.

    Args:
        run: Finished.
        key: Name of its chart.
    """
    told = run.summary
    if run.kind not in ("purification", "purify"):
        return None
    where = weak_where(told)
    weak = "" if where is None else f"Non-adaptive{where}: {why_weak(told)}"
    if run.kind == "purification":
        last = next(reversed(told["attacks"]), "")
        label = str(told["label"])
        attacks = [_attack(name, row, label if name == last else WEAK) for name, row in told["attacks"].items()]
        skipped = [(str(name), str(why)) for name, why in (told.get("skipped") or {}).items()]
        return PurifierView(weak, "", _rows(told), attacks, skipped, facts=_facts(told))
    axis = f"{norm_name(told['axis']['norm'])} radius{unit(told['axis'])}"
    levels = [_level(radius, level) for radius, level in zip(told["radii"], told["levels"], strict=True)]
    return PurifierView(weak, axis, levels=levels, facts=_facts(told), chart=_chart(run, key))


def _score(name: str, told: Any, called: str = "") -> Shown | None:
    return shown(name, told, called=called) if isinstance(told, Mapping) else None


def _rows(told: Mapping[str, Any]) -> list[Row]:
    label = str(told["label"])
    bare = Row("No defense", shown("clean", told["bare_clean"]), _score("robust", told.get("bare_robust")), None)
    behind = Row(
        f"Behind {purifier_name(told)}",
        shown("clean", told["clean"]),
        shown("robust", told["robust"], called=label),
        _score("robust", told.get("always"), label),
    )
    return [bare, behind]


def _attack(name: str, told: Mapping[str, Any], label: str) -> AttackRow:
    held = told.get("held")
    return AttackRow(
        name,
        str(told.get("what", "")),
        str(told.get("clips", NOTHING)),
        _score("changed", told.get("robust")),
        _score("robust", told.get("left"), label),
        str(told.get("worst_for", NOTHING)),
        f"{number(told.get('forwards'), 3)} + {number(told.get('backwards'), 3)}",
        percent(held.get("score")) if isinstance(held, Mapping) else "",
    )


def _level(radius: float, told: Mapping[str, Any]) -> Level:
    label, attacks = str(told["label"]), told.get("attacks") or {}
    worst = Counter({name: int(row.get("worst_for") or 0) for name, row in attacks.items()})
    return Level(
        number(radius),
        _score("random", told.get("bare_robust")),
        _score("changed", (attacks.get("transfer") or {}).get("robust")),
        shown("robust", told["robust"], called=label),
        _score("robust", told.get("always"), label),
        ", ".join(f"{name} {clips}" for name, clips in worst.items() if clips) or NOTHING,
    )


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the purifier was made and attacked."""
    made = told.get("purifier") or {}
    ways = {"exact": "exact", "straight-through": "none of its own: the identity stands for it (straight-through)"}
    facts = [("Gradient of the purifier", ways.get(str(made.get("gradient")), str(made.get("gradient") or "")))]
    if made.get("random") is not None:
        facts.append(("Randomness", "new noise for every clip" if made["random"] else "none: it draws nothing"))
    told_counts = {"Steps of PGD": "steps", "Queries of each black-box attack": "queries"}
    facts += [(words, f"{told[name]:,}") for words, name in told_counts.items() if told.get(name)]
    if told.get("draws") and made.get("random"):
        draws = count(told["draws"], "draw")
        facts.append(("Draws", f"{draws} to choose the worst attack of a clip, as many fresh ones to score it"))
    if told.get("sure") and made.get("random"):
        facts.append(("Taken for broken", f"after {count(told['sure'], 'fresh draw')} in a row"))
    if told.get("cascade") is not None:
        cascade = "a cascade: each works on what is left" if told["cascade"] else "each on all clips"
        facts.append(("Attacks", cascade))
    return [fact for fact in facts if fact[1]]


def _chart(run: Run, key: str) -> Chart | None:
    told = run.summary
    radii, levels = told["radii"], told["levels"]
    if len(radii) < 2:
        return None
    where = weak_where(told)
    called = "adaptive" if where is None else "in part non-adaptive" if where else WEAK
    transfer = [((level.get("attacks") or {}).get("transfer") or {}).get("robust") for level in levels]
    lines = [
        scores_line(
            f"worst attack, {called}",
            told["clean"],
            radii,
            [level["robust"] for level in levels],
        ),
        scores_line("transfer alone, non-adaptive", told["clean"], radii, transfer),
        scores_line("no defense", told["bare_clean"], radii, [level.get("bare_robust") for level in levels]),
    ]
    axis = told["axis"]
    return Chart(
        key=key,
        title=f"Accuracy of {run.victim} behind {purifier_name(told)}",
        axis=f"{norm_name(axis['norm'])} radius",
        unit=unit(axis).strip(),
        log=axis.get("unit", "amplitude") == "amplitude" and min(radii) > 0,
        harder="down" if axis.get("unit") == "snr_db" else "up",
        metric="accuracy",
        lines=[line for line in lines if line.points],
    )
