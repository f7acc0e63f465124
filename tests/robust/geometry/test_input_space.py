import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.errors import ThreatModelError
from attacks.threat import Ball
from robust.errors import DataError
from robust.metrics.geometry.input_space import InputSpace

Quadratic = Callable[[Tensor, Tensor], Tensor]


def _quadratics(count: int = 11, size: int = 6, *, positive: bool = False) -> tuple[Tensor, Tensor, Quadratic]:
    """Symmetric matrices and slopes, one for each clip, and the loss x A x / 2 + b x of the clip a target names."""
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    matrices = matrices @ matrices.mT / size if positive else (matrices + matrices.mT) / 2
    slopes = torch.randn(count, size, generator=generator, dtype=torch.float64)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        curved = (logits[:, None] @ matrices[targets] @ logits[:, :, None])[:, 0, 0] / 2
        return curved + (logits * slopes[targets]).sum(dim=1)

    return matrices, slopes, loss


def _points(count: int = 11, size: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)) - 0.5


def _space(loss: Quadratic, count: int = 11, **options: object) -> InputSpace:
    return InputSpace(lambda x: x, _points(count), torch.arange(count), loss=loss, resamples=50, **options)


@pytest.mark.parametrize("product", ["double", "finite"])
def test_extreme_eigenvalues_of_quadratic_losses(product: str) -> None:
    matrices, _, loss = _quadratics()
    exact = np.linalg.eigvalsh(matrices.numpy())
    largest = _space(loss).top_eigenvalue(product=product)
    np.testing.assert_allclose(largest.values, exact[:, -1], rtol=1e-3, atol=2e-4)
    assert largest.converged.all()
    assert largest.overall.value == pytest.approx(exact[:, -1].mean(), rel=1e-3)
    assert largest.overall.low < largest.overall.value < largest.overall.high
    assert largest.overall.over == "clips"
    furthest = exact[np.arange(11), np.abs(exact).argmax(axis=1)]
    found = _space(loss).top_eigenvalue(which="magnitude", product=product).values
    np.testing.assert_allclose(found, furthest, rtol=1e-3)
    assert (furthest < 0).any()  # or the two would be one measure


def test_curvature_along_directions_of_quadratic_losses() -> None:
    matrices, slopes, loss = _quadratics()
    points = _points().double()
    gradient = (matrices @ points[:, :, None])[:, :, 0] + slopes
    for direction, vectors in (("gradient", gradient), ("sign", gradient.sign()), (3 * gradient, gradient)):
        expected = torch.einsum("bi,bij,bj->b", vectors, matrices, vectors) / vectors.square().sum(dim=1)
        for product in ("double", "finite"):
            found = _space(loss).curvature(direction, product=product)
            np.testing.assert_allclose(found.values, expected.numpy(), rtol=1e-3, atol=1e-3)
    means = _space(loss).curvature("random", draws=400)
    np.testing.assert_allclose(means.values, np.trace(matrices.numpy(), axis1=1, axis2=2) / 6, atol=0.15)


def test_gamma_of_quadratic_losses_is_half_the_curvature() -> None:
    matrices, _, loss = _quadratics()
    exact = np.abs(np.linalg.eigvalsh(matrices.numpy())).max(axis=1)
    found = _space(loss).local_linearity(Ball("l2", 0.1), steps=20, restarts=8)
    np.testing.assert_allclose(found.values, 0.005 * exact, rtol=0.01)


def test_gamma_in_a_cube_is_that_of_its_worst_corner() -> None:
    matrices, _, loss = _quadratics(positive=True)
    corners = torch.cartesian_prod(*[torch.tensor([-0.1, 0.1], dtype=torch.float64)] * 6)
    worst = (torch.einsum("ci,bij,cj->bc", corners, matrices, corners) / 2).amax(dim=1)
    found = _space(loss).local_linearity(Ball("linf", 0.1), steps=10, restarts=16)
    np.testing.assert_allclose(found.values, worst.numpy(), rtol=1e-3)
    once = _space(loss).local_linearity(Ball("linf", 0.1), steps=10)
    assert (once.values <= found.values + 1e-12).all()


