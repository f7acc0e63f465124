"""`robust.hear`: the victims under the rules of HEAR's validator, and what else its tools rely on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust.errors import CheckpointError, VictimError
from robust.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from robust.types import Inputs, VictimSpec
from robust.victims import Victim, build_victim, list_victims, load_victim, victim_entry
from robust.victims import hear_module as hear_module
from robust.victims.checkpoints import save_checkpoint
from robust.victims.probe import check_gradients
from tests.robust.victim_contract import build_seeded

SECONDS = (1.07, 1.98, 4.0)
"""Lengths of the validator's clips."""


class Levels(Victim):
    """Hears how loud a clip is, as a whole or frame by frame: what an embedding was made from can be read off it."""

    def __init__(self, frames: int = 0, rate: int = 16_000, clip_seconds: float = 0.5) -> None:
        spec = VictimSpec("levels", ("a", "b"), sample_rate=rate, clip_seconds=clip_seconds)
        super().__init__(spec)
        self.frames, self.heard = frames, 0
        self.scale = nn.Parameter(torch.ones(1))

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        audio = inputs["audio"]
        assert audio.shape[1] >= 0.6 * self.spec.clip_samples
        assert audio.shape[1] <= 1.7 * self.spec.clip_samples
        self.heard = max(self.heard, audio.numel())
        parts = torch.tensor_split(audio, self.frames or 1, dim=1)
        means = torch.stack([self.scale * torch.stack([part.mean(1), part.abs().amax(1)], 1) for part in parts], 1)
        return {"fused": means if self.frames else means[:, 0]}


