"""The wake-word network: what every victim must do, streams, folders, and what is shipped."""

import json
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from robust.cli import app
from robust.data.wake_stream import wake_stream
from robust.errors import DataError, VictimError
from robust.evaluation.streaming import beside, hear_stream
from robust.victims import build_victim, load_victim, victim_entry
from robust.victims.checkpoints import read_card
from robust.victims.loading import embedded_weights
from robust.victims.wakeword import Wakeword, background_index, stream_scores

LABELS = ("other", "wake")
TINY = {"prenet": 8, "prenet_blocks": 1, "bottleneck": 6, "width": 8, "blocks": 1, "clip_seconds": 0.8}


def tiny(labels: tuple[str, ...] = LABELS, seed: int = 0, **config: object) -> Wakeword:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        victim = build_victim("wakeword", labels=labels, **{**TINY, **config}).eval()
    assert isinstance(victim, Wakeword)
    return victim


def sound(count: int, seconds: float = 0.8, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(count, round(16_000 * seconds), generator=torch.Generator().manual_seed(seed))


class TestNetwork:
    def test_shapes_and_composition(self):
        victim = tiny(("other", "yes", "no"))
        inputs = {"audio": sound(3)}
        latents = victim.embed(inputs)
        assert latents["fused"].shape == (3, 81, 8)
        logits = victim(inputs)
        assert logits.shape == (3, 3)
        assert not logits[:, 0].any()  # the background is what others are measured against
        torch.testing.assert_close(victim.head(latents["fused"]), logits)

    def test_pooling_is_the_highest_moving_average(self):
        victim = tiny(smoothing_seconds=0.2)
        latent = victim.embed({"audio": sound(1)})["fused"]
        frames = victim.classifier(latent)[0].detach().numpy()
        odds = frames[:, 1] - frames[:, 0]
        wanted = max(odds[first : first + 20].mean() for first in range(len(odds) - 19))
        assert float(victim({"audio": sound(1)})[0, 1].detach()) == pytest.approx(float(wanted), abs=1e-5)

    def test_a_frame_hears_20_before_and_10_after(self):
        """The context of Guo et al., asked of the gradient: what lies further has none."""
        victim = tiny()
        audio = sound(1, 1.6).requires_grad_()
        latent = victim.embed({"audio": audio})["fused"]
        (gradient,) = torch.autograd.grad(latent[0, 80].sum(), audio)
        reached = gradient[0].nonzero()[:, 0] / 160
        assert 58 < float(reached.min()) < 61
        assert 89 < float(reached.max()) < 92

    def test_gradient_follows_the_logits_in_float64(self):
        victim = tiny().double()
        audio = sound(2).double().requires_grad_()
        (gradient,) = torch.autograd.grad(victim({"audio": audio})[:, 1].sum(), audio)
        assert (gradient != 0).double().mean() > 0.5
        step = 1e-7 * gradient / gradient.norm()
        with torch.no_grad():
            rise = victim({"audio": audio + step})[:, 1].sum() - victim({"audio": audio - step})[:, 1].sum()
        torch.testing.assert_close(rise / 2e-7, gradient.norm(), rtol=1e-3, atol=1e-9)

    def test_silence_is_finite_and_training_reaches_every_weight(self):
        victim = tiny().train()
        audio = torch.zeros(2, 12_800, requires_grad=True)
        victim({"audio": audio}).square().sum().backward()
        assert torch.isfinite(audio.grad).all()
        victim.zero_grad()
        victim({"audio": sound(2)}).square().sum().backward()
        assert all(parameter.grad is not None for parameter in victim.parameters())

    def test_configuration_rebuilds_it(self):
        victim = tiny()
        again = build_victim("wakeword", labels=LABELS, **json.loads(json.dumps(victim.config))).eval()
        again.load_state_dict(victim.state_dict())
        assert torch.equal(again({"audio": sound(2)}), victim({"audio": sound(2)}))

    def test_the_background_is_found_by_name(self):
        assert background_index(("alexa", "background"), None) == 1
        assert background_index(("a", "b"), None) == 0
        assert background_index(("a", "b"), "b") == 1
        assert tiny(("marvin", "negative")).background == 1
        with pytest.raises(VictimError, match="Did you mean 'other'"):
            background_index(LABELS, "othr")

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"width": 0}, "width"),
            ({"clip_seconds": 0.01}, "clip_seconds"),
            ({"left": -1}, "negative"),
            ({"background": "noise"}, "background"),
            ({"widht": 8}, "widht"),
            ({"labels": ("wake",)}, "two classes"),
            ({"task": "multilabel"}, "two classes"),
        ],
    )
    def test_impossible_configurations_are_refused(self, config, message):
        with pytest.raises(VictimError, match=message):
            build_victim("wakeword", **{"labels": LABELS, **config})


