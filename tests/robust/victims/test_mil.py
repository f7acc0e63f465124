"""`mil-cnn` and `mil-dnn`: sizes of table 4.2, independence of instances, pooling, deltas, what is refused."""

from __future__ import annotations

from typing import Any, ClassVar

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust.errors import VictimError
from robust.frontends.deltas import deltas
from robust.victims import mil as module
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded
from tests.robust.victims.drawn import features

DCASE = tuple(map(str, range(17)))
SMALLEST: dict[str, Any] = {"channels": (3, 4, 5), "layers": (12, 8)}


class TestMilCnn(VictimContract):
    heard: ClassVar[float] = 0.1  # the loudest of its segments alone
    name: ClassVar[str] = "mil-cnn"
    tiny: ClassVar[dict[str, Any]] = SMALLEST
    largest: ClassVar[float] = 1.4e6


class TestMilDnn(VictimContract):
    heard: ClassVar[float] = 0.1  # the loudest of its segments alone
    name: ClassVar[str] = "mil-dnn"
    tiny: ClassVar[dict[str, Any]] = {**SMALLEST, "dnn_layers": (7, 6)}
    largest: ClassVar[float] = 1.4e6


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_sizes_are_those_of_the_thesis() -> None:
    cnn, dnn = (build_victim(name, labels=DCASE) for name in ("mil-cnn", "mil-dnn"))
    kernels = [layer.weight.shape[:2] for layer in cnn.conv if isinstance(layer, nn.Conv2d)]
    assert kernels == [(64, 2), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256)]
    assert [layer.out_features for layer in cnn.connected if isinstance(layer, nn.Linear)] == [3072, 1024]
    assert count(cnn) == pytest.approx(29e6, rel=0.05)  # the thesis does not say how maps meet the first layer
    assert [layer.out_features for layer in dnn.connected if isinstance(layer, nn.Linear)] == [3072, 1024, 512]
    assert [layer.out_features for layer in dnn.dnn if isinstance(layer, nn.Linear)] == [512, 512, 256, 128]
    assert round(count(dnn.dnn) + count(dnn.frame_head), -4) == 690_000  # "700K"
    assert dnn.mel.mel.shape[1] == 128
    assert cnn.spec.clip_seconds == 10.0
    assert cnn.segments(torch.zeros(2, 160_000)).shape == (2, 10, 16_000)


def clips() -> Tensor:
    return 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", ["mil-cnn", "mil-dnn"])
def test_instances_do_not_hear_one_another(name: str) -> None:
    victim = build_seeded(name, **{**(module.SMALL if name == "mil-cnn" else module.SMALL_DNN), **SMALLEST})
    audio, other = clips(), clips()
    other[:, 8_000:12_000] = 0.0  # the third quarter
    before, after = (victim.embed({"audio": heard})["fused"] for heard in (audio, other))
    torch.testing.assert_close(before[:, [0, 1, 3]], after[:, [0, 1, 3]])
    assert float((before[:, 2] - after[:, 2]).abs().max()) > 1e-4


def test_the_largest_instance_decides() -> None:
    victim = build_seeded("mil-cnn", **{**module.SMALL, **SMALLEST})
    instances = victim.frame_head.frame_logits(victim.embed({"audio": clips()})["fused"])
    torch.testing.assert_close(victim({"audio": clips()}), instances.amax(dim=1))


def test_what_is_left_of_a_clip_is_continued_by_silence() -> None:
    victim = build_seeded("mil-cnn", **{**module.SMALL, **SMALLEST})
    audio = clips()[:, :13_000]
    padded = torch.nn.functional.pad(audio, (0, 3_000))
    torch.testing.assert_close(victim({"audio": audio}), victim({"audio": padded}))


def test_deltas_are_librosas() -> None:
    given = features(40, 6)
    expected = librosa.feature.delta(given.numpy(), width=5, axis=1, mode="nearest")
    torch.testing.assert_close(deltas(given), torch.tensor(np.asarray(expected)), rtol=1e-5, atol=1e-6)
    rising = 3.0 * torch.arange(9.0)[None, :, None] + 1.0
    torch.testing.assert_close(deltas(rising)[:, 2:-2], torch.full((1, 5, 1), 3.0))


@pytest.mark.parametrize(
    "config",
    [{"channels": (8, 8)}, {"grid": (4,)}, {"layers": ()}, {"segment_seconds": 0.05}, {"pooling": "median"}],
)
def test_sizes_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match=next(iter(config))):
        build_victim("mil-cnn", labels=DCASE, **config)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(VictimError, match="labels_per_clip"):
        build_victim("mil-dnn", labels=LABELS, labels_per_clip=2)
