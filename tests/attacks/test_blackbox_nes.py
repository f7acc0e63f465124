"""NES: estimates against true gradients, linear victims in closed form, and queries counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.blackbox import FAKEBOB, NES, nes
from attacks.blackbox_nes import NesOracle
from attacks.eot import Expectation
from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, at_most
from attacks.losses import Goal, margin
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from tests.oracles import gains
from tests.oracles.hidden import Detached, Quantised
from tests.oracles.linear import LinearVictim, breaking_radius
from tests.oracles.toy import ConvVictim, TwoSenses, predictions, waves

AUDIO = waves(9)
CPU = torch.device("cpu")


def seeds(rows: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in rows]


def estimate(victim: nn.Module, clean: Tensor, goal: Goal, config: NES, ball: Ball) -> tuple[Tensor, Tensor]:
    """Estimated gradients and how noisy they say they are."""
    oracle = NesOracle(victim, {"audio": clean}, goal, {"audio": ball}, "audio", None, None, None, config=config)
    _, _, gradients = oracle.gradients({"audio": clean}, goal, margin, torch.arange(len(clean)))
    return gradients["audio"], oracle.gradient_noise


@pytest.mark.parametrize("victim", [LinearVictim((30,), 3), ConvVictim(samples=400).eval()], ids=["linear", "conv"])
def test_the_estimate_converges_to_the_gradient(victim: nn.Module) -> None:
    clean = waves(3, 30 if isinstance(victim, LinearVictim) else 400)
    goal = Goal(predictions(victim, {"audio": clean}))
    _, _, exact = Oracle(victim, 3, CPU).gradients({"audio": clean}, goal, margin, torch.arange(3))
    errors = []
    for samples in (64, 1024, 8192):
        found, noise = estimate(victim, clean, goal, NES(samples=samples, sigma=1e-3), Ball("linf", 0.1))
        error = (found - exact["audio"]).norm(dim=1) / exact["audio"].norm(dim=1)
        # For a linear victim its mean square is (N + 1) / pairs.
        expected = ((clean.shape[1] + 1) / (samples / 2)) ** 0.5
        assert bool((error < 2 * expected).all())
        assert bool((error > 0.3 * expected).all())
        assert bool((noise < 1).all())
        errors.append(float(error.mean()))
    assert errors[2] < errors[1] / 2 < errors[0] / 5
    spread = (31 / 4096) ** 0.5
    assert not isinstance(victim, LinearVictim) or torch.allclose(noise, torch.full_like(noise, spread), rtol=0.2)


def test_neighbours_stay_in_range_and_padding_is_not_asked_about() -> None:
    seen: list[Tensor] = []

    def victim(inputs: dict[str, Tensor]) -> Tensor:
        seen.append(inputs["audio"].clone())
        return inputs["audio"][:, :2]

    clean = torch.full((2, 20), 0.999)
    valid = torch.arange(20) < 15
    found = nes(
        victim,
        {"audio": clean},
        Goal(torch.tensor([0, 0])),
        {"audio": Ball("linf", 0.01)},
        config=NES(steps=3, samples=10, sigma=0.05),
        valid={"audio": valid.expand(2, 20)},
    )
    asked = torch.cat(seen)
    assert float(asked.max()) == 1.0
    assert float(asked.min()) > 0.5
    assert bool((asked[:, 15:] == clean[0, 15:]).all())
    assert torch.equal(found.inputs["audio"][:, 15:], clean[:, 15:])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_victim_breaks_near_its_closed_form_radius_and_not_below(norm: str) -> None:
    victim, clean = LinearVictim((40,)), waves(6, 40)
    labels = predictions(victim, {"audio": clean})
    exact = torch.from_numpy(breaking_radius(victim, clean, labels, norm))
    config = NES(steps=40, samples=200, momentum=0.5)
    for factor, broken in ((0.99, False), (1.2, True)):
        ball = Ball(norm, exact * factor)
        found = nes(victim, {"audio": clean}, Goal(labels), {"audio": ball}, config=config)
        assert found.broken.tolist() == [broken] * 6, factor
        assert torch.equal(predictions(victim, found.inputs) != labels, found.broken)
        assert ball.around(clean).audit(found.inputs["audio"]).reasons == ()


def test_queries_are_counted_one_by_one() -> None:
    passes = 0

    def victim(inputs: dict[str, Tensor]) -> Tensor:
        nonlocal passes
        passes += len(inputs["audio"])
        return torch.stack([torch.ones(len(inputs["audio"])), torch.zeros(len(inputs["audio"]))], dim=1)

    config = NES(steps=5, samples=8)
    inputs, ball = {"audio": waves(8, 20)}, {"audio": Ball("linf", 0.1)}
    found = nes(victim, inputs, Goal(torch.zeros(8, dtype=torch.int64)), ball, config=config)
    assert found.forwards.tolist() == [config.queries] * 8 == [5 * 9 + 1] * 8
    assert found.backwards.tolist() == [0] * 8
    assert passes == 8 * config.queries  # eight fill their lanes: nothing is padded
    easy = nes(victim, inputs, Goal(torch.ones(8, dtype=torch.int64)), ball, config=config)
    assert easy.broken.all()
    assert easy.forwards.tolist() == [9] * 8  # broken from the start, seen once the first estimate is made


@pytest.mark.parametrize("heard", [False, True], ids=["plain", "channel"])
def test_an_example_fares_alike_alone_in_company_and_in_little_memory(heard: bool) -> None:
    victim, inputs = ConvVictim().eval(), {"audio": AUDIO}
    goal = Goal(predictions(victim, inputs))
    expectation = Expectation(gains.Gains(0.9, 1.1), 2, sure=3) if heard else None

    def attacked(rows: list[int]):
        index = torch.tensor(rows)
        return nes(
            victim,
            {"audio": inputs["audio"][index]},
            goal.select(index),
            {"audio": Ball("linf", 0.05)},
            config=NES(steps=6, samples=12, sigma=0.01),
            generators=seeds(rows),
            expectation=expectation,
        )

    together = attacked(list(range(9)))
    assert 0 < int(together.broken.sum()) < 9
    with at_most(8):
        small = attacked(list(range(9)))
    for rows, some in (([4], attacked([4])), ([7, 0, 3], attacked([7, 0, 3])), (list(range(9)), small)):
        assert torch.equal(some.inputs["audio"], together.inputs["audio"][rows])
        for name in ("broken", "loss", "forwards"):
            assert torch.equal(getattr(some, name), getattr(together, name)[rows]), name


def test_no_more_rows_at_once_than_allowed() -> None:
    sizes: list[int] = []

    def victim(inputs: dict[str, Tensor]) -> Tensor:
        sizes.append(len(inputs["audio"]))
        return inputs["audio"][:, :2]

    goal, ball = Goal(torch.zeros(3, dtype=torch.int64)), {"audio": Ball("linf", 1e-4)}
    with at_most(16):
        nes(victim, {"audio": waves(3, 20)}, goal, ball, config=NES(steps=2, samples=50))
    assert max(sizes) == 16


@pytest.mark.parametrize("kind", ["quantised", "detached"])
def test_it_succeeds_where_the_gradient_is_hidden(kind: str) -> None:
    bare = LinearVictim((100,), classes=3)
    victim = Quantised(bare, 1 / 128) if kind == "quantised" else Detached(bare)
    clean = waves(8, 100)
    goal, ball = Goal(predictions(victim, {"audio": clean})), {"audio": Ball("linf", 0.15)}
    blind = pgd(victim, {"audio": clean}, goal, ball, config=PGD(steps=40))
    found = nes(victim, {"audio": clean}, goal, ball, config=NES(steps=40, samples=60, sigma=0.02))
    assert int(blind.broken.sum()) <= 2
    assert int(found.broken.sum()) == 8


def test_without_sure_nobody_is_finished_and_the_last_point_is_kept() -> None:
    inputs, goal = gains.batch(4)
    config = NES(steps=4, samples=6, sigma=0.01)

    def attacked(sure: int | None):
        expectation = Expectation(gains.Gains(0.8, 1.0), 2, sure=sure)
        return nes(gains.victim, inputs, goal, {"audio": Ball("linf", 0.4)}, config=config, expectation=expectation)

    never, asked = attacked(None), attacked(4)
    assert never.forwards.tolist() == [2 * config.queries] * 4
    assert bool(asked.broken.any())
    assert bool((asked.forwards[asked.broken] < 2 * config.queries).all())


def test_one_sense_is_attacked_and_the_other_left() -> None:
    victim = TwoSenses().eval()
    inputs = {"audio": waves(3), "video": torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))}
    goal, ball = Goal(predictions(victim, inputs)), Ball("l2", 20, "pixel255", low=0.0)
    found = nes(victim, inputs, goal, {"video": ball}, config=NES(steps=30, sigma=0.01), modality="video")
    assert torch.equal(found.inputs["audio"], inputs["audio"])
    start = margin(victim(inputs), goal)
    assert bool((margin(victim(found.inputs), goal) > start).all())
    assert ball.around(inputs["video"]).audit(found.inputs["video"]).reasons == ()


def test_the_preset_is_that_of_audiopure() -> None:
    assert (FAKEBOB.steps, FAKEBOB.samples, FAKEBOB.sigma, FAKEBOB.momentum) == (200, 200, 0.001, 0.9)
    assert FAKEBOB.rel_step == 0.001 / 0.002
    assert FAKEBOB.queries == 40_201


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps must be 1 or more"),
        ({"samples": 7}, "even number"),
        ({"samples": 0}, "even number"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"momentum": 1.0}, "momentum"),
        ({"rel_step": -1.0}, "rel_step"),
        ({"loss": "margn"}, "Did you mean 'margin'"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ThreatModelError, match=told):
        replace(NES(), **wrong)


@pytest.mark.parametrize(
    ("threat", "modality", "told"),
    [
        ({"audio": Ball("linf", 0.1)}, "audoi", "Did you mean 'audio'"),
        ({}, "audio", "needs one budget"),
        ({"audio": Ball("linf", 0.1), "video": Ball("linf", 0.1)}, "audio", "needs one budget"),
    ],
)
def test_budgets_that_do_not_fit_are_refused(threat: dict[str, Ball], modality: str, told: str) -> None:
    inputs = {"audio": waves(2, 20), "video": torch.zeros(2, 3)}
    with pytest.raises(ThreatModelError, match=told):
        nes(LinearVictim((20,)), inputs, Goal(torch.zeros(2, dtype=torch.int64)), threat, modality=modality)
