"""Decides claims: a paired test over clips, corrected for how many claims there are.

For A > B and A >= B (with a margin m: A > B + m): `supported` if the difference A - B - m is above zero and the
two-sided p, corrected, is below the level; `not supported` if it is significantly below zero; `undecided` otherwise.
Significance cannot tell > from >=; to claim that A is no worse than B write a margin: A >= B - 0.05. Clips are the
sampling unit: results of several seeds on one clip stay together, so what is said holds for new clips and these seeds.

Tests: exact sign flips by clip (McNemar's test with one seed) for a difference of accuracies; the paired bootstrap for
mAP; where there is a margin, the inversion of Newcombe's interval with one seed; a t-test of the clips' gains for an
area under a curve, for shares of a purifier's draws, and for a margin with several seeds; the exact binomial test
against a number; a t-test of clips' (or classes') numbers for geometry; the exact sign test for radii, which are
censored. Corrections: Holm 1979, Bonferroni, Benjamini & Hochberg 1995.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.curve_summary import TIE
from robust.evaluation.paired import compare, compare_accuracy, newcombe_p
from robust.evaluation.summary import finite
from robust.study.claims import AIR, Question, Term
from robust.study.config import Correction
from robust.study.groups import over_victims
from robust.study.values import Values

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        name, text, words, data: As asked.
        verdict: `supported`, `not supported` or `undecided`.
        a, b: The two sides: scores, or median radii.
        effect: Their difference; of radii the ratio of the medians.
        low, high: Ends of its 95 % interval (not corrected); absent for radii.
        p, p_corrected: Two-sided.
        more, fewer: Clips (with several seeds pairs of clip and seed) where A is better, or B; None where not counted.
        test: How p was found.
        clips, seeds: How many; no seeds of groups, whose members may have more or fewer.
        reason: Why it could not be decided at all, e.g. a failed cell.
    """

    name: str
    text: str
    words: str
    data: str
    verdict: str
    a: float | None = None
    b: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    more: int | None = None
    fewer: int | None = None
    test: str = ""
    clips: int = 0
    seeds: int = 0
    reason: str = ""

    def told(self) -> str:
        """The numbers in a line."""
        if self.p is None:
            return self.reason
        if self.low is not None and self.high is not None:
            shown = f"{self.effect:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"
        else:
            ratio = "" if self.effect is None else f"ratio of medians {self.effect:.3g}, "
            shown = f"{ratio}larger on {self.more} clips, smaller on {self.fewer}"
        corrected = self.p if self.p_corrected is None else self.p_corrected
        seeds = f" x {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{shown}; p = {self.p:.2g}, corrected {corrected:.2g} ({self.test}, {self.clips} clips{seeds})"

    def as_json(self) -> dict[str, Any]:
        """Every attribute, None where a number is not finite."""
        return {k: finite(v) if isinstance(v, float) else v for k, v in asdict(self).items()}


def decide(asked: Sequence[Question], values: Values, correction: Correction, level: float) -> list[Verdict]:
    """Verdicts on all claims, in their order.

    Args:
        asked: From `questions`.
        values: Results by cell.
        correction: For the number of claims.
        level: Of significance, after correction.
    """
    found = [_test(question, values) for question in asked]
    # A claim without a result counts as one that showed nothing: a failed cell must not make the others significant.
    corrected = correct([1.0 if verdict.p is None else verdict.p for verdict in found], correction)
    for place, p in enumerate(corrected):
        if found[place].p is None:
            continue
        found[place] = replace(found[place], p_corrected=p, verdict=_word(found[place], asked[place], p, level))
    return found


def correct(p: Sequence[float], how: Correction) -> list[float]:
    """p-values corrected for their number, in the same order."""
    count = len(p)
    if how == "none" or count == 0:
        return list(p)
    if how == "bonferroni":
        return [min(1.0, count * value) for value in p]
    if how == "benjamini-hochberg":
        from scipy.stats import false_discovery_control

        return [float(value) for value in false_discovery_control(p, method="bh")]
    order = np.argsort(p, kind="stable")
    steps = np.array(p)[order] * np.arange(count, 0, -1)
    found = np.empty(count)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found.tolist()


def _word(verdict: Verdict, question: Question, p: float, level: float) -> str:
    if p >= level or verdict.a is None or verdict.b is None:
        return UNDECIDED
    gain = verdict.a - verdict.b - question.margin
    if question.left.measure == "radius":  # medians may tie where the clips do not
        gain = float((verdict.more or 0) - (verdict.fewer or 0))
    return SUPPORTED if (gain > 0) == question.sign.startswith(">") else NOT_SUPPORTED


