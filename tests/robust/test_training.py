"""Training: that it learns, that limits bound it, that the card says what was done, that init takes what fits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from defenses.augmentation import WaveformAugmentation
from defenses.mixup import mixup
from robust.errors import CheckpointError, DataError, StoreError
from robust.training import default_recipe, train, with_limits
from robust.victims import load_victim

RATE = 8000
CONFIG = {"sample_rate": RATE, "clip_seconds": 0.1, "width": 0.1}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pitches in noise, 40 recordings of each, in a folder for each class."""
    root, generator, time = tmp_path_factory.mktemp("tones"), np.random.default_rng(0), np.arange(800) / RATE
    for label, pitch in (("low", 400), ("high", 2000)):
        (root / label).mkdir()
        for index in range(40):
            wave = 0.2 * np.sin(2 * np.pi * pitch * time + generator.uniform(0, 6)) + 0.05 * generator.standard_normal(
                800
            )
            soundfile.write(root / label / f"{index}.wav", wave.clip(-1, 1), RATE)
    return root


def quick(**limits: object) -> object:
    return with_limits(default_recipe("m5"), epochs=6, **limits)


@pytest.fixture(scope="module")
def checkpoint(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint") / "m5"
    return train("m5", "folder", root=tones, out=out, recipe=quick(), config=CONFIG, batch_size=8, half=True).path


def test_learns_and_the_card_says_how(checkpoint: Path) -> None:
    card = json.loads(checkpoint.with_suffix(".json").read_text())
    assert card["clean"]["score"] > 0.9
    assert card["labels"] == ["high", "low"]
    assert card["recipe"]["epochs"] == 6
    assert card["training"]["epochs"] <= 6
    assert 0 <= card["validation"] <= 1
    assert card["seed"] == 0
    victim = load_victim("m5", weights=checkpoint)
    assert victim.spec.labels == ("high", "low")
    assert not victim.training


def test_same_seed_gives_the_same_weights(checkpoint: Path, tones: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    again = train(
        "m5", "folder", root=tones, out=tmp_path / "m5", recipe=quick(), config=CONFIG, batch_size=8, half=True
    )
    assert again.path.read_bytes() == checkpoint.read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())  # nobody's global generator is touched


def test_limits_bound_it(tones: Path, tmp_path: Path) -> None:
    done = train(
        "m5", "folder", root=tones, out=tmp_path / "m5", recipe=quick(max_steps=3), config=CONFIG, batch_size=8
    )
    assert done.card["training"]["steps"] == 3
    timed = quick(max_minutes=0.01)
    assert (
        train("m5", "folder", root=tones, out=tmp_path / "t", recipe=timed, config=CONFIG).card["training"]["minutes"]
        < 1
    )


def test_init_takes_what_fits(checkpoint: Path, tones: Path, tmp_path: Path) -> None:
    recipe = quick(max_steps=1, learning_rate=1e-9)
    done = train("m5", "folder", root=tones, out=tmp_path / "m5", recipe=recipe, config=CONFIG, init=str(checkpoint))
    assert done.test.score > 0.9
    assert done.card["init"]["random"] == []
    ast = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 16, "clip_seconds": 0.2, "max_frames": 18}
    with pytest.raises(CheckpointError, match="No weight"):
        train("ast", "folder", root=tones, out=tmp_path / "x", recipe=recipe, config=ast, init=str(checkpoint))


@pytest.mark.parametrize("name", ["epochs", "max_steps", "max_minutes", "learning_rate"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(DataError, match=name):
        with_limits(default_recipe("ast"), **{name: 0})


def test_a_place_that_cannot_be_written_is_found_out_before_training(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        train("m5", "folder", root=tones, out=tmp_path / "file" / "m5", config=CONFIG)


def test_mixup_mixes_inputs_and_labels_alike() -> None:
    inputs = {
        "audio": torch.arange(6.0)[:, None].expand(6, 4),
        "video": torch.arange(6.0)[:, None, None].expand(6, 2, 2),
    }
    targets = torch.eye(6)
    mixed, weights = mixup(inputs, targets, 0.4, torch.Generator().manual_seed(0))
    expected = weights @ torch.arange(6.0)  # what the labels say of the mixture
    torch.testing.assert_close(mixed["audio"][:, 0], expected)
    torch.testing.assert_close(mixed["video"][:, 0, 0], expected)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(6))
    assert (weights.max(dim=1).values < 1).any()
    unchanged, same = mixup(inputs, targets, 0.0, torch.Generator())
    assert torch.equal(same, targets)
    assert torch.equal(unchanged["audio"], inputs["audio"])


def test_augmentation_moves_and_stays_in_range() -> None:
    click = torch.zeros(64, 1000)
    click[:, 500] = 0.9
    quiet = WaveformAugmentation(max_shift=0.1, max_gain_db=6.0, min_snr_db=200.0, max_snr_db=201.0)
    moved = quiet(click, torch.Generator().manual_seed(0))
    places = moved.argmax(dim=1)
    assert places.min() >= 400
    assert places.max() <= 600
    assert len(places.unique()) > 20
    peaks = moved.amax(dim=1)
    assert peaks.min() >= 0.9 / 2.01
    assert peaks.max() <= 1.0
    noisy = (
        WaveformAugmentation(0.0, 0.0, 20.0, 20.0)(0.3 * torch.ones(64, 4000), torch.Generator().manual_seed(0)) - 0.3
    )
    power = noisy.square().mean(dim=1)
    loud = power > 1e-9
    assert 10 < int(loud.sum()) < 54  # half of the clips
    snr_db = 10 * torch.log10(0.09 / power[loud])
    torch.testing.assert_close(snr_db, torch.full_like(snr_db, 20.0), atol=0.5, rtol=0)
