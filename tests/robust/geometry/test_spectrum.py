import math

import numpy as np
import pytest
import torch
from torch import nn

from robust.errors import VictimError
from robust.metrics.geometry.curvature import make_product
from robust.metrics.geometry.spectrum import hessian_trace, spectral_density, top_eigenvalues
from robust.metrics.geometry.weights import WeightLoss
from tests.robust.geometry.landscapes import clips, exact_hessian, network, quadratic, random_vector, symmetric


def values(found) -> list[float]:
    return [estimate.value for estimate in found.values]


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize("product", ["fastest", "double-backward"])
def test_top_eigenvalues_are_those_of_the_exact_hessian(activation, method, product):
    net, data = network(activation), clips(64, 24)
    exact = torch.linalg.eigvalsh(exact_hessian(net, data))
    expected = exact[exact.abs().argsort(descending=True)][:4].tolist()
    found = top_eigenvalues(WeightLoss(net, data), 4, method=method, product=product)
    assert values(found) == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), rtol=0, atol=1e-3)


@pytest.mark.parametrize("product", ["fastest", "one-sided-difference", "central-difference"])
def test_a_bad_difference_is_found_out_and_mended(product):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3))
    exact = torch.linalg.eigvalsh(exact_hessian(net, clips()))
    found = top_eigenvalues(WeightLoss(net, clips()), 2, which="largest", product=product)
    assert values(found) == pytest.approx(exact[[-1, -2]].tolist(), rel=1e-3)


def test_largest_and_largest_in_magnitude():
    matrix, rotation = torch.tensor([-9.0, 5.0, 4.0, 1.0, 0.5, -7.0]), torch.linalg.qr(symmetric(6)).Q
    loss = quadratic(rotation * matrix @ rotation.T, random_vector(6), random_vector(6, 1))
    assert values(top_eigenvalues(loss, 2)) == pytest.approx([-9, -7], rel=1e-3)
    assert values(top_eigenvalues(loss, 2, which="largest")) == pytest.approx([5, 4], rel=1e-3)
    assert values(top_eigenvalues(loss, 6)) == pytest.approx([-9, -7, 5, 4, 1, 0.5], rel=1e-3)


def test_equal_eigenvalues():
    loss = quadratic(torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 0.2]), random_vector(6), random_vector(6, 1))
    assert values(top_eigenvalues(loss, 4, method="power")) == pytest.approx([3, 3, 3, 1], rel=1e-3)
    ball = quadratic(torch.full((6,), 2.0), random_vector(6), random_vector(6, 1))
    assert values(top_eigenvalues(ball, 3)) == pytest.approx([2, 2, 2], rel=1e-3)
    plane = quadratic(torch.zeros(6), random_vector(6), random_vector(6, 1))
    for method in ("lanczos", "power"):
        assert values(top_eigenvalues(plane, 2, method=method, product="double-backward")) == [0, 0]


def test_a_thousand_weights_take_few_products():
    size = 1000
    spectrum = torch.cat([torch.tensor([50.0, 30.0]), torch.linspace(-1, 5, size - 2)])
    loss = quadratic(spectrum, random_vector(size), random_vector(size, 1))
    lanczos = top_eigenvalues(loss, 2, product="double-backward")
    power = top_eigenvalues(loss, 2, product="double-backward", method="power")
    assert values(lanczos) == pytest.approx([50, 30], rel=1e-3)
    assert values(power) == pytest.approx([50, 30], rel=1e-3)
    assert lanczos.products < power.products < 60
    assert all(residual < 0.05 * value for residual, value in zip(lanczos.residuals, values(lanczos), strict=True))


def test_curvature_of_each_clip_is_that_of_its_own_hessian():
    net, data, vector = network(), clips(6, 4), random_vector(103)
    found = WeightLoss(net, data).curvatures(vector)
    inputs, targets = (torch.cat(part) for part in zip(*data, strict=True))
    for clip in range(6):
        hessian = exact_hessian(net, [(inputs[clip : clip + 1], targets[clip : clip + 1])])
        assert found[clip] == pytest.approx(float(vector.double() @ hessian @ vector.double()), rel=1e-4, abs=1e-4)


