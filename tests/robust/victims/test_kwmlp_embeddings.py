"""Embeddings of gated MLPs: scenes of a fixed size, what HEAR asks of them, and the figure of what blocks mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional

from robust.errors import StoreError, VictimError
from robust.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings
from robust.plots import saving, script
from robust.plots.temporal_projections import draw_temporal_projections, toeplitz_share
from robust.victims.audio_mlp_autoencoder import SMALL as SMALL_AUTOENCODER
from robust.victims.checkpoints import load_checkpoint, save_checkpoint
from robust.victims.kwmlp import KwMlp
from robust.victims.scenes import SCENES, scene_embedding
from tests.robust.drawing import module
from tests.robust.victim_contract import build_seeded
from tests.robust.victims.test_kwmlp import SIZES, sound


class TestScenes:
    STEPS = torch.tensor([[[0.0, 7.0], [2.0, 5.0], [4.0, 3.0], [6.0, 1.0], [8.0, -1.0]]])  # (1, 5, 2), straight lines

    @pytest.mark.parametrize(
        ("kind", "count", "expected"),
        [
            ("single", 3, [0, 4, 8, 7, 3, -1]),
            ("halving", 2, [0, 8, 7, -1]),
            ("mean", 2, [2, 7, 5, 0]),  # three steps and two
            ("halving", 5, [0, 2, 4, 6, 8, 7, 5, 3, 1, -1]),
            ("single", 7, [0, 2, 4, 6, 8, 0, 0, 7, 5, 3, 1, -1, 0, 0]),
        ],
    )
    def test_by_hand(self, kind: str, count: int, expected: list[float]) -> None:
        assert scene_embedding(self.STEPS, count, kind).tolist() == [pytest.approx(expected)]

    @pytest.mark.parametrize("length", [16, 17, 33, 98, 198, 256, 600])
    def test_interpolations_are_torch_s(self, length: int) -> None:
        steps = torch.randn(2, length, 3, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
        rows, count = steps.transpose(1, 2), length
        for _ in range(int(np.floor(np.log2(length / 16)))):
            count //= 2
            rows = functional.interpolate(rows, size=count, mode="linear", align_corners=True)
        rows = functional.interpolate(rows, size=16, mode="linear", align_corners=True)
        torch.testing.assert_close(scene_embedding(steps, 16), rows.flatten(1))
        places = np.linspace(0, length - 1, 16)
        once = [np.interp(places, np.arange(length), column) for column in steps[1].T.numpy()]
        torch.testing.assert_close(scene_embedding(steps, 16, "single")[1], torch.tensor(np.concatenate(once)))

    def test_halving_hears_what_one_interpolation_steps_over(self) -> None:
        steps = torch.zeros(1, 512, 1)
        steps[0, 100] = 1.0
        assert float(scene_embedding(steps, 16, "single").abs().max()) == 0.0
        assert float(scene_embedding(steps, 16, "halving").abs().max()) > 0.0
        assert float(scene_embedding(steps, 16, "mean").sum()) == pytest.approx(1 / 32)

    @pytest.mark.parametrize("kind", SCENES)
    def test_gradients(self, kind: str) -> None:
        steps = torch.randn(1, 21, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.autograd.gradcheck(
            lambda given: scene_embedding(given, 4, kind), (steps.requires_grad_(),), fast_mode=True
        )


class TestHear:
    @pytest.mark.parametrize("victim", [("kwmlp", SIZES), ("audio-mlp-autoencoder", {**SMALL_AUTOENCODER, **SIZES})])
    @pytest.mark.parametrize("seconds", [0.0001, 0.3, 1.07, 2.74])
    def test_what_the_validator_asks(self, victim: tuple[str, dict[str, Any]], seconds: float) -> None:
        model = HearModel(build_seeded(victim[0], **victim[1]))
        audio = sound(round(16_000 * seconds))
        found, times = get_timestamp_embeddings(audio, model)
        scene = get_scene_embeddings(audio, model)
        assert found.shape == (2, times.shape[1], model.timestamp_embedding_size)
        assert scene.shape == (2, model.scene_embedding_size)
        assert found.dtype == times.dtype == scene.dtype == torch.float32
        assert 0 < times.min() <= times.max() <= 1000 * audio.shape[1] / 16_000
        if seconds > 1:
            gaps = times.diff(dim=1)
            torch.testing.assert_close(gaps, torch.full_like(gaps, 20.0), rtol=0, atol=1e-3)
            assert float(times.max()) >= 1000 * seconds - 21

    def test_a_timestamp_is_where_its_sound_is(self) -> None:
        """With gates that take nothing from elsewhere, what a click changes are the frames around it."""
        victim = build_seeded("kwmlp", n_fft=480, blocks=1)
        assert isinstance(victim, KwMlp)
        audio = 1e-3 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))
        click = audio.clone()
        click[0, 24_000] = 5e-3  # 1500 ms
        with torch.no_grad():
            for block in victim.mlp.blocks:
                block.get_parameter("temporal.weight").zero_()
            quiet, times = victim.hear_timestamps(audio)
            loud, _ = victim.hear_timestamps(click)
        changed = times[(loud - quiet).abs().amax(dim=2)[0] > 1e-3].tolist()
        assert changed
        assert min(changed) >= 1500 - 15
        assert max(changed) <= 1500 + 15

    def test_many_seconds_are_the_same_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        victim = build_seeded("kwmlp", **SIZES)
        assert isinstance(victim, KwMlp)
        with torch.no_grad():
            whole = victim.hear_timestamps(sound(80_000))[0]
            monkeypatch.setattr("robust.victims.gated_mlp.BATCH_CHUNKS", 1)
            torch.testing.assert_close(victim.hear_timestamps(sound(80_000))[0], whole, rtol=1e-4, atol=1e-5)

    def test_embeddings_keep_their_graph(self) -> None:
        model = HearModel(build_seeded("kwmlp", **SIZES))
        audio = sound(20_000).requires_grad_()
        (gradient,) = torch.autograd.grad(get_scene_embeddings(audio, model).square().sum(), audio)
        assert (gradient != 0).float().mean() > 0.5


class TestFigure:
    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        victim = build_seeded("kwmlp", **{**SIZES, "blocks": 5})
        save_checkpoint(victim, tmp_path / "it.safetensors", {})
        return tmp_path / "it.safetensors"

    def test_every_block_is_drawn_in_one_scale(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: dict[str, Figure] = {}
        monkeypatch.setattr(script, "save_all", lambda found, out, dpi: kept.update(found))
        module("temporal_projections").main(weights=str(checkpoint), out="unused")
        (figure,) = kept.values()
        pictures = [axes.images[0] for axes in figure.axes if axes.images]
        victim = load_checkpoint(checkpoint)
        assert isinstance(victim, KwMlp)
        for picture, matrix in zip(pictures, victim.temporal_projections().numpy(), strict=True):
            np.testing.assert_array_equal(picture.get_array(), matrix)
            assert picture.get_clim() == pictures[0].get_clim()
            assert picture.get_clim()[0] == -picture.get_clim()[1]
        assert [axes.get_title("left").partition(":")[0] for axes in figure.axes[:5]] == [
            f"block {number}" for number in range(1, 6)
        ]
        assert saving.rendered(figure, "png", dpi=30).startswith(b"\x89PNG")
        module("temporal_projections").main(weights=str(checkpoint), block=[4, 2], out="unused")
        titles = [axes.get_title("left").partition(":")[0] for axes in kept["temporal_projections"].axes[:2]]
        assert titles == ["block 4", "block 2"]

    def test_what_cannot_be_drawn(self, checkpoint: Path) -> None:
        with pytest.raises(VictimError, match="has blocks 1 to 5; given --block 6"):
            module("temporal_projections").main(weights=str(checkpoint), block=[1, 6], out="unused")
        with pytest.raises(VictimError, match="'m5' has no temporal projections"):
            module("temporal_projections").main(model="m5", out="unused")
        for matrices in ({}, {1: np.zeros((3, 4))}):
            with pytest.raises(StoreError, match="square matrices"):
                draw_temporal_projections(matrices, 1.0)

    def test_toeplitz_shares(self) -> None:
        from scipy.linalg import toeplitz

        generator = np.random.default_rng(0)
        same = toeplitz(generator.standard_normal(40), generator.standard_normal(40))
        assert toeplitz_share(same) == pytest.approx(1.0)
        assert toeplitz_share(generator.standard_normal((40, 40))) == pytest.approx(78 / 1599, abs=0.03)
        assert toeplitz_share(np.ones((4, 4))) == 0.0
        columns = np.broadcast_to(generator.standard_normal(40), (40, 40))
        assert toeplitz_share(columns) < 0.1
