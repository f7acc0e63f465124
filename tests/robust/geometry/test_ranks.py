import math

import numpy as np
import pytest
from scipy import stats

from robust.errors import DataError
from robust.metrics.geometry.ranks import correlation, family_correlation


def _tied(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 6, count).astype(float), generator.integers(0, 5, count).astype(float)


ORACLES = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "pearson": stats.pearsonr}


@pytest.mark.parametrize("method", ORACLES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_coefficient_is_scipys_with_ties(method: str, seed: int) -> None:
    x, y = _tied(25, seed)
    found = correlation(x, y, method=method, resamples=10, permutations=10)
    assert found.estimate.value == pytest.approx(ORACLES[method](x, y).statistic, abs=1e-12)
    assert found.estimate.count == 25


def test_kendall_counted_by_hand() -> None:
    # Of the 6 pairs of 4 things, (3, 4) alone is discordant: (5 - 1) / 6.
    assert correlation([1, 2, 3, 4], [1, 2, 4, 3], method="kendall").estimate.value == pytest.approx(4 / 6)


@pytest.mark.parametrize("method", ["spearman", "kendall"])
def test_exact_p_of_five_is_scipys_permutation_test(method: str) -> None:
    x, y = np.arange(5.0), np.array([1.0, 0.0, 2.0, 4.0, 3.0])
    expected = stats.permutation_test(
        (y,),
        lambda order: ORACLES[method](x, order).statistic,
        permutation_type="pairings",
        alternative="two-sided",
        n_resamples=np.inf,
    ).pvalue
    assert correlation(x, y, method=method).p == pytest.approx(expected)


def test_perfect_order_of_four_has_the_least_p_there_is() -> None:
    found = correlation([1, 2, 3, 4], [10, 20, 30, 40])
    assert found.estimate.value == 1
    assert found.p == pytest.approx(2 / 24)


def test_p_of_random_orders_agrees_with_the_t_approximation() -> None:
    generator = np.random.default_rng(4)
    x = generator.normal(size=40)
    y = 0.35 * x + generator.normal(size=40)
    assert correlation(x, y).p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.02)


def test_interval_covers_the_true_coefficient() -> None:
    generator, inside = np.random.default_rng(7), 0
    truth = 6 / math.pi * math.asin(0.6 / 2)  # Spearman's of a bivariate normal with correlation 0.6
    for trial in range(60):
        x = generator.normal(size=60)
        y = 0.6 * x + 0.8 * generator.normal(size=60)
        estimate = correlation(x, y, resamples=200, permutations=1, seed=trial).estimate
        inside += estimate.low <= truth <= estimate.high
    assert 51 <= inside <= 60


def test_few_pairs_have_no_interval_and_constants_nothing() -> None:
    three = correlation([1, 2, 3], [3, 1, 2])
    assert three.estimate.value == pytest.approx(-0.5)
    assert math.isnan(three.estimate.low)
    assert math.isnan(three.estimate.high)
    assert three.p == 1.0
    for nothing in (correlation([1, 2, 3, 4], [5, 5, 5, 5]), correlation([], []), correlation([1], [2])):
        assert math.isnan(nothing.estimate.value)
        assert math.isnan(nothing.p)


def test_pairs_with_nan_are_left_out_and_infinity_ranks_last() -> None:
    x, y = [1, 2, math.nan, 3, math.inf, 9], [1, 2, 3, 4, 5, math.nan]
    for method in ("spearman", "kendall"):
        found = correlation(x, y, method=method)
        assert (found.estimate.value, found.estimate.count) == (1.0, 4)


def test_seed_decides_and_order_of_arguments_does_not() -> None:
    x, y = _tied(20, 5)
    assert correlation(x, y, method="kendall", seed=1) == correlation(x, y, method="kendall", seed=1)
    assert correlation(x, y, seed=1).estimate != correlation(x, y, seed=2).estimate
    assert correlation(x, y).estimate.value == correlation(y, x).estimate.value
    assert correlation(x, np.exp(y)).estimate == correlation(x, y).estimate  # ranks alone count


def test_simpsons_paradox_within_and_across_families() -> None:
    # Falls within each family; rises across them.
    steps = np.arange(6.0)
    x = np.concatenate([steps, steps + 20])
    y = np.concatenate([-steps, -steps + 40])
    found = family_correlation(x, y, ["a"] * 6 + ["b"] * 6, method="kendall")
    assert found.within.estimate.value == -1.0
    assert found.across.estimate.value > 0
    assert set(found.by_family) == {"a", "b"}
    assert found.within.p < 0.01


def test_mean_of_families_and_those_left_out() -> None:
    x = np.array([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 7, 7, 7, 7.0])
    y = np.array([1, 2, 3, 4, 1, 2, 4, 3, 9, 1, 1, 2, 3, 4.0])
    families = ["a"] * 4 + ["b"] * 4 + ["small"] * 2 + ["flat"] * 4
    found = family_correlation(x, y, families, method="kendall")
    assert found.within.estimate.value == pytest.approx((1 + 4 / 6) / 2)
    assert found.within.estimate.count == 8
    assert found.left_out == ("flat", "small")
    assert found.across.estimate.count == 14
    alone = family_correlation(x[8:10], y[8:10], ["small"] * 2)
    assert math.isnan(alone.within.estimate.value)
    assert math.isnan(alone.within.p)


def test_permutations_stay_inside_families() -> None:
    # Across everything the order is perfect, within families it is chance: p within must not be small.
    generator = np.random.default_rng(3)
    x = np.repeat([0.0, 100.0, 200.0], 8) + generator.normal(size=24)
    y = np.repeat([0.0, 100.0, 200.0], 8) + generator.normal(size=24)
    found = family_correlation(x, y, ["a"] * 8 + ["b"] * 8 + ["c"] * 8)
    assert found.across.p < 0.001
    assert found.within.p > 0.05


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="one length"):
        correlation([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="Did you mean 'kendall'"):
        correlation([1, 2], [1, 2], method="kendal")
    with pytest.raises(DataError, match="1 families for 2 pairs"):
        family_correlation([1, 2], [1, 2], ["a"])
    with pytest.raises(DataError, match="finite"):
        correlation([1, math.inf], [1, 2], method="pearson")
