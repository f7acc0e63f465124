"""One-step training: exact where victims are linear; the free perturbation is carried and stays in its ball."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.losses import Goal
from attacks.threat import Ball
from defenses.fast import CatastrophicOverfitting, FastTraining, FreeTraining, one_step
from tests.defenses.pupil import Duet, Pupil, batch, lesson_of, many_labels, one_label, seeded
from tests.oracles.linear import LinearVictim
from tests.oracles.toy import ConvVictim, waves

THREAT = {"audio": Ball("linf", 0.05), "video": Ball("l2", 0.4, low=0.0, high=1.0)}
LABELS = torch.tensor([0, 1, 1, 0, 1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_is_the_worst_case_of_a_linear_victim(norm: str) -> None:
    victim, audio = LinearVictim((30,)), waves(5, 30)
    goal = Goal(LABELS, reference=torch.eye(2)[LABELS])
    found, oracle = one_step(victim, {"audio": audio}, goal, {"audio": Ball(norm, 0.03)})
    slope = victim.weight.detach()[1 - LABELS] - victim.weight.detach()[LABELS]
    move = slope.sign() if norm == "linf" else slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found["audio"], audio + 0.03 * move, rtol=0, atol=2e-7)
    assert oracle.forwards.tolist() == oracle.backwards.tolist() == [1] * 5


def test_a_random_start_and_a_long_step_end_in_the_ball() -> None:
    victim, audio = LinearVictim((2000,)), waves(5, 2000)
    goal, ball = Goal(LABELS, reference=torch.eye(2)[LABELS]), Ball("linf", 0.03)
    generators = [seeded(100 + row) for row in range(5)]  # other numbers than those of the weights
    found, _ = one_step(victim, {"audio": audio}, goal, {"audio": ball}, rel_step=1.25, generators=generators)
    assert not bool(ball.around(audio).audit(found["audio"]).violated.any())
    slope = victim.weight.detach()[1 - LABELS] - victim.weight.detach()[LABELS]
    gain = (found["audio"] - audio) * slope.sign() / 0.03
    # From u uniform in [-1, 1] to min(u + 1.25, 1): never below 0.25, at 1 for u > -0.25.
    assert float(gain.min()) == pytest.approx(0.25, abs=0.01)
    assert float((gain > 0.999).float().mean()) == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize("multilabel", [False, True])
def test_fast_holds_every_budget_and_takes_two_passes_each_way(multilabel: bool) -> None:
    pupil, inputs = Pupil(Duet(), multilabel), batch(9)
    targets = many_labels(9) if multilabel else one_label(9)
    lesson = lesson_of(pupil, inputs, targets)
    loss, found = FastTraining(THREAT).loss(pupil, lesson, seeded())
    torch.testing.assert_close(loss, pupil.loss(pupil.victim(found), targets))
    assert loss.item() > pupil.loss(pupil.victim(inputs), targets).item()
    for name, ball in THREAT.items():
        assert not bool(ball.around(inputs[name]).audit(found[name]).violated.any())
    lesson.passes.backward()
    assert (lesson.passes.forwards, lesson.passes.backwards) == (18, 18)


def replay(free: FreeTraining, pupil: Pupil, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """One loss and its gradients; returns what was learnt from."""
    lesson = lesson_of(pupil, inputs, targets)
    loss, learnt = free.loss(pupil, lesson, seeded())
    loss.backward()
    lesson.passes.backward()
    free.after_backward()
    assert (lesson.passes.forwards, lesson.passes.backwards) == (len(targets), len(targets))
    return {name: value.detach() for name, value in learnt.items()}


def test_the_free_perturbation_is_that_of_the_algorithm() -> None:
    """On a linear victim whose weights stay: 0 first, then a radius along the sign, then there it stays."""
    victim, audio = LinearVictim((30,)), waves(5, 30, peak=0.99)
    pupil, targets, free = Pupil(victim), torch.eye(2)[LABELS], FreeTraining({"audio": Ball("linf", 0.03)})
    slope = victim.weight.detach()[1 - LABELS] - victim.weight.detach()[LABELS]
    worst = (audio + 0.03 * slope.sign()).clamp(-1, 1)
    learnt = [replay(free, pupil, {"audio": audio}, targets)["audio"] for _ in range(3)]
    torch.testing.assert_close(learnt[0], audio, rtol=0, atol=1e-7)
    for later in learnt[1:]:
        torch.testing.assert_close(later, worst, rtol=0, atol=1e-6)
    assert all(part.grad is not None for part in victim.parameters())  # the same pass serves the weights


def test_the_free_perturbation_is_carried_to_the_next_batch_and_stays_in_the_ball() -> None:
    pupil, free = Pupil(Duet()), FreeTraining(THREAT)
    for turn in range(6):
        inputs = batch(6, seed=turn // 2)
        carried = {name: value.clone() for name, value in free.kept.items()}
        learnt = replay(free, pupil, inputs, one_label())
        for name, ball in THREAT.items():
            region = ball.around(inputs[name])
            assert not bool(region.audit(learnt[name]).violated.any())
            if carried:
                torch.testing.assert_close(learnt[name], region.project(inputs[name] + carried[name]))
                assert float((learnt[name] - inputs[name]).abs().max()) > 0.04


def test_a_small_last_batch_leaves_the_other_places_as_they_were() -> None:
    pupil, free = Pupil(Duet()), FreeTraining(THREAT)
    replay(free, pupil, batch(6), one_label(6))
    before = free.kept["audio"].clone()
    replay(free, pupil, batch(2, seed=1), one_label(2))
    assert torch.equal(free.kept["audio"][2:], before[2:])
    assert not torch.equal(free.kept["audio"][:2], before[:2])
    again = FreeTraining(THREAT)
    again.load(free.state())
    assert torch.equal(
        replay(again, pupil, batch(8, seed=2), one_label(8))["audio"],
        replay(free, pupil, batch(8, seed=2), one_label(8))["audio"],
    )


def test_nothing_moves_without_a_backward_pass() -> None:
    pupil, free = Pupil(ConvVictim()), FreeTraining({"audio": Ball("linf", 0.05)})
    free.after_backward()
    free.loss(pupil, lesson_of(pupil, {"audio": waves(4)}, torch.eye(5)[:4]), seeded())
    free.after_backward()
    assert float(free.kept["audio"].abs().max()) < 1e-7


def test_catastrophic_overfitting_is_found_in_its_epoch() -> None:
    watch = CatastrophicOverfitting()
    told = [(0.3, 0.2), (0.5, 0.4), (0.6, 0.21), (0.7, 0.19), (0.9, 0.0)]
    assert [watch.note(one_step=a, several_steps=b) for a, b in told] == [False, False, False, True, True]
    assert watch.happened == 3


@pytest.mark.parametrize(
    "told",
    [
        [(0.5, 0.4), (0.2, 0.1), (0.1, 0.0)],  # both fall: training as a whole went wrong
        [(0.0, 0.0), (0.1, 0.0), (0.9, 0.0)],  # nothing was there to lose
        [(0.5, 0.4), (0.6, 0.2), (0.7, 0.3)],  # half of it is still half
        [(0.5, float("nan")), (0.6, 0.4)],
    ],
)
def test_and_not_where_it_is_not(told: list[tuple[float, float]]) -> None:
    watch = CatastrophicOverfitting()
    assert not any([watch.note(one_step=a, several_steps=b) for a, b in told])
    assert watch.happened is None


def test_the_watch_can_be_taken_up_again() -> None:
    watch, again = CatastrophicOverfitting(), CatastrophicOverfitting()
    watch.note(one_step=0.5, several_steps=0.4)
    again.load(watch.state())
    assert again.note(one_step=0.5, several_steps=0.1)
    assert again.happened == 1
