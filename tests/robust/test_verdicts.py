"""Verdicts against independent tests, and relations that must hold whatever the numbers are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from robust.evaluation.curve_summary import from_scales
from robust.evaluation.paired import newcombe_interval, newcombe_p
from robust.evaluation.radius_search import shares
from robust.study.claims import Question, Term
from robust.study.store import CellRun
from robust.study.values import Values
from robust.study.verdicts import Verdict, correct, decide
from tests.robust.studies import rng, searched, stored

ATTACK = Term("a", "attack", "robust"), Term("b", "attack", "robust")
LEVELS = [0.001, 0.01, 0.1]


def question(left: Term, sign: str, right: Term | float, margin: float = 0.0) -> Question:
    return Question("claim", "text", "words", "d", left, sign, right, margin)


def verdict(cells: Sequence[CellRun], asked: Question, seeds: Sequence[int] = (0,)) -> Verdict:
    return decide([asked], Values(cells, seeds), "holm", 0.05)[0]


def attacked(folder: Path, victim: str, right: Sequence[bool], clean: Sequence[bool] | None = None, seed: int = 0):
    """An attacked cell: a clip stands where it was right before and after."""
    columns = {"correct": list(map(bool, right)), "clean_correct": [True] * len(right) if clean is None else clean}
    return stored(folder, victim, "attack", columns, seed=seed)


def pair(folder: Path, both: int, only_a: int, only_b: int, neither: int) -> list[CellRun]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return [attacked(folder, "a", a), attacked(folder, "b", b)]


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact, by hand."""
    total, least = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(least + 1)) / 2**total)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ((10, 12, 1, 5), "supported"),
        ((10, 1, 12, 5), "not supported"),
        ((10, 6, 3, 5), "undecided"),
        ((10, 5, 0, 5), "undecided"),  # p = 0.0625
        ((10, 6, 0, 5), "supported"),  # p = 0.03125
        ((10, 0, 0, 5), "undecided"),
        ((0, 0, 0, 9), "undecided"),
    ],
)
def test_accuracies_are_compared_by_mcnemar(table: tuple[int, int, int, int], word: str, tmp_path: Path) -> None:
    cells = pair(tmp_path, *table)
    found = verdict(cells, question(ATTACK[0], ">", ATTACK[1]))
    assert found.verdict == word
    assert found.p == pytest.approx(mcnemar(*table[1:3]))
    assert found.p_corrected == found.p
    count = sum(table)
    assert found.effect == pytest.approx((table[1] - table[2]) / count)
    assert found.a == pytest.approx((table[0] + table[1]) / count)
    assert (found.clips, found.seeds, found.more, found.fewer) == (count, 1, table[1], table[2])
    # The claim turned round is the same claim; with the sign turned it is the opposite.
    turned = verdict(cells, question(ATTACK[1], "<", ATTACK[0]))
    assert (turned.verdict, turned.p) == (word, found.p)
    assert (turned.effect, turned.low, turned.high) == pytest.approx((-found.effect, -found.high, -found.low))
    opposite = {"supported": "not supported", "not supported": "supported", "undecided": "undecided"}[word]
    assert verdict(cells, question(ATTACK[0], "<", ATTACK[1])).verdict == opposite
    assert verdict(cells, question(ATTACK[1], ">=", ATTACK[0])).verdict == opposite
    assert verdict(cells, question(ATTACK[0], ">=", ATTACK[1])).verdict == word


def test_a_clip_that_was_wrong_at_first_does_not_stand(tmp_path: Path) -> None:
    cell = attacked(tmp_path, "a", [True, True, False, False], clean=[True, False, True, False])
    asked = question(ATTACK[0], ">", 0.5)
    assert verdict([cell], asked).a == 0.25
    assert verdict([cell], question(Term("a", "attack", "clean"), ">", 0.5)).a == 0.5
    # Of a change, clips that were wrong may come right.
    changed = stored(
        tmp_path, "a", "gone", {"correct": [True, True, False], "clean_correct": [True, False, True]}, kind="change"
    )
    assert verdict([changed], question(Term("a", "gone", "robust"), ">", 0.5)).a == pytest.approx(2 / 3)