def noise(count: int, seconds: float, rate: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(count, int(seconds * rate), generator=generator) - 1


def validate_timestamps(model: HearModel, seconds: float) -> None:
    """What the validator asks of embeddings over time."""
    embeddings, times = get_timestamp_embeddings(noise(2, seconds, model.sample_rate), model)
    assert embeddings.dtype == times.dtype == torch.float32
    assert embeddings.shape == (2, times.shape[1], model.timestamp_embedding_size)
    assert times.shape[0] == 2
    gaps = times.diff(dim=1)
    assert gaps.min() > 0
    assert (gaps - gaps.mean()).abs().max() < 1
    assert times.min() <= gaps.mean()  # nothing at the start is left out
    assert 1000 * seconds - gaps.mean() - 1 <= times.max() <= 1000 * seconds
    assert torch.isfinite(embeddings).all()


def validate_scene(model: HearModel) -> None:
    """What it asks of embeddings of clips, and that they tell these apart."""
    embeddings = get_scene_embeddings(noise(4, 2.74, model.sample_rate), model)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (4, model.scene_embedding_size)
    assert (embeddings[0] - embeddings[1]).abs().max() > 0


class TestValidator:
    @pytest.mark.parametrize("name", [entry.name for entry in list_victims()])
    def test_every_victim_that_hears(self, name: str) -> None:
        """In its small configuration, with random weights and the shortest window that is not padded."""
        victim = build_seeded(name, **victim_entry(name).small)
        if victim.spec.modalities != ("audio",):
            with pytest.raises(VictimError, match=f"about sound; the victim '{name}' takes"):
                HearModel(victim)
            return
        model = HearModel(victim, window_seconds=0.6 * victim.spec.clip_seconds)
        assert isinstance(model, nn.Module)
        assert model.sample_rate in (16_000, 22_050, 32_000, 44_100, 48_000)
        assert type(model.scene_embedding_size) is type(model.timestamp_embedding_size) is int
        for seconds in SECONDS:
            validate_timestamps(model, seconds)
        validate_scene(model)

    @pytest.mark.parametrize(
        ("rate", "seconds", "frames"), list(itertools.product((16_000, 22_050, 44_100), SECONDS, (0, 25)))
    )
    def test_every_rate_and_length(self, rate: int, seconds: float, frames: int) -> None:
        validate_timestamps(HearModel(Levels(frames, rate)), seconds)

    def test_at_other_rates_it_is_refused(self) -> None:
        with pytest.raises(VictimError, match=r"may not resample.*hears 8000 Hz.*--set sample_rate"):
            HearModel(Levels(rate=8000))

    def test_embedded_weights_are_loaded(self) -> None:
        model = load_model("cnn14", device="cpu")
        validate_timestamps(model, 1.07)
        validate_scene(model)

    def test_what_hears_no_sound_alone_is_refused(self) -> None:
        with pytest.raises(VictimError, match="about sound; the victim 'frames' takes video"):
            load_model("frames")


class TestEmbeddings:
    @pytest.mark.parametrize("frames", [0, 25])
    def test_timestamps_are_the_centres_of_what_was_heard(self, frames: int) -> None:
        model = HearModel(Levels(frames), window_seconds=None if frames else 0.3)
        audio = torch.zeros(1, 40_000)
        audio[0, 17_600] = 1  # at 1100 ms
        embeddings, times = get_timestamp_embeddings(audio, model)
        loud = times[0][embeddings[0, :, 1] > 0].tolist()
        # The end of a window is no part of it, so that of 950 ms, of 300 ms, ends before the click.
        assert loud == pytest.approx([1110] if frames else [1000, 1050, 1100, 1150, 1200, 1250])

    def test_no_drift_in_twenty_minutes_and_bounded_memory(self) -> None:
        victim = Levels(rate=22_050)
        model = HearModel(victim)
        audio = torch.zeros(1, 20 * 60 * 22_050)
        embeddings, times = get_timestamp_embeddings(audio, model)
        assert embeddings.shape == (1, 24_001, 2)
        expected = 50 * np.arange(24_001)
        assert np.abs(times[0].double().numpy() - expected).max() < 0.2  # a float32 knows 1,200,000 to 0.06
        scene = get_scene_embeddings(audio, model)
        assert scene.shape == (1, 2)
        assert victim.heard <= 32 * model.window
        assert embeddings.grad_fn is None  # no graph of all windows

    def test_a_short_clip_is_heard_whole_and_a_long_one_in_windows(self) -> None:
        model = HearModel(Levels())
        clip = noise(2, 0.6, 16_000)
        torch.testing.assert_close(get_scene_embeddings(clip, model), model.victim.embed({"audio": clip})["fused"])
        long = torch.cat([torch.full((1, 8000), value) for value in (0.2, 0.4, 0.6)], dim=1)
        # Five windows of a clip: means 0.2, 0.3, 0.4, 0.5, 0.6.
        torch.testing.assert_close(get_scene_embeddings(long, model)[:, 0], torch.tensor([0.4]))
        ending = torch.cat([long, torch.full((1, 100), 1.0)], dim=1)
        assert get_scene_embeddings(ending, model)[0, 1] > get_scene_embeddings(long, model)[0, 1]

    @pytest.mark.parametrize("frames", [0, 25])
    def test_the_shortest_sounds(self, frames: int) -> None:
        model = HearModel(Levels(frames))
        for samples in (1, 100, 3000):
            embeddings, times = get_timestamp_embeddings(torch.ones(2, samples), model)
            assert embeddings.shape == (2, times.shape[1], 2)
            assert 0 <= times.min() <= times.max() <= samples / 16
            assert get_scene_embeddings(torch.ones(2, samples), model).shape == (2, 2)

    def test_sounds_do_not_touch_one_another(self) -> None:
        model, audio = load_model("cnn-transformer", device="cpu"), noise(3, 2.3, 16_000)
        for function in (get_scene_embeddings, lambda *given: get_timestamp_embeddings(*given)[0]):
            torch.testing.assert_close(function(audio, model)[1:2], function(audio[1:2], model), rtol=1e-4, atol=1e-5)

    def test_a_victim_submitted_by_its_authors_gives_what_it_gave_there(self) -> None:
        class Own(Levels):
            def hear_timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
                return audio[:, ::4_000, None].expand(-1, -1, 3), torch.arange(0, audio.shape[1], 4_000) / 16

            def hear_scene(self, audio: Tensor) -> Tensor:
                return audio.mean(dim=1, keepdim=True).expand(-1, 7)

        model, audio = HearModel(Own()), noise(2, 5.0, 16_000)
        assert (model.scene_embedding_size, model.timestamp_embedding_size) == (7, 3)
        assert model.state_dict().keys() == {"victim.scale"}
        assert torch.equal(get_scene_embeddings(audio, model), audio.mean(dim=1, keepdim=True).expand(-1, 7))
        embeddings, times = get_timestamp_embeddings(audio, model)
        assert embeddings.shape == (2, 20, 3)
        assert times[1].tolist() == [250.0 * place for place in range(20)]

    @pytest.mark.parametrize("shape", [(16_000,), (0, 16_000), (2, 0), (1, 2, 16_000)])
    def test_audio_of_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        for function in (get_scene_embeddings, get_timestamp_embeddings):
            with pytest.raises(VictimError, match="n_sounds, n_samples"):
                function(torch.zeros(shape), HearModel(Levels()))

    def test_gradients_are_kept(self) -> None:
        model, audio = load_model("m3", device="cpu"), noise(1, 1.0, 16_000).requires_grad_()
        for found in (get_scene_embeddings(audio, model), get_timestamp_embeddings(audio, model)[0]):
            (gradient,) = torch.autograd.grad(found.square().sum(), audio)
            assert gradient.norm() > 0


class TestLoading:
    def test_what_the_tools_pass(self, tmp_path: Path) -> None:
        assert load_model().victim.spec.name == "ast"
        assert load_model("m3").victim.spec.name == load_model(model="m3").victim.spec.name == "m3"
        path = tmp_path / "mine.safetensors"
        mine = build_victim("m3", labels=("a", "b"), sample_rate=16_000, clip_seconds=0.5)
        save_checkpoint(mine, path, {})
        for model in (load_model(str(path)), load_model(str(path), model="m3")):
            assert model.victim.spec == mine.spec
        assert load_model("m3", window_seconds=0.7).window == 11_200
        with pytest.raises(VictimError, match="Did you mean 'm3'"):
            load_model("m33")
        with pytest.raises(CheckpointError, match="no checkpoint"):
            load_model("nowhere.safetensors")
        with pytest.raises(VictimError, match=r"needs 0\.16 s or more"):
            load_model("m3", window_seconds=0.1)

    def test_out_and_in_again(self, tmp_path: Path) -> None:
        """A victim of ours as a HEAR module, and that as a victim, gives the same latents with all their gradients."""
        path = tmp_path / "mine.safetensors"
        save_checkpoint(load_victim("m3", device="cpu"), path, {})
        victim = build_victim(f"hear:robust.hear:{path}", labels=("a", "b"), hidden=0).eval()
        assert isinstance(victim, hear_module.HearModule)
        assert victim.gradients == "whole"
        check_gradients(victim, victim.spec)
        audio = noise(2, 1.0, 16_000)
        latents: list[Any] = [one.embed({"audio": audio})["fused"] for one in (victim, load_victim("m3", device="cpu"))]
        torch.testing.assert_close(*latents)