def test_radius_of_each_clip() -> None:
    _, _, loss = _quadratics()
    radius = torch.linspace(0.01, 0.1, 11)
    mixed = _space(loss, batch_size=4).local_linearity(Ball("l2", radius), steps=20)
    for place in (0, 5, 10):
        alone = _space(loss).local_linearity(Ball("l2", float(radius[place])), steps=20)
        assert mixed.values[place] == pytest.approx(alone.values[place], rel=1e-4)


def test_a_linear_loss_has_neither_gap_nor_curvature() -> None:
    space = _space(lambda logits, targets: logits @ torch.arange(6, dtype=torch.float64))
    assert space.local_linearity(Ball("linf", 0.2)).overall.value == pytest.approx(0, abs=1e-6)
    curvature = space.top_eigenvalue()
    assert (curvature.values == 0).all()
    assert curvature.converged.all()
    assert (space.curvature("random").values == 0).all()
    np.testing.assert_allclose(space.gradient_norms()["l1"].values, 15)


def test_gradient_norms_of_a_linear_classifier() -> None:
    module, inputs = _seeded(nn.Linear(6, 4)), _points()
    labels = torch.arange(11) % 4
    chance = module(inputs).softmax(dim=1) - functional.one_hot(labels, 4)
    gradient = (chance @ module.weight).detach().double().numpy()
    found = InputSpace(module, inputs, labels).gradient_norms()
    for name, order in (("l1", 1), ("l2", 2), ("linf", np.inf)):
        np.testing.assert_allclose(found[name].values, np.linalg.norm(gradient, order, axis=1), rtol=1e-5)
    multihot = functional.one_hot(labels, 4)
    gradient = ((module(inputs).sigmoid() - multihot) / 4 @ module.weight).detach().double().numpy()
    found = InputSpace(module, inputs, multihot).gradient_norms()  # mean over classes
    np.testing.assert_allclose(found["l2"].values, np.linalg.norm(gradient, axis=1), rtol=1e-5)


def _seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


