"""Training against attacks: that it helps, that it resumes to the same weights, that the card says what it cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from robust import training_setup
from robust.api import attack
from robust.data import load_data
from robust.errors import DataError, RobustError, StoreError
from robust.training import default_recipe, train, with_limits
from robust.training_defense import TrainingDefense
from robust.training_setup import EpochOrder, Replayed, forget, loader
from robust.victims.checkpoints import read_safetensors
from robust.victims.registry import build_victim

RATE = 8000
CONFIG = {"sample_rate": RATE, "clip_seconds": 0.1, "width": 0.1}
MASKED = {
    **{"sample_rate": RATE, "clip_seconds": 0.1, "n_fft": 128, "hop_length": 25, "n_mels": 16, "embedding": 16},
    **{"conv_layers": 2, "pool_layers": 2, "transformer_layers": 1, "heads": 2, "time_mask": 8, "freq_mask": 4},
}
"""Of `cnn-transformer`, which masks its spectrogram and drops out in training."""
EPS = 0.02


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pitches in noise, 40 recordings of each."""
    root, generator, time_s = tmp_path_factory.mktemp("tones"), np.random.default_rng(0), np.arange(800) / RATE
    for label, pitch in (("low", 400), ("high", 2000)):
        (root / label).mkdir()
        for index in range(40):
            wave = 0.1 * np.sin(2 * np.pi * pitch * time_s + generator.uniform(0, 6))
            wave += 0.05 * generator.standard_normal(800)
            soundfile.write(root / label / f"{index}.wav", wave.clip(-1, 1), RATE)
    return root


def trained(tones: Path, out: Path, defense: TrainingDefense | str | None, model: str = "m5", **options: object):
    recipe = with_limits(default_recipe(model), **{"epochs": 6, **options.pop("limits", {})})
    config = CONFIG if model == "m5" else MASKED
    return train(
        model, "folder", root=tones, out=out, recipe=recipe, config=config, batch_size=8, defense=defense, **options
    )


def pgd(eps: float = EPS, name: str = "pgd", **options: object) -> TrainingDefense:
    return TrainingDefense(name, eps=eps, validation_steps=3, options={"steps": 3, **options})


def test_adversarial_training_withstands_what_plain_training_does_not(tones: Path, tmp_path: Path) -> None:
    plain = trained(tones, tmp_path / "plain", "none")
    hardened = trained(tones, tmp_path / "hardened", pgd())
    data = load_data("folder", split="test", root=tones)
    scores = [attack(done.victim, data, eps=EPS, steps=10, checks=False).robust.score for done in (plain, hardened)]
    assert scores[1] >= scores[0] + 0.3, scores


def test_the_card_says_what_was_done_and_what_it_cost(tones: Path, tmp_path: Path) -> None:
    plain = trained(tones, tmp_path / "plain", "none", limits={"max_steps": 4})
    hardened = trained(tones, tmp_path / "hardened", pgd(), limits={"max_steps": 4})
    assert plain.card["training"]["backwards"] == 4 * 8
    assert hardened.card["training"]["backwards"] == 4 * 8 * (1 + 3)  # each step, and three of the search
    assert hardened.card["defense"]["name"] == "pgd"
    assert hardened.card["defense"]["steps"] == 3
    assert hardened.card["validation_robust"]["steps"] == 3
    assert 0 <= hardened.card["validation_robust"]["score"] <= 1
    assert "validation_robust" not in plain.card
    assert json.loads((tmp_path / "hardened.json").read_text())["defense"]["threat"]


def test_free_training_replays_and_costs_one_gradient_a_step(tones: Path, tmp_path: Path) -> None:
    done = trained(tones, tmp_path / "free", pgd(name="free", replays=3), limits={"epochs": 6})
    told = done.card["training"]
    assert done.card["recipe"]["epochs"] == 2
    assert told["steps"] == 2 * 3 * (told["steps"] // 6)
    assert told["backwards"] == 8 * told["steps"]


@pytest.mark.parametrize("name", ["mixup", "latent-mixup+sam", "fast+asam", "cutmix+balanced", "gaussian+specaugment"])
def test_defenses_train(tones: Path, tmp_path: Path, name: str) -> None:
    done = trained(tones, tmp_path / "m5", TrainingDefense(name, eps=EPS), limits={"max_steps": 2})
    assert done.card["training"]["steps"] == 2
    assert done.card["defense"]["name"] == name


@pytest.mark.parametrize("model", ["m5", "cnn-transformer"])
def test_an_interrupted_training_goes_on_to_the_same_weights(tones: Path, tmp_path: Path, model: str) -> None:
    defense = pgd(name="pgd+mixup")
    whole = trained(tones, tmp_path / "whole", defense, model, limits={"epochs": 4})
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.robust.test_defended_training import pgd, trained\n"
        "trained(Path(sys.argv[1]), Path(sys.argv[2]), pgd(name='pgd+mixup'), sys.argv[3], limits={'epochs': 4})\n"
    )
    command = [sys.executable, str(script), str(tones), str(tmp_path / "cut"), model]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment)
    state = tmp_path / "cut.training" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "cut.safetensors").exists()
    resumed = trained(tones, tmp_path / "cut", defense, model, limits={"epochs": 4}, resume=True)
    ours, theirs = read_safetensors(resumed.path), read_safetensors(whole.path)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
    assert resumed.card["training"]["backwards"] == whole.card["training"]["backwards"]
    assert resumed.card["training"]["steps"] == whole.card["training"]["steps"]
    assert not state.parent.exists()


