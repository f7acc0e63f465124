"""Weights of balanced sampling."""

from __future__ import annotations

import pytest
import torch

from attacks.errors import ThreatModelError
from defenses.balance import balanced_weights


def test_every_class_comes_as_often_as_any_other() -> None:
    labels = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)
    weights = balanced_weights(torch.eye(4)[labels])
    shares = torch.zeros(4, dtype=torch.float64).index_add(0, labels, weights)
    torch.testing.assert_close(shares, torch.tensor([1, 1, 1, 0], dtype=torch.float64) / 3)


def test_many_labels_go_by_the_rarest_and_none_is_a_class_too() -> None:
    targets = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0.0]])
    expected = torch.tensor([1 / 4, 1 / 2, 1 / 4, 1 / 2, 1], dtype=torch.float64)
    torch.testing.assert_close(balanced_weights(targets), expected / expected.sum())


@pytest.mark.parametrize("targets", [torch.zeros(0, 3), torch.tensor([0, 1, 1])])
def test_bad_labels_are_refused(targets: torch.Tensor) -> None:
    with pytest.raises(ThreatModelError, match=r"label weights \(clips, classes\)"):
        balanced_weights(targets)
