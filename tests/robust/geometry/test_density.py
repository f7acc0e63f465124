import math
import time

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from sklearn.neighbors import NearestNeighbors

from robust.errors import DataError
from robust.metrics.geometry.density import LatentSpace


def _clouds(spread: float, *, count: int = 40, classes: int = 4, size: int = 8, seed: int = 0) -> tuple:
    """A mixture of Gaussians about fixed means; `spread` is the standard deviation of each."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), count)
    means = 3 * np.eye(classes, size)
    return means[labels] + spread * generator.normal(size=(len(labels), size)), labels


MEASURES = ["log_density", "class_log_density", "compactness", "ratio", "sample_density", "purity"]


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_orders_three_mixtures(measure: str) -> None:
    options = {"radius": 1.5} if measure == "sample_density" else {}
    found = [getattr(LatentSpace(*_clouds(spread), resamples=50), measure)(**options) for spread in (0.3, 0.9, 2.4)]
    sign = 1 if found[0].higher_is_denser else -1
    tight, middle, wide = (sign * one.overall.value for one in found)
    assert tight > middle > wide
    for label in range(4):
        per_class = [sign * one.per_class[label].value for one in found]
        assert per_class[0] > per_class[2]
    for one in found:
        assert one.overall.low <= one.overall.value <= one.overall.high


def test_log_density_is_scikit_learns_neighbours_in_the_formula() -> None:
    latents, labels = _clouds(0.5, size=5)
    distance = NearestNeighbors(n_neighbors=8).fit(latents).kneighbors(latents)[0][:, 7]  # the first is itself
    volume = 2.5 * math.log(math.pi) - gammaln(3.5)
    expected = math.log(7) - math.log(len(latents) - 1) - volume - 5 * np.log(distance)
    found = LatentSpace(latents, labels, neighbours=7).log_density()
    np.testing.assert_allclose(found.per_clip, expected, atol=1e-9)
    assert found.overall.value == pytest.approx(expected.mean())
    assert found.per_class[2].value == pytest.approx(expected[labels == 2].mean())


def test_log_density_of_a_uniform_square_is_its_density() -> None:
    latents = np.random.default_rng(1).random((3000, 2)) * 2  # density 1 / 4
    inner = np.abs(latents - 1).max(axis=1) < 0.8  # away from the edge
    found = LatentSpace(latents, np.zeros(3000, dtype=int), neighbours=50, resamples=2).log_density()
    assert np.median(found.per_clip[inner]) == pytest.approx(math.log(0.25), abs=0.05)


def test_density_falls_by_dimension_times_log_of_scale() -> None:
    latents, labels = _clouds(0.5, size=6)
    once, thrice = (LatentSpace(scale * latents, labels, resamples=10) for scale in (1.0, 3.0))
    for measure in ("log_density", "class_log_density", "sample_density"):
        small, large = getattr(once, measure)().per_clip, getattr(thrice, measure)().per_clip
        np.testing.assert_allclose(small - large, 6 * math.log(3), atol=1e-9)
    for measure in ("compactness", "purity", "ratio"):
        np.testing.assert_allclose(
            getattr(once, measure)().per_clip, getattr(thrice, measure)().per_clip, rtol=1e-9, atol=1e-9
        )


def test_compactness_and_purity_are_scikit_learns() -> None:
    latents, labels = _clouds(1.5)
    space = LatentSpace(latents, labels, neighbours=6)
    unit = latents / np.linalg.norm(latents, axis=1, keepdims=True)
    distance = NearestNeighbors(n_neighbors=7).fit(unit).kneighbors(unit)[0][:, 6]
    np.testing.assert_allclose(space.compactness().per_clip, -np.log(distance), atol=1e-9)
    found = NearestNeighbors(n_neighbors=7).fit(latents).kneighbors(latents)[1][:, 1:]
    np.testing.assert_allclose(space.purity().per_clip, (labels[found] == labels[:, None]).mean(axis=1))


def test_sample_density_counted_by_hand() -> None:
    # On a line, radius 1.5: 0 sees {0, 1}, 1 sees {0, 1, 2}, 2 sees {1, 2}, 10 sees itself; the ball has length 3.
    found = LatentSpace([[0.0], [1.0], [2.0], [10.0]], [0, 0, 1, 1], neighbours=1).sample_density(1.5)
    np.testing.assert_allclose(found.per_clip, np.log(np.array([2, 3, 2, 1]) / 3), atol=1e-12)
    assert found.per_class[0].value == pytest.approx(np.log([2 / 3, 1]).mean())


def test_ratio_by_hand() -> None:
    # Means 1 and 11, spread 1 and 2, 10 apart.
    found = LatentSpace([[0.0], [2.0], [9.0], [13.0]], [0, 0, 1, 1], neighbours=1).ratio()
    assert found.overall.value == pytest.approx(0.15)
    assert [one.value for one in found.per_class] == pytest.approx([0.1, 0.2])
    np.testing.assert_allclose(found.per_clip, [0.1, 0.1, 0.2, 0.2])
    assert not found.higher_is_denser


def test_interval_of_the_ratio_holds_its_value_in_many_dimensions() -> None:
    # All draws of a plain bootstrap lie below the value: spread is known to 0.2 %, and each draw shrinks it by 2 %.
    found = LatentSpace(*_clouds(1.0, count=25, size=160), resamples=100).ratio()
    assert found.overall.low < found.overall.value < found.overall.high
    assert all(one.low < one.value < one.high for one in found.per_class)


def test_class_density_sees_its_own_class_alone() -> None:
    latents, labels = _clouds(0.5, classes=2)
    moved = np.where(labels[:, None] == 1, latents * 7 + 50, latents)
    before, after = (LatentSpace(points, labels, resamples=10) for points in (latents, moved))
    here, there = (space.class_log_density() for space in (before, after))
    np.testing.assert_allclose(here.per_clip[labels == 0], there.per_clip[labels == 0])
    alone = LatentSpace(latents[labels == 0], labels[labels == 0], resamples=10).log_density()
    np.testing.assert_allclose(here.per_clip[labels == 0], alone.per_clip)


def test_many_labels_a_clip() -> None:
    latents = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    space = LatentSpace(torch.tensor(latents), labels, neighbours=2)
    purity = space.purity()
    # 0: {0.1, 0.2} share 1 of 2; 0.1: both; 0.2: 1 of 2; unlabelled: NaN; each of the last two: the other, not 5.0.
    np.testing.assert_allclose(purity.per_clip, [0.5, 1.0, 0.5, math.nan, 0.5, 0.5])
    assert purity.overall.count == 5
    assert purity.per_class[1].value == pytest.approx(0.75)
    assert math.isnan(purity.per_class[2].value)
    assert math.isnan(space.ratio().per_class[2].value)
    assert math.isnan(space.class_log_density().per_class[1].value)  # two clips: no second neighbour


def test_steps_are_averaged_and_order_of_clips_is_nothing() -> None:
    latents, labels = _clouds(0.8)
    generator = np.random.default_rng(3)
    wobble = generator.normal(size=(len(latents), 5, latents.shape[1]))
    steps = latents[:, None] + wobble - wobble.mean(axis=1, keepdims=True)
    order = generator.permutation(len(latents))
    for measure in MEASURES:
        plain, turned = (
            getattr(LatentSpace(points, names, resamples=10), measure)()
            for points, names in ((latents, labels), (steps[order], labels[order]))
        )
        np.testing.assert_allclose(plain.per_clip[order], turned.per_clip, atol=1e-9)


def test_coinciding_clips_have_no_density_and_do_not_spoil_the_mean() -> None:
    latents = np.concatenate([np.zeros((4, 2)), np.random.default_rng(0).normal(size=(20, 2)) + 9])
    found = LatentSpace(latents, np.zeros(24, dtype=int), neighbours=3).log_density()
    assert np.isnan(found.per_clip[:4]).all()
    assert found.overall.count == 20
    assert math.isfinite(found.overall.value)


def test_four_hundred_clips_of_160_dimensions_in_seconds() -> None:
    latents, labels = _clouds(1.0, count=40, classes=10, size=160)
    began = time.process_time()
    found = LatentSpace(latents, labels).all()
    assert time.process_time() - began < 15
    assert len({one.measure for one in found}) == len(found) == 6
    assert all(math.isfinite(one.overall.low) for one in found)


def test_bad_input_is_refused() -> None:
    latents, labels = _clouds(1.0)
    with pytest.raises(DataError, match="from 1 to 159"):
        LatentSpace(latents, labels, neighbours=160)
    with pytest.raises(DataError, match="labels of 3"):
        LatentSpace(latents, [0, 1, 2])
    with pytest.raises(DataError, match=r"given shape \(160,\)"):
        LatentSpace(latents[:, 0], labels)
    with pytest.raises(DataError, match="1 of 160 clips are not finite"):
        LatentSpace(np.where(np.arange(160)[:, None] == 7, np.nan, latents), labels)
    with pytest.raises(DataError, match="from 0 to 2"):
        LatentSpace(latents, labels, classes=3)
    with pytest.raises(DataError, match="integer"):
        LatentSpace(latents, labels + 0.5)
    with pytest.raises(DataError, match="above 0"):
        LatentSpace(latents, labels).sample_density(0.0)
    with pytest.raises(DataError, match="2 columns"):
        LatentSpace(latents, np.ones((160, 2)), classes=3)