def test_intervals_of_eigenvalues_come_from_clips():
    data = clips(64, 64)
    same = [(data[0][0][:1].expand(64, 6), data[0][1][:1].expand(64))]
    alike, mixed = (top_eigenvalues(WeightLoss(network(), part)).values[0] for part in (same, data))
    assert alike.high - alike.low < 1e-4 * alike.value
    assert mixed.low < mixed.value < mixed.high
    assert mixed.over == "clips"
    assert mixed.count == 64


def test_trace_of_a_diagonal_needs_one_probe():
    diagonal = random_vector(50)
    found = hessian_trace(quadratic(diagonal, random_vector(50), random_vector(50, 1)), probes=1)
    assert found.value.value == pytest.approx(float(diagonal.sum()), rel=1e-3)
    assert math.isnan(found.standard_error)
    assert math.isnan(found.value.low)


def test_trace_and_its_standard_error():
    net, data = network(), clips()
    hessian = exact_hessian(net, data)
    loss = WeightLoss(net, data)
    found = hessian_trace(loss, probes=400, product="double-backward")
    off = hessian - hessian.diag().diag()
    spread = float((2 * off.square().sum()).sqrt()) / 20  # Var z^T H z of signs: 2 sum of squares off the diagonal
    assert found.standard_error == pytest.approx(spread, rel=0.15)
    assert abs(found.value.value - float(hessian.trace())) < 4 * spread
    assert found.value.low < found.value.value < found.value.high
    assert found.value.over == "probes"
    assert len(found.samples) == 400


def test_trace_is_surer_the_more_directions_are_known():
    hessian = exact_hessian(network(), clips())
    loss = WeightLoss(network(), clips())
    plain = hessian_trace(loss, probes=30, product="double-backward")
    deflated = hessian_trace(loss, probes=30, product="double-backward", directions=30)
    whole = hessian_trace(loss, probes=2, product="double-backward", directions=103)
    assert whole.value.value == pytest.approx(float(hessian.trace()), rel=1e-3)
    assert deflated.standard_error < plain.standard_error / 2
    assert abs(deflated.value.value - float(hessian.trace())) < 4 * deflated.standard_error


def test_trace_stops_once_it_is_sure():
    diagonal = 1 + random_vector(50).abs()
    loss = quadratic(diagonal, random_vector(50), random_vector(50, 1))
    assert len(hessian_trace(loss, probes=50, relative_error=0.01).samples) == 10


def test_density_of_a_known_spectrum():
    size = 300
    spectrum = torch.cat([torch.full((150,), 1.0), torch.full((120,), 2.0), torch.full((30,), 6.0)])
    loss = quadratic(spectrum, random_vector(size), random_vector(size, 1))
    found = spectral_density(loss, runs=3, steps=10, product="double-backward")
    # A diagonal matrix weighs its eigenvalues evenly by any vector of signs: quadrature is exact.
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, rel=1e-3)
    assert found.mean().value == pytest.approx(float(spectrum.mean()), rel=1e-3)
    assert found.share_below(1.5).value == pytest.approx(0.5, rel=1e-3)
    assert found.share_below(4.0).value == pytest.approx(0.9, rel=1e-3)
    peak = found.density[np.abs(found.grid - 6).argmin()]
    assert peak == pytest.approx(0.1 / (found.width * math.sqrt(2 * math.pi)), rel=0.02)
    assert all(len(nodes) <= 4 for nodes in found.nodes)  # three eigenvalues exhaust the space


