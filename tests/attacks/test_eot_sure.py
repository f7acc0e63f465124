"""When an attack in expectation is sure enough of an example to let it go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from attacks.eot import Expectation
from attacks.losses import Goal
from attacks.pgd import PGD, AttackResult, pgd
from attacks.threat import Ball
from tests.oracles.gains import SAMPLES, Gains, batch, victim


def surely(
    sure: int | None, config: PGD, draws: int = 2, keep_steps: int = 1, rows: Sequence[int] = range(9)
) -> AttackResult:
    """An attack on some of nine examples whose success is a matter of luck in many draws."""
    inputs, goal = batch(9)
    index = torch.tensor(list(rows))
    return pgd(
        victim,
        {"audio": inputs["audio"][index]},
        goal.select(index),
        {"audio": Ball("linf", 0.08)},
        config=config,
        generators=[torch.Generator().manual_seed(50 + row) for row in rows],
        expectation=Expectation(Gains(0.1, 1.5), draws, keep_steps, sure=sure),
    )


FINISHING = [PGD(steps=8), PGD(steps=8, schedule="apgd"), PGD(steps=4, restarts=3)]


@pytest.mark.parametrize("config", FINISHING, ids=["cosine", "apgd", "restarts"])
@pytest.mark.parametrize("keep_steps", [1, 3])
def test_who_is_sure_leaves_and_the_others_go_on_as_if_not_asked(config: PGD, keep_steps: int):
    asked, never = surely(6, config, keep_steps=keep_steps), surely(None, config, keep_steps=keep_steps)
    assert 0 < int(asked.broken.sum()) < 9
    assert bool((asked.backwards[asked.broken] <= never.backwards[asked.broken]).all())
    assert bool((asked.backwards[asked.broken] < never.backwards[asked.broken]).any())
    if config.restarts == 1:
        left = ~asked.broken
        assert torch.equal(asked.inputs["audio"][left], never.inputs["audio"][left])
        assert torch.equal(asked.backwards[left], never.backwards[left])


def test_those_who_are_finished_are_broken_nearly_always():
    """Forty draws in a row and the two of the step: hardly a matter of luck any more."""
    found, (_, goal) = surely(40, PGD(steps=15)), batch(9)
    clips = found.inputs["audio"]
    gains = torch.linspace(0.1, 1.5, 200)
    share = torch.stack([goal.broken(victim({"audio": clips * gain})) for gain in gains]).double().mean(dim=0)
    assert bool(found.broken.any())
    assert bool((share[found.broken] > 0.85).all())
    assert int(found.broken.sum()) <= int(surely(1, PGD(steps=15)).broken.sum())


@pytest.mark.parametrize("config", FINISHING, ids=["cosine", "apgd", "restarts"])
def test_being_finished_does_not_depend_on_company(config: PGD):
    together = surely(5, config, keep_steps=2)
    for rows in ([3], [8, 0, 5], range(4, 9)):
        some = surely(5, config, keep_steps=2, rows=rows)
        index = torch.tensor(list(rows))
        assert torch.equal(some.inputs["audio"], together.inputs["audio"][index])
        for name in ("broken", "forwards", "backwards"):
            assert torch.equal(getattr(some, name), getattr(together, name)[index]), name


def test_fresh_draws_are_counted():
    """A steady channel and a hopeless victim: 1 + 2 + 2 more forward passes at the first step, and it is over."""
    inputs = {"audio": torch.zeros(3, SAMPLES)}
    goal = Goal(torch.tensor([0, 1, 1]))

    def says_one(given: dict[str, Tensor]) -> Tensor:
        return given["audio"].sum(dim=1, keepdim=True) * 0 + torch.tensor([0.0, 1.0])

    expectation = Expectation(Gains(), 4, sure=5)
    found = pgd(says_one, inputs, goal, {"audio": Ball("linf", 0.1)}, config=PGD(steps=6), expectation=expectation)
    assert found.broken.tolist() == [True, False, False]
    assert found.forwards.tolist() == [4 + 5, 7 * 4, 7 * 4]
    assert found.backwards.tolist() == [4, 6 * 4, 6 * 4]


def test_one_draw_that_fails_ends_the_asking():
    """Broken in the K draws of every step, never in those apart, which are heard without gradients."""
    asked: list[int] = []

    def twofaced(given: dict[str, Tensor]) -> Tensor:
        clips = given["audio"]
        last = not torch.is_grad_enabled()
        asked.append(int(last))
        side = torch.tensor([[1.0, 0.0]]) if last else torch.tensor([[0.0, 1.0]])
        return clips.sum(dim=1, keepdim=True) * 0 + side

    inputs, goal = {"audio": torch.zeros(1, SAMPLES)}, Goal(torch.tensor([0]))
    expectation = Expectation(Gains(), 3, sure=50)
    found = pgd(twofaced, inputs, goal, {"audio": Ball("linf", 0.1)}, config=PGD(steps=5), expectation=expectation)
    assert not bool(found.broken.any())
    assert found.forwards.tolist() == [5 * (3 + 1) + 3]  # one more at each of the steps, none at the last
    assert sum(asked) == 5 + 3


def test_a_channel_with_weights_is_frozen_too():
    class Learned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.5))
            self.seen: set[tuple[bool, bool]] = set()

        def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
            return {}

        def forward(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
            self.seen.add((self.training, self.gain.requires_grad))
            return clips * self.gain

    inputs, goal = batch(2)
    channel = Learned().train()
    pgd(victim, inputs, goal, {"audio": Ball("linf", 0.1)}, config=PGD(steps=2), expectation=Expectation(channel, 1))
    assert channel.seen == {(False, False)}
    assert channel.training
    assert channel.gain.requires_grad
