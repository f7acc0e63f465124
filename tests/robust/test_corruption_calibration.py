"""Calibration against values worked out by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from robust.errors import DataError
from robust.metrics.calibration import calibration, expected_calibration_error


def test_ece_of_five_clips_by_hand():
    # Bins of fifths: (0.4, 0.6] holds .5 and .55 (one right), (0.8, 1] holds .9, .95 and 1 (two right).
    confidence, right = [0.5, 0.55, 0.9, 0.95, 1.0], [True, False, True, False, True]
    by_hand = (2 * abs(1 / 2 - 0.525) + 3 * abs(2 / 3 - 0.95)) / 5
    assert expected_calibration_error(confidence, right, bins=5) == pytest.approx(by_hand)


def test_an_edge_belongs_to_the_bin_below_and_the_ends_have_bins():
    assert expected_calibration_error([0.2, 0.1], [True, False], bins=5) == pytest.approx(abs(1 - 0.3) / 2)
    assert expected_calibration_error([0.2, 0.3], [True, False], bins=5) == pytest.approx((0.8 + 0.3) / 2)
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0


def test_one_label_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
    found = calibration(logits, [0, 2])
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2)
    assert found.brier == pytest.approx(((0.3**2 + 0.2**2 + 0.1**2) + (0.5**2 + 0.25**2 + 0.75**2)) / 2)
    assert found.ece == pytest.approx((0.3 + 0.5) / 2)


def test_many_clips_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal((500, 4)), rng.integers(0, 4, 500)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = calibration(logits, labels)
    assert found.nll == pytest.approx(log_loss(labels, shares))
    assert found.brier == pytest.approx(brier_score_loss(labels, shares, scale_by_half=False))


def test_many_labels_by_hand():
    found = calibration([[0.0, math.log(3.0)]], [[1.0, 0.0]])
    assert found.nll == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert found.brier == pytest.approx((0.25 + 0.75**2) / 2)
    assert found.ece == pytest.approx((0.5 + 0.75) / 2)


def test_extreme_logits_stay_finite():
    found = calibration([[1e4, -1e4], [-1e4, 1e4]], [0, 0])
    assert found.nll == pytest.approx(1e4)
    assert found.ece == pytest.approx(0.5)
    assert calibration([[1e4, -1e4]], [[1.0, 0.0]]).nll == 0


@pytest.mark.parametrize(
    ("logits", "labels"),
    [([[0.0, 1.0]], [0, 1]), ([0.0, 1.0], [0, 1]), ([[math.nan, 0.0]], [0]), (np.zeros((0, 2)), [])],
)
def test_what_cannot_be_scored_is_refused(logits, labels):
    with pytest.raises(DataError, match="Calibration needs"):
        calibration(logits, labels)
