"""`kwmlp` and `audio-mlp-autoencoder`: entries, outputs and HEAR embeddings of the authors' own modules.

The fixture was made by upstream's modules with the weights of `drawn`: names and shapes, which are those of the
published files, front ends, logits, and what their package for HEAR gives of sounds of 1.7 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.hear import get_scene_embeddings, get_timestamp_embeddings, load_model
from robust.training_setup import take_fitting
from robust.victims import load_victim
from robust.victims.audio_mlp_autoencoder import AudioMlpAutoencoder, load_audio_mlp_autoencoder
from robust.victims.checkpoints import load_checkpoint, save_checkpoint
from robust.victims.gated_mlp import GatedBlock, GatedMlp, GatedMlpSettings
from robust.victims.kwmlp import WORDS, KwMlpSettings, load_kwmlp
from robust.victims.registry import build_victim
from tests.robust.victim_contract import VictimContract, build_seeded
from tests.robust.victims.drawn import drawn

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHAPES: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "kwmlp.json").read_text())
SIZES: dict[str, Any] = {"blocks": 2, "width": 16, "hidden": 32, "hop_length": 320}


class TestKwMlp(VictimContract):
    name = "kwmlp"
    tiny: ClassVar[dict[str, Any]] = SIZES


class TestAudioMlpAutoencoder(VictimContract):
    name = "audio-mlp-autoencoder"
    tiny: ClassVar[dict[str, Any]] = SIZES


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    with np.load(FIXTURES / "kwmlp.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {name: drawn(shapes) for name, shapes in SHAPES.items()}


@pytest.fixture(scope="module")
def files(states: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints in the form of the published ones."""
    folder = tmp_path_factory.mktemp("kwmlp")
    for name, state in states.items():
        torch.save({"model_state_dict": state}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in states}


def sound(samples: int) -> Tensor:
    """What upstream heard: a rising tone in noise that comes and goes, once loud and once quiet."""
    time = np.arange(samples) / 16_000
    noise = np.random.default_rng(1).standard_normal((2, samples))
    level = np.array([[0.3], [0.03]])
    return torch.tensor(
        level * (np.sin(2 * np.pi * 440 * time * (1 + 0.4 * time)) + 0.2 * noise * np.sin(5 * time))
    ).float()