def test_identical_results_decide_nothing(tmp_path: Path) -> None:
    scale = rng(0).choice([0, 0.001, 0.05, 0.3, np.inf], 40).tolist()
    cells = [searched(tmp_path, name, scale, LEVELS) for name in "ab"]
    for measure in ("clean", "auc", "radius", "robust"):
        level = 0.01 if measure == "robust" else None
        sides = [Term(name, "curve", measure, level) for name in "ab"]
        found = verdict(cells, question(sides[0], ">", sides[1]))
        assert (found.verdict, found.p) == ("undecided", 1.0), measure
        assert found.effect in (0.0, 1.0, None)


def holm(p: Sequence[float]) -> list[float]:
    """From its definition: reject in order of p while each is below level / (tests left)."""
    found = []
    for mine in p:
        smaller = sorted(other for other in p if other <= mine)
        found.append(min(1.0, max((len(p) - place) * value for place, value in enumerate(smaller))))
    return found


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    ordered = sorted(p)
    return [min(len(p) * q / (ordered.index(q) + ordered.count(q)) for q in p if q >= mine) for mine in p]


@pytest.mark.parametrize("seed", range(5))
def test_corrections_from_their_definitions(seed: int) -> None:
    p = rng(seed).random(1 + 2 * seed) ** 3
    p = [*p.tolist(), *p[:1].tolist()]  # with a tie
    assert correct(p, "holm") == pytest.approx(holm(p))
    assert correct(p, "benjamini-hochberg") == pytest.approx([min(1.0, q) for q in benjamini_hochberg(p)])
    assert correct(p, "bonferroni") == pytest.approx([min(1.0, len(p) * q) for q in p])
    assert correct(p, "none") == p
    for how in ("holm", "bonferroni", "benjamini-hochberg"):
        found = correct(p, how)
        assert all(mine >= raw for mine, raw in zip(found, p, strict=True))
        assert [found[place] for place in np.argsort(p)] == sorted(found)
        # Order of claims does not matter, and a hopeless claim more lowers nobody's p.
        assert correct(p[::-1], how) == pytest.approx(found[::-1])
        assert all(more >= mine for more, mine in zip(correct([*p, 1.0], how), found, strict=False))
    for more in (0.0, 1e-3, 0.3, 1.0):
        for how in ("holm", "bonferroni"):
            assert all(later >= mine for later, mine in zip(correct([*p, more], how), correct(p, how), strict=False)), (
                f"{how} of one claim more"
            )
    assert correct([], "holm") == []


def test_many_claims_raise_the_bar(tmp_path: Path) -> None:
    cells = pair(tmp_path, 10, 6, 0, 5)  # p = 0.03125
    asked = question(ATTACK[0], ">", ATTACK[1])
    lost = question(ATTACK[0], ">", 0.75)
    values = Values(cells, (0,))
    for how, word in (("holm", "undecided"), ("none", "supported")):
        found = decide([asked, lost], values, how, 0.05)
        assert found[0].verdict == word
        assert found[1].verdict == "undecided"
    assert decide([asked, lost], values, "holm", 0.1)[0].verdict == "supported"
    # What could not be decided counts as a test that showed nothing: a failure must not lower the bar.
    none = question(ATTACK[0], ">", Term("b", "gone", "robust"))
    failed = CellRun("b", "gone", "change", "d", 0, tmp_path / "no", "failed", "it broke")
    found = decide([asked, none], Values([*cells, failed], (0,)), "holm", 0.05)
    assert (found[0].verdict, found[0].p_corrected) == ("undecided", 2 * (found[0].p or 0.0))
    assert (found[1].verdict, found[1].p, found[1].reason) == (
        "undecided",
        None,
        "b under gone on d, seed 0: failed",
    )
    assert found[1].told() == found[1].reason
    assert found[1].as_json()["p_corrected"] is None


