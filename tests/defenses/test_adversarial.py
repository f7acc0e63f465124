"""Madry training on linear victims, where the strongest attack can be written down."""

from __future__ import annotations

import pytest
import torch

from attacks.errors import ThreatModelError
from attacks.threat import Ball
from defenses.adversarial import AdversarialTraining, back_in_range
from tests.defenses.pupil import Duet, Pupil, batch, lesson_of, many_labels, one_label, seeded
from tests.oracles.linear import LinearVictim
from tests.oracles.toy import ConvVictim, waves

THREAT = {"audio": Ball("linf", 0.05), "video": Ball("l2", 0.4, low=0.0, high=1.0)}


def test_it_learns_from_the_exact_worst_case_of_a_linear_victim() -> None:
    victim, audio = LinearVictim((30,)), waves(5, 30, peak=0.99)
    labels = torch.tensor([0, 1, 1, 0, 1])
    pupil, targets = Pupil(victim), torch.eye(2)[labels]
    _, found = AdversarialTraining({"audio": Ball("linf", 0.03)}, 7).loss(
        pupil, lesson_of(pupil, {"audio": audio}, targets), seeded()
    )
    slope = victim.weight.detach()[1 - labels] - victim.weight.detach()[labels]
    torch.testing.assert_close(found["audio"], (audio + 0.03 * slope.sign()).clamp(-1, 1), rtol=0, atol=1e-6)


def test_the_loss_is_that_of_what_was_found_with_a_graph_to_the_weights() -> None:
    pupil, targets = Pupil(Duet()), one_label()
    loss, found = AdversarialTraining(THREAT, 3).loss(pupil, lesson_of(pupil, batch(), targets), seeded())
    torch.testing.assert_close(loss, pupil.loss(pupil.victim(found), targets))
    assert loss.item() > pupil.loss(pupil.victim(batch()), targets).item()
    loss.backward()
    assert all(float(part.grad.abs().sum()) > 0 for part in pupil.victim.parameters() if part.grad is not None)
    assert sum(part.grad is not None for part in pupil.victim.parameters()) == 6


@pytest.mark.parametrize("multilabel", [False, True])
def test_budgets_hold_for_every_example_in_float64(multilabel: bool) -> None:
    pupil, inputs = Pupil(Duet(), multilabel), batch(9)
    targets = many_labels(9) if multilabel else one_label(9)
    _, found = AdversarialTraining(THREAT, 5).loss(pupil, lesson_of(pupil, inputs, targets), seeded())
    for name, ball in THREAT.items():
        audited = ball.around(inputs[name]).audit(found[name])
        assert not bool(audited.violated.any()), name
        assert float(ball.around(inputs[name]).size(found[name]).min()) > 0.5 * float(ball.radius)


def test_many_labels_are_attacked_through_their_cross_entropy() -> None:
    """A linear victim with one label: the worst case of a yes or no."""
    victim, audio, targets = LinearVictim((30,), classes=1), waves(4, 30), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    pupil = Pupil(victim, multilabel=True)
    _, found = AdversarialTraining({"audio": Ball("linf", 0.02)}, 7).loss(
        pupil, lesson_of(pupil, {"audio": audio}, targets), seeded()
    )
    expected = audio + 0.02 * (1 - 2 * targets) * victim.weight.detach().sign()
    torch.testing.assert_close(found["audio"], expected, rtol=0, atol=1e-6)


def test_the_search_is_made_in_evaluation_mode_and_leaves_no_trace() -> None:
    victim = ConvVictim().train()
    seen: list[bool] = []
    victim.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    pupil, targets = Pupil(victim), torch.eye(5)[torch.arange(4)]
    state = torch.random.get_rng_state()
    training = AdversarialTraining({"audio": Ball("linf", 0.01)}, 3)
    training.search(pupil, lesson_of(pupil, {"audio": waves(4)}, targets), targets, seeded())
    assert seen == [False] * 4
    assert victim.training
    assert all(part.requires_grad and part.grad is None for part in victim.parameters())
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    training.loss(pupil, lesson_of(pupil, {"audio": waves(4)}, targets), seeded())
    assert seen[4:] == [False] * 4 + [True]


def test_passes_are_counted_for_every_clip() -> None:
    pupil = Pupil(Duet())
    lesson = lesson_of(pupil, batch(6), one_label(6))
    AdversarialTraining(THREAT, 5).loss(pupil, lesson, seeded())
    lesson.passes.backward()
    assert (lesson.passes.forwards, lesson.passes.backwards) == (6 * (5 + 1 + 1), 6 * (5 + 1))


def test_more_steps_and_larger_budgets_do_more_harm() -> None:
    victim, audio = ConvVictim(), waves(8)
    pupil, targets = Pupil(victim.eval()), torch.eye(5)[torch.arange(8) % 5]

    def harm(radius: float, steps: int) -> float:
        lesson = lesson_of(pupil, {"audio": audio}, targets)
        return AdversarialTraining({"audio": Ball("linf", radius)}, steps).loss(pupil, lesson, seeded())[0].item()

    assert harm(0.002, 7) < harm(0.01, 7) < harm(0.05, 7)
    assert harm(0.02, 1) < harm(0.02, 10)


def test_rounding_is_brought_back_but_wrong_units_are_not_hidden() -> None:
    ball = {"audio": Ball("linf", 0.1)}
    given, noisy = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.2, -1.0000001]])
    assert back_in_range({"audio": noisy}, {"audio": given}, ball)["audio"].tolist() == [[1.0, -1.0]]
    loud = {"audio": torch.tensor([[200.0, 0.0]])}
    assert back_in_range(loud, loud, ball)["audio"] is loud["audio"]
    pupil = Pupil(LinearVictim((2,)))
    with pytest.raises(ThreatModelError, match="leaves its declared range"):
        AdversarialTraining(ball, 2).loss(pupil, lesson_of(pupil, loud, torch.eye(2)[:1]), seeded())


def test_a_modality_that_is_not_there_is_refused() -> None:
    pupil = Pupil(Duet())
    with pytest.raises(ThreatModelError, match="Did you mean 'audio'"):
        AdversarialTraining({"adio": Ball("linf", 0.1)}, 2).loss(
            pupil, lesson_of(pupil, batch(), one_label()), seeded()
        )
