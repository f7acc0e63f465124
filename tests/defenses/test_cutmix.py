"""CutMix over time: one stretch, the same in every modality, and labels by its length."""

from __future__ import annotations

import pytest
import torch

from defenses.cutmix import cutmix
from tests.defenses.pupil import seeded


def owners(count: int) -> dict[str, torch.Tensor]:
    """Inputs whose every value says whose they are; 8 frames of video last as long as 400 samples."""
    number = torch.arange(float(count))
    return {"audio": number[:, None].repeat(1, 400), "video": number[:, None, None].repeat(1, 8, 3)}


def test_the_stretch_is_the_same_in_sound_and_sight_and_labels_are_its_length() -> None:
    inputs, targets = owners(50), torch.eye(50)
    mixed, labels = cutmix(inputs, targets, 1.0, seeded())
    seen, heard = mixed["video"], mixed["audio"]
    assert bool((seen == seen[:, :, :1]).all())  # whole frames
    assert torch.equal(seen[:, :, 0].repeat_interleave(50, dim=1), heard)
    for row in range(50):
        shares = torch.bincount(heard[row].long(), minlength=50) / 400
        torch.testing.assert_close(labels[row], shares)
        foreign = (heard[row] != row).int()
        assert int(foreign.diff().abs().sum()) <= 2  # in one piece


def test_stretches_of_sound_alone_have_any_length_and_lie_anywhere() -> None:
    mixed, labels = cutmix({"audio": owners(2000)["audio"]}, torch.eye(2000), 1.0, seeded())
    heard = mixed["audio"]
    foreign = heard != torch.arange(2000.0)[:, None]
    lengths = foreign.sum(dim=1)
    assert len(lengths.unique()) > 300  # not on a grid of frames
    covered = foreign.double().mean(dim=0)
    places = torch.arange(1.0, 401.0, dtype=torch.float64)  # a stretch of c steps can begin at 401 - c places
    assert float(covered[0]) == pytest.approx(float((1 / places).mean()), abs=0.008)
    assert float(covered[-1]) == pytest.approx(float((1 / places).mean()), abs=0.008)
    assert float(covered[200]) > 0.6
    torch.testing.assert_close(labels.diagonal(), 1 - lengths / 400)


def test_same_class_pairs_change_no_label() -> None:
    targets = torch.eye(2)[torch.arange(10) % 2]
    mixed, labels = cutmix(owners(10), targets, 1.0, seeded(), "same-class")
    torch.testing.assert_close(labels, targets)
    assert not torch.equal(mixed["audio"], owners(10)["audio"])
