"""Masked pre-training: what is hidden, what counts, that it learns and repeats, and that fine-tuning takes it up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

from defenses.training import Recipe
from robust.errors import CheckpointError, DataError, StoreError, VictimError
from robust.plots import saving, script
from robust.plots.reconstructions import draw_reconstructions
from robust.pretraining import Pretrained, load_pretrained, pictures_path, pretrain, pretraining_recipe
from robust.pretraining_learner import MaskedLearner, rolled
from robust.training import train, with_limits
from robust.training_setup import start_from
from robust.victims.audio_mae import AudioMae
from robust.victims.audio_mae_decoder import MaskedAutoencoder, split_settings
from robust.victims.checkpoints import read_safetensors
from robust.victims.loading import load_victim
from robust.victims.patch_masking import hidden, number_kept, scattered, structured
from robust.victims.registry import build_victim, victim_entry
from tests.robust.drawing import module

RATE, SECONDS = 16_000, 0.7  # 68 frames
ENCODER: dict[str, Any] = {
    "sample_rate": RATE,
    "clip_seconds": SECONDS,
    "n_mels": 32,
    "max_frames": 64,
    "patch_size": 8,
    "width": 32,
    "layers": 1,
    "heads": 2,
}
DECODER: dict[str, Any] = {"decoder_width": 16, "decoder_layers": 2, "decoder_heads": 2, "window": [4, 4]}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chirps that rise and that fall, 30 recordings of each."""
    root, generator = tmp_path_factory.mktemp("chirps"), np.random.default_rng(0)
    time = np.arange(round(RATE * SECONDS)) / RATE
    for label, slope in (("rising", 3000), ("falling", -3000)):
        (root / label).mkdir()
        for index in range(30):
            pitch = 2000 + slope * (time - SECONDS / 2) + generator.uniform(-200, 200)
            tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE + generator.uniform(0, 6))
            noise = 1e-3 * generator.standard_normal(len(time))
            soundfile.write(root / label / f"{index}.wav", tone + noise, RATE)
    return root


def learnt(root: Path, out: Path, **more: Any) -> Pretrained:
    limits = {name: more.pop(name) for name in ("epochs", "max_steps", "seed", "learning_rate") if name in more}
    return pretrain(
        "folder",
        root=root,
        out=out,
        recipe=with_limits(pretraining_recipe(), **{"epochs": 1, "learning_rate": 3e-3, **limits}),
        **{"config": {**ENCODER, **DECODER}, "batch_size": 16, **more},
    )