@pytest.mark.parametrize("seed", range(6))
def test_p_of_a_margin_agrees_with_newcombes_interval(seed: int) -> None:
    draw = rng(seed)
    right = draw.random((2, 20 + 30 * seed)) < draw.random((2, 1))
    right[1] ^= draw.random(right.shape[1]) < 0.3
    low, high = newcombe_interval(*right)
    for margin in np.linspace(-0.95, 0.95, 77):
        p = newcombe_p(*right, margin)
        assert 0 <= p <= 1
        assert (p < 0.05) == (margin < low or margin > high)
    for end in (low, high):
        assert newcombe_p(*right, end) == pytest.approx(0.05, abs=1e-6)
        assert newcombe_p(*right[::-1], -end) == pytest.approx(0.05, abs=1e-6)
    assert newcombe_p(*right, float(right[0].mean() - right[1].mean())) == pytest.approx(1.0, abs=1e-3)
    # By the interval at another quantile.
    end = newcombe_interval(*right, stats.norm.isf(0.005))[0]
    assert newcombe_p(*right, end) == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("margin", [0.2, 0.05, -0.05, -0.2])
def test_margins(margin: float, tmp_path: Path) -> None:
    for number, table in enumerate(list(itertools.product((0, 3, 30), repeat=4))[1::4]):
        cells = pair(tmp_path / str(number), *table)
        found = verdict(cells, question(ATTACK[0], ">=", ATTACK[1], margin))
        expected = "supported" if found.low > margin else "not supported" if found.high < margin else "undecided"
        assert found.verdict == expected
        assert found.effect == pytest.approx((table[1] - table[2]) / sum(table))
        # A >= B + m is B <= A - m.
        assert verdict(cells, question(ATTACK[1], "<=", ATTACK[0], -margin)).verdict == expected


def test_no_worse_than_by_a_margin_is_what_equality_supports(tmp_path: Path) -> None:
    cells = pair(tmp_path, 150, 3, 3, 44)
    assert verdict(cells, question(ATTACK[0], ">=", ATTACK[1])).verdict == "undecided"
    assert verdict(cells, question(ATTACK[0], ">=", ATTACK[1], -0.05)).verdict == "supported"
    assert verdict(cells, question(ATTACK[0], ">", ATTACK[1], 0.1)).verdict == "not supported"


@pytest.mark.parametrize(
    ("right", "bound"), [(15, 0.5), (5, 0.5), (11, 0.5), (20, 0.9), (0, 0.1), (18, 0.8), (20, 1.0)]
)
def test_numbers_are_tested_exactly(right: int, bound: float, tmp_path: Path) -> None:
    cell = attacked(tmp_path, "a", [True] * right + [False] * (20 - right))
    found = verdict([cell], question(ATTACK[0], ">", bound))
    by_hand = [math.comb(20, k) * bound**k * (1 - bound) ** (20 - k) for k in range(21)]
    expected = min(1.0, sum(p for p in by_hand if p <= by_hand[right] * (1 + 1e-7)))
    assert found.p == pytest.approx(expected)
    word = "undecided" if expected >= 0.05 else "supported" if right / 20 > bound else "not supported"
    assert found.verdict == word
    assert found.effect == pytest.approx(right / 20 - bound)
    assert (found.b, found.clips) == (bound, 20)
    margin = verdict([cell], question(ATTACK[0], ">", bound - 0.25, 0.25))
    assert (margin.verdict, margin.p) == (word, pytest.approx(found.p))


def test_bounds_that_no_score_reaches(tmp_path: Path) -> None:
    cell = attacked(tmp_path, "a", [True] * 9 + [False])
    assert verdict([cell], question(ATTACK[0], ">", 1.5)).verdict == "not supported"
    assert verdict([cell], question(ATTACK[0], ">", -0.5)).verdict == "supported"