def test_the_published_file_of_kwmlp(files: dict[str, str], numbers: dict[str, Tensor]) -> None:
    victim = load_kwmlp(files["kwmlp"])
    assert sum(value.numel() for value in victim.parameters()) == 424_811  # 0.424 M, section 5.5
    assert victim.spec.labels == WORDS
    assert list(WORDS) == sorted(set(WORDS))
    with torch.no_grad():
        mfcc = victim.front_end(sound(16_000))
        logits = victim({"audio": sound(16_000)})
    assert mfcc.shape == (2, 98, 40)
    torch.testing.assert_close(mfcc[:, ::7], numbers["mfcc"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(logits, numbers["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "every"), [("kwmlp", 12), ("audio-mlp-autoencoder", 3)])
def test_embeddings_at_hear_are_upstreams(
    name: str, every: int, files: dict[str, str], numbers: dict[str, Tensor]
) -> None:
    model = load_model(files[name], model=name, device="cpu")
    assert (model.timestamp_embedding_size, model.scene_embedding_size) == {
        "kwmlp": (64, 1024),
        "audio-mlp-autoencoder": (8, 1584),
    }[name]
    found, times = get_timestamp_embeddings(sound(27_000), model)
    assert found.shape == (2, 168, model.timestamp_embedding_size)
    torch.testing.assert_close(found[:, ::every], numbers[f"{name} timestamps"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(times, numbers[f"{name} times"].expand(2, -1), rtol=0, atol=1e-3)
    scenes = get_scene_embeddings(sound(27_000), model)
    torch.testing.assert_close(scenes, numbers[f"{name} scene"], rtol=1e-4, atol=1e-4)


def test_shallower_embeddings_and_another_scene_are_upstreams(
    files: dict[str, str], numbers: dict[str, Tensor]
) -> None:
    shallow, whole = (load_kwmlp(files["kwmlp"], embedding_after=depth, scene="single") for depth in (4, None))
    with torch.no_grad():
        found, _ = shallow.hear_timestamps(sound(27_000))
        torch.testing.assert_close(found[:, ::24], numbers["after 4"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole.hear_scene(sound(27_000)), numbers["single scene"], rtol=1e-4, atol=1e-4)
        assert torch.equal(shallow({"audio": sound(16_000)}), whole({"audio": sound(16_000)}))


def test_the_published_encoder(files: dict[str, str], numbers: dict[str, Tensor], tmp_path: Path) -> None:
    victim = load_audio_mlp_autoencoder(files["audio-mlp-autoencoder"])
    assert sum(value.numel() for value in victim.parameters()) == 213_036
    with torch.no_grad():
        torch.testing.assert_close(victim.front_end(sound(16_000))[:, ::7], numbers["mel"], rtol=1e-4, atol=1e-4)
        logits = victim({"audio": sound(16_000)})
        latent = victim.embed({"audio": sound(16_000)})["fused"]
    assert victim.spec.labels[0] == "latent 0"
    torch.testing.assert_close(logits, latent.mean(dim=1))
    save_checkpoint(victim, tmp_path / "it.safetensors", {})
    assert torch.equal(load_checkpoint(tmp_path / "it.safetensors").eval()({"audio": sound(16_000)}), logits)
    fresh = build_victim("audio-mlp-autoencoder", labels=("a", "b"))
    taken = take_fitting(fresh, victim.state_dict())
    assert fresh.state_dict().keys() - taken == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("blocks", "count"), [(8, 284_883), (10, 354_847), (12, 424_811)])
def test_sizes(blocks: int, count: int) -> None:
    """Of eight blocks it is that of the authors' file."""
    victim = build_victim("kwmlp", labels=WORDS, blocks=blocks)
    assert sum(value.numel() for value in victim.parameters()) == count


@pytest.mark.parametrize("case", ["with an optimiser", "safetensors", "state dict", "DataParallel"])
def test_other_forms_of_the_file_load(case: str, tmp_path: Path) -> None:
    state = {name: value for name, value in drawn(SHAPES["kwmlp"]).items() if not name.startswith("layers.1")}
    state = {name: value[:4] if name.startswith("to_logits.2") else value for name, value in state.items()}
    path = tmp_path / ("it.safetensors" if case == "safetensors" else "it.pth")
    if case == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif case == "with an optimiser":
        torch.save({"epoch": 139, "val_acc": 0.97, "model_state_dict": state, "optimizer_state_dict": {"a": 1}}, path)
    else:
        prefix = "module." if case == "DataParallel" else ""
        torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    without_first = {name: value for name, value in state.items() if not name.startswith("layers.0.")}
    torch.save(without_first, tmp_path / "first-lost.pth")
    with pytest.raises(CheckpointError, match=r"no 'mlp\.blocks\.0\.expand\.weight'"):
        load_kwmlp(str(tmp_path / "first-lost.pth"))
    with pytest.raises(CheckpointError, match=r"missing: mlp\.blocks\.1\.contract"):
        load_kwmlp(str(path))
    renumbered = {_renumbered(name): value for name, value in state.items()}
    torch.save(renumbered, tmp_path / "whole.pth")
    victim = load_victim("kwmlp", weights=tmp_path / "whole.pth", device="cpu")
    assert victim.config["blocks"] == 9
    assert victim.spec.labels == ("class 0", "class 1", "class 2", "class 3")


def _renumbered(name: str) -> str:
    """Layers 0, 2, 3, ... as 0, 1, 2, ..."""
    parts = name.split(".")
    if parts[0] == "layers" and parts[1] != "0":
        parts[1] = str(int(parts[1]) - 1)
    return ".".join(parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to_logits.0.bias": None}, r"1 missing: norm\.bias"),
        ({"bottleneck.0.bias": torch.zeros(8)}, r"1 unexpected: bottleneck\.0\.bias"),
        ({"layers.3.fn.fn.sgu.proj.weight": torch.zeros(50, 50, 1)}, r"temporal\.weight \(50, 50\), not \(98, 98\)"),
        ({"to_logits.2.weight": None}, "no kwmlp checkpoint: it has no 'classifier.weight'"),
        ({"to_patch_embed.1.weight": torch.zeros(3)}, "no kwmlp checkpoint: it has no 'mlp.project.weight'"),
    ],
)
def test_other_entries_are_refused(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], changes: dict[str, Tensor | None], message: str
) -> None:
    state = {name: value for name, value in {**states["kwmlp"], **changes}.items() if value is not None}
    torch.save({"model_state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        load_kwmlp(str(tmp_path / "other.pth"))


def test_other_files_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match="No kwmlp checkpoint at"):
        load_kwmlp(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pth was refused"):
        load_kwmlp(str(tmp_path / "text.pth"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_kwmlp(str(tmp_path / "list.pth"))
    with pytest.raises(CheckpointError, match=r"no audio-mlp-autoencoder checkpoint: it has no 'bottleneck\.weight'"):
        load_audio_mlp_autoencoder(files["kwmlp"])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("kwmlp", {"blocks": 0}, "blocks=0"),
        ("kwmlp", {"hidden": 7}, "hidden=7"),
        ("kwmlp", {"survival": 0.0}, r"survival=0\.0"),
        ("kwmlp", {"n_mfcc": 41}, "n_mfcc=41"),
        ("kwmlp", {"embedding_after": 13}, "embedding_after=13 must be a block from 1 to blocks=12"),
        ("kwmlp", {"scene": "halvin"}, "Did you mean 'halving'"),
        ("kwmlp", {"scene_steps": 0}, "scene_steps=0"),
        ("kwmlp", {"chunk_seconds": 0.01}, "A chunk of 160 samples must hold a window"),
        ("audio-mlp-autoencoder", {"features": "powe"}, "Did you mean 'power'"),
        ("audio-mlp-autoencoder", {"bottleneck": 0}, "bottleneck=0"),
        ("audio-mlp-autoencoder", {"classifier": False}, "bottleneck=8 logits; given 6 labels"),
    ],
)
def test_wrong_configurations(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(VictimError, match=message):
        build_seeded(name, **config)


def test_longer_clips_have_the_mean_of_their_seconds_logits() -> None:
    victim = build_seeded("kwmlp", **SIZES)
    audio = sound(40_000)
    parts = [audio[:, :16_000], audio[:, 16_000:32_000], functional.pad(audio[:, 32_000:], (0, 8_000))]
    with torch.no_grad():
        apart = torch.stack([victim({"audio": part}) for part in parts])
        torch.testing.assert_close(victim({"audio": audio}), apart.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(victim({"audio": audio[:, 32_000:]}), apart[2])


def test_blocks_are_the_papers_equation() -> None:
    """Equation 2 on numbers, with the two norms that the authors' package has besides."""
    block = GatedBlock(6, 10, 7)
    state = drawn({name: list(value.shape) for name, value in block.state_dict().items()})
    block.load_state_dict(state)
    steps = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0)).double()
    state = {name: value.double() for name, value in state.items()}
    wide = steps @ state["expand.weight"].T + state["expand.bias"]
    wide = wide * (1 + torch.erf(wide / 2**0.5)) / 2
    gate = normed(wide[..., 5:], state, "gate_norm")
    mixed = torch.einsum("ts,bsd->btd", state["temporal.weight"], gate) + state["temporal.bias"][:, None]
    out = (wide[..., :5] * mixed) @ state["contract.weight"].T + state["contract.bias"]
    with torch.no_grad():
        torch.testing.assert_close(block.double()(steps), normed(out, state, "norm"))


def normed(values: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    spread = (values.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return (values - values.mean(-1, keepdim=True)) / spread * state[f"{name}.weight"] + state[f"{name}.bias"]


def test_gates_begin_open() -> None:
    block = GatedBlock(6, 10, 50)
    assert float(block.temporal.weight.detach().abs().max()) <= 1e-3 / 50
    assert torch.equal(block.temporal.bias, torch.ones(50))


def test_blocks_are_skipped_in_training_and_never_all() -> None:
    settings = GatedMlpSettings(blocks=10, width=4, hidden=4, survival=0.7)
    mlp, again = GatedMlp(settings, 5), GatedMlp(settings, 5)
    kept = torch.tensor([mlp._kept() for _ in range(400)])
    assert set(kept.flatten().tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.03)  # 4000 draws: a deviation of 0.007
    assert torch.equal(kept, torch.tensor([again._kept() for _ in range(400)]))
    rare = GatedMlp(GatedMlpSettings(blocks=3, width=4, hidden=4, survival=1e-6), 5)
    chosen = torch.tensor([rare._kept() for _ in range(60)])
    assert (chosen.sum(dim=1) == 1).all()
    assert (chosen.sum(dim=0) > 0).all()
    assert mlp.eval()._kept() == [1.0] * 10
    features = torch.randn(2, 98, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        steps = rare(features)
        options = [rare.project(features) + block(rare.project(features)) for block in rare.blocks]
        assert min(float((steps - option).abs().max()) for option in options) < 1e-6


def test_settings_tell_the_frames() -> None:
    assert (KwMlpSettings().chunk, KwMlpSettings().frames) == (16_000, 98)
    assert isinstance(build_victim("audio-mlp-autoencoder", labels=("a",)), AudioMlpAutoencoder)
