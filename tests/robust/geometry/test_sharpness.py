import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from robust.errors import VictimError
from robust.metrics.geometry.sharpness_average import average_sharpness
from robust.metrics.geometry.sharpness_keskar import _random_columns, keskar_sharpness
from robust.metrics.geometry.sharpness_steps import asam_sharpness, ascent_step, sam_sharpness
from robust.metrics.geometry.sharpness_worst import worst_case_sharpness
from robust.metrics.geometry.weights import WeightLoss
from tests.robust.geometry.landscapes import clips, network, quadratic, random_vector, symmetric

WORST = {
    "linf": lambda loss, **more: worst_case_sharpness(loss, rho=0.02, **more),
    "l2": lambda loss, **more: worst_case_sharpness(loss, rho=0.2, norm="l2", **more),
}
ADAPTIVE = {
    "asam": lambda loss: asam_sharpness(loss, rho=0.2).loss.value,
    "linf": lambda loss: WORST["linf"](loss).loss.value,
    "l2": lambda loss: WORST["l2"](loss).loss.value,
    "linf-random": lambda loss: WORST["linf"](loss, random_start=True, seed=3).loss.value,
    "l2-random": lambda loss: WORST["l2"](loss, random_start=True, seed=3).loss.value,
    "average": lambda loss: average_sharpness(loss, rho=0.2).loss.value,
}
PLAIN = {
    "sam": lambda loss: sam_sharpness(loss, rho=0.2).loss.value,
    "linf": lambda loss: WORST["linf"](loss, adaptive=False).loss.value,
    "l2": lambda loss: WORST["l2"](loss, adaptive=False).loss.value,
    "average": lambda loss: average_sharpness(loss, rho=0.2, adaptive=False).loss.value,
}


def bowl(size: int = 6, seed: int = 0) -> tuple:
    """A positive definite matrix, a slope and weights, in float64 and as a loss."""
    matrix = symmetric(size, seed)
    matrix = matrix @ matrix.T / size + 0.1 * torch.eye(size)
    slope, weights = random_vector(size, seed + 1), random_vector(size, seed + 2)
    exact = [part.double().numpy() for part in (matrix, slope, weights)]
    return (*exact, quadratic(matrix, slope, weights, batches=2))


def rise(matrix, slope, weights, step) -> float:
    return float(step @ (matrix @ weights + slope) + step @ matrix @ step / 2)


@pytest.mark.parametrize("adaptive", [False, True])
def test_ascent_step_of_a_quadratic(adaptive):
    matrix, slope, weights, loss = bowl()
    gradient = matrix @ weights + slope
    scale = np.abs(weights) if adaptive else np.ones(6)
    step = 0.3 * scale**2 * gradient / np.linalg.norm(scale * gradient)
    found = (asam_sharpness if adaptive else sam_sharpness)(loss, rho=0.3)
    assert found.loss.value == pytest.approx(rise(matrix, slope, weights, step), rel=1e-3)
    assert found.per_clip.mean() == pytest.approx(found.loss.value, rel=1e-6)
    assert found.loss.over == "clips"
    assert found.loss.count == 6


def test_intervals_are_over_batches_where_there_are_enough():
    for batch, over, count in ((8, "batches", 8), (16, "clips", 64)):
        found = sam_sharpness(WeightLoss(network(), clips(64, batch)))
        assert (found.loss.over, found.loss.count) == (over, count)
        assert found.loss.low < found.loss.value < found.loss.high
        assert found.per_clip.shape == (64,)
    uneven = sam_sharpness(WeightLoss(network(), clips(60, 40)))  # batches of 40 and 20 clips count alike
    expected = (uneven.per_clip[:40].mean() + uneven.per_clip[40:].mean()) / 2
    assert uneven.loss.value == pytest.approx(expected, rel=1e-6)


