"""`robust generate` and generated clips in training: folders, manifests, caches, classes, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

import robust.generated_training as generated_training
import robust.generation as generation
from attacks.errors import ThreatModelError
from defenses.diffusion import Schedule
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from robust.cli.generate import generate as command
from robust.data import load_data
from robust.data.generated import GeneratedClips, Joined
from robust.diffusion_models import load_diffusion, save_diffusion
from robust.errors import CheckpointError, DataError, RobustError, StoreError
from robust.generated_training import GeneratedShare, generated_share, with_generated
from robust.generation import generate
from robust.training_setup import loader
from robust.types import VictimSpec
from tests.oracles.gaussian_sound import GaussianSound

RATE, SAMPLES = 8000, 800
MEANS = {"low": -0.1, "high": 0.05, "mid/rising": 0.0}


@pytest.fixture
def gaussian() -> GaussianSound:
    return GaussianSound(SAMPLES, std=0.1, means=MEANS, schedule=Schedule("cosine", 50))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained model that knows two classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNetDiffusion(UNetSettings("waveform", RATE, SAMPLES, channels=(8, 8), fold=8), ("high", "low"))
    path = tmp_path_factory.mktemp("diffusion") / "small.safetensors"
    save_diffusion(model, path, {})
    return path


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten recordings."""
    root, time = tmp_path_factory.mktemp("tones"), np.arange(SAMPLES) / RATE
    for label, pitch in (("low", 400), ("high", 2000)):
        (root / label).mkdir()
        for index in range(10):
            soundfile.write(root / label / f"{index}.wav", 0.2 * np.sin(2 * np.pi * pitch * time + index), RATE)
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def spec(**more: object) -> VictimSpec:
    return VictimSpec("some", ("high", "low"), sample_rate=RATE, clip_seconds=0.1, **more)


def test_classes_come_out_as_they_are_asked_for(gaussian: GaussianSound, tmp_path: Path) -> None:
    done = generate(gaussian, ["low", "high"], count=5, guidance=2.0, steps=50, out=tmp_path / "out")
    assert list(done.clips) == ["low", "high"]
    for label, clips in done.clips.items():
        assert clips.shape == (5, SAMPLES)
        assert clips.dtype == torch.float32
        assert float(clips.mean()) == pytest.approx(2 * MEANS[label], abs=0.01)
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told == json.loads(json.dumps(done.manifest))
    assert (told["labels"], told["count"], told["guidance"], told["steps"]) == (["low", "high"], 5, 2.0, 50)
    assert told["model"]["schedule"]["name"] == "cosine"
    assert [entry["file"] for entry in told["files"]] == [f"{k}/{i:03d}.wav" for k in ("low", "high") for i in range(5)]


def test_the_folder_is_read_again_as_it_was_generated(gaussian: GaussianSound, tmp_path: Path) -> None:
    done = generate(gaussian, count=3, steps=5, out=tmp_path / "deep" / "out")
    data = load_data("folder", root=tmp_path / "deep" / "out", split="all")
    assert data.labels == ("high", "low", "mid%2Frising")
    assert len(data) == 9
    names = {"mid%2Frising": "mid/rising"}
    for index in range(9):
        clip = data.clip(index, spec())
        label = data.labels[int(clip.label)]
        number = int(Path(clip.id).stem)
        assert torch.equal(clip.inputs["audio"], done.clips[names.get(label, label)][number])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_clip_follows_from_model_settings_and_seed_alone(checkpoint: Path) -> None:
    settings = {"steps": 3, "eta": 1.0}
    many = generate(checkpoint, count=20, **settings).clips
    few = generate(checkpoint, ["low"], count=2, **settings).clips
    assert torch.equal(few["low"], many["low"][:2])
    assert not torch.equal(many["low"][0], many["high"][0])
    assert not torch.equal(generate(checkpoint, ["low"], count=2, seed=1, **settings).clips["low"], few["low"])
    assert torch.equal(generate(load_diffusion(checkpoint), ["low"], count=2, **settings).clips["low"], few["low"])


