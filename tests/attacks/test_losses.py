"""Every loss against a formula written out for one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.losses import (
    LOSSES,
    Goal,
    all_positives_gone,
    find_loss,
    label_appears,
    label_distance,
    label_margin,
    top_label_gone,
)
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from tests.oracles.linear import LinearVictim
from tests.oracles.toy import waves

LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])
TARGETS = torch.tensor([1, 2, 3, 4, 0, 4, 0])
PRESENT = torch.tensor(
    [
        [1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 1, 0],
        [1, 0, 1, 0, 1],
        [0, 1, 0, 0, 0],
    ]
)
WANTED = PRESENT.roll(1, dims=0)


def by_hand(name: str, z: np.ndarray, label: int, target: int | None) -> float:
    """Value to be raised, for one example of one label."""
    others = [value for k, value in enumerate(z) if k != label]
    ranked = sorted(z, reverse=True)
    if name == "margin":
        if target is None:
            return max(others) - z[label]
        return z[target] - max(value for k, value in enumerate(z) if k != target)
    if name == "ce":
        sign, wanted = (1, label) if target is None else (-1, target)
        return sign * (np.log(np.sum(np.exp(z))) - z[wanted])
    if target is None:
        return -(z[label] - max(others)) / (ranked[0] - ranked[2])
    return -(z[label] - z[target]) / (ranked[0] - 0.5 * (ranked[2] + ranked[3]))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["margin", "ce", "dlr"])
def test_one_label(name: str, targeted: bool) -> None:
    goal = Goal(LABELS, TARGETS if targeted else None)
    found = find_loss(name)(LOGITS, goal)
    for row in range(7):
        target = int(TARGETS[row]) if targeted else None
        expected = by_hand(name, LOGITS[row].numpy(), int(LABELS[row]), target)
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)


def test_dlr_is_that_of_torchattacks() -> None:
    import torchattacks

    theirs = torchattacks.APGD(torch.nn.Linear(1, 1), loss="dlr").dlr_loss(LOGITS, LABELS)
    torch.testing.assert_close(LOSSES["dlr"](LOGITS, Goal(LABELS)), theirs)


def test_dlr_does_not_feel_the_scale_of_logits() -> None:
    small, large = (LOSSES["dlr"](LOGITS * factor + 7, Goal(LABELS)) for factor in (1e-3, 1e3))
    torch.testing.assert_close(small, large)


@pytest.mark.parametrize("name", ["margin", "dlr"])
def test_with_an_aim_only_that_class_counts(name: str) -> None:
    aim = (LABELS + 2) % 5
    found = LOSSES[name](LOGITS, Goal(LABELS, aim=aim))
    for row in range(7):
        z = LOGITS[row].numpy()
        ranked = sorted(z, reverse=True)
        gap = z[aim[row]] - z[LABELS[row]]
        expected = gap if name == "margin" else gap / (ranked[0] - ranked[2])
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)
        if found[row] > 0:
            assert bool(Goal(LABELS).broken(LOGITS)[row])


@pytest.mark.parametrize("targeted", [False, True])
def test_multilabel(targeted: bool) -> None:
    goal = Goal(PRESENT, WANTED if targeted else None)
    bce, margins = LOSSES["bce"](LOGITS, goal), label_margin(LOGITS, goal, reward_until=2.0)
    distance, broken = label_distance(LOGITS, goal), goal.broken(LOGITS)
    torch.testing.assert_close(LOSSES["margin"](LOGITS, goal), distance)
    for row in range(7):
        z, truth, wanted = LOGITS[row].numpy(), PRESENT[row].numpy(), WANTED[row].numpy()
        against = wanted if targeted else truth
        probability = 1 / (1 + np.exp(-z))
        entropy = -np.sum(against * np.log(probability) + (1 - against) * np.log(1 - probability))
        assert float(bce[row]) == pytest.approx(-entropy if targeted else entropy, rel=1e-9)
        asked = wanted if targeted else 1 - truth
        assert float(margins[row]) == pytest.approx(sum(min(s * v, 2.0) for s, v in zip(2 * asked - 1, z, strict=True)))
        if targeted:
            reached = all((v > 0) == bool(w) for v, w in zip(z, wanted, strict=True))
        elif truth.any():
            reached = all(v < 0 for v, t in zip(z, truth, strict=True) if t)
        else:
            reached = any(v > 0 for v in z)
        assert bool(broken[row]) == reached
        assert (float(distance[row]) > 0) == reached


@pytest.mark.parametrize(
    ("name", "goal"),
    [(name, Goal(LABELS)) for name in ("margin", "ce", "dlr")]
    + [(name, Goal(PRESENT)) for name in ("margin", "bce", "label-margin")],
)
def test_an_examples_gradient_does_not_depend_on_the_batch(name: str, goal: Goal) -> None:
    def gradient(rows: Tensor) -> Tensor:
        logits = LOGITS[rows].clone().requires_grad_()
        LOSSES[name](logits, goal.select(rows)).sum().backward()
        assert logits.grad is not None
        return logits.grad

    together = gradient(torch.arange(7))
    for row in range(7):
        torch.testing.assert_close(gradient(torch.tensor([row]))[0], together[row])


def test_broken() -> None:
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [float("nan"), 1.0], [float("inf"), 0.0]])
    zeros, ones = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    assert Goal(zeros).broken(logits).tolist() == [False, True, False, False]
    assert Goal(zeros, targets=ones).broken(logits).tolist() == [False, True, False, False]
    assert Goal(ones).broken(logits).tolist() == [True, False, False, False]
    # A tie of logits at 0 is nobody's success in a multi-label task.
    assert Goal(torch.ones(1, 2)).broken(torch.zeros(1, 2)).tolist() == [False]


def test_losses_refuse_what_they_cannot_measure() -> None:
    with pytest.raises(ThreatModelError, match="at least 3 classes"):
        LOSSES["dlr"](LOGITS[:, :2], Goal(LABELS.clamp_max(1)))
    with pytest.raises(ThreatModelError, match="at least 4 classes"):
        LOSSES["dlr"](LOGITS[:, :3], Goal(LABELS.clamp_max(1), TARGETS.clamp_max(1)))
    for name in ("ce", "dlr"):
        with pytest.raises(ThreatModelError, match="one label a clip"):
            LOSSES[name](LOGITS, Goal(PRESENT))
    for name in ("bce", "label-margin"):
        with pytest.raises(ThreatModelError, match="multi-hot"):
            LOSSES[name](LOGITS, Goal(LABELS))
    with pytest.raises(ThreatModelError, match="Did you mean 'margin'"):
        find_loss("margins")


WATCHED = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) < 0.5
WATCHED[3], WATCHED[4] = False, False
"""Row 3 has every label, row 4 one; neither is watched."""


@pytest.mark.parametrize("targeted", [False, True])
def test_only_watched_labels_count(targeted: bool) -> None:
    goal = Goal(PRESENT, WANTED if targeted else None, watched=WATCHED)
    bce, margins = LOSSES["bce"](LOGITS, goal), label_margin(LOGITS, goal, reward_until=2.0)
    distance, broken = label_distance(LOGITS, goal), goal.broken(LOGITS)
    torch.testing.assert_close(LOSSES["margin"](LOGITS, goal), distance)
    for row in range(7):
        seen = WATCHED[row].numpy()
        z, truth, wanted = LOGITS[row].numpy()[seen], PRESENT[row].numpy()[seen], WANTED[row].numpy()[seen]
        against = wanted if targeted else truth
        probability = 1 / (1 + np.exp(-z))
        entropy = -np.sum(against * np.log(probability) + (1 - against) * np.log(1 - probability))
        assert float(bce[row]) == pytest.approx(-entropy if targeted else entropy, rel=1e-9)
        asked = wanted if targeted else 1 - truth
        assert float(margins[row]) == pytest.approx(sum(min(s * v, 2.0) for s, v in zip(2 * asked - 1, z, strict=True)))
        if not seen.any():
            reached = True
        elif targeted:
            reached = all((v > 0) == bool(w) for v, w in zip(z, wanted, strict=True))
        elif truth.any():
            reached = all(v < 0 for v, t in zip(z, truth, strict=True) if t)
        else:
            reached = any(v > 0 for v in z)
        assert bool(broken[row]) == reached
        assert (float(distance[row]) > 0) == reached
    assert bool(distance.isfinite().all())


def test_watching_all_is_watching_none_in_particular() -> None:
    everything = torch.ones_like(PRESENT, dtype=torch.bool)
    for targets in (None, WANTED):
        plain, all_watched = Goal(PRESENT, targets), Goal(PRESENT, targets, watched=everything)
        for name in ("margin", "bce", "label-margin"):
            assert torch.equal(LOSSES[name](LOGITS, plain), LOSSES[name](LOGITS, all_watched))
        assert torch.equal(plain.broken(LOGITS), all_watched.broken(LOGITS))


def test_selected_goals_watch_the_same() -> None:
    rows = torch.tensor([5, 0, 2])
    part = Goal(PRESENT, WANTED, watched=WATCHED).select(rows)
    assert part.watched is not None
    assert torch.equal(part.watched, WATCHED[rows])
    assert torch.equal(part.broken(LOGITS[rows]), Goal(PRESENT, WANTED, watched=WATCHED).broken(LOGITS)[rows])


def test_no_gradient_reaches_what_is_not_watched() -> None:
    for targets in (None, WANTED):
        goal = Goal(PRESENT, targets, watched=WATCHED)
        for name in ("margin", "bce", "label-margin"):
            logits = LOGITS.clone().requires_grad_()
            LOSSES[name](logits, goal).sum().backward()
            assert logits.grad is not None
            assert bool(logits.grad.isfinite().all())
            assert not bool(logits.grad[~WATCHED].any())


def test_success_rules() -> None:
    labels = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]])
    clean = torch.tensor([[2.0, 3.0, 9.0], [3.0, 2.0, -1.0], [-1.0, -2.0, -3.0], [4.0, -1.0, -2.0]])
    after = torch.tensor([[2.0, -0.1, 9.0], [3.0, -0.1, 9.0], [-1.0, -2.0, 0.5], [4.0, -1.0, -2.0]])
    top = top_label_gone(labels, clean)
    assert top.watched is not None
    assert top.watched.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert top.broken(clean).tolist() == [False, False, True, True]  # nothing to lose; missed already
    assert top.broken(after).tolist() == [True, False, True, True]
    gone = all_positives_gone(labels)
    assert gone.broken(clean).tolist() == [False, False, False, True]
    assert gone.broken(after).tolist() == [False, False, True, True]
    appears = label_appears(labels, 2)
    assert appears.broken(clean).tolist() == [True, False, False, True]  # heard already; truly there
    assert appears.broken(after).tolist() == [True, True, True, True]
    assert appears.targets is not None
    assert appears.targets.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert labels[0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("loss", ["margin", "bce", "label-margin"])
def test_each_rule_has_its_own_closed_form_radius(loss: str) -> None:
    """A linear victim of three labels: which one must cross 0, and how steep it is, decides the radius in L2."""
    victim, clean = LinearVictim((60,), classes=3), waves(24, 60, seed=3)
    logits = victim({"audio": clean}).detach()
    labels = (logits > 0).float()
    slope = victim.weight.detach().norm(dim=1)
    top = logits.max(1)
    for goal, radius in (
        (top_label_gone(labels, logits), top.values / slope[top.indices]),
        (label_appears(labels, 2), -logits[:, 2] / slope[2]),
    ):
        rows = (radius > 1e-3).nonzero()[:, 0]
        assert len(rows) >= 6
        assert torch.equal(goal.broken(logits), radius < 0)
        for factor, broken in ((0.99, False), (1.01, True)):
            ball = Ball("l2", radius[rows].double() * factor, low=-9.0, high=9.0)
            config = PGD(steps=40, loss=loss, stop_when_broken=True)
            result = pgd(victim, {"audio": clean[rows]}, goal.select(rows), {"audio": ball}, config=config)
            assert result.broken.tolist() == [broken] * len(rows)


def test_goals_that_cannot_be() -> None:
    with pytest.raises(ThreatModelError, match="use targets"):
        Goal(LABELS, watched=WATCHED)
    with pytest.raises(ThreatModelError, match=r"bool of shape \(7, 5\)"):
        Goal(PRESENT, watched=WATCHED.float())
    with pytest.raises(ThreatModelError, match=r"bool of shape \(7, 5\)"):
        Goal(PRESENT, watched=WATCHED[:, :3])
    with pytest.raises(ThreatModelError, match="numbered from 0"):
        label_appears(PRESENT, 5)
