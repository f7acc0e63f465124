"""`resnet34` and `resnet50`: upstream's keys and outputs, torchvision's network, sizes, what is refused.

The fixture was made by upstream's own module with the weights of `drawn`: names and shapes, and clip probabilities.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from robust.errors import CheckpointError, VictimError
from robust.victims import resnet as module
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded
from tests.robust.victims.drawn import drawn, features

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "audio_resnet.json").read_text())
SIZES = {"resnet34": 21.8e6, "resnet50": 25.66e6}  # the second is the thesis's 25.6 M, table 6.2


class TestResNet34(VictimContract):
    name: ClassVar[str] = "resnet34"
    tiny: ClassVar[dict[str, Any]] = {"width": 0.06}
    largest: ClassVar[float] = 1.4e6


class TestResNet50(VictimContract):
    name: ClassVar[str] = "resnet50"
    tiny: ClassVar[dict[str, Any]] = {"width": 0.06}
    largest: ClassVar[float] = 1.4e6


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_names_and_sizes_are_upstreams(name: str, tmp_path: Path) -> None:
    torch.save(drawn(SHAPES[name], gain=1.2), tmp_path / "audio_resnet.pth")
    loaded = module.load_resnet(str(tmp_path / "audio_resnet.pth"), name=name)
    settings = module.ResNetSettings(hears="logmel")
    heard = module.AudioResNet(name, labels=loaded.spec.labels, task="multilabel", settings=settings).eval()
    heard.load_state_dict(loaded.state_dict())
    expected = torch.tensor(np.load(FIXTURES / "audio_resnet.npz")[name])
    with torch.no_grad():
        probability = heard({"logmel": features(63)}).sigmoid()[:, : expected.shape[1]]
    assert expected.std() > 0.1
    torch.testing.assert_close(probability, expected, rtol=1e-4, atol=1e-5)
    assert sum(value.numel() for value in loaded.parameters()) == pytest.approx(SIZES[name], rel=0.002)


@pytest.mark.parametrize("name", SHAPES)
def test_the_stages_are_torchvisions(name: str) -> None:
    victim = build_seeded(name, hears="logmel", clip_seconds=1.0)
    reference = getattr(torchvision.models, name)(weights=None)
    reference.conv1 = nn.Conv2d(1, 64, 7, padding=3, bias=False)
    reference.fc, reference.avgpool = nn.Identity(), nn.AdaptiveAvgPool2d(1)
    state = {key: value for key, value in victim.state_dict().items() if key in reference.state_dict()}
    reference.load_state_dict(state)
    with torch.no_grad():
        latent = victim.embed({"logmel": features(40)})["fused"].mean(dim=1)
        torch.testing.assert_close(latent, reference.eval()(features(40)[:, None]), rtol=1e-4, atol=1e-5)


def test_attention_weighs_frames_by_normalised_sigmoids() -> None:
    head = module.AttentionHead(5, 3)
    frames = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    weights = head.att(frames).sigmoid()
    expected = (weights * head.fc(frames).sigmoid()).sum(dim=1) / weights.sum(dim=1)
    torch.testing.assert_close(head(frames).sigmoid(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer2.0.downsample.1.running_mean": None}, "1 missing: layer2.0.downsample.1.running_mean"),
        ({"layer2.9.bn1.bias": torch.zeros(3)}, "1 unexpected: layer2.9.bn1.bias"),
        ({"fc.bias": torch.zeros(3)}, r"fc.bias \(3,\)"),
        ({"layer1.0.conv3.weight": torch.zeros(3)}, "blocks of a resnet50, not of a resnet34"),
        ({"att.weight": None}, "no 'att.weight'"),
    ],
)
def test_other_entries_are_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    zeros = {key: torch.zeros(shape) for key, shape in SHAPES["resnet34"].items()}
    kept = {key: value for key, value in {**zeros, **change}.items() if value is not None}
    torch.save(kept, tmp_path / "audio_resnet.pth")
    with pytest.raises(CheckpointError, match=message):
        module.load_resnet(str(tmp_path / "audio_resnet.pth"), name="resnet34")


@pytest.mark.parametrize("config", [{"width": 0.0}, {"blocks": (3, 4, 6)}, {"n_mels": 8}, {"clip_seconds": 0.1}])
def test_sizes_of_which_nothing_is_left_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match=next(iter(config))):
        build_victim("resnet50", labels=LABELS, **config)