@pytest.fixture(scope="module")
def done(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return learnt(sounds, tmp_path_factory.mktemp("pretrained") / "it", epochs=25)


def autoencoder(**config: Any) -> MaskedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedAutoencoder(*split_settings({**ENCODER, **DECODER, **config})).eval()


def clips(count: int = 3) -> torch.Tensor:
    return 0.1 * torch.randn(count, round(RATE * SECONDS), generator=torch.Generator().manual_seed(0))


def test_the_error_falls_and_the_card_says_how(done: Pretrained, sounds: Path, tmp_path: Path) -> None:
    hardly = learnt(sounds, tmp_path / "hardly", max_steps=1)
    assert done.card["masked_error"] < 0.85 * hardly.card["masked_error"]
    card = json.loads(done.path.with_suffix(".json").read_text())
    assert (card["model"], card["mask_ratio"], card["labels"]) == ("audio-mae-pretraining", 0.8, [])
    assert card["recipe"]["epochs"] == 25
    assert card["data"]["splits"].keys() == {"train", "validation"}
    again = load_pretrained(done.path)
    assert not again.training
    assert again.config == done.model.config
    assert all(torch.equal(value, done.model.state_dict()[name]) for name, value in again.state_dict().items())


def test_seeds_repeat(sounds: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    one, again, other = (
        learnt(sounds, tmp_path / str(place), max_steps=2, seed=seed, half=True).path.read_bytes()
        for place, seed in enumerate((0, 0, 1))
    )
    assert one == again
    assert one != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_labels_are_not_looked_at() -> None:
    learner = MaskedLearner(autoencoder(), Recipe(), 10)
    errors = [
        learner.training_step(({"audio": clips()}, labels), 0) for labels in (torch.eye(3), torch.ones(3, 3), None)
    ]
    assert errors[0] == errors[1] == errors[2]


def test_only_hidden_patches_count() -> None:
    model, generator = autoencoder(normalised_patches=False), torch.Generator().manual_seed(0)
    features = model.fbank(clips())
    visible = scattered(3, model.settings.grid, 0.75, generator)
    away = hidden(visible, 32)
    answer = model.answer(features, visible)
    by_hand = (answer - model.contents(features)).square()
    errors = model.errors(features, visible)
    torch.testing.assert_close(errors, torch.stack([by_hand[row, away[row]].mean() for row in range(3)]))
    # The answer does not know what is hidden; of what is seen, the error does not count.
    other = model.contents(features).clone()
    other[away] += 1.0
    torch.testing.assert_close(model.answer(model.joined(other), visible), answer)
    features.requires_grad_()
    seen_alone = (model.targets(features) * ~away[:, :, None]).sum()  # each patch's target is of that patch alone
    (gradient,) = torch.autograd.grad(seen_alone, features)
    assert (model.contents(gradient)[away] == 0).all()


def test_targets_are_normalised_patch_by_patch() -> None:
    model = autoencoder()
    features = model.fbank(clips())
    targets = model.targets(features)
    torch.testing.assert_close(targets.mean(dim=2), torch.zeros(3, 32), atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.std(dim=2), torch.ones(3, 32), atol=1e-3, rtol=0)
    assert torch.equal(model.joined(model.contents(features)), features)
    patch = model.contents(features)[1, 4 * 2 + 3]  # third patch in time, fourth band
    assert torch.equal(patch, features[1, 16:24, 24:32].flatten())


def test_reconstruction_keeps_what_was_seen() -> None:
    model = autoencoder()
    features, visible = model.fbank(clips()), scattered(3, (8, 4), 0.5, torch.Generator().manual_seed(0))
    told, away = model.reconstruct(features, visible), hidden(visible, 32)
    assert torch.equal(model.contents(told)[~away], model.contents(features)[~away])
    assert not torch.isclose(model.contents(told)[away], model.contents(features)[away]).all()


def test_masks_are_seeded_and_of_the_share_asked_for() -> None:
    first, again = (scattered(5, (64, 8), 0.7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (5, 154)  # thesis, figure 7.7: 154 of 512 patches are visible when 70 % are masked
    assert hidden(first, 512).sum(dim=1).tolist() == [358] * 5
    assert len({tuple(row.tolist()) for row in first}) == 5
    assert number_kept(512, 0.8) == 102
    assert number_kept(3, 0.99) == 1
    lines = hidden(structured(4, (10, 6), 0.5, 0.5, torch.Generator().manual_seed(3)), 60).reshape(4, 10, 6)
    for plane in lines:
        assert plane.all(dim=1).sum() == 5
        assert plane.all(dim=0).sum() == 3
        assert (~plane).sum() == 15


def test_attention_stays_in_windows_that_shift() -> None:
    model = autoencoder(decoder_layers=1)
    patches = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    places = torch.arange(32)[None]
    with torch.no_grad():
        changed = patches.clone()
        changed[0, 0] += 1.0  # the first time, the lowest band
        reached = (model.decoder(changed, places) - model.decoder(patches, places)).abs().sum(dim=2)[0] > 1e-6
        assert reached.reshape(8, 4).any(dim=1).tolist() == [True] * 4 + [False] * 4
        deeper = autoencoder(decoder_layers=2).decoder
        moved = (deeper(changed, places) - deeper(patches, places)).abs().sum(dim=2)[0] > 1e-6
    assert moved.reshape(8, 4).any(dim=1).tolist() == [True] * 6 + [False] * 2


def test_training_clips_go_round_and_change_in_level() -> None:
    audio = torch.linspace(0.1, 0.5, 40).repeat(200, 1)
    out = rolled(audio, torch.Generator().manual_seed(0))
    gains = out.amax(dim=1) / 0.5
    assert 10 ** (-6 / 20) - 1e-6 <= gains.min() < 0.6
    assert 1.8 < gains.max() <= 10 ** (6 / 20) + 1e-6
    torch.testing.assert_close((out / gains[:, None]).sort(dim=1).values, audio)
    assert len(out.argmax(dim=1).unique()) > 20


def test_fine_tuning_takes_up_the_encoder(done: Pretrained, sounds: Path, tmp_path: Path) -> None:
    config = {name: value for name, value in ENCODER.items() if name != "clip_seconds"}
    tuned = train(
        "audio-mae",
        "folder",
        root=sounds,
        out=tmp_path / "tuned",
        recipe=Recipe(max_steps=1, learning_rate=1e-6, mixup_alpha=0.0),
        config={**config, "clip_seconds": SECONDS},
        init=str(done.path),
        batch_size=16,
    )
    noted = tuned.card["init"]
    assert noted["from"] == str(done.path)
    assert noted["trained_on"]["name"] == "folder"
    assert noted["random"] == ["vit.fc_norm.bias", "vit.fc_norm.weight", "vit.head.bias", "vit.head.weight"]
    own, other = tuned.victim.state_dict(), done.model.state_dict()
    assert torch.equal(own["vit.pos_embed"], other["vit.pos_embed"])
    torch.testing.assert_close(
        own["vit.blocks.0.mlp.fc1.weight"], other["vit.blocks.0.mlp.fc1.weight"], atol=1e-4, rtol=0
    )


def test_the_encoder_gives_the_same_patches_before_and_after(done: Pretrained) -> None:
    victim = build_victim("audio-mae", labels=("a", "b"), **{**victim_entry("audio-mae").small, **ENCODER}).eval()
    assert isinstance(victim, AudioMae)
    start_from(victim, str(done.path), victim_entry("audio-mae"))
    features = victim.fbank(clips())
    torch.testing.assert_close(features, done.model.fbank(clips()))
    with torch.no_grad():
        torch.testing.assert_close(
            victim.vit.blocks(victim.vit.patch_embed(features[:, None])),
            done.model.vit.blocks(done.model.vit.patch_embed(features[:, None])),
        )


def test_more_pre_training_starts_from_it(done: Pretrained, sounds: Path, tmp_path: Path) -> None:
    more = learnt(sounds, tmp_path / "more", max_steps=1, learning_rate=1e-6, init=str(done.path))
    assert more.card["init"] == str(done.path)
    assert more.card["masked_error"] < 1.05 * done.card["masked_error"]
    with pytest.raises(DataError, match="brings its own configuration"):
        learnt(sounds, tmp_path / "more", init="published.pth")
    with pytest.raises(CheckpointError, match=r"No Audio-MAE checkpoint at 'published\.pth'"):
        learnt(sounds, tmp_path / "more", init="published.pth", config={})


def test_it_is_no_victim(done: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a 'audio-mae-pretraining'"):
        load_victim("audio-mae", weights=done.path)
    victim = tmp_path / "victim.safetensors"
    victim.write_bytes(done.path.read_bytes())
    victim.with_suffix(".json").write_text(
        json.dumps({"model": "m5", "config": {}, "labels": [], "task": "multiclass"})
    )
    with pytest.raises(CheckpointError, match="holds a 'm5'"):
        load_pretrained(victim)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"mask_ratio": 1.0}, DataError, "above 0 and below 1; given 1.0"),
        ({"precision": "fp8"}, DataError, "Unknown precision 'fp8'"),
        ({"config": {"decoder_widht": 8}}, VictimError, "Did you mean 'decoder_width'"),
        ({"config": {**ENCODER, **DECODER, "window": [3, 4]}}, VictimError, "must divide the grid of 8 x 4"),
        ({"config": {**ENCODER, **DECODER, "decoder_heads": 5}}, VictimError, "a multiple of decoder_heads=5"),
    ],
)
def test_mistakes_are_told(
    sounds: Path, tmp_path: Path, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        learnt(sounds, tmp_path / "it", **more)
    assert not list(tmp_path.iterdir())


def test_command(sounds: Path, tmp_path: Path) -> None:
    import typer

    from robust.cli.pretrain import pretrain as command

    app = typer.Typer()
    app.command()(command)
    words = [f"--set={name}={json.dumps(value)}" for name, value in {**ENCODER, **DECODER}.items()]
    told = CliRunner().invoke(
        app, ["--data", "folder", "--root", str(sounds), "--out", str(tmp_path / "it"), "--check", "--json", *words]
    )
    assert told.exit_code == 0, told.output
    card = json.loads(told.stdout)
    assert card["checkpoint"] == str(tmp_path / "it.safetensors")
    assert card["training"]["steps"] == 1
    assert "vit.cls_token" in read_safetensors(tmp_path / "it.safetensors")


def test_figure(done: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = module("reconstructions")
    kept: dict[str, Figure] = {}
    monkeypatch.setattr(script, "save_all", lambda found, out, dpi: kept.update(found))
    figures.main(done.path, out="unused")
    assert kept.keys() == {"reconstructions-scattered", "reconstructions-structured"}
    assert saving.rendered(kept["reconstructions-structured"], "png", dpi=30).startswith(b"\x89PNG")
    pictures = figures.read_pictures(pictures_path(done.path))
    drawn = kept["reconstructions-scattered"].axes
    assert "(dB)" in drawn[-1].get_xlabel()
    first = [axes.images[0].get_array() for axes in drawn[:: len(pictures["labels"])][:3]]
    np.testing.assert_array_equal(first[0], pictures["original"][0].T)
    assert first[1].mask.mean() == pytest.approx(pictures["hidden_scattered"][0].mean())
    np.testing.assert_array_equal(first[1].compressed(), first[0][~first[1].mask])
    np.testing.assert_array_equal(first[2], pictures["told_scattered"][0].T)
    with pytest.raises(StoreError, match="told_structured is not there"):
        draw_reconstructions({name: part for name, part in pictures.items() if name != "told_structured"}, "structured")
    with pytest.raises(StoreError, match="no reconstructions at"):
        figures.main(tmp_path / "nothing.safetensors", out="unused")
