"""Audio-MAE: timm's transformer as living reference, upstream's numbers, masks in fine-tuning, refused files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.victims.audio_mae import AudioMae, load_audio_mae
from robust.victims.audio_mae_decoder import (
    DecoderSettings,
    MaskedAutoencoder,
    load_published_autoencoder,
    own_names,
)
from robust.victims.audio_mae_encoder import AudioMaeSettings, build_vit, encoded, grid_positions, patches_of
from robust.victims.patch_masking import StructuredMask
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded, inputs_of

FIXTURES = Path(__file__).parents[2] / "fixtures"
SIZES: dict[str, Any] = {"max_frames": 128, "n_mels": 16, "patch_size": 2, "width": 32, "layers": 2, "heads": 4}
UPSTREAM_RUN = AudioMaeSettings(**SIZES, mlp_ratio=2.0, drop_path=0.0)
UPSTREAM_DECODER = DecoderSettings(decoder_width=32, decoder_heads=16, decoder_mlp_ratio=2.0)


class TestAudioMae(VictimContract):
    name = "audio-mae"
    tiny: ClassVar[dict[str, Any]] = {"width": 32, "layers": 2}


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, list[int]]]:
    loaded: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "audio_mae.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    with np.load(FIXTURES / "audio_mae.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def drawn(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The weights of the run that the fixture tells: PCG64 with seed 7, entries in the order of their names."""
    generator, found = np.random.default_rng(7), {}
    for name in sorted(shapes):
        values = generator.standard_normal(tuple(shapes[name])).astype(np.float32) * 0.2
        if name.endswith("tau"):
            values = 1 + np.abs(values) * 0.2
        if "norm" in name and name.endswith("weight"):
            values = 1 + values
        found[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return found


def published(path: Path, shapes: Mapping[str, list[int]], settings: AudioMaeSettings, **changes: Any) -> Path:
    """A file as upstream writes it: the model beside the optimiser's state and the command line."""
    state = {**drawn(shapes), **changes}
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, path)
    return path


def test_parameters_are_those_of_vit_b() -> None:
    with torch.device("meta"):
        vit = build_vit(AudioMaeSettings(), classes=527)
    assert sum(value.numel() for value in vit.parameters()) == 86_053_391  # upstream's, counted on its own module


def test_entries_are_upstreams(shapes: dict[str, dict[str, list[int]]]) -> None:
    with torch.device("meta"):
        vit = build_vit(AudioMaeSettings(), classes=527)
        model = MaskedAutoencoder(AudioMaeSettings(layers=1), DecoderSettings())
    assert {name: list(value.shape) for name, value in vit.state_dict().items()} == shapes["finetuned"]
    expected = own_names({name: torch.zeros(shape) for name, shape in shapes["pretrained"].items()})
    one_layer = {name: value for name, value in expected.items() if name[:11] != "vit.blocks." or name[11:13] == "0."}
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in one_layer.items()
    }


