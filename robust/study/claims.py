"""Claims: what a study is to decide, written as `av-mid[both].robust@0.0003 > av-audio[audio].robust@0.0003`.

    TERM   VICTIM[CONDITION].MEASURE@LEVEL; the condition may stand in the claim's own key or be the only one that fits,
           the level belongs to curves; for VICTIM may stand a group of the study, see `robust.study.groups`
    CLAIM  TERM OP TERM, TERM OP TERM + MARGIN, TERM OP NUMBER; OP is >, >=, < or <=

Measures: `clean` and `robust` (accuracy or mAP; of a change, the score under it), and of curves `auc` (mean over the
radii) and `radius` (the smallest radius that breaks a clip, told by its median). Over the air, the success of an attack
in held-out rooms: `plain`, `eot`, `random`; and `halfway`, the plain attack's between held-out rooms and no channel:
`eot >= halfway` says that EOT wins back at least half of what the air costs. Of geometry, what clips or classes have
numbers of their own for, as GROUP.SPACE.NAME: `sharpness.weights.worst-linf`, `convexity.fused.conditional`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robust.curve_levels import ATTACK, USUAL_SNR_DB
from robust.errors import unknown
from robust.evaluation.sweeps import find_sweep
from robust.study import groups
from robust.study.conditions import CurveKind, PurifyKind
from robust.study.config import Claim, Study
from robust.study.plan import Cell
from robust.study.source import Source, StudyError

GEOMETRY = "geometry"
AIR = ("plain", "eot", "random", "halfway")
PURIFIED = ("transfer", "bare")
MEASURES = ("clean", "robust", "auc", "radius", *AIR, *PURIFIED)
SCORED = (
    "attack",
    "curve",
    "clean",
    "missing",
    "swap",
    "occlude",
    "noise",
    "corruption",
    "channel",
    "air",
    "purify",
    "universal",
)
"""Kinds with one row for each clip."""
_TERM = re.compile(
    r"^(?P<victim>[A-Za-z0-9_-]+)(\[(?P<condition>[A-Za-z0-9_-]+)\])?\.(?P<measure>[a-z]+(\.[a-z0-9_]+\.[a-z0-9-]+)?)"
    r"(@(?P<level>[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?))?$"
)
_CLAIM = re.compile(
    r"^(?P<left>\S+)\s*(?P<sign>>=|<=|>|<)\s*(?P<right>\S+)(\s*(?P<way>[+-])\s*(?P<margin>[0-9.eE-]+))?$"
)


@dataclass(frozen=True)
class Term:
    """One side of a claim: a measure of a victim under a condition, at a level of a curve; of a group, its mean."""

    victim: str
    condition: str
    measure: str
    level: float | None = None
    members: tuple[str, ...] = ()

    def each(self) -> list[Term]:
        """The same of every member of a group; of a victim itself."""
        return [replace(self, victim=name, members=()) for name in self.members] or [self]


@dataclass(frozen=True)
class Question:
    """A claim on one data set, ready to be decided.

    Attributes:
        name: Short name, for tables.
        text: As written.
        words: The same in words.
        data: Data set.
        left: What is claimed to be larger or smaller...
        sign: ...by `>`, `>=`, `<` or `<=`...
        right: ...than this measure, or this number.
        margin: Added to the right side.
    """

    name: str
    text: str
    words: str
    data: str
    left: Term
    sign: str
    right: Term | float
    margin: float = 0.0


def questions(study: Study, cells: Sequence[Cell], source: Source) -> list[Question]:
    """Every claim on every data set it is about, held against the cells that there will be.

    Raises:
        StudyError: With the line, if a claim cannot be read or asks about a cell that is not there.
    """
    found: list[Question] = []
    for place, claim in enumerate(study.claims):
        name = claim.name or f"claim {place + 1}"
        if claim.data is not None and claim.data not in study.data:
            raise source.error(("claims", place, "data"), unknown("data set", claim.data, study.data))
        for data in [claim.data] if claim.data else study.data:
            question = _read(name, claim, data, study, cells, source.error(("claims", place, "text"), ""))
            found.append(question if claim.data or len(study.data) == 1 else replace(question, name=f"{name}, {data}"))
    return found


def _read(name: str, claim: Claim, data: str, study: Study, cells: Sequence[Cell], where: StudyError) -> Question:
    """One claim; `where` is the beginning of every complaint."""
    parts = _CLAIM.match(claim.text.strip())
    if parts is None:
        raise StudyError(
            f"{where}the claim {claim.text!r} is not TERM > TERM, e.g. "
            "'av-mid[linf].robust@0.001 >= ast[linf].robust@0.001'."
        )
    left = _term(parts["left"], claim, data, study, cells, where)
    try:
        margin = float(parts["margin"] or 0.0) * (-1 if parts["way"] == "-" else 1)
    except ValueError:
        raise StudyError(f"{where}the margin {parts['margin']!r} is not a number.") from None
    try:
        right: Term | float = float(parts["right"])
    except ValueError:
        right = _term(parts["right"], claim, data, study, cells, where)
    if not math.isfinite(margin) or (isinstance(right, float) and not math.isfinite(right)):
        raise StudyError(f"{where}numbers in a claim are finite; given {claim.text!r}.")
    _check_radii(left, right, margin, study, where)
    if isinstance(right, Term) and "auc" in (left.measure, right.measure):
        _check_areas(left, right, study, where)
    if isinstance(right, Term) and (left.measure in AIR) != (right.measure in AIR):
        raise StudyError(f"{where}a success over the air is compared with another, or with a number.")
    if isinstance(right, Term) and left.measure != right.measure and "." in left.measure + right.measure:
        raise StudyError(f"{where}a measure of geometry is compared with the same measure, or with a number.")
    if isinstance(right, Term) and not (left.members or right.members):
        seeds = [study.seeds_of(term.victim) for term in (left, right)]
        if seeds[0] != seeds[1]:
            told = f"{left.victim} has the seeds {seeds[0]} and {right.victim} {seeds[1]}"
            raise StudyError(f"{where}clips are compared seed by seed, and {told}; name the same `seeds` for both.")
    return Question(name, claim.text, claim.words, data, left, parts["sign"], right, margin)


def _check_radii(left: Term, right: Term | float, margin: float, study: Study, where: StudyError) -> None:
    """A radius goes with another in the same norm and unit; one in dB, of which less may be more, with no number."""
    terms = [term for term in (left, right) if isinstance(term, Term)]
    kinds = [asked for term in terms if isinstance(asked := study.conditions[term.condition], CurveKind)]
    if not any(term.measure == "radius" for term in terms):
        return
    if not all(term.measure == "radius" for term in terms):
        raise StudyError(f"{where}a radius can be compared with a radius alone.")
    if margin:
        raise StudyError(f"{where}radii are compared without a margin.")
    units = [(asked.norm, "dB" if asked.norm == "snr" else asked.unit) for asked in kinds]
    if len(set(units)) > 1:
        told = " and ".join(f"{norm} in {unit}" for norm, unit in units)
        raise StudyError(f"{where}radii of different norms or units cannot be compared: {told}.")
    if isinstance(right, float) and units[0][1] in ("dB", "dbfs"):
        raise StudyError(f"{where}a radius in dB is compared with a radius alone; ask for robust@LEVEL instead.")


def _term(text: str, claim: Claim, data: str, study: Study, cells: Sequence[Cell], where: StudyError) -> Term:
    parts = _TERM.match(text)
    if parts is None:
        raise StudyError(f"{where}{text!r} is neither a number nor VICTIM[CONDITION].MEASURE@LEVEL.")
    victim, measure = parts["victim"], parts["measure"]
    if victim in study.groups:
        return _group(text, victim, measure, claim, data, study, cells, where)
    if "." not in measure and measure not in MEASURES:
        raise StudyError(where.args[0] + unknown("measure", measure, MEASURES))
    if victim not in study.victims:
        raise StudyError(where.args[0] + unknown("victim", victim, [*study.victims, *study.groups]))
    condition = parts["condition"] or claim.condition or _only(victim, data, cells, where)
    if condition not in study.conditions:
        raise StudyError(where.args[0] + unknown("condition", condition, study.conditions))
    there = [cell for cell in cells if (cell.victim, cell.condition, cell.data) == (victim, condition, data)]
    if not there:
        having = sorted({cell.condition for cell in cells if (cell.victim, cell.data) == (victim, data)})
        raise StudyError(
            f"{where}there is no cell of {victim!r} under {condition!r} on {data!r}; on it {victim!r} meets: "
            f"{', '.join(having) or 'nothing'}."
        )
    if (there[0].kind == GEOMETRY) != ("." in measure):
        raise StudyError(
            f"{where}{text!r}: of the kind 'geometry', and of it alone, claims ask for GROUP.SPACE.NAME, e.g. "
            f"{victim}[{condition}].sharpness.weights.worst-linf; this is of the kind {there[0].kind!r}."
        )
    if there[0].kind not in (*SCORED, GEOMETRY):
        raise StudyError(f"{where}{condition!r} is of the kind {there[0].kind!r}, which has no scores to compare.")
    _check_air(text, measure, there[0].kind, where)
    level = None if parts["level"] is None else float(parts["level"])
    _check_level(text, measure, level, study, condition, where)
    return Term(victim, condition, measure, level)


def _group(
    text: str,
    group: str,
    measure: str,
    claim: Claim,
    data: str,
    study: Study,
    cells: Sequence[Cell],
    where: StudyError,
) -> Term:
    """The mean of a group, each of whose members must have the cell that is asked for."""
    if measure not in groups.MEASURES:
        raise StudyError(f"{where}{text!r}: of groups, ask for {', '.join(groups.MEASURES)}.")
    members = study.groups[group]
    asked = [_term(text.replace(group, name, 1), claim, data, study, cells, where) for name in members]
    return replace(asked[0], victim=group, members=tuple(members))


def _check_air(text: str, measure: str, kind: str, where: StudyError) -> None:
    """Successes are of `air` alone, which has no other score but the clean one."""
    if measure in AIR and kind != "air":
        raise StudyError(f"{where}{text!r}: {measure!r} is of the kind 'air' alone; this is of the kind {kind!r}.")
    if kind == "air" and measure not in (*AIR, "clean"):
        raise StudyError(f"{where}{text!r}: over the air, ask for {', '.join(AIR)} (success in held-out rooms).")


def _check_areas(left: Term, right: Term, study: Study, where: StudyError) -> None:
    """Areas are means over levels: of the same ones on both sides, or they say nothing."""
    sides = [study.conditions[term.condition] for term in (left, right)]
    asked = [(one.against, one.norm, one.unit, one.eps) if isinstance(one, CurveKind) else None for one in sides]
    if left.measure != right.measure or asked[0] != asked[1]:
        raise StudyError(f"{where}an area is compared with an area over the same levels of the same norm alone.")


def _only(victim: str, data: str, cells: Sequence[Cell], where: StudyError) -> str:
    """The one condition that a term without any can mean."""
    meant = sorted({c.condition for c in cells if (c.victim, c.data) == (victim, data) and c.kind in SCORED})
    if len(meant) != 1:
        told = f"meets {', '.join(meant)}; say which, e.g. {victim}[{meant[0]}].robust" if meant else "meets none"
        raise StudyError(f"{where}{victim!r} names no condition and {told}.")
    return meant[0]


def _check_level(text: str, measure: str, level: float | None, study: Study, condition: str, where: StudyError) -> None:
    """A level goes with `robust` of a curve, and is one of its levels."""
    asked = study.conditions[condition]
    curve = isinstance(asked, CurveKind)
    if measure in PURIFIED and not isinstance(asked, PurifyKind):
        raise StudyError(f"{where}{measure!r} is of the kind 'purify' alone; {condition!r} is of {asked.kind!r}.")
    if measure in ("auc", "radius") and not curve:
        raise StudyError(f"{where}{measure} is of curves, and {condition!r} is of the kind {asked.kind!r}.")
    if measure == "radius" and isinstance(asked, CurveKind) and asked.against != "attack":
        raise StudyError(f"{where}{condition!r} is measured level by level and knows no radius of a clip; use auc.")
    wanted = (measure == "robust" and curve) or (isinstance(asked, PurifyKind) and measure != "clean")
    if wanted != (level is not None):
        need = "needs a level, e.g. @0.001" if level is None else "takes no level"
        raise StudyError(f"{where}{text!r} {need}.")
    known = _levels_of(asked) if isinstance(asked, CurveKind) else getattr(asked, "eps", ())
    if level is not None and not known:
        raise StudyError(f"{where}give the condition {condition!r} its levels by `eps`, so that {level:g} is one.")
    if level is not None and not any(abs(level - one) <= 1e-6 * abs(one) for one in known):
        levels = ", ".join(f"{one:g}" for one in known)
        raise StudyError(f"{where}{level:g} is no level of the curve {condition!r}; it has {levels}.")


def _levels_of(asked: CurveKind) -> Sequence[float]:
    """The levels of a curve; none where they depend on the victim."""
    if asked.eps is not None:
        return asked.eps
    if asked.against != ATTACK:
        return find_sweep(asked.against).usual
    return USUAL_SNR_DB if asked.norm == "snr" else ()
