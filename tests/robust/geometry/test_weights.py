import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from robust.errors import VictimError
from robust.metrics.geometry.sharpness_average import average_sharpness
from robust.metrics.geometry.sharpness_keskar import keskar_sharpness
from robust.metrics.geometry.sharpness_steps import asam_sharpness, sam_sharpness
from robust.metrics.geometry.sharpness_worst import worst_case_sharpness
from robust.metrics.geometry.spectrum import hessian_trace, spectral_density, top_eigenvalues
from robust.metrics.geometry.weights import WeightLoss
from tests.robust.geometry.landscapes import clips, network

MEASURES = {
    "sam": sam_sharpness,
    "asam": asam_sharpness,
    "worst": lambda loss: worst_case_sharpness(loss, rho=1e-3, steps=3),
    "worst-l2": lambda loss: worst_case_sharpness(loss, rho=1e-3, norm="l2", steps=3, random_start=True),
    "average": lambda loss: average_sharpness(loss, rho=0.1, draws=2),
    "keskar": lambda loss: keskar_sharpness(loss, iterations=2),
    "keskar-projected": lambda loss: keskar_sharpness(loss, dimensions=3, iterations=2),
    "eigenvalues": lambda loss: top_eigenvalues(loss, 1),
    "trace": lambda loss: hessian_trace(loss, probes=2, product="forward-over-reverse"),
    "density": lambda loss: spectral_density(loss, runs=1, steps=3, product="central-difference"),
}


