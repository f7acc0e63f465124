"""mAP, mAUC and d' against scikit-learn, with ties, saturation and classes that cannot be rated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from robust.errors import DataError
from robust.metrics.classification import mean_average_precision
from robust.metrics.multilabel import Ranking, bootstrap_weights, class_table, d_prime, multilabel_scores


def ranked(clips: int = 300, classes: int = 6, signal: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = (draw.random((clips, classes)) < draw.uniform(0.02, 0.5, classes)).astype(np.float32)
    truth[:2] = [[0.0], [1.0]]  # every class with both outcomes
    return draw.normal(size=(clips, classes)) + signal * truth, truth


def reference(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ap = [average_precision_score(t, s) for t, s in zip(truth.T, logits.T, strict=True)]
    return np.array(ap), np.array([roc_auc_score(t, s) for t, s in zip(truth.T, logits.T, strict=True)])


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_equals_scikit_learn_with_and_without_ties(digits: int | None) -> None:
    logits, truth = ranked()
    logits = logits if digits is None else logits.round(digits)
    table, (ap, auc) = class_table(logits, truth), reference(logits, truth)
    np.testing.assert_allclose(table["ap"], ap, rtol=1e-12)
    np.testing.assert_allclose(table["auc"], auc, rtol=1e-12)
    found = multilabel_scores(logits, truth, resamples=5)
    assert found.mean_ap.score == pytest.approx(ap.mean(), rel=1e-12)
    assert found.mean_auc.score == pytest.approx(auc.mean(), rel=1e-12)
    assert found.d_prime == pytest.approx(math.sqrt(2) * norm.ppf(auc.mean()), rel=1e-9)
    assert (found.classes, found.clips) == (6, 300)


def test_saturated_float16_sigmoids_lose_what_float64_logits_keep() -> None:
    logits, truth = ranked(clips=2000, signal=2.0)
    logits += 12  # a confident classifier: float16 sigmoids are all 1
    saturated = (1 / (1 + np.exp(-logits))).astype(np.float16)
    assert len(np.unique(saturated)) < 30
    table, (ap, auc) = class_table(saturated, truth), reference(saturated.astype(np.float64), truth)
    np.testing.assert_allclose(table["ap"], ap, rtol=1e-12)  # exact about the ties it is given
    np.testing.assert_allclose(table["auc"], auc, rtol=1e-12)
    kept = class_table(logits, truth)
    assert (kept["auc"] > table["auc"] + 0.05).all()


def test_any_increasing_map_gives_the_same_and_infinite_logits_are_ranked() -> None:
    logits, truth = ranked()
    one, other = Ranking(logits, truth).scores(), Ranking(np.exp(3 * logits), truth).scores()
    np.testing.assert_array_equal(one, other)
    cut = np.where(logits > 1, np.inf, np.where(logits < -1, -np.inf, logits))
    steps = np.clip(logits, -1, 1)
    np.testing.assert_array_equal(Ranking(cut, truth).scores(), Ranking(steps, truth).scores())


def test_constant_scores_give_the_prevalence_and_half() -> None:
    _, truth = ranked()
    table = class_table(np.zeros(truth.shape), truth)
    np.testing.assert_allclose(table["ap"], truth.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(table["auc"], 0.5)
    np.testing.assert_allclose(table["d_prime"], 0.0, atol=1e-12)


def test_classes_without_both_outcomes_are_left_out_of_the_mean() -> None:
    logits, truth = ranked()
    truth[:, 0], truth[:, 1] = 0, 1
    table, found = class_table(logits, truth, names=list("abcdef")), multilabel_scores(logits, truth, resamples=5)
    assert table["ap"].isna().tolist() == [True, True, False, False, False, False]
    assert table["class"].tolist() == list("abcdef")
    assert table["positives"].tolist() == truth.sum(axis=0).tolist()
    assert found.mean_ap.score == pytest.approx(table["ap"].mean(), rel=1e-12)
    assert found.classes == 4
    nothing = multilabel_scores(logits, np.zeros_like(truth), resamples=5)
    assert math.isnan(nothing.mean_ap.score)
    assert (nothing.mean_ap.low, nothing.mean_ap.high, nothing.d_prime) == (0.0, 1.0, None)


def test_agrees_with_the_map_of_the_summaries() -> None:
    logits, truth = ranked()
    one, other = multilabel_scores(logits, truth).mean_ap, mean_average_precision(logits, truth)
    assert one.score == pytest.approx(other.score, rel=1e-12)
    assert one.low == pytest.approx(other.low, abs=0.02)
    assert one.high == pytest.approx(other.high, abs=0.02)


def test_weights_are_repetitions() -> None:
    logits, truth = ranked(clips=40)
    weights = np.concatenate(bootstrap_weights(40, 7, seed=1))
    assert weights.shape == (7, 40)
    assert (weights.sum(axis=1) == 40).all()
    ap, auc = Ranking(logits.round(1), truth).scores(weights)
    for draw, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(40), counts)
        rated = truth[rows].any(axis=0) & ~truth[rows].all(axis=0)
        assert rated.any()
        one, other = reference(logits.round(1)[rows][:, rated], truth[rows][:, rated])
        np.testing.assert_allclose(ap[draw, rated], one, rtol=1e-12)
        np.testing.assert_allclose(auc[draw, rated], other, rtol=1e-12)
        assert np.isnan(ap[draw, ~rated]).all()


def test_intervals_cover_and_repeat() -> None:
    logits, truth = ranked(clips=30_000, classes=1, seed=5)
    whole = multilabel_scores(logits, truth, resamples=1).mean_auc.score
    covered = 0
    for first in range(0, 30_000, 300):
        found = multilabel_scores(logits[first : first + 300], truth[first : first + 300]).mean_auc
        covered += found.low <= whole <= found.high
    assert 85 <= covered <= 100  # of 100 samples at 95 %
    assert multilabel_scores(logits[:300], truth[:300]) == multilabel_scores(logits[:300], truth[:300])


def test_d_prime() -> None:
    assert d_prime(0.978) == pytest.approx(2.847, abs=2e-3)  # the author's mid fusion, methods.md 1.2
    assert d_prime(0.5) == pytest.approx(0.0)
    assert d_prime(0.3) == pytest.approx(-d_prime(0.7))
    assert d_prime(0.3) < 0
    assert d_prime(1.0) is None
    assert d_prime(0.0) is None
    assert d_prime(math.nan) is None


def test_perfect_ranking_has_no_finite_d_prime() -> None:
    _, truth = ranked()
    found = multilabel_scores(truth, truth, resamples=5)
    assert found.mean_auc.score == 1.0
    assert found.d_prime is None
    assert class_table(truth, truth)["d_prime"].isna().all()


def test_bad_input_is_refused() -> None:
    logits, truth = ranked()
    logits[3, 2] = np.nan
    with pytest.raises(DataError, match="1 of 300 clips are NaN"):
        multilabel_scores(logits, truth)
    with pytest.raises(DataError, match=r"\(300, 5\) and \(300, 6\)"):
        multilabel_scores(logits[:, :5], truth)
    with pytest.raises(DataError, match="2 names for 6 classes"):
        class_table(truth, truth, names=["a", "b"])
