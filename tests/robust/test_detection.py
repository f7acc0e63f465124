"""Detection metrics by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn import metrics

from attacks.errors import ThreatModelError
from robust.metrics.detection import (
    choose_threshold,
    detection,
    detections,
    equal_error,
    poisson_interval,
    stream_detection,
    tradeoff,
)


def cases(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.4
    return truth, np.round(rng.normal(truth, 1.0), 1)  # rounded, so that scores tie


class TestClips:
    def test_by_hand(self):
        truth = np.array([1, 1, 1, 0, 0], dtype=bool)
        found = np.array([1, 1, 0, 1, 0], dtype=bool)
        told = detection(truth, found)
        assert (told.true_positives, told.false_positives, told.false_negatives, told.true_negatives) == (2, 1, 1, 1)
        assert told.f1.score == pytest.approx(2 / 3)
        assert told.precision.score == pytest.approx(2 / 3)
        assert told.recall.clips == 3

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_scikit_learn(self, seed):
        truth, scores = cases(seed)
        told = detection(truth, scores > 0.6)
        assert told.f1.score == pytest.approx(metrics.f1_score(truth, scores > 0.6))
        assert told.precision.score == pytest.approx(metrics.precision_score(truth, scores > 0.6))
        assert told.recall.score == pytest.approx(metrics.recall_score(truth, scores > 0.6))

    def test_the_interval_is_that_of_resampled_clips(self):
        truth, scores = cases(0)
        found, rng = scores > 0.6, np.random.default_rng(7)
        draws = [rng.integers(0, len(truth), len(truth)) for _ in range(3000)]
        slow = np.percentile([metrics.f1_score(truth[draw], found[draw]) for draw in draws[:1000]], [2.5, 97.5])
        told = detection(truth, found, resamples=3000).f1
        assert [told.low, told.high] == pytest.approx(slow.tolist(), abs=0.012)

    def test_nothing_found_and_nothing_there(self):
        assert detection(np.array([True, False]), np.array([False, False])).f1.score == 0
        assert detection(np.array([False, False]), np.array([False, False])).f1.score == 0
        with pytest.raises(ThreatModelError, match="from 1"):
            detection(np.array([], dtype=bool), np.array([], dtype=bool))
        with pytest.raises(ThreatModelError, match="must be"):
            detection(np.array([True]), np.array([True, False]))


class TestThresholds:
    @pytest.mark.parametrize("seed", range(3))
    def test_error_rates_are_those_of_scikit_learn(self, seed):
        truth, scores = cases(seed)
        curve = tradeoff(truth, scores)
        false_alarms, hits, thresholds = metrics.roc_curve(truth, scores, drop_intermediate=False)
        assert curve.thresholds[:-1].tolist() == thresholds[:0:-1].tolist()
        np.testing.assert_allclose(curve.false_alarm_rate, false_alarms[::-1])
        np.testing.assert_allclose(1 - curve.miss_rate, hits[::-1])
        for place in (0, 10, -2):
            found = scores >= curve.thresholds[place]
            assert curve.f1[place] == pytest.approx(metrics.f1_score(truth, found))

    def test_by_hand(self):
        curve = tradeoff(np.array([0, 0, 1, 1], dtype=bool), np.array([1.0, 3.0, 2.0, 4.0]))
        assert curve.thresholds.tolist() == [1, 2, 3, 4, math.inf]
        assert curve.false_alarm_rate.tolist() == [1, 0.5, 0.5, 0, 0]
        assert curve.miss_rate.tolist() == [0, 0, 0.5, 0.5, 1]
        assert equal_error(curve) == (3.0, 0.5)
        assert choose_threshold(curve) == 2.0  # F1 0.8
        assert choose_threshold(curve, most_false_alarms=0.2) == 4.0
        assert choose_threshold(curve, most_false_alarms=1.0) == 1.0

    def test_one_kind_or_nan_is_refused(self):
        with pytest.raises(ThreatModelError, match="with and without"):
            tradeoff(np.array([True, True]), np.array([1.0, 2.0]))
        with pytest.raises(ThreatModelError, match="1 NaN"):
            tradeoff(np.array([True, False]), np.array([1.0, math.nan]))


class TestStreams:
    def test_refractory_period(self):
        scores = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 1], dtype=float)
        for refractory_s, wanted in ((0.0, [1, 4, 8]), (0.3, [1, 4, 8]), (0.4, [1, 8]), (10.0, [1])):
            found = detections(scores, 0.5, frames_per_second=10, refractory_s=refractory_s)
            assert found.tolist() == pytest.approx([frame / 10 for frame in wanted])

    def test_a_score_that_stays_up_speaks_again_after_the_period(self):
        assert detections(np.ones(10), 0.5, frames_per_second=1, refractory_s=4).tolist() == [0, 4, 8]
        assert detections(np.full(5, -math.inf), 0.0, frames_per_second=1).tolist() == []

    def test_by_hand(self):
        onsets, offsets = np.array([1.0, 5.0, 9.0]), np.array([2.0, 6.0, 10.0])
        told = stream_detection(
            np.array([1.5, 2.4, 3.0, 6.5, 8.0]), onsets, offsets, duration_s=1800.0, tolerance_s=0.5
        )
        # 1.5 finds the first, 2.4 finds it again, 3.0 and 8.0 belong to none, 6.5 is the second's last moment.
        assert (told.events, told.detected, told.false_alarms) == (3, 2, 2)
        assert told.delays_s.tolist() == pytest.approx([-0.5, 0.5])
        assert told.median_delay_s == pytest.approx(0.0)
        assert told.false_alarms_per_hour == pytest.approx(4.0)
        assert told.miss_rate.score == pytest.approx(1 / 3)
        assert told.false_alarms_low < 4.0 < told.false_alarms_high

    def test_nothing_detected(self):
        told = stream_detection(np.array([]), np.array([1.0]), np.array([2.0]), duration_s=3600.0)
        assert told.false_alarms_per_hour == 0
        assert told.miss_rate.score == 1
        assert math.isnan(told.median_delay_s)

    def test_poisson_intervals_are_the_published_ones(self):
        # Garwood's table: 0 -> (0, 3.689), 5 -> (1.623, 11.668).
        assert poisson_interval(0) == pytest.approx((0.0, 3.689), abs=1e-3)
        assert poisson_interval(5) == pytest.approx((1.623, 11.668), abs=1e-3)

    def test_bad_input_is_refused(self):
        with pytest.raises(ThreatModelError, match="frames_per_second"):
            detections(np.zeros(3), 0.0, frames_per_second=0)
        with pytest.raises(ThreatModelError, match="later end"):
            stream_detection(np.array([]), np.array([2.0]), np.array([1.0]), duration_s=1.0)


@pytest.mark.parametrize(("hits", "alarms", "misses"), [(0, 0, 12), (0, 3, 9), (12, 0, 0)])
def test_all_or_nothing_has_an_interval_too(hits: int, alarms: int, misses: int) -> None:
    truth = np.array([True] * hits + [False] * alarms + [True] * misses + [False] * 20)
    found = np.array([True] * (hits + alarms) + [False] * (misses + 20))
    f1 = detection(truth, found).f1
    assert f1.score in (0.0, 1.0)
    assert f1.low <= f1.score <= f1.high
    assert 0.05 < f1.high - f1.low < 0.5
