"""`efficientnet-b2`: upstream's keys, outputs and size; timm's network; what is refused.

The fixture was made by upstream's own module with the weights of `drawn`: names and shapes of its entries, the frames'
embeddings of two clips, and a scene embedding of the first second of the first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.victims import efficientnet as module
from robust.victims.checkpoints import load_checkpoint, save_checkpoint
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES: dict[str, list[int]] = json.loads((FIXTURES / "efficient_latent.json").read_text())


class TestContract(VictimContract):
    name: ClassVar[str] = "efficientnet-b2"
    tiny: ClassVar[dict[str, Any]] = {"width": 0.2, "depth": 0.3}
    largest: ClassVar[float] = 1.4e6


def drawn() -> dict[str, Tensor]:
    """Weights by number of the entry, in upstream's names; the front end is ours."""
    state = {}
    for number, key in enumerate(sorted(SHAPES)):
        shape, generator = SHAPES[key], np.random.default_rng(number)
        noise = generator.standard_normal(shape)
        if key.startswith("front_end"):
            continue
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = torch.tensor(1 + 0.5 * generator.random(shape)).float()
        elif key.endswith(("running_mean", "bias")):
            state[key] = torch.tensor(0.1 * noise).float()
        elif len(shape) == 1:
            state[key] = torch.tensor(1 + 0.1 * noise).float()
        else:
            state[key] = torch.tensor(noise * np.sqrt(1.6 / np.prod(shape[1:]))).float()
    front_end = module.EfficientNetVictim(
        labels=LABELS, task="multiclass", settings=module.EfficientNetSettings(width=0.1, depth=0.1)
    ).front_end
    return {
        **state,
        "front_end.0.spectrogram.window": front_end.window.clone(),
        "front_end.0.mel_scale.fb": front_end.mel.clone(),
    }


def clips() -> Tensor:
    """Noise that begins after 0.3 s of digital silence, and a rising tone; 1.5 s each."""
    time = np.arange(24_000) / 16_000
    noise = 0.1 * np.random.default_rng(0).standard_normal(24_000) * (time > 0.3)
    return torch.tensor(np.stack([noise, 0.5 * np.sin(2 * np.pi * (300 + 400 * time) * time)])).float()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return drawn()


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("upstream") / "effb2.pt"
    torch.save(state, path)
    return str(path)


def test_embeddings_are_upstreams(checkpoint: str) -> None:
    expected = np.load(FIXTURES / "efficient_latent.npz")
    victim = module.load_efficient_latent(checkpoint)
    with torch.no_grad():
        frames = victim.embed({"audio": clips()})["fused"]
        scene = victim.embed({"audio": clips()[:1, :16_000]})["fused"].mean(dim=1)
    assert frames.shape == (2, 5, 1408)
    assert expected["frames"].std() > 0.1
    torch.testing.assert_close(frames, torch.tensor(expected["frames"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scene, torch.tensor(expected["scene"]), rtol=1e-4, atol=1e-4)
    assert victim.spec.labels == ("untrained",)


def test_the_front_end_is_upstreams(checkpoint: str) -> None:
    mel = module.load_efficient_latent(checkpoint).front_end.mel
    sums = torch.tensor(np.load(FIXTURES / "efficient_latent.npz")["mel_sum"])
    torch.testing.assert_close(mel.sum(dim=0), sums, rtol=1e-4, atol=1e-4)


def test_its_size_and_names_are_those_of_timm_and_of_upstream() -> None:
    victim = build_victim("efficientnet-b2", labels=LABELS)
    reference = timm.create_model("tf_efficientnet_b2", in_chans=1, num_classes=0)
    own, theirs = victim.network.state_dict(), reference.state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}
    assert sum(value.numel() for value in victim.network.parameters()) == 7_700_418
    upstream = {name: list(own[key].shape) for key, name in module.upstream_names(victim.network).items()}
    assert upstream == {key: shape for key, shape in SHAPES.items() if not key.startswith("front_end")}


def test_the_probability_of_a_clip_is_the_mean_of_its_frames() -> None:
    victim = build_victim("efficientnet-b2", labels=LABELS, **{**module.SMALL, **TestContract.tiny}).eval()
    frames = victim.embed({"audio": clips()})["fused"]
    logits = victim({"audio": clips()})
    expected = victim.classifier.frame_logits(frames).sigmoid().mean(dim=1)
    torch.testing.assert_close(logits.sigmoid(), expected)


def test_training_begins_from_upstreams_weights_and_is_rebuilt_without_the_file(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    source, path = tmp_path / "effb2.safetensors", tmp_path / "ours.safetensors"
    save_file(state, source)
    victim = build_victim("efficientnet-b2", labels=LABELS, weights=str(source), **module.SMALL).eval()
    assert victim.spec.clip_seconds == 1.0
    assert torch.equal(victim.network.conv_stem.weight, state["_conv_stem.weight"])
    save_checkpoint(victim, path, {})
    source.unlink()
    assert torch.equal(load_checkpoint(path).eval()({"audio": clips()}), victim({"audio": clips()}))


def test_other_entries_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path, changed = tmp_path / "effb2.pt", dict(state)
    changed["_blocks.3._bn9.weight"] = changed.pop("_blocks.3._bn2.weight")
    changed["_conv_head.weight"] = torch.zeros(3)
    torch.save(changed, path)
    with pytest.raises(CheckpointError) as caught:
        module.load_efficient_latent(str(path))
    for part in ("1 missing: _blocks.3._bn2.weight", "1 unexpected: _blocks.3._bn9.weight", "_conv_head.weight (3,)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("key", ["front_end.0.spectrogram.window", "front_end.0.mel_scale.fb"])
def test_another_front_end_is_refused(state: dict[str, Tensor], tmp_path: Path, key: str) -> None:
    path = tmp_path / "effb2.pt"
    torch.save({**state, key: 1.05 * state[key]}, path)
    with pytest.raises(CheckpointError, match=f"front end .* differs .*{key}"):
        module.load_efficient_latent(str(path))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "effb2.pt"
    with pytest.raises(CheckpointError):
        module.load_efficient_latent(str(path))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        module.load_efficient_latent(str(path))


@pytest.mark.parametrize("config", [{"width": 0.0}, {"depth": -1.0}, {"n_mels": 16}])
def test_sizes_of_which_nothing_is_left_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match=next(iter(config))):
        build_victim("efficientnet-b2", labels=LABELS, **config)