def test_ascent_step_of_tiny_and_of_no_gradients():
    weights = torch.tensor([1.0, -2.0])
    tiny = ascent_step(weights, torch.tensor([3e-30, 4e-30]), 1.0, adaptive=False)
    torch.testing.assert_close(tiny, torch.tensor([0.6, 0.8]))
    assert torch.equal(ascent_step(weights, torch.zeros(2), 1.0, adaptive=True), torch.zeros(2))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_worst_case_linf_of_a_quadratic_is_at_its_best_corner(adaptive, random_start):
    matrix, slope, weights, loss = bowl()
    scale = np.abs(weights) if adaptive else np.ones(6)
    corners = (0.1 * scale * np.array(signs) for signs in itertools.product((-1, 1), repeat=6))
    expected = max(rise(matrix, slope, weights, corner) for corner in corners)
    found = worst_case_sharpness(loss, rho=0.1, adaptive=adaptive, random_start=random_start)
    assert found.loss.value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_worst_case_l2_of_a_quadratic_solves_the_trust_region(adaptive, random_start):
    matrix, slope, weights, loss = bowl(seed=5)
    scale = np.abs(weights) if adaptive else np.ones(6)
    curved, gradient = scale[:, None] * matrix * scale, scale * (matrix @ weights + slope)
    values, vectors = np.linalg.eigh(curved)

    def at(level):
        return vectors @ (vectors.T @ gradient / (level - values))

    top = values[-1]
    level = brentq(lambda extra: np.linalg.norm(at(top + extra)) - 0.3, 1e-9, 1e6)
    expected = rise(matrix, slope, weights, scale * at(top + level))
    found = worst_case_sharpness(loss, rho=0.3, norm="l2", adaptive=adaptive, random_start=random_start)
    assert found.loss.value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_worst_case_stays_in_its_ball(norm, adaptive, monkeypatch):
    loss, points = WeightLoss(network(), clips()), []
    gradient = WeightLoss.gradient
    monkeypatch.setattr(WeightLoss, "gradient", lambda self, point: points.append(point) or gradient(self, point))
    worst_case_sharpness(loss, rho=0.05, norm=norm, adaptive=adaptive, random_start=True)
    own = loss.weights.double()
    assert len(points) == 20
    for point in points:
        step = (point.double() - own) / (own.abs() if adaptive else 1.0)
        size = step.abs().max() if norm == "linf" else step.norm()
        assert size <= 0.05 * (1 + 1e-3)  # of weights near zero, w + delta keeps delta to few digits


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_worst_case_beats_every_random_point_and_grows_with_the_radius(norm):
    loss = WeightLoss(network(nn.ReLU), clips())
    found = [worst_case_sharpness(loss, rho=rho, norm=norm).loss.value for rho in (0.01, 0.03, 0.1)]
    assert 0 < found[0] < found[1] < found[2]
    generator, base = torch.Generator().manual_seed(0), loss.value()
    for _ in range(100):
        z = torch.randn(loss.weights.shape, generator=generator)
        z = 0.1 * (z.sign() if norm == "linf" else z / z.norm())
        assert loss.value(loss.weights * (1 + z)) - base < found[2]


def test_worst_case_is_never_below_zero_and_smaller_batches_make_it_larger():
    top = quadratic(torch.full((6,), -1.0), torch.zeros(6), torch.zeros(6))
    assert worst_case_sharpness(top, rho=0.1, adaptive=False, random_start=True).loss.value == 0
    found = [worst_case_sharpness(WeightLoss(network(), clips(64, m)), rho=0.05).loss.value for m in (64, 16, 4)]
    assert found[0] < found[1] < found[2]


def test_average_of_a_quadratic_is_its_weighted_trace():
    size = 100_000
    diagonal, weights = 1 + 0.3 * random_vector(size).abs(), random_vector(size, 2)
    loss = quadratic(diagonal, random_vector(size, 3), weights, offset=0.0)
    for adaptive in (False, True):
        expected = 0.05**2 / 2 * float((diagonal * (weights**2 if adaptive else 1)).double().sum())
        found = average_sharpness(loss, rho=0.05, adaptive=adaptive, draws=600)
        assert found.loss.value == pytest.approx(expected, rel=1e-3)
        assert found.loss.low < expected < found.loss.high


def test_standard_error_of_the_average_is_that_of_the_quadratic_form():
    size = 20
    matrix = symmetric(size).double()
    loss = quadratic(matrix, random_vector(size, 3).double(), random_vector(size, 2).double())
    found = average_sharpness(loss, rho=0.1, adaptive=False, draws=2000)
    spread = 0.1**2 / 2 * float((2 * (matrix @ matrix).trace()).sqrt())  # Var d^T A d = 2 tr A^2
    assert found.loss_standard_error == pytest.approx(spread / 2000**0.5, rel=0.1)
    assert abs(found.loss.value - 0.1**2 / 2 * float(matrix.trace())) < 4 * found.loss_standard_error
    assert found.loss.over == "draws"
    assert found.loss.count == 2000


