"""Expectation over transformation: means of losses and gradients over draws, in the memory of one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.eot import Expectation, ExpectedOracle
from attacks.errors import ThreatModelError
from attacks.gradients import Oracle
from attacks.losses import Goal, cross_entropy, margin
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from tests.oracles.gains import SAMPLES, Gains, batch, victim


def oracle(channel: Gains, draws: int, count: int, keep_steps: int = 1) -> ExpectedOracle:
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    expectation = Expectation(channel, draws, keep_steps)
    return ExpectedOracle(victim, count, torch.device("cpu"), None, expectation, generators, {})


def drawn_gains(draws: int, count: int, low: float = 0.2, high: float = 1.0) -> Tensor:
    """(draws, count) what a fresh oracle draws, drawn independently."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return torch.stack([torch.stack([torch.rand((), generator=g) for g in generators]) for _ in range(draws)]) * (
        high - low
    ) + torch.tensor(low)


@pytest.mark.parametrize("loss", [margin, cross_entropy])
def test_loss_and_gradient_are_means_over_draws(loss):
    inputs, goal = batch(5)
    _, losses, gradients = oracle(Gains(), 6, 5).gradients(inputs, goal, loss, torch.arange(5))
    clips = inputs["audio"].double().requires_grad_()
    each = torch.stack([loss(victim({"audio": clips * gain[:, None].double()}), goal) for gain in drawn_gains(6, 5)])
    (expected,) = torch.autograd.grad(each.mean(dim=0).sum(), clips)
    assert torch.allclose(losses.double(), each.mean(dim=0), atol=1e-6)
    assert torch.allclose(gradients["audio"].double(), expected, atol=1e-6)


def test_losses_are_averaged_and_not_logits():
    inputs, goal = batch(3)
    logits, losses, _ = oracle(Gains(0.0, 3.0), 8, 3).gradients(inputs, goal, cross_entropy, torch.arange(3))
    of_mean = functional.cross_entropy(logits, goal.labels, reduction="none")
    assert (losses - of_mean).abs().min() > 1e-3  # the loss of the mean is another number


@pytest.mark.parametrize("draws", [2, 16])
def test_graphs_of_earlier_draws_are_gone(draws):
    inputs, goal = batch(4)
    channel = Gains()
    oracle(channel, draws, 4).gradients(inputs, goal, margin, torch.arange(4))
    assert len(channel.alive) == draws
    assert max(channel.alive) <= 1  # at most the one that is being replaced, whatever K


def test_passes_are_counted_by_draw():
    inputs, goal = batch(4)
    asked = oracle(Gains(), 5, 4)
    asked.gradients(inputs, goal, margin, torch.tensor([0, 1, 2, 3]))
    some = {"audio": inputs["audio"][1:3]}
    asked.gradients(some, goal.select(torch.tensor([1, 2])), margin, torch.tensor([1, 2]))
    assert asked.backwards.tolist() == [5, 10, 10, 5]
    assert asked.forwards.tolist() == [5, 10, 10, 5]


def test_draws_are_kept_for_so_many_steps():
    inputs, goal = batch(2)
    asked = oracle(Gains(), 2, 2, keep_steps=3)
    found = [asked.gradients(inputs, goal, margin, torch.arange(2))[1] for _ in range(7)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[2], found[3])
    assert torch.equal(found[3], found[5])
    assert not torch.equal(found[5], found[6])


def test_gradient_noise_of_a_linear_victim_is_the_spread_of_its_gains():
    weights = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(3))
    goal, inputs = Goal(torch.tensor([0, 1])), {"audio": torch.zeros(2, SAMPLES)}
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    expectation = Expectation(Gains(), 50)
    asked = ExpectedOracle(
        lambda given: given["audio"] @ weights, 2, torch.device("cpu"), None, expectation, generators, {}
    )
    assert asked.gradient_noise.isnan().all()
    asked.gradients(inputs, goal, margin, torch.arange(2))
    gains = drawn_gains(50, 2)
    assert torch.allclose(asked.gradient_noise.float(), gains.std(dim=0) / 50**0.5 / gains.mean(dim=0), rtol=1e-4)


