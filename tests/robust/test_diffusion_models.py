"""Diffusion checkpoints: to the bit what was saved, and told what is wrong with a bad one. The embedded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.errors import ThreatModelError
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from robust.data import load_data
from robust.data.reading import read_clips
from robust.diffusion_models import DOMAINS, load_diffusion, save_diffusion
from robust.errors import CheckpointError
from robust.purifiers import load_purifier
from robust.types import VictimSpec
from robust.victims.checkpoints import round_to_half
from robust.victims.loading import embedded_weights

SETTINGS = {
    "waveform": UNetSettings("waveform", 8000, 800, channels=(8, 16), fold=8, scale=3.0, schedule="cosine", steps=20),
    "mel": UNetSettings("mel", 8000, 800, channels=(16, 16), bands=12, mel_mean=-5.0, mel_std=2.0, data_std=0.25),
}
BOTH = pytest.mark.parametrize("domain", DOMAINS)


def small(domain: str) -> UNetDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return UNetDiffusion(SETTINGS[domain], ("dog", "cat")).requires_grad_(False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_diffusion(small("waveform"), tmp_path / "model.safetensors", {"seed": 3})
    return tmp_path / "model.safetensors"


@BOTH
@pytest.mark.parametrize("half", [False, True])
def test_what_is_loaded_is_what_was_saved(domain: str, half: bool, tmp_path: Path) -> None:
    model = small(domain).eval()
    if half:
        round_to_half(model)
    path = tmp_path / "deep" / "model.safetensors"
    save_diffusion(model, path, {"seed": 3}, half=half)
    state = torch.random.get_rng_state()
    again = load_diffusion(path)
    assert isinstance(again, UNetDiffusion)
    assert (again.settings, again.labels, again.domain) == (model.settings, ("dog", "cat"), domain)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    own, other = model.state_dict(), again.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    noisy = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.predict_noise(noisy, 5, torch.eye(2)), again.predict_noise(noisy, 5, torch.eye(2)))
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["model"], card["seed"]) == (f"diffusion-{domain}", 3)
    assert card["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    whole = path.stat().st_size
    save_diffusion(model, path, {}, half=not half)
    assert (path.stat().st_size < whole) is not half
    assert state.shape == torch.random.get_rng_state().shape


def changed(path: Path, **more: Any) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **more}))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model": "ast"}, "'ast', which is no diffusion model; train one"),
        ({"config": {"domain": "waveform"}}, "does not describe a diffusion model.*channels"),
        ({"config": [1]}, "does not describe a diffusion model"),
        ({"config": {"channels": [8, 16], "colour": 3}}, "does not describe a diffusion model.*colour"),
        ({"config": {"channels": [8, 12]}}, "multiples of 8"),
        ({"config": {"channels": [8, 8], "fold": 8}}, "do not fit"),
        ({"labels": 3}, "does not describe a diffusion model"),
    ],
)
def test_bad_cards_are_refused(saved: Path, more: dict[str, Any], says: str) -> None:
    changed(saved, **more)
    with pytest.raises(CheckpointError, match=says):
        load_diffusion(saved)


def test_missing_and_damaged_files_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_diffusion(tmp_path / "absent.safetensors")
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_diffusion(saved)
    saved.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_diffusion(saved)
    saved.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"has no card.*robust train --diffusion"):
        load_diffusion(saved)


def test_a_purifier_of_another_rate_or_length_is_refused(saved: Path) -> None:
    assert load_purifier(f"{saved}:3", sample_rate=8000, samples=800).sample_rate == 8000
    for rate, samples in ((16_000, 800), (8000, 801)):
        with pytest.raises(ThreatModelError, match=f"800 samples at 8000 Hz.*{samples} samples at {rate} Hz"):
            load_purifier(f"{saved}:3", sample_rate=rate, samples=samples)
    with pytest.raises(ThreatModelError, match="from 1 to 20; given 21"):
        load_purifier(f"{saved}:21", sample_rate=8000, samples=800)


@BOTH
def test_embedded_models_are_of_events_and_small(domain: str) -> None:
    model, path = load_diffusion(domain), embedded_weights(f"diffusion-{domain}")
    assert path.stat().st_size < 5e6
    assert (model.domain, model.sample_rate, model.samples, model.steps) == (domain, 16_000, 16_000, 200)
    assert model.labels == load_data("events", split="test", limit=16).labels
    assert json.loads(path.with_suffix(".json").read_text())["data"]["name"] == "events"


@pytest.mark.parametrize("sigma", [0.05, 0.25])
def test_the_embedded_waveform_model_takes_noise_away(sigma: float) -> None:
    """By as much as its card says, to a decibel or two: these are sixteen clips of 64."""
    model = load_diffusion("waveform")
    data, spec = load_data("events", split="test", limit=16), VictimSpec("any", model.labels)
    clips = torch.stack([clip.inputs["audio"] for clip in read_clips(data, spec, range(16))])
    noise = sigma * torch.randn(clips.shape, generator=torch.Generator().manual_seed(5))
    left = model.denoise(clips + noise, sigma) - clips
    gain_db = float(10 * torch.log10(noise.square().mean() / left.square().mean()))
    told = json.loads(embedded_weights("diffusion-waveform").with_suffix(".json").read_text())["snr_gain_db"]
    assert gain_db == pytest.approx(told[f"{sigma:g}"], abs=2.5)
    scaled = (noise + clips) * clips.square().mean() / (clips.square().mean() + sigma**2)  # Wiener's, by level alone
    assert left.square().mean() < (scaled - clips).square().mean()
