"""Purifiers by name: what each word makes, what each does to sines, and what cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import robust.diffusion_models
from attacks.channel import Channel
from attacks.errors import RobustError, ThreatModelError
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from defenses.filters import Average, Median, Settled, SpectralGate, Unchanged
from defenses.purify import DiffusionPurifier
from robust.channels.codecs import Codec
from robust.channels.devices import BandPass
from robust.channels.quantisation import Quantise
from robust.channels.transmission import Resample
from robust.diffusion_models import save_diffusion
from robust.purifiers import PURIFIERS, load_purifier, purifier_forms
from tests.defenses.test_diffwave import authors_file
from tests.robust.channel_contract import check_contract, generators, level_db, voices

RATE, SAMPLES = 16_000, 8000
SMALL = UNetSettings(samples=SAMPLES, channels=(8,), fold=16)
MODELLESS = ["average", "median", "down-up", "low-pass", "band-pass", "quantise", "codec", "gate", "none"]


def load(text: str, samples: int = SAMPLES, sample_rate: int = RATE) -> Channel:
    return load_purifier(text, sample_rate=sample_rate, samples=samples)


def heard_by(channel: Channel, clips: Tensor) -> Tensor:
    return channel(clips, channel.draw(clips, generators(len(clips))), None)


def sine(hz: float) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(SAMPLES, dtype=torch.float64) / RATE)[None]


def change_db(text: str, hz: float) -> float:
    middle = slice(1000, -1000)
    return level_db(heard_by(load(text), sine(hz))[0, middle]) - level_db(sine(hz)[0, middle])


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small models in the place of the embedded ones."""
    for domain in ("waveform", "mel"):
        settings = UNetSettings(domain=domain, samples=SAMPLES, channels=(8,), fold=16)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            save_diffusion(UNetDiffusion(settings), tmp_path / f"diffusion-{domain}.safetensors", {})
    monkeypatch.setattr(robust.diffusion_models, "embedded_weights", lambda name: tmp_path / f"{name}.safetensors")
    return tmp_path


class TestWords:
    @pytest.mark.parametrize(
        ("text", "kind", "told"),
        [
            ("average", Average, {"width": 3}),
            ("average:5", Average, {"width": 5}),
            ("median:7", Median, {"width": 7}),
            ("down-up", Resample, {"rate_hz": [8000.0]}),
            ("down-up:0.25", Resample, {"rate_hz": [4000.0]}),
            ("low-pass", BandPass, {"high_hz": [4000.0, 4000.0]}),
            ("low-pass:2500.5", BandPass, {"high_hz": [2500.5, 2500.5]}),
            ("band-pass", BandPass, {"low_hz": [300.0, 300.0], "high_hz": [4000.0, 4000.0]}),
            ("band-pass:50-7900", BandPass, {"low_hz": [50.0, 50.0], "high_hz": [7900.0, 7900.0]}),
            ("quantise", Quantise, {"bits": [8]}),
            ("quantise:6", Quantise, {"bits": [6]}),
            ("codec", Codec, {"codec": "mp3", "kbps": [32.0]}),
            ("codec:opus", Codec, {"codec": "opus", "kbps": [32.0]}),
            ("codec:opus:12", Codec, {"codec": "opus", "kbps": [12.0]}),
            ("gate", SpectralGate, {}),
            ("none", Unchanged, {}),
        ],
    )
    def test_a_word_is_a_channel_with_its_settings(self, text, kind, told):
        found = load(text)
        assert not found.training
        inner = found.channel if isinstance(found, Settled) else found
        assert isinstance(inner, kind)
        assert told.items() <= inner.describe().items()
        assert load(found.name).describe() == found.describe()
        assert found.name.startswith(text)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("waveform", ("waveform", 3, "ddpm")),
            ("waveform:5", ("waveform", 5, "ddpm")),
            ("mel:2:ddim", ("mel", 2, "ddim")),
            ("mel:one-shot", ("mel", 3, "one-shot")),
            ("waveform:7:one-shot", ("waveform", 7, "one-shot")),
        ],
    )
    def test_diffusion(self, embedded, text, told):
        found = load(text)
        assert isinstance(found, DiffusionPurifier)
        assert (found.model.domain, found.steps, found.method) == told
        assert not any(parameter.requires_grad for parameter in found.parameters())

    def test_checkpoints_by_path(self, embedded, tmp_path):
        (folder := tmp_path / "a:b").mkdir()
        for part in (".safetensors", ".json"):
            (folder / f"own{part}").write_bytes((embedded / f"diffusion-waveform{part}").read_bytes())
        found = load(f"{folder / 'own.safetensors'}:2:ddim")
        clips = voices(1, RATE)
        torch.testing.assert_close(heard_by(found, clips), heard_by(load("waveform:2:ddim"), clips))
        assert load(f"{folder / 'own.safetensors'}").describe()["steps"] == 3
        theirs = load(f"diffwave:{authors_file(folder)}:4")
        assert isinstance(theirs, DiffusionPurifier)
        assert (theirs.steps, theirs.model.samples) == (4, SAMPLES)

    def test_one_after_another(self, embedded):
        chain, clips = load("low-pass:1000 + waveform:2"), voices(2, RATE)
        assert chain.name == "low-pass:1000+waveform:2"
        assert [part["channel"] for part in chain.describe()["parts"]] == ["low-pass:1000", "waveform:2"]
        drawn = chain.draw(clips, generators(2))
        lower, waveform = load("low-pass:1000"), load("waveform:2")
        noise = {"noise": next(value for name, value in drawn.items() if name.endswith("noise"))}
        expected = waveform(lower(clips, lower.draw(clips, generators(2)), None), noise, None)
        assert torch.equal(chain(clips, drawn, None), expected)

    def test_help_names_them_all(self):
        assert set(MODELLESS) | {"waveform", "mel", "denoise", "diffwave"} == set(PURIFIERS)
        assert len(purifier_forms()) == len(PURIFIERS)
        assert "low-pass:HZ" in purifier_forms()