class _Net(nn.Module):
    """A smooth network with BatchNorm and dropout, on one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 5))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


@pytest.mark.parametrize("product", ["double", "finite"])
def test_input_hessian_of_a_network_is_autograds(product: str) -> None:
    net, inputs, labels = _Net(), _points(), torch.arange(11) % 5
    found = InputSpace(net, inputs, labels, batch_size=4).top_eigenvalue(product=product)
    net.eval()

    def one(point: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(net(point[None]), label[None])

    pairs = zip(inputs, labels, strict=True)
    exact = torch.stack(
        [
            torch.autograd.functional.hessian(lambda point, label=label: one(point, label), point)
            for point, label in pairs
        ]
    )
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(exact.numpy())[:, -1], rtol=2e-3)


def _everything(space: InputSpace) -> list[np.ndarray]:
    return [
        *(one.values for one in space.gradient_norms().values()),
        space.local_linearity(Ball("linf", 0.05), steps=3).values,
        space.top_eigenvalue(iterations=4).values,
        space.curvature("random", draws=2).values,
    ]


def test_neither_batch_size_nor_order_of_clips_matters() -> None:
    net, inputs, labels, ids = _Net(), _points(), torch.arange(11) % 5, [f"clip {place}" for place in range(11)]
    whole = _everything(InputSpace(net, inputs, labels, ids=ids))
    close = {"rtol": 1e-5, "atol": 1e-7}  # of float32 losses about 1
    for size in (1, 3):
        parts = _everything(InputSpace(net, inputs, labels, ids=ids, batch_size=size))
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one, other, **close)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    turned = InputSpace(net, inputs[order], labels[order], ids=[ids[place] for place in order])
    for one, other in zip(whole, _everything(turned), strict=True):
        np.testing.assert_allclose(one[order.numpy()], other, **close)
    reseeded = InputSpace(net, inputs, labels, ids=ids, seed=1).curvature("random", draws=2)
    assert not np.allclose(reseeded.values, whole[-1])


@pytest.mark.parametrize("bound", [False, True])
def test_module_is_left_as_it_was(bound: bool) -> None:
    net, inputs, labels = _Net().train(), _points(), torch.arange(11) % 5
    net.layers[0].eval()
    net.layers[4].bias.requires_grad_(False)
    net.layers[4].weight.grad = torch.ones(5, 16)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    _everything(InputSpace(net.forward if bound else net, inputs, labels))

    def broken(logits: Tensor, targets: Tensor) -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        InputSpace(net, inputs, labels, loss=broken).top_eigenvalue()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [layer.training for layer in net.layers] == [False, True, True, True, True]
    assert [one.requires_grad for one in net.parameters()] == [True] * 5 + [False]
    assert torch.equal(net.layers[4].weight.grad, torch.ones(5, 16))
    assert net.layers[0].weight.grad is None
    assert not inputs.requires_grad
    assert inputs.grad is None


def test_modalities_that_do_not_vary_leave_a_block_of_the_hessian() -> None:
    matrices, _, loss = _quadratics()
    points = _points()
    inputs = {"audio": points[:, :4], "video": points[:, 4:].reshape(11, 2, 1)}

    def module(parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([parts["audio"], parts["video"].flatten(1)], dim=1)

    exact = matrices.numpy()
    both, audio, video = (
        InputSpace(module, inputs, torch.arange(11), loss=loss, modalities=names)
        for names in (None, "audio", ["video"])
    )
    np.testing.assert_allclose(both.top_eigenvalue().values, np.linalg.eigvalsh(exact)[:, -1], rtol=1e-3, atol=2e-4)
    for space, block in ((audio, exact[:, :4, :4]), (video, exact[:, 4:, 4:])):
        np.testing.assert_allclose(
            space.top_eigenvalue().values, np.linalg.eigvalsh(block)[:, -1], rtol=1e-3, atol=2e-4
        )
    squares = [space.gradient_norms()["l2"].values ** 2 for space in (audio, video, both)]
    np.testing.assert_allclose(squares[0] + squares[1], squares[2], rtol=1e-5)
    video_curves = np.abs(np.linalg.eigvalsh(exact[:, 4:, 4:])).max(axis=1)
    found = both.local_linearity({"video": Ball("l2", 0.1)}, steps=10, restarts=8)
    np.testing.assert_allclose(found.values, 0.005 * video_curves, rtol=0.01)


def test_padding_takes_no_part() -> None:
    matrices, _, loss = _quadratics()
    valid = torch.ones(11, 6, dtype=torch.bool)
    valid[:, 4:] = False
    space = _space(loss, valid=valid)
    np.testing.assert_allclose(
        space.top_eigenvalue().values, np.linalg.eigvalsh(matrices.numpy()[:, :4, :4])[:, -1], rtol=1e-3, atol=2e-4
    )
    whole = _space(loss).gradient_norms()["linf"].values
    assert (space.gradient_norms()["linf"].values <= whole).all()
    assert (space.local_linearity(Ball("l2", 0.1)).values <= _space(loss).local_linearity(Ball("l2", 0.1)).values).any()


def test_attention_has_second_derivatives() -> None:
    class Attends(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            heads = inputs.reshape(len(inputs), 1, 3, 2)
            return functional.scaled_dot_product_attention(heads, heads, heads).flatten(1)

    inputs, labels = 4 * _points(), torch.arange(11) % 6
    double, finite = (
        InputSpace(Attends(), inputs, labels).top_eigenvalue(product=product).values for product in ("double", "finite")
    )
    np.testing.assert_allclose(double, finite, rtol=5e-3)


def test_kinks_are_seen_by_differences_alone() -> None:
    # The sum of |x|: double backward calls it flat; over a step that crosses 0 its gradient changes.
    inputs = torch.zeros(8, 4)
    for product, curved in (("double", False), ("finite", True)):
        space = InputSpace(torch.abs, inputs, torch.zeros(8, dtype=torch.long), loss=lambda x, _: x.sum(dim=1))
        assert bool((space.top_eigenvalue(product=product).values > 1).all()) is curved


def test_differences_agree_with_derivatives_between_kinks() -> None:
    net = _Net().double()
    net.layers[2] = nn.ReLU()
    space = InputSpace(net, _points().double(), torch.arange(11) % 5)
    exact, near, far = (
        space.curvature("gradient", product=product, step=step).values
        for product, step in (("double", None), ("finite", 1e-7), ("finite", 0.5))
    )
    np.testing.assert_allclose(near, exact, rtol=1e-5, atol=1e-7)
    assert np.abs(far - exact).max() > 0.01


def test_curvature_over_a_step_is_the_mean_over_it() -> None:
    # L = x^4 at 1: (4 (1 + h)^3 - 4 (1 - h)^3) / 2 h = 12 + 4 h^2.
    space = InputSpace(
        lambda x: x, torch.ones(1, 1), torch.zeros(1, dtype=torch.long), loss=lambda x, _: (x**4)[:, 0], resamples=2
    )
    assert space.curvature("gradient", product="finite", step=0.3).values[0] == pytest.approx(12.36, rel=1e-4)
    assert space.curvature("gradient").values[0] == pytest.approx(12)


def test_a_clip_without_a_number_does_not_spoil_the_rest() -> None:
    inputs = _points()
    inputs[4] = 0
    space = InputSpace(lambda x: x / x.norm(dim=1, keepdim=True), inputs, torch.arange(11) % 6, resamples=20)
    for found in (space.gradient_norms()["l2"], space.top_eigenvalue(), space.local_linearity(Ball("l2", 0.1))):
        assert math.isnan(found.values[4])
        assert np.isfinite(np.delete(found.values, 4)).all()
        assert found.overall.count == 10
    assert not space.top_eigenvalue().converged[4]


def test_four_hundred_clips_in_seconds() -> None:
    module = _seeded(nn.Sequential(nn.Conv1d(1, 8, 9, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(1984, 10)))
    inputs = (torch.rand(400, 1, 1000, generator=torch.Generator().manual_seed(0)) - 0.5) / 2
    space = InputSpace(module, inputs, torch.arange(400) % 10, batch_size=100)
    began = time.process_time()
    space.gradient_norms()
    space.local_linearity(Ball("linf", 0.002), steps=5)
    assert space.top_eigenvalue().converged.mean() > 0.9
    assert time.process_time() - began < 30


def test_bad_input_is_refused() -> None:
    net, inputs, labels = _Net(), _points(), torch.arange(11) % 5
    with pytest.raises(DataError, match="for the 3 targets"):
        InputSpace(net, inputs, labels[:3])
    with pytest.raises(DataError, match="Did you mean 'cross-entropy'"):
        InputSpace(net, inputs, labels, loss="crossentropy")
    with pytest.raises(DataError, match="does not go with targets"):
        InputSpace(net, inputs, labels, loss="bce")
    with pytest.raises(DataError, match="Unknown modality 'video'"):
        InputSpace(net, {"audio": inputs}, labels, modalities=["video"])
    with pytest.raises(DataError, match="mask of 'input' must be bool"):
        InputSpace(net, inputs, labels, valid=torch.ones(11, 6))
    with pytest.raises(DataError, match="given 2 ids"):
        InputSpace(net, inputs, labels, ids=["a", "b"])
    space = InputSpace(net, inputs, labels)
    with pytest.raises(DataError, match="Did you mean 'largest'"):
        space.top_eigenvalue(which="large")
    with pytest.raises(DataError, match="Did you mean 'double'"):
        space.top_eigenvalue(product="doubel")
    with pytest.raises(DataError, match="step of a difference"):
        space.curvature(product="finite", step=0.0)
    with pytest.raises(DataError, match="Did you mean 'gradient'"):
        space.curvature("gradients")
    with pytest.raises(DataError, match="shapes of the inputs"):
        space.curvature(torch.ones(11, 7))
    with pytest.raises(DataError, match="one step"):
        space.local_linearity(Ball("linf", 0.1), steps=0)
    with pytest.raises(ThreatModelError, match="declared range"):
        InputSpace(net, inputs * 9, labels).local_linearity(Ball("linf", 0.1))
    audio = InputSpace(lambda x: x["audio"], {"audio": inputs, "video": inputs}, labels, modalities="audio")
    with pytest.raises(DataError, match="does not vary"):
        audio.local_linearity({"video": Ball("l2", 0.1)})
    with pytest.raises(DataError, match="must return logits"):
        InputSpace(lambda x: x[:, 0], inputs, labels).gradient_norms()
    with pytest.raises(DataError, match="reduction='none'"):
        InputSpace(net, inputs, labels, loss=functional.cross_entropy).gradient_norms()
