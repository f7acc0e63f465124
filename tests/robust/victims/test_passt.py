"""PaSST: upstream's front end, entries and outputs as numbers; patchout, positions of other lengths, refused files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.frontends.emphasised import EmphasisedMel
from robust.victims.passt import Passt, load_passt
from robust.victims.passt_net import PasstNet, PasstSettings
from tests.robust.victim_contract import VictimContract, build_seeded, inputs_of

FIXTURES = Path(__file__).parents[2] / "fixtures"
SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "mlp_ratio": 2.0, "patchout_time": 0}
UPSTREAM_RUN = PasstSettings(time_positions=7, patchout_frequency=0, **SIZES)


class TestPasst(VictimContract):
    name = "passt"
    tiny: ClassVar[dict[str, Any]] = {"width": 32, "layers": 2}


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, list[int]]]:
    loaded: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "passt.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    with np.load(FIXTURES / "passt.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def drawn(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The weights of the run that the fixture tells: PCG64 with seed 7, entries in the order of their names."""
    generator, found = np.random.default_rng(7), {}
    for name in sorted(shapes):
        values = generator.standard_normal(tuple(shapes[name])).astype(np.float32) * 0.2
        found[name] = torch.from_numpy(1 + values if "norm" in name and name.endswith("weight") else values)
    return found


def sound() -> Tensor:
    """What upstream's front end heard: half a second of 440 Hz in noise, twice, at 32 kHz."""
    noise = np.random.default_rng(1).standard_normal((2, 16_000))
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 32_000)
    return torch.from_numpy((tone + 0.05 * noise).astype(np.float32))


def front_end(settings: PasstSettings) -> EmphasisedMel:
    names = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "fmin", "fmax")
    return EmphasisedMel(**{name: getattr(settings, name) for name in names})


def test_parameters_and_entries_are_upstreams(shapes: dict[str, dict[str, list[int]]]) -> None:
    with torch.device("meta"):
        net = PasstNet(PasstSettings(), 527)
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == shapes["full"]
    assert sum(value.numel() for value in net.parameters()) == 86_153_758


def test_front_end_is_upstreams(numbers: dict[str, Tensor]) -> None:
    features = front_end(PasstSettings())(sound())
    torch.testing.assert_close(features.transpose(1, 2), numbers["features"], rtol=1e-4, atol=1e-4)