class Counting(nn.Module):
    """Writes to a buffer in evaluation mode too, and fails after so many calls."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.seen, self.most = 0, most

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        if self.seen > self.most:
            raise RuntimeError("enough")
        return x


def victim(most: int = 10**9) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), Counting(most), nn.Linear(8, 3)
        )
        net[1].running_mean.normal_()
    net.train()
    net[2].eval()  # modes are restored one by one
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones(8)
    return net


def snapshot(net: nn.Module) -> dict:
    return {
        "values": {name: value.clone() for name, value in net.state_dict().items()},
        "places": {name: value.data_ptr() for name, value in net.state_dict().items()},
        "modes": [module.training for module in net.modules()],
        "flags": [parameter.requires_grad for parameter in net.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "parameters": [id(parameter) for parameter in net.parameters()],
    }


def assert_same(before: dict, after: dict) -> None:
    assert all(torch.equal(before["values"][name], after["values"][name]) for name in before["values"])
    for part in ("places", "modes", "flags", "parameters"):
        assert before[part] == after[part], part
    for old, new in zip(before["gradients"], after["gradients"], strict=True):
        assert (old is None) == (new is None)
        assert old is None or torch.equal(old, new)


@pytest.mark.parametrize("name", MEASURES)
def test_module_is_restored_bit_for_bit(name):
    net = victim()
    before, state = snapshot(net), torch.random.get_rng_state()
    first = MEASURES[name](WeightLoss(net, clips(24, 12)))
    assert net[4].seen > 0
    assert_same(before, snapshot(net))
    assert torch.equal(state, torch.random.get_rng_state())
    again = MEASURES[name](WeightLoss(net, clips(24, 12)))
    if name != "eigenvalues":  # its way is chosen by the clock
        assert repr(again) == repr(first)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "eigenvalues"])
def test_module_is_restored_after_an_exception(name):
    net = victim(most=3)
    before = snapshot(net)
    with pytest.raises(RuntimeError, match="enough"):
        MEASURES[name](WeightLoss(net, clips(24, 12)))
    before["values"]["4.calls"] = net[4].calls
    assert_same(before, snapshot(net))


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_is_kept_alive(name):
    net = victim()
    loss = WeightLoss(net, clips(24, 12))
    alive = weakref.ref(net)
    gc.collect()
    gc.disable()
    try:
        MEASURES[name](loss)
        del net, loss
        assert alive() is None, "a reference cycle holds the module until the garbage collector runs"
    finally:
        gc.enable()


def test_outcomes_and_gradient_are_those_of_the_module():
    net, data = network(), clips(40, 16)
    loss = WeightLoss(net, data)
    inputs, targets = (torch.cat(part) for part in zip(*data, strict=True))
    logits = net(inputs)
    each = functional.cross_entropy(logits, targets, reduction="none")
    found = loss.outcomes()
    np.testing.assert_allclose(found.losses, each.detach().numpy(), rtol=1e-5)
    np.testing.assert_array_equal(found.errors, (logits.argmax(dim=1) != targets).numpy())
    gradients = torch.autograd.grad(each.mean(), list(net.parameters()))
    value, gradient = loss.gradient()
    assert value == pytest.approx(float(each.mean().detach()), rel=1e-6)
    torch.testing.assert_close(gradient, torch.cat([part.reshape(-1) for part in gradients]), rtol=1e-4, atol=1e-7)
    whole = WeightLoss(net, [(inputs, targets)])
    torch.testing.assert_close(whole.gradient()[1], gradient, rtol=1e-4, atol=1e-7)


def test_point_moves_the_weights_and_groups_keep_the_clips():
    net, data = network(), clips(40, 16)
    loss = WeightLoss(net, data)
    point = loss.weights + 0.1
    moved = network()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.1
    np.testing.assert_array_equal(loss.outcomes(point).losses, WeightLoss(moved, data).outcomes().losses)
    groups = loss.grouped(7)
    assert sum(group.clips for group in groups) == 40
    together = np.concatenate([group.outcomes().losses for group in groups])
    np.testing.assert_allclose(together, loss.outcomes().losses, rtol=1e-5)


def test_bce_is_the_mean_over_classes_and_errors_the_share_of_labels():
    net = network()
    inputs = clips()[0][0]
    targets = (torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    logits = net(inputs).detach().double()
    by_hand = (torch.log1p(logits.exp()) - targets * logits).mean(dim=1)
    found = WeightLoss(net, [(inputs, targets)], loss="bce").outcomes()
    np.testing.assert_allclose(found.losses, by_hand.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.errors, ((logits > 0).float() != targets).double().mean(dim=1).numpy(), rtol=1e-6)


class TwoModalities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = network(), nn.Parameter(torch.ones(3))
        self.tied = self.net[2]

    def forward(self, inputs):
        return self.net(inputs["audio"]) * self.scale + self.tied(inputs["video"])


def test_mappings_of_modalities_and_tied_weights():
    module, (audio, targets) = TwoModalities(), clips()[0]
    loss = WeightLoss(module, [({"audio": audio, "video": torch.ones(64, 10)}, targets)])
    assert len(loss.weights) == sum(parameter.numel() for parameter in module.parameters())
    numeric = []
    start, gradient = loss.weights.double(), loss.gradient()[1]
    exact = WeightLoss(
        TwoModalities().double(), [({"audio": audio.double(), "video": torch.ones(64, 10).double()}, targets)]
    )
    for place in (0, 75, 100, len(start) - 1):
        step = torch.zeros_like(start)
        step[place] = 1e-5
        numeric.append((exact.value(exact.weights + step) - exact.value(exact.weights - step)) / 2e-5)
    np.testing.assert_allclose(gradient[[0, 75, 100, -1]], numeric, rtol=1e-3, atol=1e-6)


def test_recurrent_layers_see_the_weights_given():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.cell(x[:, None])[0][:, -1])

    loss = WeightLoss(Recurrent(), clips())
    before, moved = loss.value(), loss.value(loss.weights * 0)
    assert moved == pytest.approx(np.log(3), rel=1e-6)
    assert loss.value() == before != moved


def test_matrices_leave_out_biases_and_normalisation():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LayerNorm((8,)), nn.Linear(8, 3))
    assert len(WeightLoss(net, clips(), include="matrices").weights) == 6 * 8 + 8 * 3
    wide = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LayerNorm((2, 3)), nn.Flatten(), nn.Linear(6, 3))
    assert len(WeightLoss(wide, clips(), include="matrices").weights) == 18


def test_normalised_logits_do_not_know_scale():
    net, louder = network(), network()
    with torch.no_grad():
        louder[2].weight.mul_(50)
        louder[2].bias.mul_(50)
    plain, scaled = (WeightLoss(part, clips()).value() for part in (net, louder))
    normed = [WeightLoss(part, clips(), normalise_logits=True).value() for part in (net, louder)]
    assert normed[0] == pytest.approx(normed[1], rel=1e-5)
    assert scaled > 2 * plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": lambda x: x}, r"needs a torch\.nn\.Module"),
        ({"module": nn.ReLU()}, "no weights to disturb"),
        ({"batches": []}, "one clip or more"),
        ({"batches": [(torch.zeros(2, 6), torch.zeros(3, dtype=torch.int64))]}, "3 targets"),
        ({"batches": [(torch.zeros(2, 6), torch.zeros(2, 3))]}, "loss='bce'"),
        ({"loss": "bce"}, "multi-hot"),
        ({"loss": "cross-entrop"}, "Did you mean 'cross-entropy'"),
        ({"include": "matrix"}, "Did you mean 'matrices'"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    given = {"module": network(), "batches": clips(), **change}
    with pytest.raises(VictimError, match=message):
        WeightLoss(given.pop("module"), given.pop("batches"), **given)