def test_one_draw_knows_nothing_of_its_noise():
    inputs, goal = batch(2)
    found = pgd(victim, inputs, goal, {"audio": Ball("linf", 0.1)}, config=PGD(3), expectation=Expectation(Gains(), 1))
    assert found.gradient_noise.isnan().all()


def test_an_example_is_attacked_alike_alone_and_in_company():
    inputs, goal = batch(11)
    threat = {"audio": Ball("linf", 0.05)}

    def attacked(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(100 + row) for row in rows]
        own = {"audio": inputs["audio"][rows]}
        found = pgd(
            victim,
            own,
            goal.select(torch.tensor(rows)),
            threat,
            config=PGD(steps=8),
            generators=generators,
            expectation=Expectation(Gains(), 3),
        )
        return found.inputs["audio"]

    together = attacked(list(range(11)))
    assert torch.equal(together[[4]], attacked([4]))
    assert torch.equal(together[6:], attacked([6, 7, 8, 9, 10]))


def test_expectation_finds_what_a_plain_attack_cannot():
    """Half of the draws turn the sign of the sound's first half: only its second half is safe to attack."""

    class Turning(Gains):
        def __call__(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
            sign = torch.where(parameters["gain"] > 0.5, 1.0, -1.0)[:, None]
            return torch.cat([clips[:, :6] * sign, clips[:, 6:]], dim=1)

    strong, weak = torch.full((6,), 4.0), torch.full((6,), 1.0)
    weights = torch.stack([torch.cat([strong, weak]), torch.zeros(SAMPLES)], dim=1)

    def linear(given: dict[str, Tensor]) -> Tensor:
        return given["audio"] @ weights + torch.tensor([0.4, 0.0])

    inputs, goal = {"audio": torch.zeros(1, SAMPLES)}, Goal(torch.tensor([0]))
    channel = Turning(0.0, 1.0)
    found = pgd(
        linear,
        inputs,
        goal,
        {"audio": Ball("l2", 0.5)},
        config=PGD(steps=30, random_start=False),
        expectation=Expectation(channel, 32),
    ).inputs["audio"][0]
    plain = pgd(linear, inputs, goal, {"audio": Ball("l2", 0.5)}, config=PGD(steps=100, stop_when_broken=False))
    assert found[6:].norm() > 0.9 * found.norm()  # what survives the expectation
    assert plain.inputs["audio"][0, :6].norm() > 0.9 * 0.5  # where the plain attack goes, and the channel undoes it


def test_of_several_runs_in_expectation_the_best_is_kept():
    inputs, goal = batch(6)
    steady = Gains(0.99, 1.0)  # as good as certain, so that runs can be told apart by their losses

    def reached(restarts: int) -> Tensor:
        found = pgd(
            victim,
            inputs,
            goal,
            {"audio": Ball("linf", 0.02)},
            config=PGD(steps=20, restarts=restarts),
            generators=[torch.Generator().manual_seed(seed) for seed in range(6)],
            expectation=Expectation(steady, 4),
        )
        return margin(victim(found.inputs), goal)

    assert bool((reached(3) >= reached(1) - 1e-3).all())  # the third run heads for the second class and ends lower


def test_budgets_hold_and_inputs_stay():
    inputs, goal = batch(6)
    before = inputs["audio"].clone()
    valid = torch.ones(6, SAMPLES, dtype=torch.bool)
    valid[:, 9:] = False
    ball = Ball("l2", 0.2)
    found = pgd(
        victim,
        inputs,
        goal,
        {"audio": ball},
        config=PGD(steps=10, schedule="apgd"),
        valid={"audio": valid},
        expectation=Expectation(Gains(), 2),
    )
    assert torch.equal(inputs["audio"], before)
    assert not ball.around(before, valid).audit(found.inputs["audio"]).violated.any()
    assert torch.equal(found.inputs["audio"][:, 9:], before[:, 9:])


def test_a_plain_oracle_counts_as_before():
    inputs, goal = batch(3)
    asked = Oracle(victim, 3, torch.device("cpu"))
    asked.gradients(inputs, goal, margin, torch.arange(3))
    assert asked.backwards.tolist() == [1, 1, 1]


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"keep_steps": 0}, {"draws": -3}, {"sure": 0}])
def test_counts_below_one_are_refused(wrong):
    with pytest.raises(ThreatModelError, match="must be 1 or more"):
        Expectation(Gains(), **wrong)
