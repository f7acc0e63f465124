"""Budgets by hand, audits that must object, and projections that no audit may object to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.threat import Ball, Region, audit

NORMS = ("linf", "l2", "l1")
CLEAN = torch.tensor([[0.3, -0.4, 0.0, 0.0], [0.1, 0.1, -0.1, 0.1]])
VALID = torch.tensor([[True, True, True, True], [True, True, True, False]])


@pytest.mark.parametrize(
    ("norm", "given", "unit", "expected"),
    [
        ("linf", 0.1, "amplitude", [0.1, 0.1]),
        ("l1", 0.1, "amplitude", [0.1, 0.1]),
        ("linf", 32, "lsb16", [32 / 32768] * 2),
        ("l2", 8, "pixel255", [8 / 255] * 2),
        ("linf", -20, "dbfs", [0.1, 0.1]),
        ("l2", -20, "dbfs", [0.1 * 2, 0.1 * math.sqrt(3)]),
        ("l1", -20, "dbfs", [0.4, 0.3]),
        # The first clip has the length 0.5, the second 0.1 * sqrt(3) over its valid samples.
        ("l2", 20, "snr_db", [0.05, 0.01 * math.sqrt(3)]),
        ("l1", 20, "snr_db", [0.05, 0.01 * math.sqrt(3)]),
        ("linf", 20, "snr_db", [0.025, 0.01]),
    ],
)
def test_units(norm: str, given: float, unit: str, expected: list[float]) -> None:
    radius = Ball(norm, given, unit).radius_amplitude(CLEAN, VALID)
    torch.testing.assert_close(radius, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_radius_for_each_example() -> None:
    radius = Ball("linf", torch.tensor([0.1, 0.2])).radius_amplitude(CLEAN)
    torch.testing.assert_close(radius, torch.tensor([0.1, 0.2], dtype=torch.float64))
    region = Ball("linf", torch.tensor([0.1, 0.2])).around(CLEAN)
    moved = (region.project(CLEAN + 1) - CLEAN).amax(1)
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.2]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_snr_holds_for_every_perturbation_in_the_ball(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(20, 60, generator=generator) - 0.5
    valid = torch.arange(60)[None] < torch.arange(20)[:, None] * 2 + 5
    ball = Ball(norm, torch.linspace(0, 60, 20), "snr_db")
    region = ball.around(clean, valid)
    for scale in (0.01, 1.0, 100.0):
        noise = torch.randn(clean.shape, generator=generator) * scale
        noise[:10] = noise[:10].sign() * scale  # the corner of the box, where L-infinity has most energy
        delta = (region.project(clean + noise) - clean).double()
        energy = (clean * valid).double().square().sum(1)
        snr_db = 10 * torch.log10(energy / delta.square().sum(1).clamp_min(1e-300))
        assert bool((snr_db >= torch.linspace(0, 60, 20) - 1e-4).all())
        assert not bool((delta[~valid] != 0).any())


def test_a_silent_clip_has_no_snr_budget() -> None:
    silent = torch.zeros(2, 16)
    region = Ball("linf", 10.0, "snr_db").around(silent)
    assert region.radius.tolist() == [0.0, 0.0]
    assert torch.equal(region.project(silent + 0.5), silent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linf", -0.1), "must not be negative"),
        (("linf", float("nan")), "must be finite"),
        (("linf", float("inf")), "must be finite"),
        (("linf", torch.tensor([0.1, float("nan")])), "must be finite"),
        (("l3", 0.1), "Unknown norm 'l3'"),
        (("linff", 0.1), "Did you mean 'linf'"),
        (("linf", 0.1, "dbf"), "Did you mean 'dbfs'"),
        (("linf", 0.1, "amplitude", 1.0, -1.0), "bounds are empty"),
    ],
)
def test_budgets_that_cannot_hold(arguments: tuple, message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        Ball(*arguments)


@pytest.mark.parametrize(("norm", "most"), [("linf", 2.0), ("l2", 4.0), ("l1", 8.0)])
def test_a_radius_over_the_data_range_is_refused(norm: str, most: float) -> None:
    Ball(norm, most).around(CLEAN)
    with pytest.raises(ThreatModelError, match="differ by"):
        Ball(norm, most * 1.01).around(CLEAN)


def test_clean_inputs_outside_their_range_are_refused() -> None:
    for bad in (1.5, float("nan")):
        clean = CLEAN.clone()
        clean[1, 2] = bad
        with pytest.raises(ThreatModelError, match="leaves its declared range"):
            Ball("linf", 0.1).around(clean)


@pytest.mark.parametrize("norm", NORMS)
def test_audit_catches(norm: str) -> None:
    radius = torch.tensor([0.1, 0.1])

    def reasons(point: Tensor, **changes: tuple[float, float]) -> tuple[list[bool], tuple[str, ...]]:
        found = audit(CLEAN, point, norm, radius, VALID, **changes)
        return found.violated.tolist(), found.reasons

    move = torch.zeros_like(CLEAN)
    move[0, 0] = 0.0999
    assert reasons(CLEAN + move) == ([False, False], ())
    move[0, 0] = 0.1001
    assert reasons(CLEAN + move) == ([True, False], ("budget exceeded",))
    move = torch.zeros_like(CLEAN)
    move[1, 3] = 1e-6
    assert reasons(CLEAN + move) == ([False, True], ("padding touched",))
    assert reasons(CLEAN - torch.tensor([[0.0, 0.01, 0, 0], [0, 0, 0, 0]]), bounds=(-0.4, 1.0)) == (
        [True, False],
        ("outside the data range",),
    )
    for bad in (float("nan"), float("inf")):
        broken = CLEAN.clone()
        broken[1, 0] = bad
        violated, why = reasons(broken)
        assert violated == [False, True]
        assert "not finite" in why


def test_audit_figures() -> None:
    found = audit(CLEAN, CLEAN + torch.tensor([[0.03, -0.04, 0, 0], [0, 0, 0, 0]]), "l2", torch.tensor([0.1, 0.0]))
    for name, expected in {"linf": 0.04, "l2": 0.05, "l1": 0.07, "ratio": 0.5}.items():
        assert getattr(found, name).tolist() == pytest.approx([expected, 0.0], rel=1e-5)
    assert found.snr_db.tolist() == pytest.approx([20.0, math.inf], rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_no_audit_objects_to_a_projection(norm: str) -> None:
    """Radii from 1e-6 to 1, signals from a whisper to full scale, points near and far, with padding, in float32."""
    generator = torch.Generator().manual_seed(1)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(250):
        size = int(10 ** uniform(0, 3))
        low, high = (-1.0, 1.0) if uniform(0, 1) < 0.7 else (0.0, 1.0)
        clean = (torch.rand(6, size, generator=generator) * (high - low) + low) * 10 ** uniform(-6, 0)
        clean[0, : size // 2] = high  # on the bound, as clipped recordings are
        radius = 10 ** uniform(-6, 0)
        valid = torch.rand(6, size, generator=generator) < uniform(0.2, 1.2)
        region = Region(clean, valid, norm, torch.full((6,), radius, dtype=torch.float64), low, high)
        for reach in (0.1, 1.0, 3.0, 1e3, 1.0 / radius):
            point = clean + torch.randn(clean.shape, generator=generator) * radius * reach
            found = region.audit(region.project(point))
            assert found.reasons == (), (norm, size, radius, reach, found.ratio)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_reaches_the_radius(norm: str) -> None:
    clean = (torch.rand(8, 200, generator=torch.Generator().manual_seed(2)) - 0.5).double().float()
    region = Ball(norm, torch.logspace(-2, -0.5, 8)).around(clean)
    far = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    assert bool((region.audit(region.project(far)).ratio > 0.999).all())


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_what_is_inside_and_is_its_own_square(norm: str) -> None:
    clean = torch.rand(4, 50, generator=torch.Generator().manual_seed(4)) - 0.5
    region = Ball(norm, 0.3).around(clean)
    inside = clean + 0.3 / 60 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)
    torch.testing.assert_close(region.project(inside), inside, rtol=0, atol=1e-7)
    once = region.project(clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(6)))
    torch.testing.assert_close(region.project(once), once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_is_as_long_as_it_says(norm: str) -> None:
    clean = torch.zeros(3, 100)
    region = Ball(norm, 0.9).around(clean)
    gradient = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    moved = region.ascend(clean, gradient, torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(region.size(moved).float(), torch.tensor([0.1, 0.2, 0.3]), rtol=1e-4, atol=0)
    assert bool(((moved * gradient).sum(1) > 0).all())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_step_wastes_nothing_on_coordinates_at_their_bound(norm: str) -> None:
    clean = torch.zeros(1, 10)
    clean[0, 0] = 1.0
    gradient = torch.full((1, 10), 0.1)
    gradient[0, 0] = 100.0
    step = Ball(norm, 0.5).around(clean).direction(clean, gradient, torch.tensor([0.1]))
    assert float(step[0, 0]) == 0.0
    assert float(step.abs().sum()) >= 1.0 - 1e-6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_samples_are_uniform_in_the_ball(norm: str, masked: bool) -> None:
    count, size, radius = 2000, 12, 0.5
    valid = torch.ones(size, dtype=torch.bool)
    valid[5:] = not masked
    clean = torch.zeros(count, size)
    region = Ball(norm, radius).around(clean, valid.expand(count, size))
    points = region.sample([torch.Generator().manual_seed(seed) for seed in range(count)])
    found = region.audit(points)
    assert found.reasons == ()
    # In any norm the radius of a uniform point has the distribution r^n: its mean is n / (n + 1).
    dimension = int(valid.sum())
    mean = dimension / (dimension + 1)
    spread = math.sqrt(dimension / (dimension + 2) - mean**2)
    assert float(found.ratio.mean()) == pytest.approx(mean, abs=4 * spread / math.sqrt(count))
    share = (points[:, valid] > 0).float().mean(0)
    assert bool(((share - 0.5).abs() < 4 * 0.5 / math.sqrt(count)).all())
    sizes = points[:, valid].abs().mean(0)
    assert float(sizes.max() / sizes.min()) < 1.25


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_depends_on_its_own_generator_alone(norm: str) -> None:
    clean = torch.rand(5, 30, generator=torch.Generator().manual_seed(8)) - 0.5
    region = Ball(norm, 0.1).around(clean)
    together = region.sample([torch.Generator().manual_seed(seed) for seed in range(5)])
    for row in range(5):
        alone = region.select(torch.tensor([row])).sample([torch.Generator().manual_seed(row)])
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_of_each_coordinate(norm: str) -> None:
    """The same projection as with one range where they agree; its own range for each where they do not."""
    generator = torch.Generator().manual_seed(9)
    clean = torch.rand(5, 3, 4, generator=generator) * 0.8
    far = clean + torch.randn(clean.shape, generator=generator)
    same = Ball(norm, 0.5, low=torch.zeros(4), high=torch.ones(3, 4)).around(clean)
    plain = Ball(norm, 0.5, low=0.0, high=1.0).around(clean)
    assert torch.equal(same.project(far), plain.project(far))
    high = 0.8 + torch.rand(3, 4, generator=generator) * 0.1
    ball = Ball(norm, 0.5, low=torch.zeros(3, 4), high=high)
    point = ball.around(clean).project(clean + far.abs())
    assert bool((point <= high).all())
    assert ball.around(clean).audit(point).reasons == ()
    point[2] = 0.95
    assert "outside the data range" in ball.around(clean).audit(point).reasons


def test_bounds_of_each_coordinate_that_cannot_be() -> None:
    with pytest.raises(ThreatModelError, match="bounds are empty"):
        Ball("linf", 0.1, low=torch.tensor([0.0, 1.0]), high=torch.ones(2))
    narrow = torch.tensor([0.5, 1.0, 1.0, 1.0])
    for norm, most in (("linf", 2.0), ("l2", (1.5**2 + 3 * 4) ** 0.5), ("l1", 7.5)):
        Ball(norm, most, high=narrow).around(CLEAN)
        with pytest.raises(ThreatModelError, match=r"two inputs in \[-1, 1\] differ by"):
            Ball(norm, most * 1.01, high=narrow).around(CLEAN)
    with pytest.raises(ThreatModelError, match="leaves its declared range"):
        Ball("linf", 0.1, high=torch.tensor([0.2, 1.0, 1.0, 1.0])).around(CLEAN)


@pytest.mark.parametrize("norm", NORMS)
def test_torchattacks_needs_one_range_for_all(norm: str) -> None:
    from attacks.losses import Goal
    from attacks.zoo import run_torchattacks
    from tests.oracles.linear import LinearVictim

    ball = Ball(norm, 0.1, low=-torch.ones(4), high=torch.ones(4))
    name = {"linf": "PGD", "l2": "PGDL2", "l1": "EADL1"}[norm]
    with pytest.raises(ThreatModelError, match="one data range"):
        run_torchattacks(LinearVictim((4,)), {"audio": CLEAN}, Goal(torch.tensor([0, 1])), {"audio": ball}, name)


def test_a_step_leaves_its_arguments_alone() -> None:
    for norm in NORMS:
        region = Ball(norm, 0.5).around(CLEAN)
        point, gradient, step = CLEAN + 0.01, CLEAN.roll(1, 1) - 0.2, torch.tensor([0.1, 0.2])
        before = [value.clone() for value in (point, gradient, step)]
        region.ascend(point, gradient, step)
        assert all(torch.equal(now, then) for now, then in zip((point, gradient, step), before, strict=True))