class TestStream:
    def test_a_clip_is_a_stream_and_chunks_change_nothing(self):
        victim = tiny()
        audio = sound(1, 4.0)[0]
        whole = stream_scores(victim, audio)
        assert whole.shape == (401,)
        assert not torch.isfinite(whole[:49]).any()
        assert torch.isfinite(whole[49:]).all()
        assert float(whole.max()) == pytest.approx(float(victim({"audio": audio[None]})[0, 1].detach()), abs=1e-5)
        for seconds in (0.5, 1.0, 1.37, 3.99):
            torch.testing.assert_close(stream_scores(victim, audio, chunk_seconds=seconds), whole, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("samples", [16_001, 16_100, 20_480, 27_999])
    def test_ragged_ends(self, samples):
        victim = tiny()
        audio = sound(1, 2.0)[0, :samples]
        whole = stream_scores(victim, audio)
        assert len(whole) == 1 + samples // 160
        torch.testing.assert_close(stream_scores(victim, audio, chunk_seconds=0.88), whole, rtol=0, atol=1e-5)

    def test_what_cannot_be_streamed_is_refused(self):
        with pytest.raises(VictimError, match="waveform"):
            stream_scores(tiny(), sound(2))
        with pytest.raises(VictimError, match="listen for"):
            stream_scores(tiny(("other", "yes", "no")), sound(1)[0])
        assert stream_scores(tiny(("other", "yes", "no")), sound(1)[0], label="no").shape == (81,)
        stream = wake_stream(0, 0.05)
        with pytest.raises(DataError, match="8000 Hz"):
            hear_stream(tiny(sample_rate=8000), stream)


class TestShipped:
    def test_the_card_tells_the_truth(self, tmp_path, monkeypatch):
        path = embedded_weights("wakeword")
        assert path.stat().st_size < 500_000
        card = read_card(path)
        assert card["data"]["name"] == "events-wake"
        assert card["clean"]["score"] > 0.97
        assert card["config"]["width"] == victim_entry("wakeword").small["width"]
        assert "/tmp" not in path.with_suffix(".json").read_text()

    def test_it_hears_the_word_in_a_stream(self):
        victim = load_victim("wakeword")
        assert isinstance(victim, Wakeword)
        stream = wake_stream(1, 2.0)
        told = hear_stream(victim, stream)
        assert told.events >= 3
        assert told.detected / told.events > 0.6
        assert told.false_alarms <= 6
        assert -0.5 < told.median_delay_s < 0.5

    def test_noise_beside_the_stream_is_as_loud_as_asked_and_hides_it(self):
        stream = wake_stream(1, 1.0)
        noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0)) * 0.07
        quiet, loud = (beside(stream, noise, smr_db) for smr_db in (40.0, -20.0))
        gain = np.std(loud.audio - stream.audio) / np.std(quiet.audio - stream.audio)
        assert 20 * np.log10(gain) == pytest.approx(60, abs=3)  # the louder one is cut now and then
        victim = load_victim("wakeword")
        assert hear_stream(victim, loud).detected < hear_stream(victim, quiet).detected


def tone_folders(root, rng):
    """Recordings of two classes that differ in pitch, at another rate than the network's."""
    for name, hz in (("background", 300), ("hello", 1200)):
        for split, count in (("train", 12), ("validation", 4), ("test", 4)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                samples = 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * np.arange(8000) / 8000)
                soundfile.write(folder / f"{index}.wav", samples + 0.01 * rng.standard_normal(8000), 8000)


def test_training_on_two_folders_from_the_command_line(tmp_path):
    tone_folders(tmp_path / "root", np.random.default_rng(0))
    settings = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    words = ["train", "--model", "wakeword", "--data", "folder", "--root", str(tmp_path / "root"), "--epochs", "6"]
    words += ["--learning-rate", "0.02", "--batch-size", "8", "--mixup", "0", "--out", str(tmp_path / "own"), "--json"]
    told = CliRunner().invoke(app, words + settings)
    assert told.exit_code == 0, told.output
    card = json.loads((tmp_path / "own.json").read_text())
    assert card["labels"] == ["background", "hello"]
    assert card["clean"]["score"] >= 0.75
    victim = load_victim("wakeword", weights=tmp_path / "own.safetensors")
    assert isinstance(victim, Wakeword)
    assert victim.background == 0
    times = np.arange(16_000) / 16_000
    scores = [
        float(stream_scores(victim, torch.from_numpy(0.3 * np.sin(2 * np.pi * hz * times)).float()).max())
        for hz in (300, 1200)
    ]
    assert all(low < high for low, high in pairwise(scores))