@pytest.mark.parametrize("seed", range(4))
def test_areas_of_clips_have_the_area_of_the_curve_as_their_mean(seed: int, tmp_path: Path) -> None:
    draw = rng(seed)
    scale = np.where(draw.random(30) < 0.2, np.inf, draw.random(30) ** 4 * 1.2)
    scale[draw.random(30) < 0.2] = 0
    for unit, levels in (
        ("amplitude", LEVELS),
        ("lsb16", [1, 5, 60, 100]),
        ("snr_db", [40, 10, 0]),
        ("dbfs", [-60, -9]),
    ):
        cell = searched(tmp_path, unit, scale.tolist(), levels, unit)
        term = Term(unit, "curve", "auc")
        records = Values([cell], (0,)).views(Term(unit, "curve", "robust", levels[0]), "d")[0]
        curve = from_scales(
            records.assign(backwards=1), shares(levels, unit).tolist(), levels, unit, cell.summary["axis"]
        )
        areas = Values([cell], (0,)).by_clip(term, "d")
        assert areas.shape == (30, 1)
        assert areas.mean() == pytest.approx(curve.auc)
        # By hand, clip by clip: trapezes under a step that falls where the clip breaks.
        axis = np.log(levels) if cell.summary["axis"]["log"] else np.array(levels, dtype=float)
        stands = (scale[:, None] > shares(levels, unit).numpy() * (1 + 1e-9)).astype(float)
        widths = np.abs(np.diff(axis))
        by_hand = ((stands[:, 1:] + stands[:, :-1]) / 2 * widths).sum(axis=1) / widths.sum()
        np.testing.assert_allclose(areas[:, 0], by_hand)
        for level, score in zip(levels, curve.scores, strict=True):
            at = Values([cell], (0,)).by_clip(Term(unit, "curve", "robust", level), "d")
            assert at.mean() == pytest.approx(score)


def test_areas_are_compared_by_a_paired_t_test(tmp_path: Path) -> None:
    draw = rng(3)
    scales = [draw.random(40) ** power for power in (2, 4)]
    cells = [searched(tmp_path, name, scale.tolist(), LEVELS) for name, scale in zip("ab", scales, strict=True)]
    values = Values(cells, (0,))
    sides = [Term(name, "curve", "auc") for name in "ab"]
    areas = [values.by_clip(side, "d")[:, 0] for side in sides]
    expected = stats.ttest_rel(*areas)
    found = verdict(cells, question(sides[0], ">", sides[1]))
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.verdict == ("supported" if found.low > 0 else "not supported" if found.high < 0 else "undecided")
    turned = verdict(cells, question(sides[1], ">", sides[0]))
    assert (turned.effect, turned.p) == pytest.approx((-found.effect, found.p))
    for margin in (found.low - 1e-6, found.low + 1e-6, found.high + 1e-6):
        moved = verdict(cells, question(sides[0], ">", sides[1], margin))
        assert moved.p == pytest.approx(stats.ttest_1samp(areas[0] - areas[1], margin).pvalue)
        assert (moved.p < 0.05) == (not found.low <= margin <= found.high)
    number = verdict(cells, question(sides[0], ">", 0.2))
    assert number.p == pytest.approx(stats.ttest_1samp(areas[0], 0.2).pvalue)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_areas_that_differ_alike_on_all_clips_have_no_spread(count: int, tmp_path: Path) -> None:
    cells = [searched(tmp_path, name, [scale] * count, LEVELS) for name, scale in (("a", 0.5), ("b", 0.05))]
    sides = [Term(name, "curve", "auc") for name in "ab"]
    found = verdict(cells, question(sides[0], ">", sides[1]))
    assert found.p == pytest.approx(2 * 0.5**count)
    assert found.verdict == ("supported" if count == 6 else "undecided")
    same = verdict(cells, question(sides[0], ">", sides[1], found.effect))
    assert (same.p, same.verdict) == (1.0, "undecided")


