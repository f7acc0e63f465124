"""`psla`: upstream's keys and outputs, published size, its attention, what is refused.

The fixture was made by upstream's own module with the weights of `drawn` (20 classes, weights of the heads as in
`HEADS`): names and shapes of the published size, and clip probabilities.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.victims import psla as module
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract
from tests.robust.victims.drawn import drawn, features

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES: dict[str, list[int]] = json.loads((FIXTURES / "psla.json").read_text())
CLASSES = 20
HEADS = (0.4, 0.1, 0.3, 0.15)


class TestContract(VictimContract):
    name: ClassVar[str] = "psla"
    tiny: ClassVar[dict[str, Any]] = {"width": 0.2, "depth": 0.3}
    largest: ClassVar[float] = 1.4e6


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    fewer = {key: [CLASSES, *shape[1:]] if key.startswith("attention") else shape for key, shape in SHAPES.items()}
    return {**drawn({**fewer, "attention.head_weight": [4]}, gain=2.5), "attention.head_weight": torch.tensor(HEADS)}


def saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "as_mdl_0.pth")
    return str(folder / "as_mdl_0.pth")


def test_outputs_are_upstreams(state: dict[str, Tensor], tmp_path: Path) -> None:
    victim = module.load_psla(saved(state, tmp_path))
    assert isinstance(victim, module.Psla)
    with torch.no_grad():
        probability = victim.head(victim.frames(features(200, 128))).sigmoid()
    expected = torch.tensor(np.load(FIXTURES / "psla.npz")["clip"])
    assert expected.std() > 0.03
    torch.testing.assert_close(probability, expected, rtol=1e-4, atol=1e-5)


def test_names_and_size_are_upstreams() -> None:
    victim = build_victim("psla", labels=tuple(map(str, range(527))))
    names = {f"network.{key}": f"effnet.{theirs}" for key, theirs in module.upstream_names(victim.network).items()}
    own = {names.get(key, key): list(value.shape) for key, value in victim.state_dict().items()}
    assert own == SHAPES
    assert round(sum(value.numel() for value in victim.parameters()) / 1e6, 1) == 13.6  # its paper; thesis, table 6.1


def test_features_are_normalised_by_one_standard_deviation() -> None:
    audio = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    config = {**module.SMALL, **TestContract.tiny}
    raw = build_victim("psla", labels=LABELS, **{**config, "mean": 0.0, "std": 1.0}).front_end(audio)
    torch.testing.assert_close(
        build_victim("psla", labels=LABELS, **config).front_end(audio), (raw + 4.6476) / 4.5699, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("total", [0.4, 1.0, 1.3])
def test_weights_of_heads_need_not_sum_to_one(total: float) -> None:
    logits = torch.tensor([-40.0, -3.0, 0.0, 0.5, 40.0], dtype=torch.float64, requires_grad=True)
    scaled = module.scaled_logits(logits, torch.tensor(total, dtype=torch.float64))
    expected = (total * logits.sigmoid()).clamp(max=1 / (1 + module.LEAST / total))
    torch.testing.assert_close(scaled.sigmoid(), expected, rtol=1e-5, atol=1e-12)
    gradient = torch.autograd.grad(scaled.sum(), logits)[0]
    assert torch.isfinite(gradient).all()
    assert bool((gradient[:4] > 0).all())
    extreme = module.scaled_logits(torch.tensor([-300.0, 300.0]), torch.tensor(total))
    assert torch.isfinite(extreme).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effnet._blocks.3._bn2.weight": None}, r"1 missing: network\.blocks"),
        ({"attention.att.4.bias": torch.zeros(3)}, "1 unexpected: attention.att.4.bias"),
        ({"effnet._conv_head.weight": torch.zeros(3)}, r"network.conv_head.weight \(3,\)"),
        ({"attention.head_weight": None}, "no 'attention.head_weight'"),
    ],
)
def test_other_entries_are_refused(
    state: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    kept = {key: value for key, value in {**state, **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        module.load_psla(saved(kept, tmp_path))


@pytest.mark.parametrize("config", [{"width": 0.0}, {"depth": -1.0}, {"n_mels": 16}, {"heads": 0}, {"std": 0.0}])
def test_sizes_of_which_nothing_is_left_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match=next(iter(config))):
        build_victim("psla", labels=LABELS, **config)