def _test(question: Question, values: Values) -> Verdict:
    asked = Verdict(question.name, question.text, question.words, question.data, UNDECIDED)
    problem = values.problem(question.left, question.data)
    if isinstance(question.right, Term):
        problem = problem or values.problem(question.right, question.data)
    if problem:
        return replace(asked, reason=problem)
    own = _own_test(question, values)
    if own is not None:
        return own(asked, question, values)
    assert isinstance(question.right, Term)
    left, right = (values.by_clip(term, question.data) for term in (question.left, question.right))
    areas = "auc" in (question.left.measure, question.right.measure)
    if areas or _graded(left) or _graded(right) or (question.margin and left.shape[1] > 1):
        return _t_test(asked, left, right, question.margin)
    found = compare_accuracy(left > 0, right > 0)
    if question.margin:
        p = newcombe_p(left[:, 0] > 0, right[:, 0] > 0, question.margin)
        found = replace(found, p=p, test="Newcombe's interval against the margin")
    told = replace(asked, a=found.a, b=found.b, effect=found.difference, low=found.low, high=found.high)
    told = replace(told, p=found.p, test=found.test, clips=found.clips, seeds=found.seeds)
    return replace(told, more=found.only_a, fewer=found.only_b)


def _own_test(question: Question, values: Values) -> Callable[[Verdict, Question, Values], Verdict] | None:
    """The test of what is no difference of two accuracies."""
    measure = question.left.measure
    if question.left.members or (isinstance(question.right, Term) and question.right.members):
        return _test_groups
    if measure == "radius":
        return _test_radii
    if measure in AIR:
        return _test_air
    if "." in measure:
        return _test_geometry
    if not isinstance(question.right, Term):
        return _test_number
    return _test_map if values.task(question.left, question.data) == "multilabel" else None


def _test_groups(asked: Verdict, question: Question, values: Values) -> Verdict:
    """Means of groups, for new clips and for new victims."""
    data, margin, right = question.data, question.margin, question.right
    if values.task(question.left, data) == "multilabel":
        return replace(asked, reason="groups are compared where each clip has one label")
    left = values.by_clip(question.left, data)
    other = values.by_clip(right, data) if isinstance(right, Term) else np.full_like(left, right)
    told = replace(_t_test(asked, left, other, margin), seeds=0)
    rivals = values.by_victim(right, data) if isinstance(right, Term) else right
    return over_victims(told, values.by_victim(question.left, data), rivals, margin)


def _graded(values: NDArray[np.float64]) -> bool:
    """Whether clips are right by degrees (in some draws of a purifier's noise), and not right or wrong."""
    return bool(((values != 0) & (values != 1)).any())


def _test_air(asked: Verdict, question: Question, values: Values) -> Verdict:
    """Successes over the air, for new clips and for new rooms: of a test over each, the one that says less."""
    data, margin = question.data, question.margin
    terms = [term for term in (question.left, question.right) if isinstance(term, Term)]
    for term in terms:
        if term.measure == "halfway" and not values.costs(term, data):
            return replace(asked, reason="the air costs the plain attack nothing, so there is nothing to win back")
    left, *right = (values.by_clip(term, data) for term in terms)
    bound = question.right if isinstance(question.right, float) else 0.0
    told = [_t_test(asked, left, right[0] if right else np.full_like(left, bound), margin)]
    if len({term.condition for term in terms}) == 1:  # rooms of two conditions are not the same rooms
        left, *right = (values.by_room(term, data) for term in terms)
        told.append(_t_test(asked, left, right[0] if right else np.full_like(left, bound), margin))
    weaker = max(told, key=lambda verdict: verdict.p or 0.0)
    low = min(verdict.low for verdict in told if verdict.low is not None)
    high = max(verdict.high for verdict in told if verdict.high is not None)
    test = f"paired t-test over {'clips' if weaker is told[0] else 'rooms'}, the weaker of clips and rooms"
    return replace(told[0], p=weaker.p, low=low, high=high, test=test if len(told) > 1 else told[0].test)


def _test_map(asked: Verdict, question: Question, values: Values) -> Verdict:
    assert isinstance(question.right, Term)
    if question.margin or "auc" in (question.left.measure, question.right.measure):
        return replace(asked, reason="of mAP, scores at one level are compared, and without a margin")
    sides = [values.views(term, question.data) for term in (question.left, question.right)]
    found = compare(sides[0], sides[1], "multilabel")
    told = replace(asked, a=found.a, b=found.b, effect=found.difference, low=found.low, high=found.high)
    return replace(told, p=found.p, test=found.test, clips=found.clips, seeds=found.seeds)


