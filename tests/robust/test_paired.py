"""Paired tests against published intervals, SciPy, brute force and simulation."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from robust.errors import StoreError
from robust.evaluation.condition_summary import condition_summary
from robust.evaluation.paired import clean_view, compare, compare_accuracy, newcombe_interval, sign_flip_p


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return np.array(a), np.array(b)


def records(right: np.ndarray, ids: list[str] | None = None) -> pd.DataFrame:
    count = len(right)
    return pd.DataFrame({"id": ids or [f"clip/{n}" for n in range(count)], "label": [0] * count, "correct": right})


def multilabel_records(logits: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    ids = [f"clip/{n}" for n in range(len(truth))]
    return pd.DataFrame({"id": ids, "label": truth.tolist(), "logits": logits.tolist()})


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman et al. 2000, Statistics with Confidence, ch. 6
        ((1, 1, 7, 12), -0.507, -0.026),  # Bentur et al. 2009 in Fagerland et al. 2013, table of intervals
    ],
)
def test_newcombe_interval_of_published_tables(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    assert newcombe_interval(*table(*cells)) == pytest.approx((low, high), abs=6e-4)


def test_newcombe_interval_turns_round_with_its_sides_and_stays_within_one() -> None:
    for cells in itertools.product((0, 1, 4), repeat=4):
        if sum(cells) == 0:
            continue
        a, b = table(*cells)
        low, high = newcombe_interval(a, b)
        assert newcombe_interval(b, a) == pytest.approx((-high, -low))
        assert -1 <= low <= a.mean() - b.mean() <= high <= 1


def test_newcombe_interval_covers() -> None:
    draw = np.random.default_rng(0)
    truth, covered = 0.65 - 0.55, 0
    for _ in range(400):
        cells = draw.multinomial(60, [0.5, 0.15, 0.05, 0.3])
        low, high = newcombe_interval(*table(*cells.tolist()))
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.985


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (7, 3), (3, 7), (4, 4), (0, 0), (120, 80), (900, 400)])
def test_one_seed_is_mcnemars_exact_test(only_a: int, only_b: int) -> None:
    found = compare(*(records(side) for side in table(11, only_a, only_b, 6)), "multiclass")
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert (found.only_a, found.only_b, found.test) == (only_a, only_b, "exact McNemar")
    assert found.difference == pytest.approx((only_a - only_b) / (17 + only_a + only_b))


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_are_counted_exactly(seed: int) -> None:
    gains = np.random.default_rng(seed).integers(-3, 4, size=12)
    signs = np.array(list(itertools.product((-1, 1), repeat=12)))
    expected = (np.abs(signs @ np.abs(gains)) >= abs(gains.sum())).mean()
    assert sign_flip_p(gains) == pytest.approx(expected, rel=1e-9)


def test_many_clips_and_seeds_are_no_burden() -> None:
    draw = np.random.default_rng(0)
    gains = draw.integers(-5, 6, size=20_000)
    assert 0 <= sign_flip_p(gains) <= 1
    assert sign_flip_p(gains + (draw.random(20_000) < 0.3)) < 1e-6


def test_seeds_of_a_clip_stay_together() -> None:
    a, b = table(30, 20, 10, 20)
    alone = compare_accuracy(a[:, None], b[:, None])
    # The same result five times over is no new evidence: as many seeds, the same clips.
    copied = compare_accuracy(np.repeat(a[:, None], 5, 1), np.repeat(b[:, None], 5, 1))
    assert copied.p == pytest.approx(alone.p, rel=1e-9)
    assert copied.difference == pytest.approx(alone.difference)
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert (copied.seeds, copied.clips, copied.only_a) == (5, 80, 5 * alone.only_a)
    # Taken for independent, they would be.
    assert sign_flip_p(np.repeat(a.astype(int) - b.astype(int), 5)) < 0.5 * alone.p


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    draw = np.random.default_rng(2)
    alarms = 0
    for _ in range(400):
        skill = draw.random((60, 1))  # clips differ in how hard they are; sides do not
        sides = [draw.random((60, 3)) < skill for _ in range(2)]
        alarms += compare_accuracy(*sides, resamples=1).p < 0.05
    assert alarms / 400 < 0.075


def test_order_of_clips_does_not_matter_and_other_clips_are_refused() -> None:
    a, b = table(10, 6, 2, 5)
    one, other = records(a), records(b)
    shuffled = other.sample(frac=1, random_state=0)
    assert compare(one, shuffled, "multiclass") == compare(one, other, "multiclass")
    with pytest.raises(StoreError, match="0 are only in one and 1 only in the other, 22 in both"):
        compare(one, other.iloc[:-1], "multiclass")  # one more clip on one side
    with pytest.raises(StoreError, match="occurs twice"):
        compare(one, pd.concat([other, other.head(1)]), "multiclass")
    with pytest.raises(StoreError, match="3 of 23 clips have another label"):
        compare(one, other.assign(label=[1] * 3 + [0] * 20), "multiclass")
    with pytest.raises(StoreError, match="given 2 and 1"):
        compare([one, one], other, "multiclass")


def scored(signal: float, seed: int, clips: int = 120) -> tuple[np.ndarray, np.ndarray]:
    truth = (np.random.default_rng(9).random((clips, 5)) < 0.3).astype(float)
    return np.random.default_rng(seed).normal(size=(clips, 5)) + signal * truth, truth


def test_paired_bootstrap_of_map() -> None:
    (strong, truth), (weak, _) = scored(2.0, 0), scored(0.5, 1)
    found = compare(multilabel_records(strong, truth), multilabel_records(weak, truth), "multilabel", resamples=300)
    exact = [average_precision_score(truth, side, average="macro") for side in (strong, weak)]
    assert (found.a, found.b) == pytest.approx(exact)
    assert found.difference == pytest.approx(exact[0] - exact[1])
    assert found.low < found.difference < found.high
    assert found.low > 0.1
    assert found.p == pytest.approx(2 / 301)  # no smaller than 300 draws can show
    same = compare(multilabel_records(weak, truth), multilabel_records(weak, truth), "multilabel", resamples=50)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    turned = compare(multilabel_records(weak, truth), multilabel_records(strong, truth), "multilabel", resamples=300)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_pairing_tells_what_two_intervals_hide() -> None:
    base, truth = scored(1.0, 0)
    slightly = base + 0.25 * truth  # better on the very same clips
    one, other = multilabel_records(slightly, truth), multilabel_records(base, truth)
    found = compare(one, other, "multilabel", resamples=300)
    assert found.p < 0.02
    loose = compare(multilabel_records(scored(1.25, 3)[0], truth), other, "multilabel", resamples=300)
    assert found.high - found.low < 0.5 * (loose.high - loose.low)


def test_map_over_seeds_is_the_mean_over_seeds() -> None:
    truth = scored(1.0, 0)[1]
    strong = [multilabel_records(scored(1.5, seed)[0], truth) for seed in range(3)]
    weak = [multilabel_records(scored(1.0, seed + 10)[0], truth) for seed in range(3)]
    found = compare(strong, weak, "multilabel", resamples=100)
    singles = [compare(a, b, "multilabel", resamples=2).difference for a, b in zip(strong, weak, strict=True)]
    assert found.difference == pytest.approx(np.mean(singles))
    assert found.seeds == 3


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_condition_summary(task: str) -> None:
    strong, truth = scored(2.0, 0)
    weak = scored(0.3, 1)[0]
    if task == "multiclass":
        before, after = table(60, 40, 5, 15)
        label: list = [0] * 120
    else:
        before, after, label = np.ones(120, bool), np.zeros(120, bool), truth.tolist()
    frame = pd.DataFrame(
        {
            "id": [f"clip/{n}" for n in range(120)],
            "label": label,
            "clean_correct": before,
            "correct": after,
            "clean_logits": strong.tolist(),
            "logits": weak.tolist(),
        }
    )
    told = condition_summary(frame, task, {"victim": "toy"})
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["victim"], told["clips"]) == ("toy", 120)
    if task == "multiclass":
        assert told["clean"]["score"] == pytest.approx(100 / 120)
        assert told["changed"]["score"] == pytest.approx(65 / 120)  # clips that came right count
        assert told["difference"]["only_b"] == 40
    else:
        assert told["multilabel"]["clean"]["d_prime"] > told["multilabel"]["changed"]["d_prime"] + 0.5
    difference = told["changed"]["score"] - told["clean"]["score"]
    assert told["difference"]["difference"] == pytest.approx(difference)
    assert told["difference"]["high"] < 0
    assert (clean_view(frame)["correct"] == frame["clean_correct"]).all()