def test_keskar_of_a_separable_quadratic_fills_the_box():
    size = 40
    diagonal, slope, weights = 0.5 + random_vector(size).abs(), random_vector(size, 3), random_vector(size, 2)
    loss = quadratic(diagonal, slope, weights, offset=50.0)
    for epsilon in (1e-3, 1e-2):
        reach = epsilon * (weights.abs() + 1).double()
        gradient = (diagonal * weights + slope).double()
        highest = float((gradient.abs() * reach + diagonal * reach**2 / 2).sum())
        expected = 100 * highest / (1 + loss.value())
        assert keskar_sharpness(loss, epsilon=epsilon).value == pytest.approx(expected, rel=1e-3)


def test_keskar_in_random_columns_of_a_plane():
    size, epsilon = 40, 1e-2
    slope, weights = random_vector(size, 3), random_vector(size, 2)
    loss = quadratic(torch.zeros(size), slope, weights, offset=10.0)
    columns = _random_columns(weights, 5, seed=0).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1, rtol=1e-6)
    reach = epsilon * (np.abs(np.linalg.pinv(columns) @ weights.double().numpy()) + 1)
    expected = 100 * np.abs(columns.T @ slope.double().numpy()) @ reach / (1 + loss.value())
    found = keskar_sharpness(loss, epsilon=epsilon, dimensions=5)
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert found.over == "clips"
    assert found.count == 3


def rescaled(factor: float) -> tuple[WeightLoss, WeightLoss]:
    """A ReLU network and the same function with its layers scaled up and down."""
    net, other = network(nn.ReLU), network(nn.ReLU)
    with torch.no_grad():
        other[0].weight.mul_(factor)
        other[0].bias.mul_(factor)
        other[2].weight.div_(factor)
    return WeightLoss(net, clips(64, 32)), WeightLoss(other, clips(64, 32))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_sharpness_does_not_see_rescaled_relu_layers(name):
    one, other = rescaled(7.0)
    assert other.value() == pytest.approx(one.value(), rel=1e-6)
    assert ADAPTIVE[name](other) == pytest.approx(ADAPTIVE[name](one), rel=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_sharpness_sees_them(name):
    one, other = rescaled(7.0)
    assert PLAIN[name](other) != pytest.approx(PLAIN[name](one), rel=0.2)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_normalised_logits_make_sharpness_blind_to_their_scale(name):
    nets = [network(), network()]
    with torch.no_grad():
        for parameter in nets[1][2].parameters():
            parameter.mul_(9)
    normed = [ADAPTIVE[name](WeightLoss(net, clips(), normalise_logits=True)) for net in nets]
    assert normed[1] == pytest.approx(normed[0], rel=1e-3)
    plain = [ADAPTIVE[name](WeightLoss(net, clips())) for net in nets]
    assert plain[1] > 1.5 * plain[0]


def test_errors_rise_where_the_loss_does():
    net, inputs = network(), clips()[0][0]
    right = net(inputs).argmax(dim=1)
    found = worst_case_sharpness(WeightLoss(net, [(inputs, right)]), rho=0.3)
    assert found.error.value > 0.3
    assert found.error.over == "clips"
    assert found.error.low < found.error.value < found.error.high
    labels = nn.functional.one_hot(right, 3).float()
    many = worst_case_sharpness(WeightLoss(net, [(inputs, labels)], loss="bce"), rho=0.3)
    assert many.loss.value > 0


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda loss: sam_sharpness(loss, rho=0.0), "above 0"),
        (lambda loss: average_sharpness(loss, rho=float("nan")), "above 0"),
        (lambda loss: average_sharpness(loss, rho=0.1, draws=0), "1 draw or more"),
        (lambda loss: worst_case_sharpness(loss, rho=0.1, norm="l1"), "norm of a ball of weights"),
        (lambda loss: worst_case_sharpness(loss, rho=0.1, steps=0), "1 step or more"),
        (lambda loss: keskar_sharpness(loss, iterations=0), "1 or more"),
        (lambda loss: keskar_sharpness(loss, dimensions=2**24), "use .* dimensions or fewer"),
    ],
)
def test_settings_out_of_range_are_refused(work, message):
    with pytest.raises(VictimError, match=message):
        work(WeightLoss(network(), clips()))