def test_radii_are_compared_by_signs(tmp_path: Path) -> None:
    a = [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, np.inf, np.inf, np.inf, 0.01]
    b = [0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, np.inf, np.inf, 0.02]
    cells = [searched(tmp_path, name, scale, LEVELS) for name, scale in (("a", a), ("b", b))]
    sides = [Term(name, "curve", "radius") for name in "ab"]
    found = verdict(cells, question(sides[0], ">", sides[1]))
    assert (found.more, found.fewer) == (8, 1)
    assert found.p == pytest.approx(mcnemar(8, 1))
    assert found.verdict == "supported"
    assert (found.a, found.b) == pytest.approx((0.055, 0.01))
    assert found.effect == pytest.approx(5.5)
    assert verdict(cells, question(sides[1], ">", sides[0])).verdict == "not supported"
    number = verdict(cells, question(sides[0], ">", 0.1 * 0.15))
    assert (number.more, number.fewer) == (10, 2)
    # That a clip stood the largest radius tells nothing about a larger one.
    beyond = verdict(cells, question(sides[1], ">", 5.0))
    assert (beyond.more, beyond.fewer, beyond.verdict) == (0, 10, "not supported")
    everything = searched(tmp_path, "c", [np.inf] * 12, LEVELS)
    found = verdict([everything], question(Term("c", "curve", "radius"), ">", 0.05))
    assert (found.verdict, found.more) == ("supported", 12)
    assert found.as_json()["a"] is None
    assert "larger on 12 clips" in found.told()
    assert verdict([everything], question(Term("c", "curve", "radius"), "<", 5.0)).verdict == "undecided"


def test_radii_are_censored_where_the_shorter_search_ends(tmp_path: Path) -> None:
    far = searched(tmp_path, "a", [0.05] * 10, [0.01, 1.0])  # broken at 0.05
    near = searched(tmp_path, "b", [np.inf] * 10, [0.001, 0.01])  # stood 0.01, and that is all that is known
    sides = [Term(name, "curve", "radius") for name in "ab"]
    found = verdict([far, near], question(sides[0], ">", sides[1]))
    assert (found.verdict, found.more, found.fewer) == ("undecided", 0, 0)


@pytest.mark.parametrize(("unit", "soft", "hard"), [("snr_db", [60, 40], [60, 20]), ("dbfs", [-60, -40], [-60, -20])])
def test_radii_in_decibels(unit: str, soft: list[float], hard: list[float], tmp_path: Path) -> None:
    # a breaks at half of the budget of its last level, b at a tenth: which at 20 dB less is as much again.
    cells = [searched(tmp_path, "a", [0.5] * 8, soft, unit), searched(tmp_path, "b", [0.1] * 8, hard, unit)]
    sides = [Term(name, "curve", "radius") for name in "ab"]
    found = verdict(cells, question(sides[1], ">", sides[0]))
    assert (found.more, found.fewer, found.verdict) == (8, 0, "supported")
    sign = -1 if unit == "snr_db" else 1
    told = (hard[-1] + sign * 20 * math.log10(0.1), soft[-1] + sign * 20 * math.log10(0.5))
    assert (found.a, found.b) == pytest.approx(told)
    assert found.effect == pytest.approx(2)


def test_several_seeds_of_a_clip_stay_together(tmp_path: Path) -> None:
    draw = rng(1)
    right = {name: [draw.random(60) < share for _ in range(3)] for name, share in (("a", 0.7), ("b", 0.45))}
    cells = [attacked(tmp_path, name, side[seed], seed=seed) for name, side in right.items() for seed in range(3)]
    found = verdict(cells, question(ATTACK[0], ">", ATTACK[1]), (0, 1, 2))
    gains = np.sum(right["a"], axis=0) - np.sum(right["b"], axis=0)
    # By simulation: signs of clips' gains are flipped together.
    signs = draw.choice([-1, 1], (200_000, 60))
    expected = (np.abs(signs @ gains) >= abs(gains.sum())).mean()
    assert found.p == pytest.approx(expected, abs=4 * math.sqrt(expected / 200_000) + 1e-5)
    assert found.verdict == "supported"
    assert (found.seeds, found.clips) == (3, 60)
    assert found.effect == pytest.approx(gains.mean() / 3)
    assert found.low < found.effect < found.high
    # The same seed three times over is no more evidence than once.
    same = [attacked(tmp_path / "same", name, right[name][0], seed=seed) for name in "ab" for seed in range(3)]
    once = verdict(same, question(ATTACK[0], ">", ATTACK[1]))
    assert verdict(same, question(ATTACK[0], ">", ATTACK[1]), (0, 1, 2)).p == pytest.approx(once.p)
    # Against a margin or a number: a t-test of clips' means.
    means = {name: np.mean(side, axis=0) for name, side in right.items()}
    margin = verdict(cells, question(ATTACK[0], ">", ATTACK[1], 0.1), (0, 1, 2))
    assert margin.p == pytest.approx(stats.ttest_1samp(means["a"] - means["b"], 0.1).pvalue)
    number = verdict(cells, question(ATTACK[0], ">", 0.6, 0.05), (0, 1, 2))
    assert number.p == pytest.approx(stats.ttest_1samp(means["a"], 0.65).pvalue)
    assert number.b == 0.6
    # A failed seed leaves the claim undecided, and says which.
    cells[4] = CellRun("b", "attack", "attack", "d", 1, tmp_path / "no", "failed", "why")
    lost = verdict(cells, question(ATTACK[0], ">", ATTACK[1]), (0, 1, 2))
    assert (lost.verdict, lost.p, lost.reason) == ("undecided", None, "b under attack on d, seed 1: failed")


