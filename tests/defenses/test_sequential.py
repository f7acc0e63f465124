"""The sequential test: its error where it is largest, its decisions beside the fixed test's, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm

from attacks.errors import ThreatModelError
from defenses.sequential import GIVEN_UP, Sequential
from defenses.smoothing import certify, lower_bound, votes_needed


def outcomes(test: Sequential, p: float, runs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Certified or not, votes cast, and whether the fixed test certifies, for each simulated clip."""
    generator = np.random.default_rng(seed)
    certified, cast, fixed = [], [], []
    for _ in range(runs):
        votes = generator.random(test.n) < p
        decision, at = test.decide(votes)
        certified.append(decision == "certified")
        cast.append(next(look for look in test.looks if look >= at))
        won = int(votes.sum())
        fixed.append(certify([1, 0], [won, test.n - won], test.sigma, test.alpha).radius >= test.radius)
    return np.array(certified), np.array(cast), np.array(fixed)


@pytest.mark.parametrize("radius", [0.0, 0.2])
def test_error_at_the_border_itself(radius: float) -> None:
    """p = p0 is the worst case; alpha is large so that few runs show an excess (z = 4)."""
    test = Sequential(radius, 0.25, 200, 0.1)
    runs = 1500
    certified, _, _ = outcomes(test, test.p0, runs)
    assert certified.sum() <= binom.ppf(norm.cdf(4), runs, 0.1)
    assert certified.sum() > 0.2 * 0.1 * runs  # a test that never certifies would pass, too


def test_expected_capital_is_one_at_the_border_and_falls_below_it() -> None:
    """By enumeration of all outcomes of 30 votes: E M = 1 at p0, and less for smaller p."""
    test = Sequential(0.2, 0.25, 500, 0.05)
    won = np.arange(31)
    capital = np.exp(test.log_capital(won, 30 - won))
    assert float(binom.pmf(won, 30, test.p0) @ capital) == pytest.approx(1.0, rel=1e-9)
    assert float(binom.pmf(won, 30, 0.9 * test.p0) @ capital) < 0.9
    assert float(binom.pmf(won, 30, min(1.1 * test.p0, 0.99)) @ capital) > 1.5


def test_capital_is_the_mixture_it_claims_to_be() -> None:
    test, won, against = Sequential(0.2, 0.25, 500, 0.05), 17, 3

    def prior(q: float) -> float:
        return q**-0.5 * (1 - q) ** -0.5

    def ratio(q: float) -> float:
        return (q / test.p0) ** won * ((1 - q) / (1 - test.p0)) ** against * prior(q)

    mixed = quad(ratio, test.p0, 1)[0] / quad(prior, test.p0, 1)[0]
    found = test.log_capital(np.array([won]), np.array([against]))
    assert float(found[0]) == pytest.approx(np.log(mixed), rel=1e-6)


def test_decisions_are_those_of_all_votes_at_half_the_cost() -> None:
    """Over clips of all kinds (p uniform from 0.4 to 1) at a radius in the middle."""
    test = Sequential(0.2, 0.25, 1000, 0.001)
    generator = np.random.default_rng(1)
    found = [outcomes(test, p, 1, seed) for seed, p in enumerate(generator.uniform(0.4, 1, 150))]
    certified, cast, fixed = (np.concatenate(part) for part in zip(*found, strict=True))
    assert (certified == fixed).mean() > 0.98
    assert test.n / cast.mean() > 2
    assert 10 < fixed.sum() < 140


def test_answers_worth_having_are_seldom_given_up() -> None:
    test = Sequential(0.2, 0.25, 300, 0.01)
    certified, _, fixed = outcomes(test, test.least / test.n + 0.03, 600)
    assert (fixed & ~certified).sum() <= binom.ppf(norm.cdf(4), 600, 2 * GIVEN_UP)


def test_stops_in_time() -> None:
    test = Sequential(0.25, 0.25, 2000, 0.001)
    decision, at = test.decide(np.ones(2000, dtype=bool))
    assert decision == "certified"
    assert at < 150
    decision, at = test.decide(np.zeros(2000, dtype=bool))
    assert decision == "given up"
    assert at < 32
    assert test.decide(np.array([True, False]))[0] == "open"


def test_last_look_is_the_ordinary_test_at_half_alpha() -> None:
    test = Sequential(0.2, 0.25, 400, 0.01)
    assert float(lower_bound(test.least, 400, 0.005)) >= test.p0 > float(lower_bound(test.least - 1, 400, 0.005))
    assert test.looks[-1] == 400
    assert all(look % 8 == 0 for look in test.looks[:-1])


def test_radius_beyond_the_votes_is_refused_with_the_number() -> None:
    needed = votes_needed(0.5, 0.25, 0.0005)
    Sequential(0.5, 0.25, needed, 0.001)
    with pytest.raises(ThreatModelError, match=f"n = {needed} votes"):
        Sequential(0.5, 0.25, needed - 1, 0.001)
    with pytest.raises(ThreatModelError, match="0 or more"):
        Sequential(-0.1, 0.25, 100, 0.001)


def test_unanimous_vote_needed_at_the_ceiling() -> None:
    needed = votes_needed(0.5, 0.25, 0.0005)
    test = Sequential(0.5, 0.25, needed, 0.001)
    votes = np.ones(needed, dtype=bool)
    assert test.decide(votes)[0] == "certified"
    votes[3] = False
    assert test.decide(votes) == ("given up", 4)
