"""Certificates against closed forms, SciPy's own binomial test, and simulated votes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm

from attacks.errors import ThreatModelError
from defenses.smoothing import (
    ABSTAIN,
    GaussianChannel,
    ceiling,
    certified_radius,
    certify,
    certify_labels,
    check_reach,
    high_probability,
    lower_bound,
    predict,
    predict_labels,
    radius_snr_db,
    votes_needed,
)


@pytest.mark.parametrize(("k", "n", "alpha"), [(0, 10, 0.05), (1, 10, 0.05), (73, 100, 0.001), (100, 100, 0.001)])
def test_lower_bound_is_that_of_an_exact_test(k: int, n: int, alpha: float) -> None:
    theirs = binomtest(k, n, 0.5, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    assert float(lower_bound(k, n, alpha)) == pytest.approx(theirs, abs=1e-12)


def test_lower_bound_covers_and_hardly_more() -> None:
    """By enumeration: the bound exceeds p with probability alpha at most, for every p, and comes near to it."""
    n, alpha = 60, 0.05
    bounds = lower_bound(np.arange(n + 1), n, alpha)
    errors = [float(binom.pmf(np.arange(n + 1), n, p)[bounds > p].sum()) for p in np.linspace(0.05, 0.95, 181)]
    assert max(errors) <= alpha + 1e-12
    assert max(errors) > 0.8 * alpha


def test_certificate_of_known_counts() -> None:
    """Cohen et al.: 100 unanimous votes at alpha 0.001 show 1.50 sigma, 100,000 show 3.81 sigma."""
    assert ceiling(1.0, 100, 0.001) == pytest.approx(norm.ppf(0.001 ** (1 / 100)), rel=1e-9)
    assert ceiling(1.0, 100, 0.001) == pytest.approx(1.50, abs=0.005)
    assert ceiling(0.5, 100_000, 0.001) == pytest.approx(0.5 * 3.81, abs=0.005)
    found = certify([3, 90, 7], [10, 970, 20], 0.25, 0.001)
    expected = binomtest(970, 1000, 0.5, alternative="greater").proportion_ci(0.999, method="exact").low
    assert (found.answer, found.votes_for, found.votes) == (1, 970, 1000)
    assert found.radius == pytest.approx(0.25 * norm.ppf(expected), rel=1e-9)


def test_class_is_chosen_by_the_first_votes_alone() -> None:
    """The class ahead in the test is not the one tested: choosing it there would void the confidence."""
    assert certify([60, 40], [100, 900], 0.25, 0.001).answer == ABSTAIN
    assert certify([60, 40], [100, 900], 0.25, 0.001).radius == 0.0


def test_ceiling_is_reached_by_a_unanimous_vote_and_no_other() -> None:
    most = ceiling(0.25, 200, 0.01)
    assert certify([9, 1], [200, 0], 0.25, 0.01).radius == pytest.approx(most, rel=1e-9)
    assert certify([9, 1], [199, 1], 0.25, 0.01).radius < most


@pytest.mark.parametrize("sigmas", [0.0, 0.3, 1.0, 2.0, 3.5, 5.0])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_votes_needed_is_the_least_number_that_will_do(sigmas: float, alpha: float) -> None:
    needed = votes_needed(sigmas * 0.25, 0.25, alpha)
    assert ceiling(0.25, needed, alpha) >= sigmas * 0.25
    assert ceiling(0.25, needed, alpha) > 0
    if needed > 1:
        fewer = ceiling(0.25, needed - 1, alpha)
        assert fewer < sigmas * 0.25 or fewer == 0


def test_too_few_votes_are_refused_with_the_number_that_would_do() -> None:
    needed = votes_needed(0.5, 0.25, 0.001)
    check_reach(0.5, 0.25, needed, 0.001)
    with pytest.raises(ThreatModelError, match=f"n = {needed} votes"):
        check_reach(0.5, 0.25, needed - 1, 0.001)
    with pytest.raises(ThreatModelError, match="100 sigmas"):
        votes_needed(25.0, 0.25, 0.001)


def test_each_label_gets_its_share_of_alpha() -> None:
    found = certify_labels([90, 10, 50], 100, [990, 0, 500], 1000, 0.25, 0.003)
    assert [one.answer for one in found] == [1, 0, ABSTAIN]
    lone = certify([0, 1], [10, 990], 0.25, 0.001)
    assert found[0].radius == pytest.approx(lone.radius, rel=1e-12)
    assert found[1].radius == pytest.approx(ceiling(0.25, 1000, 0.001), rel=1e-9)


def test_predict_abstains_where_two_classes_may_be_equal() -> None:
    assert predict([52, 48, 0], 0.001) == ABSTAIN
    assert predict([90, 10, 0], 0.001) == 0
    assert predict([0, 0], 0.001) == ABSTAIN
    assert predict_labels([1000, 0, 510], 1000, 0.001) == [1, 0, ABSTAIN]


def test_predict_is_wrong_as_seldom_as_it_says() -> None:
    """By enumeration with two equal classes: either is named with probability alpha at most."""
    n, alpha = 40, 0.05
    named = [k for k in range(n + 1) if predict([k, n - k], alpha) != ABSTAIN]
    assert 0.2 * alpha < float(binom.pmf(named, n, 0.5).sum()) <= alpha


def test_high_probability_figure_holds_and_beats_bernstein() -> None:
    rho, alpha, clips = 0.001, 0.001, 200
    taken = 0.8 - high_probability(0.8, clips, alpha, rho)
    wrong = round(taken * clips)
    assert binom.sf(wrong, clips, alpha) <= rho < binom.sf(wrong - 1, clips, alpha)
    log = math.log(1 / rho)
    bernstein = alpha + math.sqrt(2 * alpha * (1 - alpha) * log / clips) + log / (3 * clips)
    assert taken <= bernstein
    assert high_probability(0.0, clips, alpha) == 0.0


def test_radius_as_snr() -> None:
    assert radius_snr_db(10.0, 1.0) == pytest.approx(20.0)
    assert radius_snr_db(1.0, 0.0) == np.inf


def test_noise_of_the_channel_has_its_level_and_is_each_clips_own() -> None:
    channel, clips = GaussianChannel(0.25, 16_000), torch.zeros(3, 20_000)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 5)]
    heard = channel(clips, channel.draw(clips, generators))
    assert heard.std(dim=1).numpy() == pytest.approx(0.25, rel=0.03)
    assert torch.equal(heard[0], heard[2])
    assert not torch.equal(heard[0], heard[1])


def test_padding_is_smoothed_too() -> None:
    channel, clips = GaussianChannel(0.25, 16_000), torch.zeros(1, 100)
    drawn = channel.draw(clips, [torch.Generator().manual_seed(0)])
    assert torch.equal(channel(clips, drawn, torch.zeros(1, 100, dtype=torch.bool)), channel(clips, drawn))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(ThreatModelError, match="sigma must be above 0"):
        ceiling(sigma, 100, 0.001)
    with pytest.raises(ThreatModelError, match="sigma must be above 0"):
        GaussianChannel(sigma, 16_000)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_alpha_must_be_a_probability(alpha: float) -> None:
    with pytest.raises(ThreatModelError, match="between 0 and 1"):
        certify([1, 0], [10, 0], 0.25, alpha)


def test_other_bad_input() -> None:
    with pytest.raises(ThreatModelError, match="1 vote or more"):
        ceiling(0.25, 0, 0.001)
    with pytest.raises(ThreatModelError, match="0 or more"):
        votes_needed(-0.1, 0.25, 0.001)


def test_radius_of_a_bound_below_a_half_is_none() -> None:
    assert certified_radius([0.2, 0.5, norm.cdf(2.0)], 0.5).tolist() == pytest.approx([0, 0, 1.0])
