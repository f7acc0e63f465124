"""Mixup: as it always was, to the bit; pairs of one class never mix labels."""

from __future__ import annotations

import pytest
import torch

from defenses.mixup import draw_mixture, mixup
from tests.defenses.pupil import batch, many_labels, one_label, seeded


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_random_pairs_are_drawn_as_they_always_were(alpha: float) -> None:
    """Checkpoints of earlier versions can be trained again: first two gamma variables a clip, then an order."""
    inputs, targets, generator = batch(7), one_label(7), seeded(3)
    gamma = torch._standard_gamma(torch.full((2, 7), alpha), generator=generator).clamp_min(1e-12)
    weight, partner = gamma[0] / (gamma[0] + gamma[1]), torch.randperm(7, generator=generator)
    mixed, labels = mixup(inputs, targets, alpha, seeded(3))
    for name, value in inputs.items():
        share = weight.view(-1, *[1] * (value.ndim - 1))
        assert torch.equal(mixed[name], share * value + (1 - share) * value[partner])
    assert torch.equal(labels, weight[:, None] * targets + (1 - weight[:, None]) * targets[partner])


def test_weights_follow_a_beta_distribution() -> None:
    weight = draw_mixture(torch.ones(20_000, 1), 0.4, seeded()).weight.double()
    assert float(weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weight.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)


def test_same_class_pairs_never_mix_labels() -> None:
    targets = one_label(30)
    for seed in range(5):
        mixture = draw_mixture(targets, 1.0, seeded(seed), "same-class")
        assert torch.equal(targets[mixture.partner], targets)
        assert bool((mixture.partner != torch.arange(30)).all())  # every class has others
        _, labels = mixup(batch(30), targets, 1.0, seeded(seed), "same-class")
        torch.testing.assert_close(labels, targets, rtol=0, atol=1e-7)


def test_same_class_pairs_reach_every_other_clip_of_the_class() -> None:
    targets = one_label(12)
    met = {int(draw_mixture(targets, 1.0, seeded(seed), "same-class").partner[0]) for seed in range(60)}
    assert met == {4, 8}


def test_a_clip_that_is_alone_in_its_class_stays_as_it_is() -> None:
    targets, inputs = torch.eye(4)[[0, 1, 1, 1]], batch(4)
    mixed, _ = mixup(inputs, targets, 1.0, seeded(), "same-class")
    torch.testing.assert_close(mixed["audio"][0], inputs["audio"][0])
    assert not torch.allclose(mixed["audio"][1], inputs["audio"][1])


def test_with_many_labels_partners_share_one_and_keep_it() -> None:
    targets = many_labels(20)
    mixture = draw_mixture(targets, 1.0, seeded(), "same-class")
    shared = (targets * targets[mixture.partner]).sum(dim=1) > 0
    lonely = mixture.partner == torch.arange(20)
    assert bool((shared | lonely).all())
    kept = mixture(targets)[(targets > 0) & (targets[mixture.partner] > 0)]
    torch.testing.assert_close(kept, torch.ones_like(kept))
