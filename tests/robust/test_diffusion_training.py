"""Training of diffusion models: that it learns, that seeds repeat, that the card says how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from defenses.diffusion_training import ASKED, POWER_FLOOR, DiffusionLearner
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from defenses.mel import REACH
from defenses.training import Recipe
from robust.diffusion_models import load_diffusion
from robust.diffusion_training import TrainedDiffusion, diffusion_recipe, train_diffusion
from robust.errors import DataError, StoreError
from robust.training import with_limits

RATE, SAMPLES = 8000, 800
CONFIG = {"waveform": {"channels": [16, 16], "fold": 8}, "mel": {"channels": [16, 16], "bands": 12}}
BOTH = pytest.mark.parametrize("domain", ["waveform", "mel"])


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pitches, 40 recordings of each."""
    root, generator, time = tmp_path_factory.mktemp("tones"), np.random.default_rng(0), np.arange(SAMPLES) / RATE
    for label, pitch in (("low", 400), ("high", 2000)):
        (root / label).mkdir()
        for index in range(40):
            soundfile.write(
                root / label / f"{index}.wav", 0.2 * np.sin(2 * np.pi * pitch * time + generator.uniform(0, 6)), RATE
            )
    return root


def trained(domain: str, root: Path, out: Path, config: dict[str, Any] | None = None, **more: Any) -> TrainedDiffusion:
    limits = {name: more.pop(name) for name in ("epochs", "max_steps", "seed") if name in more}
    return train_diffusion(
        domain,
        "folder",
        root=root,
        out=out,
        recipe=with_limits(diffusion_recipe(), **{"epochs": 1, **limits}),
        config={**CONFIG[domain], **(config or {})},
        **{"sample_rate": RATE, "clip_seconds": SAMPLES / RATE, "batch_size": 16, **more},
    )


@BOTH
def test_it_learns_and_the_card_says_how(domain: str, tones: Path, tmp_path: Path) -> None:
    hardly = trained(domain, tones, tmp_path / "hardly", max_steps=1)
    done = trained(domain, tones, tmp_path / "done", epochs=12)
    assert done.card["validation"] > hardly.card["validation"] + 0.1
    card = json.loads((tmp_path / "done.json").read_text())
    assert card["labels"] == ["high", "low"]
    assert card["training"]["steps"] == 12 * (card["data"]["splits"]["train"] // 16)
    assert (card["recipe"]["epochs"], card["seed"], card["batch_size"]) == (12, 0, 16)
    assert ("0.25" in card["snr_gain_db"]) == (domain == "waveform")
    model = load_diffusion(tmp_path / "done.safetensors")
    assert (model.domain, model.sample_rate, model.samples) == (domain, RATE, SAMPLES)
    assert not done.model.training
    kept, own = model.state_dict(), done.model.state_dict()
    assert kept.keys() == own.keys()
    assert all(torch.equal(kept[name], own[name]) for name in kept)


@BOTH
def test_the_same_seed_gives_the_same_weights(domain: str, tones: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    one, again, other = (
        trained(domain, tones, tmp_path / str(place), max_steps=2, half=True, seed=seed).path.read_bytes()
        for place, seed in enumerate((0, 0, 1))
    )
    assert one == again
    assert one != other
    assert torch.equal(state, torch.random.get_rng_state())  # nobody's global generator is touched


def test_levels_are_measured(tones: Path, tmp_path: Path) -> None:
    """Sines of amplitude 0.2 have a deviation of 0.2 over the square root of 2."""
    waveform = trained("waveform", tones, tmp_path / "waveform", max_steps=1).model.settings
    assert waveform.data_std / waveform.scale == pytest.approx(0.2 / 2**0.5, rel=0.01)
    model = trained("mel", tones, tmp_path / "mel", max_steps=1).model
    assert model.settings.data_std == 1 / REACH
    time = torch.arange(SAMPLES) / RATE
    sines = torch.stack([0.2 * torch.sin(2 * torch.pi * pitch * time) for pitch in (400, 2000)])
    assert model.mel is not None
    encoded = model.mel.encode(sines)
    assert float(encoded.mean()) == pytest.approx(0, abs=0.03)
    assert float(encoded.std()) == pytest.approx(1 / REACH, rel=0.1)


def test_bad_input_is_told_what_would_do(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'waveform'"):
        train_diffusion("wavform", "folder", root=tones, out=tmp_path / "x")
    with pytest.raises(DataError, match=r"precision 'bf61'. Did you mean 'bf16'"):
        trained("mel", tones, tmp_path / "x", precision="bf61")
    with pytest.raises(DataError, match="colour"):
        trained("mel", tones, tmp_path / "x", {"colour": 3})
    with pytest.raises(ThreatModelError, match="multiples of 8"):
        trained("mel", tones, tmp_path / "x", {"channels": [12]})
    for wrong in ({"sample_rate": 0}, {"clip_seconds": 0.0}, {"clip_seconds": -1.0}):
        with pytest.raises(DataError, match="longer than 0 s"):
            trained("mel", tones, tmp_path / "x", **wrong)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        trained("mel", tones, tmp_path / "file" / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


class Watched(UNetDiffusion):
    """Keeps what it is asked, and answers a share of what it should."""

    def __init__(self, share: float) -> None:
        super().__init__(UNetSettings("waveform", RATE, 64, channels=(8,), fold=8), ("a", "b"))
        self.share, self.steps_seen, self.labels_seen = share, [], []

    def target(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        self.right = super().target(clean, noise, step)
        return self.right

    def answer(self, noisy: Tensor, step: Tensor, labels: Tensor | None) -> Tensor:
        self.steps_seen.append(step)
        self.labels_seen.append(labels)
        return self.share * self.right


def test_errors_are_a_share_of_what_is_asked() -> None:
    clips, labels = 0.1 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), torch.eye(2).repeat(2, 1)
    for share, left in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.25)):
        model = Watched(share)
        errors = DiffusionLearner(model, Recipe(), 1).errors(clips, labels, torch.Generator().manual_seed(0))
        power = model.right.square().mean(dim=1)
        torch.testing.assert_close(errors, left * power / (power + POWER_FLOOR))
    silent = DiffusionLearner(Watched(0.0), Recipe(), 1).errors(0 * clips, labels, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(silent).all())


def test_steps_are_drawn_where_purifiers_live_and_most_are_told_the_class() -> None:
    model, count = Watched(0.5), 4000
    learner = DiffusionLearner(model, Recipe(), 1)
    labels = torch.eye(2)[torch.arange(count) % 2]
    learner.training_step(({"audio": 0.1 * torch.ones(count, 64)}, labels), 0)
    (steps,), (told,) = model.steps_seen, model.labels_seen
    assert (int(steps.min()), int(steps.max())) == (1, 200)
    for below in (50, 100):
        assert float((steps <= below).double().mean()) == pytest.approx((below / 200) ** 0.5, abs=0.03)
    asked = told.sum(dim=1)
    assert set(asked.tolist()) == {0.0, 1.0}
    assert float(asked.mean()) == pytest.approx(ASKED, abs=0.03)
    assert torch.equal(told[asked == 1], labels[asked == 1])
    before = torch.random.get_rng_state()
    learner.validation_step(({"audio": torch.zeros(2, 64)}, labels[:2]), 0)
    learner.validation_step(({"audio": torch.zeros(2, 64)}, labels[:2]), 0)
    assert torch.equal(model.steps_seen[1], model.steps_seen[2])
    assert float(model.labels_seen[1].sum()) == 0
    assert torch.equal(before, torch.random.get_rng_state())