def test_a_model_without_classes_just_generates(tmp_path: Path) -> None:
    model = GaussianSound(SAMPLES, schedule=Schedule("cosine", 50))
    done = generate(model, count=2, steps=4, out=tmp_path / "out")
    assert list(done.clips) == ["unconditional"]
    assert (tmp_path / "out" / "unconditional" / "001.wav").is_file()
    with pytest.raises(DataError, match="without classes"):
        generate(model, ["low"], count=2)


def test_bad_input_is_told_what_would_do(gaussian: GaussianSound, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="Did you mean 'high'"):
        generate(gaussian, ["hihg"], out=out)
    with pytest.raises(DataError, match="No class"):
        generate(gaussian, [], out=out)
    for count in (0, -2):
        with pytest.raises(DataError, match=f"count={count} .*1 or more"):
            generate(gaussian, ["low"], count=count, out=out)
    with pytest.raises(ThreatModelError, match="from 1 to 50, the model's; given 51"):
        generate(gaussian, ["low"], steps=51, out=out)
    with pytest.raises(ThreatModelError, match="guidance"):
        generate(gaussian, ["low"], steps=2, guidance=float("nan"), out=out)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        generate(tmp_path / "absent.safetensors", out=out)
    assert not list(tmp_path.iterdir())


def test_what_lies_there_is_not_written_over(gaussian: GaussianSound, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    generate(gaussian, ["low"], count=1, steps=2, out=tmp_path / "empty")
    with pytest.raises(StoreError, match="holds something already"):
        generate(gaussian, ["low"], count=1, steps=2, out=tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        generate(gaussian, ["low"], count=1, steps=2, out=tmp_path / "file")
    with pytest.raises(StoreError, match="Cannot write"):
        generate(gaussian, ["low"], count=1, steps=2, out=tmp_path / "file" / "out")


def test_a_folder_appears_whole_or_not_at_all(
    gaussian: GaussianSound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, written = generation.save_sound, []

    def breaks(path: Path, *rest: object) -> Path:
        if len(written) == 2:
            raise StoreError("the disk is full")
        written.append(path)
        return save(path, *rest)

    monkeypatch.setattr(generation, "save_sound", breaks)
    with pytest.raises(StoreError, match="disk is full"):
        generate(gaussian, count=2, steps=2, out=tmp_path / "out")
    assert len(written) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["Dog/Bark", "..", ".hidden", "a%2Fb", "Klang & Ton", "ü"])
def test_any_class_is_fit_for_a_folder(label: str, tmp_path: Path) -> None:
    model = GaussianSound(SAMPLES, means={label: 0.0, "a/b": 0.1}, schedule=Schedule("cosine", 50))
    generate(model, count=1, steps=2, out=tmp_path / "out")
    folders = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert all([path.name for path in folder.iterdir()] == ["000.wav"] for folder in folders)
    assert not any(folder.name.startswith(".") for folder in folders)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    app = typer.Typer()
    app.command()(command)
    monkeypatch.chdir(tmp_path)

    def called(*words: str) -> str:
        done = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return called


def test_the_command(run: Callable[..., str], checkpoint: Path, tmp_path: Path) -> None:
    words = ("--diffusion", str(checkpoint), "--label", "low", "--count", "3", "--steps", "2", "--seed", "4")
    told = json.loads(run(*words, "--guidance", "3", "--out", "out", "--json"))
    assert (told["folder"], told["guidance"], told["seed"], told["labels"]) == ("out", 3.0, 4, ["low"])
    assert len(told["files"]) == 3
    wave, rate = soundfile.read(tmp_path / "out" / told["files"][2]["file"], dtype="float32")
    assert rate == RATE
    again = generate(checkpoint, ["low"], count=3, steps=2, seed=4, guidance=3.0)
    assert np.array_equal(wave, again.clips["low"][2].numpy())
    shown = run("--diffusion", str(checkpoint), "--check")
    assert "high             1 clips" in shown
    assert "1 of 200 steps" in shown
    with pytest.raises(RobustError, match="from 1 to 200"):
        run("--diffusion", str(checkpoint), "--steps", "201")


@pytest.mark.parametrize(
    ("text", "source", "share"),
    [
        ("diffusion", "mel", 0.25),
        ("diffusion:waveform", "waveform", 0.25),
        ("diffusion:0.5", "mel", 0.5),
        ("diffusion:some/where.safetensors:2", "some/where.safetensors", 2.0),
    ],
)
def test_what_is_asked_for_in_training(text: str, source: str, share: float) -> None:
    asked = generated_share(text)
    assert asked is not None
    assert (asked.source, asked.share) == (source, share)


def test_other_augmentations_are_handed_back(tones: Path) -> None:
    data = load_data("folder", root=tones, split="train")
    assert generated_share("gaussian:0.25") is None
    same, others, told = with_generated(data, ["gaussian:0.25"])
    assert same is data
    assert (others, told) == (["gaussian:0.25"], [])


@pytest.mark.parametrize("share", ["0", "-1", "11", "inf"])
def test_shares_out_of_range_are_refused(share: str) -> None:
    with pytest.raises(DataError, match="above 0 and at most 10"):
        generated_share(f"diffusion:mel:{share}")
    with pytest.raises(DataError, match="above 0"):
        GeneratedShare(share=float(share))


def test_generated_clips_join_the_real_ones(tones: Path, checkpoint: Path, cache: Path) -> None:
    data = load_data("folder", root=tones, split="train")
    mixed, others, (told,) = with_generated(data, [f"diffusion:{checkpoint}:0.5", "gaussian:0.1"], seed=3)
    assert others == ["gaussian:0.1"]
    per_class = round(0.5 * len(data) / 2)
    assert (told["clips"], told["per_class"], told["real_clips"]) == (2 * per_class, per_class, len(data))
    assert len(mixed) == len(data) + 2 * per_class
    assert (mixed.labels, mixed.task, mixed.split) == (data.labels, "multiclass", "train")
    assert list(mixed.targets) == [*data.targets, *[0] * per_class, *[1] * per_class]
    again = generate(checkpoint, ["high", "low"], count=per_class, seed=3, **_sampling())
    for index in (0, len(data) - 1):
        assert torch.equal(mixed.clip(index, spec()).inputs["audio"], data.clip(index, spec()).inputs["audio"])
    for place, label in ((0, "high"), (per_class, "low")):
        clip = mixed.clip(len(data) + place, spec())
        assert data.labels[int(clip.label)] == label
        torch.testing.assert_close(clip.inputs["audio"], again.clips[label][0], rtol=0, atol=1e-4)
    assert len({mixed.clip_id(index, spec()) for index in range(len(mixed))}) == len(mixed)
    inputs, targets = next(iter(loader(mixed, spec(), len(mixed), shuffled=False, seed=0)))
    assert inputs["audio"].shape == (len(mixed), SAMPLES)
    assert torch.equal(targets.argmax(dim=1), torch.tensor(mixed.targets))


def _sampling() -> dict[str, float]:
    sampling = GeneratedShare().sampling
    return {"guidance": sampling.guidance, "steps": sampling.steps, "eta": sampling.eta}


def test_clips_are_generated_once(tones: Path, checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, text = load_data("folder", root=tones, split="train"), [f"diffusion:{checkpoint}:0.2"]
    first = with_generated(data, text)[0].fingerprint()
    assert with_generated(data, text, seed=1)[0].fingerprint() != first
    (held, _) = sorted((cache / "generated").iterdir())
    whole = {path: path.read_bytes() for path in (cache / "generated").iterdir()}
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])  # what is damaged is made again
    assert with_generated(data, text)[0].fingerprint() == first
    with_generated(data, text, seed=1)
    assert {path: path.read_bytes() for path in whole} == whole

    def never(*_: object) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr(generated_training, "sample", never)
    assert with_generated(data, text)[0].fingerprint() == first
    with pytest.raises(AssertionError, match="generated again"):
        with_generated(data, [f"diffusion:{checkpoint}:0.4"])
    assert held.suffix == ".npy"


def test_a_cache_that_cannot_be_written_is_a_warning(
    tones: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "file"))
    data = load_data("folder", root=tones, split="train")
    with pytest.warns(UserWarning, match="ROBUST_CACHE"):
        mixed, _, _ = with_generated(data, [f"diffusion:{checkpoint}:0.2"])
    assert len(mixed) > len(data)


