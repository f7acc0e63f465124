"""`talnet` and its front end: upstream's keys and outputs, published size, what is refused.

The fixture was made by upstream's own module with the weights of `drawn`: names and shapes of the published size and of
one with embedding 64, and the clip probabilities of that one by each pooling.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import librosa
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.frontends.thesis import ThesisMel
from robust.victims import talnet as module
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract
from tests.robust.victims.drawn import drawn, features

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "talnet.json").read_text())
UPSTREAM = {"max": "max", "average": "ave", "linear": "lin", "exponential": "exp", "attention": "att"}


class TestContract(VictimContract):
    name: ClassVar[str] = "talnet"
    tiny: ClassVar[dict[str, Any]] = {"embedding": 64}
    largest: ClassVar[float] = 1.4e6


def state_of(shapes: dict[str, list[int]], *, without: str = "conv.") -> dict[str, Tensor]:
    """Drawn weights without the convolutions' second names."""
    return drawn({key: shape for key, shape in shapes.items() if not key.startswith(without)})


@pytest.fixture
def state() -> dict[str, Tensor]:
    return state_of(SHAPES["small"])


def saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save({"model": state}, folder / "TALNet.pt")
    return str(folder / "TALNet.pt")


@pytest.mark.parametrize("pooling", UPSTREAM)
def test_outputs_are_upstreams(state: dict[str, Tensor], tmp_path: Path, pooling: str) -> None:
    loaded = module.load_talnet(saved(state, tmp_path))
    settings = replace(module.TalNetSettings(**loaded.config), hears="logmel", pooling=pooling)
    heard = module.TalNet(labels=loaded.spec.labels, task="multilabel", settings=settings).eval()
    heard.load_state_dict({key: value for key, value in loaded.state_dict().items() if key in heard.state_dict()})
    expected = torch.tensor(np.load(FIXTURES / "talnet.npz")[UPSTREAM[pooling]])
    with torch.no_grad():
        probability = heard({"logmel": features(100)}).sigmoid()[:, : expected.shape[1]]
    assert expected.std() > 0.05
    torch.testing.assert_close(probability, expected, rtol=1e-5, atol=1e-6)


def test_names_and_size_are_upstreams() -> None:
    victim = build_victim("talnet", labels=tuple(map(str, range(527))), pooling="attention")
    own = {key: list(value.shape) for key, value in victim.state_dict().items()}
    theirs = {module._our_key(key): shape for key, shape in SHAPES["full"].items() if not key.startswith("conv.")}
    assert own == theirs
    assert round(sum(value.numel() for value in victim.parameters()) / 1e6, 1) == 10.5  # thesis, table 6.2


def test_what_is_read_off_a_checkpoint(state: dict[str, Tensor], tmp_path: Path) -> None:
    twice = {f"module.{key}": state[key.replace("conv.0.", "conv1.")] for key in [*state, "conv.0.conv.weight"]}
    save_file({key: value.clone() for key, value in twice.items()}, tmp_path / "talnet.safetensors")
    victim = module.load_talnet(str(tmp_path / "talnet.safetensors"))
    assert {key: victim.config[key] for key in ("embedding", "conv_layers", "pool_layers", "pooling")} == {
        "embedding": 64,
        "conv_layers": 10,
        "pool_layers": 5,
        "pooling": "attention",
    }
    assert victim.spec.clip_seconds == 10.0
    assert len(victim.spec.labels) == 527
    assert victim.spec.task == "multilabel"
    assert victim({"audio": torch.zeros(1, 16_000)}).shape == (1, 527)


def changed(state: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    """The state dict with one fault."""
    other = dict(state)
    if case == "missing":
        del other["conv7.bn.weight"]
    elif case == "unexpected":
        other["conv11.bn.weight"] = torch.zeros(3)
    elif case == "shape":
        other["gru.bias_hh_l0"] = torch.zeros(5)
    elif case == "bins":
        other["fc_prob.weight"] = state["fc_prob.weight"].repeat(1, 2)
    elif case == "twice":
        other["conv.0.conv.weight"] = state["conv1.conv.weight"] + 1
    elif case == "other":
        other = {"fc_prob.weight": state["fc_prob.weight"]}
    return other


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "1 missing: trunk.conv.6.bn.weight"),
        ("unexpected", "1 unexpected: trunk.conv.10.bn.weight"),
        ("shape", r"gru.bias_hh_l0 \(5,\)"),
        ("bins", "takes 128 mel bands"),
        ("twice", "conv.0.conv.weight differs from conv1.conv.weight"),
        ("other", "no 'conv1.conv.weight'"),
    ],
)
def test_other_entries_are_refused(state: dict[str, Tensor], tmp_path: Path, case: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        module.load_talnet(saved(changed(state, case), tmp_path))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        module.load_talnet(str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        module.load_talnet(str(tmp_path / "text.pt"))


@pytest.mark.parametrize("config", [{"embedding": 33}, {"pooling": "median"}, {"hears": "video"}, {"win_length": 9999}])
def test_sizes_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match=str(next(iter(config.values())))):
        build_victim("talnet", labels=LABELS, **config)


@pytest.mark.parametrize("multiplier", [20.0, 10.0])
def test_the_front_end_is_that_of_the_thesis(multiplier: float) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32) + 0.05
    audio[4_000:9_000] = 0.05
    mel = librosa.feature.melspectrogram(
        y=audio - audio.mean(),
        sr=16_000,
        n_fft=4096,
        win_length=1024,
        hop_length=400,
        n_mels=64,
        pad_mode="constant",
    )
    expected = (20 * np.log10(np.maximum(mel, 1e-10)) + 27.248297) / (2 * 37.681698)
    front_end = ThesisMel(decibel_multiplier=multiplier)
    ours = front_end(torch.tensor(audio)[None])[0]
    assert ours.shape == (40, 64)
    torch.testing.assert_close(ours, torch.tensor(expected.T[:40]).float(), rtol=1e-3, atol=1e-3)
    assert float(front_end(torch.zeros(1, 16_000)).max()) == pytest.approx(-2.292, abs=1e-3)  # methods.md 3.1


def test_the_quirk_shows_where_statistics_are_given() -> None:
    audio = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    single = ThesisMel(decibel_multiplier=10.0, mean=0.0, std=0.5)(audio)
    double = ThesisMel(decibel_multiplier=20.0, mean=0.0, std=0.5)(audio)
    torch.testing.assert_close(double, 2 * single)