@pytest.mark.parametrize("text", [*MODELLESS, "average+quantise:10+gate"])
def test_all_keep_to_the_contract(text):
    purifier = load(text)
    check_contract(purifier, voices(3, RATE))
    assert purifier.draw(voices(3, RATE), generators(3)) == {}


@pytest.mark.parametrize(("text", "gradient"), [("low-pass", "exact"), ("quantise", "straight-through")])
def test_what_stands_around_a_channel_changes_nothing_of_it(text, gradient):
    purifier, clips = load(text), voices(2, RATE)
    assert isinstance(purifier, Settled)
    assert purifier.gradient == gradient
    inner, drawn = purifier.channel, purifier.channel.draw(clips, generators(2, seed=5))
    assert torch.equal(heard_by(purifier, clips), inner(clips, drawn, None))
    valid = torch.ones_like(clips, dtype=torch.bool)
    heard = inner(clips, drawn, None)
    measured = [one.measure(clips, heard, given, valid) for one, given in ((purifier, {}), (inner, drawn))]
    assert measured[0].keys() == measured[1].keys()
    assert all(torch.equal(measured[0][name], measured[1][name]) for name in measured[0])


@pytest.mark.parametrize("text", ["waveform:2", "mel:2", "waveform:3:ddim", "mel:3:one-shot"])
def test_so_does_diffusion(text, embedded):
    check_contract(load(text), voices(3, RATE))


@pytest.mark.parametrize(
    ("text", "passes_hz", "stops_hz"),
    [
        ("low-pass:2000", (100, 1000), (4000, 7000)),
        ("band-pass:300-4000", (600, 1000, 2000), (50, 100, 7900)),
        ("down-up:0.5", (100, 3500), (4100, 7000)),
        ("down-up:0.25", (100, 1700), (2100, 7000)),
    ],
)
def test_a_sine_below_the_cut_passes_and_above_does_not(text, passes_hz, stops_hz):
    assert all(abs(change_db(text, hz)) < 1 for hz in passes_hz)
    assert all(change_db(text, hz) < -20 for hz in stops_hz)


def test_the_mean_of_three_is_its_closed_form():
    for hz in (500, 2000, 4000):
        gain = abs(1 + 2 * math.cos(2 * math.pi * hz / RATE)) / 3
        assert change_db("average:3", hz) == pytest.approx(20 * math.log10(gain), abs=0.01)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("avrage:3", "Unknown purifier 'avrage'. Did you mean 'average'"),
            ("", "Unknown purifier ''"),
            ("average+", "Unknown purifier ''"),
            ("average:4", "'average:4': .*odd number of samples from 3 to 255; given 4"),
            ("median:x", "median takes an odd number of samples; given 'x'"),
            ("down-up:1", "from 0.00625 to below 1; given 1"),
            ("down-up:nan", "to below 1; given nan"),
            ("low-pass:8000", "below half the sample rate, 8000 Hz"),
            ("low-pass:0", "from 1"),
            ("low-pass:4k", "low-pass takes a frequency in Hz; given '4k'"),
            ("band-pass:300", "LOW-HIGH in Hz, e.g. band-pass:300-4000"),
            ("band-pass:4000-300", "low_hz must stay below high_hz"),
            ("band-pass:-4000", "two frequencies|from 1"),
            ("quantise:1", "from 2 to 24"),
            ("quantise:7.5", "whole number of bits; given '7.5'"),
            ("codec:mp4", "Unknown codec 'mp4'. Did you mean 'mp3'"),
            ("codec:mp3:1", "from 8 to 320"),
            ("gate:3", "gate takes no settings"),
            ("waveform:x", "whole number|way back"),
            ("waveform:3:ddi", "Did you mean 'ddim'"),
            ("waveform:3.5", "n\\* must be a whole number of steps from 1; given '3.5'"),
            ("waveform:0", "from 1 to 200; given 0"),
            ("waveform:201", "from 1 to 200; given 201"),
            ("diffwave", "diffwave:PATH:STEPS"),
            ("diffwave:nowhere.pkl:3", "no DiffWave checkpoint at nowhere.pkl"),
            ("nowhere.safetensors:3", "no checkpoint at nowhere.safetensors"),
        ],
    )
    def test_what_cannot_be_is_told(self, text, match, embedded):
        with pytest.raises(RobustError, match=match):
            load(text)

    def test_a_model_of_other_clips_names_both_and_the_way_out(self, embedded):
        with pytest.raises(ThreatModelError, match=r"8000 samples at 16000 Hz.*hears 16000 samples.*--clip-seconds 1`"):
            load("waveform:3", samples=16_000)
        with pytest.raises(ThreatModelError, match=r"hears 8000 samples at 8000 Hz.*--diffusion mel --clip-seconds 1`"):
            load("mel:3", sample_rate=8000)
