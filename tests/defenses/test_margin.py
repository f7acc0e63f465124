"""The margin of each modality against its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.errors import ThreatModelError
from defenses.margin import log_sum_of_others, margin_loss, margins
from tests.defenses.pupil import Duet, Pupil, batch, lesson_of, many_labels, one_label, seeded


def alone(victim: Duet, kept: str) -> np.ndarray:
    inputs = {name: value if name == kept else 0 * value for name, value in batch().items()}
    with torch.no_grad():
        return victim.eval()(inputs).double().numpy()


def test_one_label_by_hand() -> None:
    pupil, targets = Pupil(Duet()), one_label()
    lesson = lesson_of(pupil, batch(), targets)
    found = margin_loss(pupil, batch(), lesson).item()
    rows, labels = np.arange(6), targets.argmax(1).numpy()
    sums = [
        np.exp(scores).sum(axis=1) * np.exp(-scores[rows, labels]) - 1
        for scores in (alone(pupil.victim, name) for name in ("audio", "video"))
    ]
    assert found == pytest.approx(np.log(sum(sums)).mean(), rel=1e-5)
    lesson.passes.backward()
    assert (lesson.passes.forwards, lesson.passes.backwards) == (12, 12)


def test_many_labels_by_hand() -> None:
    pupil, targets = Pupil(Duet(), multilabel=True), many_labels()
    found = margin_loss(pupil, batch(), lesson_of(pupil, batch(), targets)).item()
    side = 1 - 2 * targets.numpy()
    sums = sum(np.exp(side * alone(pupil.victim, name)) for name in ("audio", "video"))
    assert found == pytest.approx(np.log(sums).mean(), rel=1e-5)


def test_mixed_labels_are_the_mean_of_both_margins() -> None:
    logits, first, second = (
        torch.randn(2, 5, 4, generator=seeded()),
        torch.eye(4)[[0, 1, 2, 3, 0]],
        torch.eye(4)[[1] * 5],
    )
    mixed = margins(logits, 0.3 * first + 0.7 * second, multilabel=False)
    expected = 0.3 * margins(logits, first, multilabel=False) + 0.7 * margins(logits, second, multilabel=False)
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_sums_without_one_class_are_exact_whatever_the_scale(scale: float) -> None:
    logits = (torch.randn(7, 5, generator=seeded()) * scale).requires_grad_()
    found = log_sum_of_others(logits)
    for k in range(5):
        others = logits.detach().double()[:, [j for j in range(5) if j != k]].logsumexp(dim=1)
        torch.testing.assert_close(found[:, k].detach().double(), others, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())


def test_gradients_of_sums_are_those_of_autograd_in_float64() -> None:
    logits = torch.randn(3, 4, generator=seeded(), dtype=torch.float64).mul(3).requires_grad_()
    assert torch.autograd.gradcheck(log_sum_of_others, [logits])


def test_running_statistics_do_not_learn_from_silence() -> None:
    victim = Duet(batch_norm=True).train()
    before = {name: value.clone() for name, value in victim.norm.state_dict().items()}
    pupil = Pupil(victim)
    loss = margin_loss(pupil, batch(), lesson_of(pupil, batch(), one_label()))
    assert all(torch.equal(value, before[name]) for name, value in victim.norm.state_dict().items())
    loss.backward()
    assert float(victim.audio.weight.grad.abs().sum()) > 0


def test_one_modality_has_none() -> None:
    pupil, inputs = Pupil(Duet()), {"audio": batch()["audio"]}
    with pytest.raises(ThreatModelError, match="two of them or more; the victim takes audio"):
        margin_loss(pupil, inputs, lesson_of(pupil, inputs, one_label()))
