"""The author's networks: same state dict, same logits.

The fixture holds, for each network, its keys with their shapes and the logits of two inputs, as the author's own
definitions gave them (evaluation mode, weights drawn by `state_for`). None of his code is here.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robust.errors import CheckpointError
from robust.victims import build_victim, load_victim
from robust.victims.attention import positions
from robust.victims.checkpoints import load_checkpoint, save_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEYS = json.loads((FIXTURES / "audioset_done_right.json").read_text())
EXPECTED = np.load(FIXTURES / "audioset_done_right.npz")
MODELS = {
    "MMTEncoder-early": "av-early",
    "MMTEncoder-mid": "av-mid",
    "LateFusion": "av-late",
    "SuperLateFusion": "av-decision",
    "TransformerEncoder": "cnn-transformer",
    "TransformerEncoder-pos-lin": "cnn-transformer",
    "videoModel": "av-video",
}


def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight that depends on its name alone, of a size that keeps activations moderate."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith(".pe"):
        return positions(400, 64)[None]
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if name.endswith("running_var"):
        draw = np.exp(0.1 * draw)
    elif len(shape) >= 2:
        draw = draw / math.sqrt(math.prod(shape[1:]))
    else:
        draw = 0.1 * draw + (1 if name.endswith("weight") else 0)
    return torch.from_numpy(draw.astype(np.float32))


def state_for(network: str) -> dict[str, torch.Tensor]:
    return {name: value(name, tuple(shape)) for name, shape in KEYS[network].items()}


def inputs_for(modalities: tuple[str, ...]) -> dict[str, torch.Tensor]:
    generator = np.random.Generator(np.random.PCG64(0))
    logmel = torch.from_numpy(generator.standard_normal((2, 400, 64)).astype(np.float32) * np.float32(0.6))
    video = torch.from_numpy(np.abs(generator.standard_normal((2, 10, 2048))).astype(np.float32))
    return {name: {"logmel": logmel, "video_features": video}[name] for name in modalities}


@pytest.mark.parametrize("network", MODELS)
def test_same_state_dict_same_logits(network, tmp_path):
    path = tmp_path / "checkpoint19.pt"
    torch.save({"model": state_for(network), "epoch": 20}, path)
    victim = load_victim(MODELS[network], weights=str(path))
    with torch.no_grad():
        logits = victim(inputs_for(victim.spec.modalities))
    assert logits.shape == (2, 527)
    np.testing.assert_allclose(logits.numpy(), EXPECTED[network], atol=1e-4, rtol=0)


def test_a_changed_weight_changes_the_logits(tmp_path):
    state = state_for("MMTEncoder-mid")
    state["conv5.bn.running_mean"] += 0.1
    save_file(state, tmp_path / "one.safetensors")
    victim = load_victim("av-mid", weights=str(tmp_path / "one.safetensors"))
    with torch.no_grad():
        logits = victim(inputs_for(victim.spec.modalities))
    assert np.abs(logits.numpy() - EXPECTED["MMTEncoder-mid"]).max() > 1e-3


def test_checkpoints_from_several_gpus_are_read(tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in state_for("videoModel").items()}, tmp_path / "a.pt")
    assert load_victim("av-video", weights=str(tmp_path / "a.pt")).spec.modalities == ("video_features",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("proj1.bias"), "1 missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unexpected"),
        (lambda state: state.update({"proj1.bias": torch.zeros(3)}), "another shape"),
        (lambda state: state.pop("conv3.conv.bias"), "every convolution"),
        (lambda state: state.pop("fc_prob.weight"), "classifier"),
        (dict.clear, "none of"),
    ],
)
def test_other_state_dicts_are_refused(change, message, tmp_path):
    state = {name: torch.zeros(shape) for name, shape in KEYS["MMTEncoder-mid"].items()}
    change(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        load_victim("av-mid", weights=str(tmp_path / "bad.pt"))


def test_the_wrong_model_is_refused(tmp_path):
    torch.save({name: torch.zeros(shape) for name, shape in KEYS["videoModel"].items()}, tmp_path / "video.pt")
    with pytest.raises(CheckpointError, match="av-video"):
        load_victim("av-mid", weights=str(tmp_path / "video.pt"))


def test_the_published_configuration_survives_our_own_checkpoint(tmp_path):
    victim = build_victim("av-video", labels=("a", "b"), task="multilabel", published=True).eval()
    save_checkpoint(victim, tmp_path / "v.safetensors", {})
    again = load_checkpoint(tmp_path / "v.safetensors").eval()
    inputs = inputs_for(("video_features",))
    with torch.no_grad():
        assert torch.equal(victim(inputs), again(inputs))