def test_radii_of_several_seeds_are_middle_ones(tmp_path: Path) -> None:
    runs = {"a": [[0.5] * 8, [np.inf] * 8, [0.1] * 8], "b": [[0.2] * 8, [0.3] * 8, [0.9] * 8]}
    cells = [
        searched(tmp_path, name, scale, LEVELS, seed=seed)
        for name, own in runs.items()
        for seed, scale in enumerate(own)
    ]
    found = verdict(cells, question(Term("a", "curve", "radius"), ">", Term("b", "curve", "radius")), (0, 1, 2))
    assert (found.a, found.b, found.more, found.seeds) == (pytest.approx(0.05), pytest.approx(0.03), 8, 3)


def multilabel(folder: Path, victim: str, noise: float, condition: str = "attack", kind: str = "attack") -> CellRun:
    draw = rng(5)
    truth = (draw.random((80, 3)) < 0.3).astype(float)
    logits = truth + noise * draw.standard_normal((80, 3))
    columns = {"label": truth.tolist(), "logits": logits.tolist(), "clean_logits": truth.tolist()}
    axis = {"name": "linf", "unit": "amplitude", "log": True, "harder": "up", "modality": "audio"}
    summary = {"radii": LEVELS, "axis": axis}
    cell = stored(folder, victim, condition, columns, kind=kind, task="multilabel", summary=summary)
    if kind == "curve":
        for place in range(len(LEVELS)):
            stored(cell.folder / "levels", "x", "y", columns)
            (cell.folder / "levels" / "x--y--0").rename(cell.folder / "levels" / f"{place:02d}")
    return cell


def test_many_labels_a_clip(tmp_path: Path) -> None:
    cells = [multilabel(tmp_path, "a", 0.5), multilabel(tmp_path, "b", 3.0)]
    found = verdict(cells, question(ATTACK[0], ">", ATTACK[1]))
    assert (found.verdict, found.test, found.more) == ("supported", "paired bootstrap", None)
    assert 0 < found.low < found.effect < found.high
    clean = [Term(name, "attack", "clean") for name in "ab"]
    assert verdict(cells, question(clean[0], ">", clean[1])).verdict == "undecided"
    assert verdict(cells, question(clean[1], ">", ATTACK[1])).verdict == "supported"
    refused = [
        question(ATTACK[0], ">", ATTACK[1], 0.1),
        question(ATTACK[0], ">", 0.5),
    ]
    cells += [multilabel(tmp_path, name, noise, "curve", "curve") for name, noise in (("a", 0.5), ("b", 3.0))]
    for measure in ("auc", "radius"):
        sides = [Term(name, "curve", measure) for name in "ab"]
        refused += [question(sides[0], ">", sides[1]), question(sides[0], ">", 0.5)]
    for asked in refused:
        found = verdict(cells, asked)
        assert (found.verdict, found.p) == ("undecided", None), asked
        assert found.reason
    level = [Term(name, "curve", "robust", 0.01) for name in "ab"]
    assert verdict(cells, question(level[0], ">", level[1])).verdict == "supported"
