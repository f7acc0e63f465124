"""One ball over two modalities: packing to the bit, closed forms, and a budget that holds on both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from attacks.joint import JOINT, Packing, packed_victim
from attacks.losses import Goal
from attacks.minimal import minimal_scale
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from tests.oracles.linear import LinearVictim, breaking_radius
from tests.oracles.toy import TwoSenses, predictions, waves

NORMS = ("linf", "l2", "l1")
ODD = {"audio": 0.013, "video": 8 / 255}
POWERS = {"audio": 0.25, "video": 4.0}
SHAPES = {"audio": (400,), "video": (2, 3, 4, 4)}
BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


def senses(count: int = 9, seed: int = 4) -> dict[str, Tensor]:
    video = torch.rand(count, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    video[:, :, 0] = video[:, :, 0].round()  # black and white: at both ends of the range
    return {"audio": waves(count, seed=seed, peak=0.9), "video": video}


def numpy_norms(clean: dict[str, Tensor], point: dict[str, Tensor], scale: dict[str, float], norm: str) -> np.ndarray:
    """Of (d_audio / s_audio, d_video / s_video), by NumPy in float64."""
    parts = [
        (point[name].double().numpy() - clean[name].double().numpy()).reshape(len(clean[name]), -1) / scale[name]
        for name in clean
    ]
    return np.linalg.norm(np.concatenate(parts, 1), {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@pytest.mark.parametrize("scale", [None, POWERS, ODD, {"video": 3.0}])
def test_what_is_packed_comes_back_to_the_bit(scale: dict[str, float] | None) -> None:
    packing, inputs = Packing(SHAPES, BOUNDS, scale), senses(50)
    inputs["audio"][0, :5] = torch.tensor([1e-30, -1e-7, 0.0, 1.0, -1.0])
    packed = packing.pack(inputs)
    assert packed.shape == (50, 496)
    assert packed.dtype == (torch.float32 if scale in (None, POWERS) else torch.float64)
    for name, value in packing.unpack(packed).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, inputs[name])
    assert bool(((packed >= packing.low) & (packed <= packing.high)).all())
    if scale:
        torch.testing.assert_close(packed[:, 400:].float(), inputs["video"].flatten(1) / scale["video"])


def test_joining_leaves_other_modalities_alone() -> None:
    packing, inputs = Packing({"audio": (400,)}, BOUNDS), senses(3)
    joined = packing.join(inputs)
    assert set(joined) == {JOINT, "video"}
    assert all(torch.equal(value, inputs[name]) for name, value in packing.split(joined).items())
    masks = packing.join_valid({"audio": torch.arange(400)[None] < 300, "video": torch.ones(3, 1, 1, 1, 1).bool()}, 3)
    assert masks[JOINT].sum(1).tolist() == [300] * 3
    both = Packing(SHAPES, BOUNDS).pack_valid({"video": torch.zeros(3, 2, 1, 1, 1).bool()}, 3)
    assert both.sum(1).tolist() == [400] * 3


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ([0.3, 0.4, 0.0], [0.3, 0.1, 0.0]),  # the ball alone would allow it, but 0.9 + 0.4 leaves the range
        ([3.0, 4.0, 0.0], [(0.25 - 0.01) ** 0.5, 0.1, 0.0]),  # what the range takes the other coordinate may use
        ([0.0, -3.0, -4.0], [0.0, -0.3, -0.4]),
        ([6.0, 8.0, -9.0], [0.24**0.5 * 6 / 117**0.5, 0.1, -(0.24**0.5) * 9 / 117**0.5]),
    ],
)
def test_l2_projection_on_ball_and_ranges_in_three_dimensions(moved: list[float], expected: list[float]) -> None:
    packing = Packing({"audio": (1,), "video": (2,)}, BOUNDS)
    clean = packing.pack({"audio": torch.tensor([[0.0]]), "video": torch.tensor([[0.9, 0.5]])})
    region = packing.ball("l2", 0.5).around(clean)
    found = region.project(clean + torch.tensor([moved])) - clean
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [{"audio": 0.5, "video": 2.0}, {"audio": 0.3, "video": 1.7}])
def test_l2_projection_weighs_modalities_by_their_scale(scale: dict[str, float]) -> None:
    packing = Packing({"audio": (1,), "video": (1,)}, {"audio": (-1.0, 1.0), "video": (-9.0, 9.0)}, scale)
    clean = packing.pack({"audio": torch.tensor([[0.1]]), "video": torch.tensor([[0.2]])})
    region = packing.ball("l2", 0.5).around(clean)
    point = packing.unpack(region.project(clean + torch.tensor([[3.0, 4.0]])))
    assert float(point["audio"]) == pytest.approx(0.1 + 0.3 * scale["audio"], rel=1e-5)
    assert float(point["video"]) == pytest.approx(0.2 + 0.4 * scale["video"], rel=1e-5)


class Halves(nn.Module):
    """A linear victim whose input comes as two modalities."""

    def __init__(self, victim: LinearVictim, first: int) -> None:
        super().__init__()
        self.victim, self.first = victim, first

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.victim({"audio": torch.cat([inputs["left"], inputs["right"].flatten(1)], 1)})


@pytest.mark.parametrize("scale", [None, {"left": 0.125, "right": 2.0}, {"left": 0.1, "right": 0.7}])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_victim_breaks_at_margin_over_dual_norm(norm: str, scale: dict[str, float] | None) -> None:
    """The concatenated gradient, each half times its scale, in the dual norm."""
    linear, clean = LinearVictim((40,), seed=4), waves(8, 40)
    inputs = {"left": clean[:, :24], "right": clean[:, 24:].view(8, 4, 4)}
    wide = {"left": (-50.0, 50.0), "right": (-50.0, 50.0)}
    packing = Packing({"left": (24,), "right": (4, 4)}, wide, scale)
    victim = packed_victim(Halves(linear, 24), packing)
    joined = packing.join(inputs)
    labels = predictions(victim, joined)
    found = minimal_scale(victim, joined, Goal(labels), {JOINT: packing.ball(norm, 0.1)}, tolerance=1.005)
    slope = (linear.weight[1] - linear.weight[0]).detach().double()
    logits = linear({"audio": clean}).detach().double()
    weights = torch.cat(
        [torch.full((24,), (scale or {}).get("left", 1.0)), torch.full((16,), packing.scale_of("right"))]
    )
    dual = torch.linalg.vector_norm(slope * weights, {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm])
    ratio = found.scale * 0.1 / ((logits[:, 0] - logits[:, 1]).abs() / dual)
    assert float(ratio.min()) > 1 - 1e-5
    assert float(ratio.max()) < 1.01
    opened = packing.split(found.inputs)
    assert bool((predictions(Halves(linear, 24), opened) != labels).all())
    sizes = numpy_norms(inputs, opened, {name: packing.scale_of(name) for name in inputs}, norm)
    np.testing.assert_allclose(sizes, found.scale.numpy() * 0.1, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_victim_in_a_tight_range(norm: str) -> None:
    linear, clean = LinearVictim((60,), seed=1), waves(8, 60, peak=0.2)
    inputs = {"left": clean[:, :24], "right": clean[:, 24:]}
    packing = Packing({"left": (24,), "right": (36,)}, dict.fromkeys(inputs, (-0.2, 0.2)))
    victim, joined = packed_victim(Halves(linear, 24), packing), packing.join(inputs)
    labels = predictions(victim, joined)
    exact = torch.from_numpy(breaking_radius(linear, clean, labels, norm, -0.2, 0.2))
    reachable = exact.isfinite().nonzero()[:, 0]
    joined, labels, exact = {JOINT: joined[JOINT][reachable]}, labels[reachable], exact[reachable]
    for factor, broken in ((0.99, False), (1.02, True)):
        ball = packing.ball(norm, exact * factor)
        result = pgd(victim, joined, Goal(labels), {JOINT: ball}, config=PGD(steps=100))
        assert result.broken.tolist() == [broken] * len(reachable)


@pytest.mark.parametrize("scale", [POWERS, ODD], ids=["powers", "odd"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_budget_holds_packed_and_unpacked(norm: str, scale: dict[str, float]) -> None:
    """From radii near the rounding of float32 up, where rounding on unpacking could exceed them."""
    packing, inputs = Packing(SHAPES, BOUNDS, scale), senses()
    inputs["video"] = inputs["video"].clamp(0, 1)
    victim, joined = packed_victim(TwoSenses(), packing), packing.join(inputs)
    goal = Goal(predictions(victim, joined))
    for radius in (1e-5, 1e-3, 0.1):
        ball = packing.ball(norm, radius)
        config = PGD(steps=6, stop_when_broken=False)
        result = pgd(victim, joined, goal, {JOINT: ball}, config=config)
        assert ball.around(joined[JOINT]).audit(result.inputs[JOINT]).reasons == ()
        opened = packing.split(result.inputs)
        sizes = numpy_norms(inputs, opened, scale, norm)
        assert (sizes <= radius * (1 + 1e-6)).all()
        for name, (low, high) in BOUNDS.items():
            assert float(opened[name].min()) >= low
            assert float(opened[name].max()) <= high
        told = packing.size(inputs, opened, norm)
        np.testing.assert_allclose(told[JOINT].numpy(), sizes, rtol=1e-12)
        assert bool((torch.maximum(told["audio"], told["video"]) <= told[JOINT] * (1 + 1e-12)).all())
    assert sizes.min() > 0.9 * radius


@pytest.mark.parametrize("norm", NORMS)
def test_rounding_never_exceeds_the_radius(norm: str) -> None:
    """Random points, not an attack: far outside, so that every projection ends on the boundary."""
    generator = torch.Generator().manual_seed(5)
    for trial in range(60):
        scale = {name: float(10 ** (torch.rand((), generator=generator) * 4 - 3)) for name in SHAPES}
        packing, inputs = Packing(SHAPES, BOUNDS, scale), senses(4, trial)
        packed = packing.pack(inputs)
        radius = float(10 ** (torch.rand((), generator=generator) * 4 - 5)) / max(scale.values())
        region = packing.ball(norm, radius).around(packed)
        far = packed + torch.randn(packed.shape, generator=generator) * radius * 3
        opened = packing.unpack(region.project(far.to(packed.dtype)))
        assert (numpy_norms(inputs, opened, scale, norm) <= radius * (1 + 1e-6)).all()


def test_radius_zero_is_the_clean_input_to_the_bit() -> None:
    packing, inputs = Packing(SHAPES, BOUNDS, ODD), senses()
    victim, joined = packed_victim(TwoSenses(), packing), packing.join(inputs)
    goal = Goal(predictions(victim, joined))
    found = packing.split(pgd(victim, joined, goal, {JOINT: packing.ball("l2", 0.0)}, config=PGD(steps=3)).inputs)
    assert all(torch.equal(found[name], inputs[name]) for name in inputs)


def test_separate_budgets_are_separate_and_the_joint_one_is_joint() -> None:
    """methods.md 2.5: code is known that projects each modality on the combined radius."""
    victim, inputs = TwoSenses(), senses()
    goal, config = Goal(predictions(victim, inputs)), PGD(steps=8, stop_when_broken=False)
    radius = {"audio": 0.02, "video": 0.5}
    threat = {name: Ball("l2", value, "amplitude", *BOUNDS[name]) for name, value in radius.items()}
    both = pgd(victim, inputs, goal, threat, config=config)
    one = dict.fromkeys(radius, 1.0)
    for name, value in radius.items():
        alone = {name: inputs[name]}
        assert (numpy_norms(alone, {name: both.inputs[name]}, one, "l2") <= value * (1 + 1e-6)).all()
    packing = Packing(SHAPES, BOUNDS)
    joint = pgd(
        packed_victim(victim, packing), packing.join(inputs), goal, {JOINT: packing.ball("l2", 0.5)}, config=config
    )
    opened = packing.split(joint.inputs)
    assert (numpy_norms(inputs, opened, one, "l2") <= 0.5 * (1 + 1e-6)).all()
    # The joint ball lets audio have far more than its own 0.02, and the attack takes it.
    assert float(packing.size(inputs, opened, "l2")["audio"].max()) > 0.04


@pytest.mark.parametrize("scale", [None, ODD])
def test_an_example_fares_alike_alone_and_in_company(scale: dict[str, float] | None) -> None:
    packing, inputs = Packing(SHAPES, BOUNDS, scale), senses(10)
    victim, joined = packed_victim(TwoSenses(), packing), packing.join(inputs)
    labels = predictions(victim, joined)
    threat = {JOINT: packing.ball("l2", 0.15 if scale is None else 4.0)}

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        generators = [torch.Generator().manual_seed(int(row)) for row in rows]
        part = {JOINT: joined[JOINT][rows]}
        result = pgd(victim, part, Goal(labels[rows]), threat, config=PGD(steps=8), generators=generators)
        return result.inputs[JOINT], result.forwards

    points, forwards = run(torch.arange(10))
    assert len(set(forwards.tolist())) > 1
    for row in (0, 3, 7):
        alone, own = run(torch.tensor([row]))
        assert torch.equal(alone[0], points[row])
        assert own[0] == forwards[row]


def test_padding_takes_no_part() -> None:
    packing, inputs = Packing(SHAPES, BOUNDS, ODD), senses(6)
    victim, joined = packed_victim(TwoSenses(), packing), packing.join(inputs)
    valid = {"audio": (torch.arange(400) < 250).expand(6, 400)}
    goal, ball = Goal(predictions(victim, joined)), packing.ball("l2", 2.0)
    config = PGD(steps=5, stop_when_broken=False)
    result = pgd(victim, joined, goal, {JOINT: ball}, config=config, valid=packing.join_valid(valid, 6))
    opened = packing.split(result.inputs)
    assert torch.equal(opened["audio"][:, 250:], inputs["audio"][:, 250:])
    assert not torch.equal(opened["audio"][:, :250], inputs["audio"][:, :250])


def test_the_victim_within_is_frozen_and_left_as_it_was() -> None:
    """In training mode dropout and batch norm would make every pass another."""
    packing, inputs = Packing(SHAPES, BOUNDS), senses()
    inner = TwoSenses().train()
    victim, joined = packed_victim(inner, packing), packing.join(inputs)
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    goal = Goal(predictions(inner, inputs))
    results = [pgd(victim, joined, goal, {JOINT: packing.ball("l2", 0.1)}, config=PGD(steps=3)) for _ in range(2)]
    assert torch.equal(results[0].inputs[JOINT], results[1].inputs[JOINT])
    assert inner.training
    assert inner.audio.drop.training
    assert all(parameter.requires_grad for parameter in inner.parameters())
    assert all(torch.equal(value, before[name]) for name, value in inner.state_dict().items())
    inner.spec = "told by the victim within"
    assert victim.spec == inner.spec
    with pytest.raises(AttributeError):
        _ = victim.nothing_of_the_kind


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_through_two_modalities(norm: str) -> None:
    """Both ways of sharing: two budgets, and one over both; every class can be asked for."""
    linear, clean = LinearVictim((40,), classes=4), waves(8, 40, seed=2)
    inputs = {"left": clean[:, :24], "right": clean[:, 24:]}
    victim = Halves(linear, 24)
    labels = predictions(victim, inputs)
    goal = Goal(labels, targets=(labels + 1 + torch.arange(8) % 3) % 4)
    radius = {"linf": 0.5, "l2": 2.5, "l1": 12.0}[norm]
    apart = pgd(victim, inputs, goal, dict.fromkeys(inputs, Ball(norm, radius)), config=PGD(steps=60))
    packing = Packing({"left": (24,), "right": (16,)}, {})
    packed = packed_victim(victim, packing)
    joint = pgd(packed, packing.join(inputs), goal, {JOINT: packing.ball(norm, radius)}, config=PGD(steps=60))
    for found, broken in ((apart.inputs, apart.broken), (packing.split(joint.inputs), joint.broken)):
        assert torch.equal(predictions(victim, found) == goal.targets, broken)
        assert int(broken.sum()) >= 5
    assert int(apart.broken.sum()) >= int(joint.broken.sum())  # two balls of this radius hold the joint one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, {}), "shapes of the modalities"),
        ((SHAPES, BOUNDS, {"vidoe": 1.0}), "Did you mean 'video'"),
        ((SHAPES, BOUNDS, {"video": 0.0}), "must be above 0"),
        ((SHAPES, BOUNDS, {"video": float("inf")}), "must be above 0 and finite"),
    ],
)
def test_packings_that_cannot_be(arguments: tuple, message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        Packing(*arguments)


def test_inputs_that_do_not_fit_are_named() -> None:
    packing, inputs = Packing(SHAPES, BOUNDS), senses(2)
    with pytest.raises(ThreatModelError, match="covers video"):
        packing.pack({"audio": inputs["audio"]})
    with pytest.raises(ThreatModelError, match=r"audio of shape \(400,\); an example has \(100,\)"):
        packing.pack({**inputs, "audio": inputs["audio"][:, :100]})
    with pytest.raises(ThreatModelError, match="differ by"):
        packing.ball("l2", 100.0).around(packing.pack(inputs))
