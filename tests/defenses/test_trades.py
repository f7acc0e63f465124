"""TRADES and MART against their formulas in NumPy, and the divergence as something to raise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, rel_entr, softmax

from attacks.errors import ThreatModelError
from attacks.losses import LOSSES, Goal, divergence, find_loss
from attacks.threat import Ball
from defenses.lesson import Lesson
from defenses.trades import Mart, Trades, boosted_cross_entropy, divergences
from tests.defenses.pupil import Duet, Pupil, batch, lesson_of, many_labels, one_label, seeded

THREAT = {"audio": Ball("linf", 0.05), "video": Ball("linf", 0.02, low=0.0, high=1.0)}


def logits_of(pupil: Pupil, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    with torch.no_grad():
        return pupil.victim(inputs).double().numpy()


def both(clean: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    """KL between two yes-or-no answers, by SciPy."""
    return rel_entr(clean, attacked) + rel_entr(1 - clean, 1 - attacked)


def test_trades_by_hand() -> None:
    pupil, targets = Pupil(Duet()), one_label()
    lesson = lesson_of(pupil, batch(), targets)
    loss, found = Trades(THREAT, 5, beta=3.0).loss(pupil, lesson, seeded())
    clean, attacked = logits_of(pupil, batch()), logits_of(pupil, found)
    entropy = -(targets.numpy() * log_softmax(clean, axis=1)).sum(axis=1).mean()
    apart = rel_entr(softmax(clean, axis=1), softmax(attacked, axis=1)).sum(axis=1).mean()
    assert apart > 1e-3
    assert float(loss.detach()) == pytest.approx(entropy + 3.0 * apart, rel=1e-5)
    lesson.passes.backward()  # clean once more, in evaluation mode, for what the search leads away from
    assert (lesson.passes.forwards, lesson.passes.backwards) == (6 * (1 + 6 + 2), 6 * (5 + 2))


def test_trades_with_many_labels_by_hand() -> None:
    pupil, targets = Pupil(Duet(), multilabel=True), many_labels()
    loss, found = Trades(THREAT, 5, beta=2.0).loss(pupil, lesson_of(pupil, batch(), targets), seeded())
    clean, attacked = logits_of(pupil, batch()), logits_of(pupil, found)
    truth = targets.numpy()
    entropy = -(truth * np.log(expit(clean)) + (1 - truth) * np.log(expit(-clean))).mean()
    assert float(loss.detach()) == pytest.approx(entropy + 2.0 * both(expit(clean), expit(attacked)).mean(), rel=1e-5)


def test_mart_by_hand() -> None:
    pupil, targets = Pupil(Duet()), one_label()
    loss, found = Mart(THREAT, 5, beta=5.0).loss(pupil, lesson_of(pupil, batch(), targets), seeded())
    clean, attacked = softmax(logits_of(pupil, batch()), axis=1), softmax(logits_of(pupil, found), axis=1)
    labels, rows = targets.argmax(1).numpy(), np.arange(6)
    rivals = np.where(targets.numpy() > 0, 0, attacked).max(axis=1)
    boosted = -np.log(attacked[rows, labels]) - np.log(1 - rivals)
    weighted = rel_entr(clean, attacked).sum(axis=1) * (1 - clean[rows, labels])
    assert float(loss.detach()) == pytest.approx((boosted + 5.0 * weighted).mean(), rel=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_search_finds_what_random_points_do_not(multilabel: bool) -> None:
    pupil = Pupil(Duet(), multilabel)
    targets = many_labels() if multilabel else one_label()
    _, found = Trades(THREAT, 7, beta=1.0).loss(pupil, lesson_of(pupil, batch(), targets), seeded())

    def apart(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return divergences(pupil.victim(batch()), pupil.victim(inputs), multilabel=multilabel)

    regions = {name: ball.around(batch()[name]) for name, ball in THREAT.items()}
    luckiest = torch.zeros(6)
    for draw in range(50):
        generators = [seeded(100 * draw + row) for row in range(6)]
        luckiest = luckiest.maximum(apart({name: region.sample(generators) for name, region in regions.items()}))
    assert bool((apart(found) > luckiest).all())


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("multilabel", [False, True])
def test_gradients_stay_finite_where_answers_are_certain(scale: float, multilabel: bool) -> None:
    clean, attacked = (torch.randn(5, 4, generator=seeded(seed)).mul(scale).requires_grad_() for seed in (0, 1))
    divergences(clean, attacked, multilabel=multilabel).sum().backward()
    boosted_cross_entropy(attacked, torch.arange(5) % 4).sum().backward()
    assert bool(clean.grad.isfinite().all())
    assert bool(attacked.grad.isfinite().all())


def test_boosted_cross_entropy_keeps_its_precision_where_the_rival_is_certain() -> None:
    """1 - p of a rival that is all but sure: float32 alone would say log(0)."""
    logits = torch.tensor([[0.0, 40.0, -3.0]])
    # p of the label is e^-40 and 1 - p of the rival e^-40 + e^-43, each over 1 + e^-40 + e^-43.
    expected = 40.0 + 40.0 - np.log1p(np.exp(-3.0))
    assert float(boosted_cross_entropy(logits, torch.tensor([0]))) == pytest.approx(expected, rel=1e-6)


def test_divergence_as_a_loss_to_raise_is_that_of_scipy() -> None:
    logits = torch.randn(6, 4, generator=seeded(), dtype=torch.float64)
    told = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)
    labels = torch.zeros(6, dtype=torch.int64)
    found = divergence(logits, Goal(labels, reference=told.softmax(1)))
    expected = rel_entr(softmax(told.numpy(), axis=1), softmax(logits.numpy(), axis=1)).sum(axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    many = divergence(logits, Goal(torch.zeros(6, 4), reference=told.sigmoid()))
    np.testing.assert_allclose(many.numpy(), both(expit(told.numpy()), expit(logits.numpy())).sum(axis=1), rtol=1e-9)


def test_against_labels_it_is_the_cross_entropy_and_follows_its_examples() -> None:
    logits = torch.randn(6, 4, generator=seeded())
    hard, labels = one_label(), torch.arange(6) % 4
    goal = Goal(labels, reference=hard)
    torch.testing.assert_close(divergence(logits, goal), LOSSES["ce"](logits, Goal(labels)))
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(divergence(logits[rows], goal.select(rows)), divergence(logits, goal)[rows])
    many = Goal(many_labels(), reference=many_labels())
    torch.testing.assert_close(divergence(logits, many), LOSSES["bce"](logits, Goal(many_labels())))
    assert find_loss("divergence") is divergence
    assert "divergence" not in LOSSES  # nobody who attacks is offered it


def test_without_a_reference_there_is_no_divergence() -> None:
    with pytest.raises(ThreatModelError, match="reference"):
        divergence(torch.zeros(2, 3), Goal(torch.zeros(2, dtype=torch.int64)))


def test_mart_needs_one_label_a_clip() -> None:
    pupil = Pupil(Duet(), multilabel=True)
    with pytest.raises(ThreatModelError, match="one label a clip; with many labels use trades or pgd"):
        Mart(THREAT, 2, 5.0).loss(pupil, lesson_of(pupil, batch(), many_labels()), seeded())


def test_trades_holds_mixed_answers_together() -> None:
    """With latents mixed the search sees clips as they are, and both terms the mixed answers."""
    pupil, targets = Pupil(Duet()), one_label()
    lesson = lesson_of(pupil, batch(), targets)
    mixed = Lesson(
        lesson.inputs, targets, targets.roll(1, 0), lambda inputs: pupil.victim(inputs).roll(1, 0), lesson.passes
    )
    plain, _ = Trades(THREAT, 3, 2.0).loss(pupil, lesson, seeded())
    rolled, _ = Trades(THREAT, 3, 2.0).loss(pupil, mixed, seeded())
    torch.testing.assert_close(rolled, plain)
