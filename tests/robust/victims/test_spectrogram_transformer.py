"""`transformer`: upstream's keys and outputs, the thesis's positions, what is refused.

The fixture was made by upstream's own module with the weights of `drawn`: names and shapes of its default size and of
three layers of 64, and clip and step probabilities of the latter.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.victims import spectrogram_transformer as module
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded
from tests.robust.victims.drawn import drawn, features

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "spectrogram_transformer.json").read_text())


class TestContract(VictimContract):
    name: ClassVar[str] = "transformer"
    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "embedding": 32, "hidden": 32}
    largest: ClassVar[float] = 1.4e6


def saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save({"model": state}, folder / "transformer.pt")
    return str(folder / "transformer.pt")


def test_outputs_are_upstreams(tmp_path: Path) -> None:
    loaded = module.load_transformer(saved(drawn(SHAPES["small"]), tmp_path))
    settings = replace(module.SpectrogramTransformerSettings(**loaded.config), hears="logmel")
    heard = module.SpectrogramTransformer(labels=loaded.spec.labels, task="multilabel", settings=settings).eval()
    heard.load_state_dict(loaded.state_dict())
    expected = np.load(FIXTURES / "spectrogram_transformer.npz")
    with torch.no_grad():
        clip = heard({"logmel": features(100)}).sigmoid()
        steps = heard.frame_head.frame_logits(heard.embed({"logmel": features(100)})["fused"]).sigmoid()
    assert expected["clip"].std() > 0.1
    torch.testing.assert_close(clip[:, :40], torch.tensor(expected["clip"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(steps[:, :, :40], torch.tensor(expected["frames"]), rtol=1e-4, atol=1e-5)


def test_names_are_upstreams_and_the_size_is_near_the_published() -> None:
    wide = {"embedding": 1024, "hidden": 2048, "layers": 8}
    own = build_victim("transformer", labels=tuple(map(str, range(527))), **wide).state_dict()
    given = {key.removeprefix("frame_head."): list(value.shape) for key, value in own.items()}
    assert given == SHAPES["full"]
    victim = build_victim("transformer", labels=tuple(map(str, range(527))))
    assert sum(value.numel() for value in victim.parameters()) == pytest.approx(28.5e6, rel=0.03)  # table 6.2


def test_positions_are_those_of_the_thesis() -> None:
    config = {**module.SMALL, **TestContract.tiny, "hears": "logmel"}
    placed, bare = (build_seeded("transformer", **config, add_positions=given) for given in (True, False))
    frames = features(20)
    place, band = torch.arange(20)[:, None], torch.arange(64)[None]
    angle = place / 10_000 ** ((band - band % 2) / 64)
    added = 8.0 * frames + torch.where(band % 2 == 0, angle.sin(), angle.cos())
    torch.testing.assert_close(placed({"logmel": frames}), bare({"logmel": added}), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_only_positions_tell_before_from_after() -> None:
    config = {**module.SMALL, **TestContract.tiny, "hears": "logmel"}
    placed, bare = (build_seeded("transformer", **config, add_positions=given) for given in (True, False))
    frames, backwards = features(20), features(20).flip(1)  # pools of four hold the same frames either way
    torch.testing.assert_close(bare({"logmel": backwards}), bare({"logmel": frames}))
    assert float((placed({"logmel": backwards}) - placed({"logmel": frames})).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_stack.1.slf_attn.w_qs.bias": None}, "1 missing: layer_stack.1.slf_attn.w_qs.bias"),
        ({"positional_encoding.pe": torch.zeros(1, 400, 64)}, "1 unexpected: positional_encoding.pe"),
        ({"layer_stack.0.slf_attn.fc.weight": torch.zeros(3, 3)}, r"slf_attn.fc.weight \(3, 3\)"),
        ({"linear_in.weight": torch.zeros(64, 128)}, "takes 128 mel bands"),
        ({"linear_in.weight": None}, "no 'linear_in.weight'"),
    ],
)
def test_other_entries_are_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    state = {**drawn(SHAPES["small"]), **change}
    kept = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        module.load_transformer(saved(kept, tmp_path))


@pytest.mark.parametrize("config", [{"layers": 0}, {"heads": 7}, {"n_mels": 65}, {"pooling": "median"}])
def test_sizes_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match=str(next(iter(config.values())))):
        build_victim("transformer", labels=LABELS, **config)