def test_logits_are_upstreams(shapes: dict[str, dict[str, list[int]]], numbers: dict[str, Tensor]) -> None:
    victim = AudioMae(labels=LABELS[:5], task="multiclass", settings=UPSTREAM_RUN).eval()
    victim.vit.load_state_dict(drawn(shapes["small_finetuned"]))
    with torch.no_grad():
        latent = victim.vit.fc_norm(encoded(victim.vit, patches_of(victim.vit, numbers["features"]))[:, 1:].mean(1))
        torch.testing.assert_close(latent, numbers["latent"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(victim.head(latent), numbers["logits"], rtol=1e-4, atol=1e-4)


def test_reconstruction_and_loss_are_upstreams(
    shapes: dict[str, dict[str, list[int]]], numbers: dict[str, Tensor]
) -> None:
    model = MaskedAutoencoder(UPSTREAM_RUN, UPSTREAM_DECODER).eval()
    model.load_state_dict(own_names(drawn(shapes["small_pretrained"])))
    with torch.no_grad():
        answer = model.answer(numbers["features"], numbers["visible"])
        losses = model.errors(numbers["features"], numbers["visible"])
    torch.testing.assert_close(answer[:, ::16], numbers["pred"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses, numbers["losses"][:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.mean(), numbers["losses"][2], rtol=1e-5, atol=1e-5)


def test_positions_are_upstreams_unless_told_otherwise(numbers: dict[str, Tensor]) -> None:
    for swapped in (True, False):
        model = MaskedAutoencoder(AudioMaeSettings(**SIZES, swapped_positions=swapped), UPSTREAM_DECODER)
        pairs = ((model.vit.pos_embed, "positions"), (model.decoder.pos_embed, "decoder_positions"))
        same = [torch.allclose(own[0, ::64], numbers[name], atol=1e-6) for own, name in pairs]
        assert same == [swapped, swapped]


def test_positions_tell_row_and_column() -> None:
    positions = grid_positions(3, 5, 16)[1:].reshape(3, 5, 16)
    assert torch.equal(positions[0, :, :8], positions[2, :, :8])  # the column, whatever the row
    assert torch.equal(positions[:, 0, 8:], positions[:, 4, 8:])
    assert len(positions.reshape(15, 16).unique(dim=0)) == 15
    torch.testing.assert_close(positions[1, 2, [0, 8]], torch.tensor([2.0, 1.0]).sin())
    torch.testing.assert_close(positions[1, 2, [5, 13]], (torch.tensor([2.0, 1.0]) / 10).cos())


def test_logits_are_those_of_timms_own_forward() -> None:
    victim = build_seeded("audio-mae", width=48, layers=2, heads=4, max_frames=96, clip_seconds=1.0)
    assert isinstance(victim, AudioMae)
    inputs = inputs_of(victim)
    with torch.no_grad():
        whole = victim.vit(victim.fbank(inputs["audio"])[:, None])
        torch.testing.assert_close(victim(inputs), whole, rtol=1e-5, atol=1e-6)


def test_fine_tuning_sees_some_times_and_bands_of_each_clip() -> None:
    mask = StructuredMask((10, 5), time_ratio=0.3, frequency_ratio=0.4, seed=1)
    places = torch.arange(50.0)[None, :, None].expand(8, -1, 2)
    seen = mask.train()(places)[..., 0]
    assert seen.shape == (8, 7 * 3)
    for row in seen:
        times, bands = set((row // 5).tolist()), set((row % 5).tolist())
        assert (len(times), len(bands)) == (7, 3)  # so that times x bands is all of the row
    assert len({tuple(row.tolist()) for row in seen}) > 1
    assert torch.equal(StructuredMask((10, 5), time_ratio=0.3, frequency_ratio=0.4, seed=1)(places)[..., 0], seen)
    assert not torch.equal(mask(places)[..., 0], seen)
    assert mask.eval()(places) is places


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 100, "heads": 3}, "width=100 must be a multiple of heads=3"),
        ({"max_frames": 100}, "max_frames=100 and n_mels=128 must be multiples of patch_size=16"),
        ({"time_ratio": 1.0}, "from 0 to below 1; given 1.0"),
        ({"std": 0.0}, "std=0.0 must be positive"),
    ],
)
def test_wrong_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VictimError, match=message):
        build_seeded("audio-mae", **{"width": 32, "heads": 4, "layers": 1, **config})


@pytest.fixture
def fine_tuned(shapes: dict[str, dict[str, list[int]]]) -> dict[str, list[int]]:
    """Entries of a small fine-tuned model with the 128 mel bands of all published ones: 32 frames of patches of 16."""
    settings = AudioMaeSettings(max_frames=32, width=64, layers=1, heads=1, mlp_ratio=2.0)
    return {name: list(value.shape) for name, value in build_vit(settings, classes=4).state_dict().items()}


def test_a_published_file_loads(tmp_path: Path, fine_tuned: dict[str, list[int]]) -> None:
    path = published(tmp_path / "finetuned.pth", fine_tuned, AudioMaeSettings())
    victim = load_audio_mae(str(path))
    assert isinstance(victim, AudioMae)
    assert victim.config["heads"] == 1
    assert victim.config["max_frames"] == 32
    assert victim.spec.labels == ("class 0", "class 1", "class 2", "class 3")
    assert victim.spec.task == "multiclass"
    weights = drawn(fine_tuned)
    assert all(torch.equal(value, weights[name]) for name, value in victim.vit.state_dict().items())
    assert victim(inputs_of(victim)).shape == (3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.attn.qkv.bias": None}, r"1 missing: blocks\.0\.attn\.qkv\.bias"),
        ({"blocks.0.extra": torch.zeros(1)}, r"1 unexpected: blocks\.0\.extra"),
        ({"head.bias": torch.zeros(9)}, r"head\.bias \(9,\), not \(4,\)"),
        ({"cls_token": None}, "it lacks cls_token"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)}, r"expected \(width, 1, patch, patch\)"),
        ({"head.weight": None}, "it lacks head.weight"),
        ({"head.weight": None, "mask_token": torch.zeros(1, 1, 8)}, "robust pretrain --init"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, fine_tuned: dict[str, list[int]], changes: dict[str, Tensor | None], message: str
) -> None:
    state = {name: value for name, value in {**drawn(fine_tuned), **changes}.items() if value is not None}
    path = tmp_path / "other.pth"
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=message):
        load_audio_mae(str(path))


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give a \.pth or \.safetensors file"):
        load_audio_mae("nobody/knows-it")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="no PyTorch checkpoint"):
        load_audio_mae(str(tmp_path / "text.pth"))


def test_a_published_pre_trained_file_loads_with_its_decoder(tmp_path: Path) -> None:
    settings = AudioMaeSettings(max_frames=64, width=64, layers=1, heads=1, mlp_ratio=2.0)
    model = MaskedAutoencoder(settings, DecoderSettings(decoder_width=16, decoder_heads=2, decoder_layers=2))
    upstream = {
        ("mask_token" if name == "decoder.mask_token" else name.replace("decoder.", "decoder_", 1))
        .removeprefix("vit.")
        .replace("logit_scale", "tau"): value.neg().exp() if name.endswith("logit_scale") else value
        for name, value in model.state_dict().items()
    }
    path = tmp_path / "pretrained.pth"
    torch.save({"model": upstream}, path)
    again = load_published_autoencoder(str(path))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    del upstream["decoder_pred.bias"]
    torch.save({"model": upstream}, path)
    with pytest.raises(CheckpointError, match=r"1 missing: decoder\.pred\.bias"):
        load_published_autoencoder(str(path))
    del upstream["decoder_embed.weight"]
    torch.save({"model": upstream}, path)
    with pytest.raises(CheckpointError, match="no pre-trained Audio-MAE"):
        load_published_autoencoder(str(path))