def test_a_training_is_not_resumed_with_other_settings(tones: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m5.training"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"model": "m18"}))
    with pytest.raises(StoreError, match=r"other settings.*remove that folder"):
        trained(tones, tmp_path / "m5", "none", resume=True)


def test_logs_stay(tones: Path, tmp_path: Path) -> None:
    trained(tones, tmp_path / "m5", pgd(), limits={"epochs": 2}, loggers=("csv", "tensorboard"))
    folder = tmp_path / "m5.training"
    rows = (folder / "csv" / "version_0" / "metrics.csv").read_text()
    assert {"loss", "score", "robust", "one-step"} <= set(rows.splitlines()[0].split(","))
    assert list(folder.rglob("events.out.tfevents*"))
    assert not list(folder.glob("*.ckpt"))


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        (TrainingDefense("pdg"), "pgd"),
        (TrainingDefense("pgd", options={"step": 3}), "steps"),
        (TrainingDefense("pgd+trades"), "do not combine"),
        (TrainingDefense("pgd", modality="video"), "video"),
        (TrainingDefense("pgd", stop_on="luck"), "robust"),
        (TrainingDefense("noise", options={"channel": "kitchn"}), "kitchn"),
        (TrainingDefense("margin"), "modalit"),
    ],
)
def test_what_cannot_be_is_refused_before_training(tones: Path, tmp_path: Path, defense, message: str) -> None:
    with pytest.raises(RobustError, match=message):
        trained(tones, tmp_path / "m5", defense)
    assert not list(tmp_path.iterdir())


def test_a_logger_that_is_not_there(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tensorboard"):
        trained(tones, tmp_path / "m5", "none", loggers=("tensorbord",))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    orders = {}
    for seed in (0, 1):
        order = EpochOrder(20, seed)
        for epoch in (0, 1):
            order.set_epoch(epoch)
            orders[seed, epoch] = list(order)
            assert sorted(orders[seed, epoch]) == list(range(20))
    assert len({tuple(order) for order in orders.values()}) == 4
    again = EpochOrder(20, 0)
    again.set_epoch(1)
    assert list(again) == orders[0, 1]
    rare = EpochOrder(4000, 0, torch.tensor([3.0] + [1.0] * 3999))
    assert list(rare).count(0) < 40


def test_replays_give_each_batch_so_often() -> None:
    class Batches(list):
        sampler = None

    assert list(Replayed(Batches("ab"), 3)) == list("aaabbb")
    assert len(Replayed(Batches("ab"), 3)) == 6


@pytest.mark.parametrize("room", [2**30, 3 * 4 * 800, 0])
def test_clips_are_decoded_once_while_there_is_room(tones: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(training_setup, "KEPT_BYTES", room)
    data = load_data("folder", split="test", root=tones)
    spec = build_victim("m5", labels=data.labels, **CONFIG).spec
    read: list[int] = []
    clip = data.clip
    monkeypatch.setattr(data, "clip", lambda index, spec: [read.append(index), clip(index, spec)][1])
    batches = loader(data, spec, 3, shuffled=False, seed=0)
    first = [(inputs["audio"].clone(), inputs["audio"].zero_()) for inputs, _ in batches]
    again = [inputs["audio"] for inputs, _ in batches]
    assert all(torch.equal(before, after) for (before, _), after in zip(first, again, strict=True))
    forget(batches)
    assert not batches.dataset._kept
    kept = room // (4 * 800 + 4 * len(data.labels))
    assert len(read) == len(data) + max(len(data) - kept, 0)