def test_a_model_must_know_the_classes(tones: Path, checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    for label in ("low", "other"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(10):
            soundfile.write(tmp_path / "data" / label / f"{index}.wav", np.zeros(800), RATE)
    data = load_data("folder", root=tmp_path / "data", split="train")
    with pytest.raises(
        DataError, match=r"'other'.*Allowed: high, low.*robust train --diffusion waveform --data folder"
    ):
        with_generated(data, [f"diffusion:{checkpoint}"])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        with_generated(data, ["diffusion:nowhere.safetensors"])


def test_clips_in_memory_are_read_as_a_victim_wants_them() -> None:
    time = np.arange(SAMPLES) / RATE
    waves = np.stack([np.sin(2 * np.pi * pitch * time) for pitch in (200, 300)]) * 0.5
    exact = GeneratedClips(waves, [0, 1], RATE, ("high", "low"))
    coarse = GeneratedClips((waves * 32767).round().astype(np.int16), [0, 1], RATE, ("high", "low"))
    for data in (exact, coarse):
        clip = data.clip(1, spec())
        np.testing.assert_allclose(clip.inputs["audio"].numpy(), waves[1], atol=1e-4)
        assert clip.inputs["audio"].dtype == torch.float32
        assert (int(clip.label), clip.label.ndim, data.targets) == (1, 0, (0, 1))
        fast = data.clip(1, VictimSpec("fast", ("high", "low"), sample_rate=2 * RATE, clip_seconds=0.2))
        assert fast.inputs["audio"].shape == (4 * SAMPLES,)
        assert int(fast.valid["audio"].sum()) == 2 * SAMPLES
        np.testing.assert_allclose(fast.inputs["audio"].numpy()[400:1200:2], waves[1][200:600], atol=2e-3)
        many = GeneratedClips(waves, [0, 1], RATE, ("high", "low"), task="multilabel")
        assert torch.equal(many.clip(1, spec()).label, torch.tensor([0.0, 1.0]))
        assert not hasattr(many, "targets")
    assert exact.fingerprint() != GeneratedClips(waves, [1, 0], RATE, ("high", "low")).fingerprint()
    with pytest.raises(DataError, match="takes audio, video; generated clips are sound alone"):
        exact.clip(0, spec(modalities=("audio", "video")))


def test_only_sets_of_the_same_classes_are_joined() -> None:
    waves = np.zeros((2, SAMPLES))
    one, other = (GeneratedClips(waves, [0, 1], RATE, labels) for labels in (("a", "b"), ("b", "a")))
    with pytest.raises(DataError, match="classes or tasks differ"):
        Joined([one, other])
    joined = Joined([one, GeneratedClips(waves, [1, 1], RATE, ("a", "b"), name="more")])
    assert (len(joined), joined.targets, joined.name) == (4, (0, 1, 1, 1), "generated+more")
    assert [joined.clip_id(index, spec()) for index in (1, 2)] == ["generated-000001", "more-000000"]
    for index in (-1, 4):
        with pytest.raises(IndexError, match="0 to 3"):
            joined.clip(index, spec())


@pytest.mark.parametrize("source", ["waveform", "mel"])
def test_the_embedded_models_generate(source: str) -> None:
    done = generate(source, ["siren"], count=1, steps=2)
    assert done.sample_rate == 16_000
    assert done.clips["siren"].shape == (1, 16_000)
    assert float(done.clips["siren"].square().mean()) > 1e-10