def test_logits_are_upstreams(shapes: dict[str, dict[str, list[int]]], numbers: dict[str, Tensor]) -> None:
    victim = Passt(labels=tuple("abcde"), task="multiclass", settings=UPSTREAM_RUN).eval()
    victim.net.load_state_dict(drawn(shapes["small"]))
    with torch.no_grad():
        latent = victim.embed({"audio": sound()})["fused"]
        torch.testing.assert_close(latent, numbers["latent"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(victim({"audio": sound()}), numbers["logits"], rtol=1e-4, atol=1e-4)


def test_silence_is_the_floor() -> None:
    features = front_end(PasstSettings())(torch.zeros(1, 8_000))
    torch.testing.assert_close(features, torch.full_like(features, (np.log(1e-5) + 4.5) / 5))


def test_clips_too_short_for_the_window_are_refused_by_the_front_end_and_padded_by_the_victim() -> None:
    with pytest.raises(VictimError, match="514 are needed"):
        front_end(PasstSettings())(torch.zeros(1, 513))
    victim = build_seeded("passt", **{**SIZES, "time_positions": 9})
    short = 0.1 * torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(short, (0, victim.least_samples - 300))
    assert torch.equal(victim({"audio": short}), victim({"audio": padded}))


def test_positions_of_shorter_clips_are_the_first_and_of_longer_ones_lie_between() -> None:
    net = PasstNet(UPSTREAM_RUN, 5)
    known = net.time_new_pos_embed.detach()
    assert torch.equal(net._times(4), known[..., :4])
    longer = net._times(14)
    assert longer.shape == (1, 32, 1, 14)
    assert (longer.amax(dim=3) <= known.amax(dim=3) + 1e-6).all()
    torch.testing.assert_close(longer[..., 1], 0.75 * known[..., 0] + 0.25 * known[..., 1])


def test_patchout_leaves_out_rows_and_columns_in_training_alone() -> None:
    net = PasstNet(PasstSettings(time_positions=7, **{**SIZES, "patchout_time": 3, "patchout_frequency": 5}), 5)
    seen: list[Tensor] = []
    net.blocks.register_forward_hook(lambda _module, given, _answer: seen.append(given[0]))
    features = torch.randn(2, 80, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.eval()(features)
        net.train()(features)
        net(features)
    whole, first, second = (steps[:, 2:] for steps in seen)
    assert [part.shape[1] for part in (whole, first, second)] == [12 * 7, 7 * 4, 7 * 4]
    assert not torch.equal(first, second)
    # The patches that stay are whole rows and columns of the grid, the same in both clips.
    places = [(whole[0] - patch).abs().sum(dim=1).argmin().item() for patch in first[0]]
    assert {len({place // 7 for place in places}), len({place % 7 for place in places})} == {7, 4}
    assert torch.equal(whole[:, places], first)
    again = PasstNet(PasstSettings(time_positions=7, **{**SIZES, "patchout_time": 3, "patchout_frequency": 5}), 5)
    again.load_state_dict(net.state_dict())
    again.blocks.register_forward_hook(lambda _module, given, _answer: seen.append(given[0]))
    with torch.no_grad():
        again.train()(features)
    assert torch.equal(seen[-1], seen[1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 100, "heads": 3}, "width=100 cannot be shared among heads=3"),
        ({"n_mels": 8}, "n_mels=8 must hold a patch of patch_size=16"),
        ({"patchout_time": 99}, "patchout_time=99 must be from 0 to below 99"),
        ({"patchout_frequency": -1}, "patchout_frequency=-1 must be from 0 to below 12"),
    ],
)
def test_wrong_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VictimError, match=message):
        build_seeded("passt", **{"width": 32, "heads": 4, "layers": 1, **config})


@pytest.fixture
def entries() -> dict[str, Tensor]:
    net = PasstNet(PasstSettings(width=64, layers=1, heads=1, mlp_ratio=2.0, stride=16, time_positions=62), 4)
    return drawn({name: list(value.shape) for name, value in net.state_dict().items()})


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_published_file_loads(tmp_path: Path, entries: dict[str, Tensor], wrapped: bool) -> None:
    state = {f"net.{name}": value for name, value in entries.items()} | {"device_proxy": torch.zeros(1)}
    torch.save(state if wrapped else entries, tmp_path / "passt.pt")
    victim = load_passt(str(tmp_path / "passt.pt"))
    assert isinstance(victim, Passt)
    assert (victim.config["stride"], victim.config["time_positions"], victim.spec.clip_seconds) == (16, 62, 10.0)
    assert all(torch.equal(value, entries[name]) for name, value in victim.net.state_dict().items())
    assert (victim.spec.sample_rate, victim.spec.task, len(victim.spec.labels)) == (32_000, "multiclass", 4)
    assert victim({"audio": inputs_of(victim, 1)["audio"][:, :32_000]}).shape == (1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dist_token": None}, "1 missing: dist_token"),
        ({"pos_embed": torch.zeros(1)}, "1 unexpected: pos_embed"),
        ({"head.1.bias": torch.zeros(9)}, r"head\.1\.bias \(9,\), not \(4,\)"),
        ({"time_new_pos_embed": None}, "it lacks time_new_pos_embed"),
        ({"freq_new_pos_embed": torch.zeros(1, 64, 11, 1)}, "it has 11 bands of patches"),
        ({"freq_new_pos_embed": torch.zeros(8)}, r"freq_new_pos_embed is \(8,\)"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, entries: dict[str, Tensor], changes: dict[str, Tensor | None], message: str
) -> None:
    state = {name: value for name, value in {**entries, **changes}.items() if value is not None}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_passt(str(tmp_path / "other.pt"))


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give a \.pt or \.safetensors file"):
        load_passt("nobody/knows-it")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match="no PyTorch checkpoint"):
        load_passt(str(tmp_path / "text.pt"))
