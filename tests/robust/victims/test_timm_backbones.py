"""`timm:NAME`: logits are timm's own, pictures fit, weights of timm load, and what cannot be a victim says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from safetensors.torch import save_file

from robust.errors import CheckpointError, VictimError
from robust.victims import timm_backbones as module
from robust.victims.loading import load_victim
from robust.victims.registry import build_victim, list_open, victim_entry
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded, inputs_of


class TestContractOfConvolutions(VictimContract):
    name: ClassVar[str] = "timm:test_convnext"


class TestContractOfPatches(VictimContract):
    name: ClassVar[str] = "timm:test_vit"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit2", "test_nfnet", "mobilenetv3_small_050", "test_mambaout"])
def test_logits_are_those_of_timm_with_the_same_weights(name: str) -> None:
    victim = build_seeded(f"timm:{name}")
    made_for: dict[str, Any] = {"dynamic_img_size": True, "dynamic_img_pad": True} if "vit" in name else {}
    theirs = timm.create_model(name, in_chans=1, num_classes=len(LABELS), **made_for)
    if "vit" in name:
        theirs.set_input_size(img_size=(64, 112))
    theirs.load_state_dict(victim.model.state_dict())
    audio = inputs_of(victim)["audio"]
    with torch.no_grad():
        decibels = victim.log_mel(audio)
        expected = theirs.eval()((decibels.transpose(1, 2).unsqueeze(1) + 40) / 40)
        torch.testing.assert_close(victim({"audio": audio}), expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_of_pixels_is_a_linear_layer() -> None:
    victim = build_seeded("timm:dla46_c", image_size=(64, 128))
    audio = inputs_of(victim)["audio"]
    assert isinstance(victim.model.get_classifier(), torch.nn.Conv2d)
    with torch.no_grad():
        expected = victim.model(victim.picture(audio))
        torch.testing.assert_close(victim({"audio": audio}), expected, rtol=1e-4, atol=1e-5)


def test_the_spectrogram_is_taken_as_it_is_or_in_the_size_asked_for() -> None:
    audio = torch.zeros(1, 16_000)
    assert build_seeded("timm:test_resnet").picture(audio).shape == (1, 1, 64, 101)
    assert build_seeded("timm:test_resnet", image_size=96).picture(audio).shape == (1, 1, 96, 96)
    assert build_seeded("timm:test_vit", image_size=(64, 96)).picture(audio).shape == (1, 1, 64, 96)
    # Mixers can neither interpolate positions nor pad: the picture is brought to their size.
    assert build_seeded("timm:mixer_s32_224").picture(audio).shape == (1, 1, 224, 224)


def test_positions_are_made_for_the_clips_own_spectrogram() -> None:
    victim = build_seeded("timm:test_vit")
    assert victim.model.patch_embed.grid_size == (4, 7)  # 64 bands and 101 frames, padded to 112, in patches of 16


def test_bands_and_frames_lie_the_right_way() -> None:
    victim = build_seeded("timm:test_resnet")
    low_then_nothing = torch.sin(2 * torch.pi * 200 * torch.arange(16_000) / 16_000) * (torch.arange(16_000) < 8_000)
    picture = victim.picture(low_then_nothing[None])[0, 0]
    assert picture[:8, :45].mean() > picture[-8:, :45].mean() + 0.5
    assert picture[:8, :45].mean() > picture[:8, -45:].mean() + 0.5


def test_a_file_of_timms_weights_loads_with_its_classifier(tmp_path: Path) -> None:
    theirs = timm.create_model("test_resnet", num_classes=3)  # three channels, as trained on pictures
    path = tmp_path / "theirs.safetensors"
    save_file(theirs.state_dict(), path)
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/0,Dog\n1,/m/1,Rain\n2,/m/2,Bell\n")
    victim = load_victim("timm:test_resnet", weights=path, device="cpu")
    assert victim.spec.labels == ("Dog", "Rain", "Bell")
    picture = victim.picture(inputs_of(victim)["audio"])
    with torch.no_grad():
        expected = theirs.eval()(picture.expand(-1, 3, -1, -1))
        torch.testing.assert_close(victim(inputs_of(victim)), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_fixed_size_loads_in_its_own(tmp_path: Path) -> None:
    theirs = timm.create_model("test_vit", num_classes=3, in_chans=1)
    path = tmp_path / "theirs.safetensors"
    save_file(theirs.state_dict(), path)
    victim = load_victim("timm:test_vit", weights=path, device="cpu")
    assert victim.picture(torch.zeros(1, 16_000)).shape[2:] == theirs.patch_embed.img_size


def test_the_hub_is_asked_by_name_and_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def hub(name: str, pretrained: bool = False, **rest: Any) -> Any:
        asked.append((name, pretrained))
        model = create(name, **rest)
        if pretrained:
            torch.nn.init.constant_(model.get_classifier().bias, 7.0)
        return model

    monkeypatch.setattr(timm, "create_model", hub)
    victim = module.load_timm("test_resnet", "hub")
    assert ("test_resnet", True) in asked
    assert len(victim.spec.labels) == 1000
    assert (victim.model.get_classifier().bias == 7).all()
    begun = build_victim("timm:test_resnet", labels=LABELS, pretrained=True)
    assert asked[-1] == ("test_resnet", True)
    assert begun.config["pretrained"] is False  # a checkpoint is rebuilt without the hub


def test_a_hub_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(name: str, **_: Any) -> Any:
        raise OSError(f"{name} is not in the cache\nand more")

    monkeypatch.setattr(timm, "create_model", hub)
    with pytest.raises(CheckpointError, match=r"out of reach.*\(test_resnet is not in the cache\)"):
        module.load_timm("test_resnet", "hub")
    with pytest.raises(VictimError, match="not in the cache"):
        build_victim("timm:test_resnet", labels=LABELS, pretrained=True)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(CheckpointError, match="no file at"):
        module.load_timm("test_resnet", str(path))
    save_file({"some.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"no 'fc\.weight'"):
        module.load_timm("test_resnet", str(path))
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    state["fc.surplus"] = state.pop("fc.bias")
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"1 missing: fc\.bias; 1 unexpected: fc\.surplus"):
        module.load_timm("test_resnet", str(path))


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(VictimError, match=r"Did you mean .*'resnet18'") as caught:
        victim_entry("timm:resnet81")
    assert len(str(caught.value)) < 300  # timm has more than a thousand
    with pytest.raises(VictimError, match="names no model"):
        victim_entry("timm:")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "several heads"),
        ("inception_v3", {}, r"Set image_size=\[299, 299\]"),
        ("test_resnet", {"image_size": (3, 4, 5)}, r"image_size=\(3, 4, 5\)"),
    ],
)
def test_what_cannot_be_a_victim_says_why(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(VictimError, match=message):
        build_victim(f"timm:{name}", labels=LABELS, **config)


def test_it_is_listed() -> None:
    assert any(entry.prefix == module.PREFIX for entry in list_open())