def test_density_of_a_network():
    net, data = network(), clips()
    exact = torch.linalg.eigvalsh(exact_hessian(net, data)).numpy()
    found = spectral_density(WeightLoss(net, data), runs=20, steps=40)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, rel=1e-3)
    for value in (-0.05, 0.05, 0.2):
        share = found.share_below(value)
        assert share.value == pytest.approx((exact < value).mean(), abs=0.03)
        assert share.low <= share.value <= share.high
        assert share.over == "probes"
    heights = np.exp(-0.5 * ((found.grid[:, None] - exact) / found.width) ** 2).mean(axis=1)
    heights /= found.width * math.sqrt(2 * math.pi)
    assert np.abs(found.density - heights).max() < 0.15 * heights.max()
    assert (found.low <= found.density + 1e-12).all()
    assert (found.high >= found.density - 1e-12).all()
    single = spectral_density(WeightLoss(net, data), runs=1, steps=5)
    assert np.isnan(single.low).all()


def test_results_do_not_depend_on_how_clips_are_batched():
    net = network()
    losses = [WeightLoss(net, clips(64, batch)) for batch in (64, 20)]
    top = [values(top_eigenvalues(loss, 2, product="double-backward")) for loss in losses]
    assert top[0] == pytest.approx(top[1], rel=1e-4)
    traces = [hessian_trace(loss, probes=5, product="double-backward").value.value for loss in losses]
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


def test_modules_without_second_derivatives_are_measured_by_differences():
    from tests.robust.geometry.test_curvature import Doubling

    net = nn.Sequential(nn.Linear(6, 10), nn.GELU(), Doubling(), nn.Linear(10, 3))
    plain = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 3))
    with torch.no_grad():
        net[3].weight.div_(2)
        for one, other in zip(plain.parameters(), net.parameters(), strict=True):
            one.copy_(other)
        plain[2].weight.mul_(2)
    biases = torch.ones(103)
    biases[70:100] = 2
    exact = torch.linalg.eigvalsh(biases[:, None] * exact_hessian(plain, clips()) * biases)
    loss = WeightLoss(net, clips())
    found = top_eigenvalues(loss, 1, which="largest", product=make_product(loss, "central-difference"))
    assert values(found) == pytest.approx([float(exact[-1])], rel=2e-3)
    assert found.values[0].over == "batches"  # groups of clips, as clips cannot be had one by one
    assert found.values[0].count == 16
    assert found.values[0].low < found.values[0].value < found.values[0].high


@pytest.mark.filterwarnings("ignore:Using backward")
def test_agrees_with_pyhessian():
    pyhessian = pytest.importorskip("pyhessian")
    net, data = network(), clips()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = pyhessian.hessian(network(), nn.CrossEntropyLoss(), data=data[0], cuda=False)
        expected, _ = peer.eigenvalues(maxIter=500, tol=1e-6, top_n=2)
        traces = peer.trace(maxIter=100, tol=0.0)
    loss = WeightLoss(net, data)
    assert values(top_eigenvalues(loss, 2)) == pytest.approx(expected, rel=1e-3)
    ours = hessian_trace(loss, probes=100)
    error = math.hypot(ours.standard_error, float(np.std(traces)) / 10)
    assert abs(ours.value.value - np.mean(traces)) < 4 * error


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda loss: top_eigenvalues(loss, 0), "103 eigenvalues; 0"),
        (lambda loss: top_eigenvalues(loss, 104), "103 eigenvalues; 104"),
        (lambda loss: top_eigenvalues(loss, which="larges"), "Did you mean 'largest'"),
        (lambda loss: top_eigenvalues(loss, method="lanczo"), "Did you mean 'lanczos'"),
        (lambda loss: top_eigenvalues(loss, method="power", which="largest"), "method='lanczos'"),
        (lambda loss: hessian_trace(loss, probes=0), "1 probe or more"),
        (lambda loss: spectral_density(loss, runs=0), "start at 1"),
        (lambda loss: spectral_density(loss, width=0.0), "width above 0"),
    ],
)
def test_settings_out_of_range_are_refused(work, message):
    with pytest.raises(VictimError, match=message):
        work(WeightLoss(network(), clips()))
