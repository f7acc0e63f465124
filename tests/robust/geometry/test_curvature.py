import gc

import pytest
import torch
from torch import nn

from robust.errors import VictimError
from robust.metrics.geometry.curvature import fastest_product, make_product
from robust.metrics.geometry.hessian_products import DIFFERENCES, EXACT, DoubleBackward
from robust.metrics.geometry.weights import WeightLoss
from tests.robust.geometry.landscapes import clips, exact_hessian, network, quadratic, random_vector, symmetric

WAYS = [*EXACT, *DIFFERENCES]


class Opaque(torch.autograd.Function):
    """Doubles; knows neither second derivatives nor forward ones."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient


class Doubling(nn.Module):
    def forward(self, x):
        return Opaque.apply(x)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("batch", [64, 24])
def test_products_are_those_of_the_exact_hessian(name, batch):
    net, data = network(), clips(64, batch)
    product, vector = make_product(WeightLoss(net, data), name), random_vector(103)
    expected = exact_hessian(net, data) @ vector.double()
    for _ in range(2):  # the second from what is kept
        found = product(vector).double()
        assert float((found - expected).norm() / expected.norm()) < (1e-5 if product.exact else 3e-3)
    assert product.calls == 2


@pytest.mark.parametrize("name", WAYS)
def test_products_of_a_quadratic_and_of_a_plane(name):
    matrix, vector = symmetric(8), random_vector(8, 4)
    found = make_product(quadratic(matrix, random_vector(8, 1), random_vector(8, 2)), name)(vector)
    torch.testing.assert_close(found, matrix @ vector, rtol=1e-3, atol=2e-3)
    plane = quadratic(torch.zeros(8), random_vector(8, 1), torch.zeros(8))
    torch.testing.assert_close(make_product(plane, name)(vector), torch.zeros(8), rtol=0, atol=1e-4)


def test_a_product_of_scaled_vectors_is_scaled():
    loss, vector = WeightLoss(network(), clips()), random_vector(103)
    for name in WAYS:
        product = make_product(loss, name)
        torch.testing.assert_close(product(1000 * vector), 1000 * product(vector), rtol=1e-3, atol=1e-1)
        assert torch.equal(product(torch.zeros(103)), torch.zeros(103))


def test_weights_that_do_nothing_have_no_curvature():
    net = network()
    net.register_parameter("idle", nn.Parameter(torch.ones(5)))
    for name in WAYS:
        found = make_product(WeightLoss(net, clips()), name)(torch.ones(108))
        assert int((found == 0).sum()) == 5, name


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU, nn.Tanh])
def test_the_fastest_that_agrees_is_chosen(activation):
    choice = fastest_product(WeightLoss(network(activation), clips()))
    agreeing = [trial for trial in choice.trials if trial.disagreement <= 1e-3]
    chosen = next(trial for trial in agreeing if trial.name == choice.product.name)
    assert chosen.seconds == min(trial.seconds for trial in agreeing)
    assert {"double-backward", "forward-over-reverse"} <= {trial.name for trial in choice.trials}
    assert choice.product.name in str(choice)
    data = clips()
    vector = random_vector(103, 9)
    expected = exact_hessian(network(activation), data) @ vector.double()
    assert float((choice.product(vector) - expected).norm() / expected.norm()) < 5e-3


def test_differences_that_see_kinks_are_not_chosen():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3))
    choice = fastest_product(WeightLoss(net, clips()))
    wrong = {trial.name: trial.disagreement for trial in choice.trials}
    assert wrong["one-sided-difference"] > 1e-3
    assert wrong.get("central-difference", 1.0) > 1e-3
    assert choice.product.exact


def test_double_precision_moves_the_gradient_less():
    loss = WeightLoss(network().double(), [(x.double(), y) for x, y in clips()])
    single, double = (make_product(part, "central-difference") for part in (WeightLoss(network(), clips()), loss))
    assert double.change < single.change / 100
    expected = exact_hessian(network(), clips()) @ random_vector(103).double()
    torch.testing.assert_close(double(random_vector(103).double()), expected, rtol=1e-6, atol=1e-8)


def test_modules_without_second_derivatives_say_what_to_do():
    net = nn.Sequential(nn.Linear(6, 10), nn.GELU(), Doubling(), nn.Linear(10, 3))
    loss = WeightLoss(net, clips())
    with pytest.raises(VictimError, match="central-difference"):
        fastest_product(loss)
    plain = nn.Sequential(net[0], net[1], nn.Linear(10, 3))
    with torch.no_grad():
        plain[2].weight.copy_(2 * net[3].weight)
        plain[2].bias.copy_(net[3].bias)
    scale = torch.ones(103)
    scale[70:100] = 2  # weights behind the doubling
    vector = random_vector(103)
    expected = scale * (exact_hessian(plain, clips()) @ (scale * vector).double()).float()
    found = make_product(loss, "central-difference")(vector)
    assert float((found - expected).norm() / expected.norm()) < 3e-3


def test_kept_graphs_go_with_their_product():
    loss = WeightLoss(network(), clips(64, 16))

    def tensors() -> int:
        # By type: asking a dead weak proxy for its class, as isinstance does, raises.
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    loss.gradient()
    gc.collect()
    before = tensors()
    for keep in (True, False, None):
        product = DoubleBackward(loss, keep)
        for _ in range(3):
            product(random_vector(103))
        assert len(product._kept) == (4 if keep else 0)
        del product
        assert tensors() == before
    one = DoubleBackward(WeightLoss(network(), clips()))
    one(random_vector(103))
    assert len(one._kept) == 1


def test_unknown_products_are_refused():
    with pytest.raises(VictimError, match="Did you mean 'double-backward'"):
        make_product(WeightLoss(network(), clips()), "double-backwards")
