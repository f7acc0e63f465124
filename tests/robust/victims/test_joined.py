"""`concat:A+B+C`: members' features side by side, their weights, and what a card keeps of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import robust.victims  # registers the members
from robust.errors import VictimError
from robust.victims import joined, loading
from robust.victims.base import Victim
from robust.victims.checkpoints import load_checkpoint, save_checkpoint
from robust.victims.loading import embedded_weights
from robust.victims.registry import build_victim, list_open, victim_entry
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded, inputs_of

assert robust.victims


class TestContract(VictimContract):
    name: ClassVar[str] = "concat:m3+cnn-transformer"

    # Members that begin at random are quicker, and are trained.
    tiny: ClassVar[dict[str, Any]] = {
        "init": "random",
        "configs": {"m3": {"width": 0.1}, "cnn-transformer": {"embedding": 96, "heads": 4}},
    }


class TestContractOfFrozenMembers(VictimContract):
    name: ClassVar[str] = "concat:m3+m5"
    tiny: ClassVar[dict[str, Any]] = {"hidden": 8}


def latent_of(member: Victim, audio: torch.Tensor) -> torch.Tensor:
    latent = member.embed({"audio": audio})["fused"]
    return latent.mean(dim=1) if latent.ndim == 3 else latent


def test_the_features_are_the_members_side_by_side() -> None:
    victim = build_seeded("concat:m3+cnn-transformer")
    audio = inputs_of(victim)["audio"]
    alone = [load_checkpoint(embedded_weights(name)).eval() for name in ("m3", "cnn-transformer")]
    expected = torch.cat([latent_of(member, audio) for member in alone], dim=1)
    torch.testing.assert_close(victim.embed({"audio": audio})["fused"], expected)


def test_members_of_other_rates_hear_it_resampled() -> None:
    configs = {"m3": {"sample_rate": 8_000, "clip_seconds": 1.0, "width": 0.1}, "m5": {"width": 0.1}}
    victim = build_seeded("concat:m3+m5", init="random", configs=configs)
    assert victim.spec.sample_rate == 16_000
    time = torch.arange(16_000) / 16_000
    tone = (0.3 * torch.sin(2 * torch.pi * 440 * time))[None]
    low = victim.members[0]
    assert isinstance(low, Victim)
    heard = latent_of(low, tone[:, ::2].contiguous())
    # The ends differ by what the resampler hears beyond them.
    torch.testing.assert_close(victim.embed({"audio": tone})["fused"][:, : heard.shape[1]], heard, rtol=0, atol=0.02)


def test_frozen_members_keep_their_weights_and_statistics() -> None:
    victim = build_seeded("concat:m3+m5").train()
    before = {key: value.clone() for key, value in victim.members.state_dict().items()}
    optimizer = torch.optim.SGD((value for value in victim.parameters() if value.requires_grad), lr=0.1)
    victim(inputs_of(victim)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in victim.members.state_dict().items())
    assert victim.training
    assert not victim.members[0].training


def test_members_that_are_not_frozen_are_trained() -> None:
    victim = build_seeded("concat:m3+m5", frozen=False).train()
    victim(inputs_of(victim)).square().sum().backward()
    first = victim.members[0]
    assert first.layers[0].weight.grad.abs().sum() > 0
    assert first.training
    assert not first.classifier.weight.requires_grad  # its own head is not asked


def test_a_member_without_trained_weights_is_trained_whatever_is_asked() -> None:
    victim = build_seeded("concat:m3+m5", configs={"m5": {"width": 0.1}})
    assert victim.frozen == [True, False]
    assert build_seeded("concat:m3+m5", init="random").frozen == [False, False]


def test_a_checkpoint_is_rebuilt_without_the_members_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("m3", "m5"):
        for path in embedded_weights(name).parent.glob(f"{name}.*"):
            shutil.copy(path, folder)
    monkeypatch.setattr(loading, "EMBEDDED", folder)
    victim = build_seeded("concat:m3+m5", hidden=4)
    logits = victim(inputs_of(victim))
    save_checkpoint(victim, tmp_path / "it.safetensors", {})
    shutil.rmtree(folder)
    again = load_checkpoint(tmp_path / "it.safetensors").eval()
    assert again.frozen == [True, True]
    assert torch.equal(again(inputs_of(victim)), logits)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("m5", "two or more"),
        ("m5+m5", "different"),
        ("m5+", "Unknown model"),
        ("m5+m4", "Did you mean"),
        ("m5+concat:m3+m11", "name its members"),
    ],
)
def test_what_cannot_be_joined_is_refused(argument: str, message: str) -> None:
    with pytest.raises(VictimError, match=message):
        victim_entry(f"concat:{argument}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"init": "embeded"}, "Did you mean 'embedded'"),
        ({"configs": {"m4": {}}}, "Unknown member"),
        ({"hidden": -1}, "hidden=-1"),
    ],
)
def test_wrong_configurations_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VictimError, match=message):
        build_victim("concat:m3+m5", labels=LABELS, **config)


def test_members_that_see_are_refused() -> None:
    with pytest.raises(VictimError, match="audio alone"):
        build_victim("concat:m3+frames", labels=LABELS)


def test_it_is_listed() -> None:
    assert any(entry.prefix == joined.PREFIX for entry in list_open())