def _t_test(
    asked: Verdict, left: NDArray[np.float64], right: NDArray[np.float64], margin: float, test: str = "paired t-test"
) -> Verdict:
    """Clips' gains, means over seeds, against the margin."""
    from scipy.stats import t, ttest_1samp

    gains = (left - right).mean(axis=1)
    mean, count = float(gains.mean()), len(gains)
    spread = float(gains.std(ddof=1)) if count > 1 else math.nan
    if not spread > 1e-12:
        # All clips alike: a t-test would divide by zero; so many clips of one sign have the sign test's p.
        p, half = (1.0 if abs(mean - margin) < 1e-12 else 2.0 * 0.5**count), 0.0 if count > 1 else math.inf
    else:
        p = float(ttest_1samp(gains, margin).pvalue)
        half = float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    told = replace(asked, a=float(left.mean()), b=float(right.mean()), effect=mean, low=mean - half, high=mean + half)
    return replace(told, p=p, test=test, clips=count, seeds=left.shape[1])


def _test_geometry(asked: Verdict, question: Question, values: Values) -> Verdict:
    """Numbers of clips, or of classes, means over seeds; those that some victim has none for are left out."""
    left = values.by_clip(question.left, question.data)
    if isinstance(question.right, Term):
        right = values.by_clip(question.right, question.data)
    else:
        right = np.full_like(left, question.right)
    if left.shape != right.shape:
        return replace(asked, reason="the two victims do not know the same classes")
    known = ~np.isnan(left + right).any(axis=1)
    if not known.any():
        return replace(asked, reason="no clip or class has that number on both sides")
    unit = "classes" if question.left.measure.startswith("convexity.") else "clips"
    return _t_test(asked, left[known], right[known], question.margin, f"paired t-test over {unit}")


def _test_number(asked: Verdict, question: Question, values: Values) -> Verdict:
    """A score against a number: exactly, where every clip counts as right or wrong once."""
    from scipy.stats import binomtest

    if values.task(question.left, question.data) == "multilabel":
        return replace(asked, reason="mAP has no test against a number; read its interval")
    assert isinstance(question.right, float)
    bound = question.right + question.margin
    left = values.by_clip(question.left, question.data)
    if question.left.measure == "auc" or left.shape[1] > 1 or _graded(left):
        found = _t_test(asked, left, np.full_like(left, bound), 0.0, "t-test")
        return replace(found, b=question.right)
    count, right = len(left), int(left.sum())
    test = binomtest(right, count, min(max(bound, 0.0), 1.0))
    ends = test.proportion_ci(method="exact")
    told = replace(asked, a=right / count, b=question.right, effect=right / count - bound, p=float(test.pvalue))
    return replace(told, low=ends.low - bound, high=ends.high - bound, test="exact binomial", clips=count, seeds=1)


def _test_radii(asked: Verdict, question: Question, values: Values) -> Verdict:
    """Smallest radii clip by clip, the middle one of the seeds: which side's is the larger."""
    from scipy.stats import binomtest

    terms = [term for term in (question.left, question.right) if isinstance(term, Term)]
    if not all(values.searched(term, question.data) for term in terms):
        return replace(asked, reason="with many labels a clip, clips have no radius; compare scores at one level")
    left = np.median(values.by_clip(question.left, question.data), axis=1)
    if isinstance(question.right, Term):
        right = np.median(values.by_clip(question.right, question.data), axis=1)
    else:
        right = np.full_like(left, question.right)
    # Beyond the smaller of the largest radii tried, one side is not known: there all are alike.
    most = min(values.largest(term, question.data) for term in terms) * TIE
    left, right = (np.where(side > most, np.inf, side) for side in (left, right))
    more, fewer = int((left > right).sum()), int((left < right).sum())
    p = float(binomtest(more, more + fewer, 0.5).pvalue) if more + fewer else 1.0
    a, b = float(np.median(left)), float(np.median(right))
    ratio = a / b if b > 0 and math.isfinite(a) and math.isfinite(b) else None
    told = replace(asked, effect=ratio, p=p, more=more, fewer=fewer, test="exact sign test")
    a, b = (values.level(question.left, question.data, side) for side in (a, b))
    told = replace(told, a=a, b=b)
    return replace(told, clips=len(left), seeds=values.seeds)
