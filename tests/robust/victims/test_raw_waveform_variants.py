"""Variants of the raw-waveform networks: sizes that the thesis prints, old weights, what fixed lengths refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from robust.errors import StoreError, VictimError
from robust.plots.first_layer_filters import POINTS, draw_first_layer_filters, sorted_responses
from robust.victims import load_victim
from robust.victims.raw_waveform import RawWaveform
from robust.victims.registry import build_victim
from tests.robust.drawing import module
from tests.robust.victim_contract import LABELS, VictimContract, inputs_of


class TestSmallReceptiveFieldWithoutBatchNormalisation(VictimContract):
    name: ClassVar[str] = "m11"
    tiny: ClassVar[dict[str, Any]] = {"width": 0.1, "first_kernel": 8, "batch_norm": False}


class TestLargeReceptiveField(VictimContract):
    name: ClassVar[str] = "m5"
    tiny: ClassVar[dict[str, Any]] = {"width": 0.1, "first_kernel": 320}


# Tables 3.4 and 3.5 with ten classes, in millions. M11-fc and M18-fc stand there with 1.8 and 8.7, which no reading of
# table 3.1 gives: 512 maps of 32 frames into 1000 units are 16.4 alone.
PUBLISHED: dict[str, tuple[str, dict[str, Any], str]] = {
    "m3-big": ("m3", {"width": 1.5}, "0.5"),
    "m5-big": ("m5", {"width": 2.0}, "2.2"),
    "m3-fc": ("m3", {"fully_connected": 1000}, "129"),
    "m5-fc": ("m5", {"fully_connected": 1000}, "18"),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes(variant: str) -> None:
    name, settings, published = PUBLISHED[variant]
    with torch.device("meta"):
        victim = build_victim(name, labels=tuple("0123456789"), **settings)
    count = sum(parameter.numel() for parameter in victim.parameters())
    assert f"{count / 1e6:.{len(published.partition('.')[2])}f}" == published


@pytest.mark.parametrize("kernel", [8, 80, 320])
def test_the_first_layer_keeps_a_quarter_of_the_samples(kernel: int) -> None:
    victim = build_victim("m18", labels=LABELS, first_kernel=kernel, width=0.05)
    assert isinstance(victim, RawWaveform)
    assert victim.layers[0](torch.zeros(1, 1, 32_000)).shape[-1] == 8_000
    assert victim.layers(torch.zeros(1, 1, 32_000)).shape[-1] == 32


def test_without_batch_normalisation_layers_have_a_bias() -> None:
    victim = build_victim("m34-res", labels=LABELS, batch_norm=False, width=0.05)
    convolutions = [module for module in victim.modules() if isinstance(module, torch.nn.Conv1d)]
    assert all(module.bias is not None for module in convolutions)
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in victim.modules())


def test_fully_connected_layers_take_clips_of_one_length() -> None:
    config: dict[str, Any] = {"sample_rate": 16_000, "clip_seconds": 1.0, "width": 0.1, "fully_connected": 20}
    victim = build_victim("m5", labels=LABELS, **config).eval()
    inputs = inputs_of(victim)
    latent = victim.embed(inputs)["fused"]
    assert latent.shape == (3, 20)
    torch.testing.assert_close(victim(inputs), victim.head(latent))
    with pytest.raises(VictimError, match="takes clips of 16000 samples"):
        victim({"audio": torch.zeros(1, 8_000)})


def test_embedded_weights_are_as_they_were() -> None:
    assert load_victim("m5").config.items() >= {"width": 0.5, "first_kernel": 80, "batch_norm": True}.items()


@pytest.mark.parametrize("settings", [{"first_kernel": 3}, {"fully_connected": -1}, {"dropout": 1.0}])
def test_sizes_that_leave_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match="given first_kernel="):
        build_victim("m5", labels=LABELS, **settings)


def tones(frequencies: list[float], samples: int, sample_rate: int) -> np.ndarray:
    times = np.arange(samples) / sample_rate
    return np.hanning(samples) * np.sin(2 * np.pi * np.array(frequencies)[:, None] * times)


def test_filters_are_sorted_by_where_they_peak() -> None:
    found, peaks = sorted_responses(0.01 * tones([3000.0, 500.0, 2000.0], 320, 16_000), 16_000)
    np.testing.assert_allclose(peaks, [500.0, 2000.0, 3000.0], atol=16_000 / POINTS)
    assert found.max(axis=1).tolist() == [0.0, 0.0, 0.0]
    # A Hann window of 20 ms is 6 dB down at 50 Hz from its middle (sum of three sinc functions).
    octave = np.interp([2050.0, 1950.0], np.arange(POINTS // 2 + 1) * 16_000 / POINTS, found[1])
    np.testing.assert_allclose(octave, -6.0, atol=1.5)
    silent, _ = sorted_responses(np.zeros((1, 80)), 16_000)
    assert (silent == 0).all()


def test_the_figure_has_a_panel_for_each_network(tmp_path: Path) -> None:
    figures = module("first_layer_filters")
    figures.main(model="m5", out=str(tmp_path), dpi=40)
    assert {path.name for path in tmp_path.iterdir()} == {"first_layer_filters.pdf", "first_layer_filters.png"}
    bank = (tones([500.0, 900.0], 80, 8_000), 8_000)
    figure = draw_first_layer_filters({"short": bank, "long": (tones([500.0] * 5, 320, 8_000), 8_000)})
    drawn = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in drawn] == [
        "short: 2 filters of 80 samples",
        "long: 5 filters of 320 samples",
    ]
    assert drawn[0].get_ylim() == (0.0, 4.0)
    with pytest.raises(VictimError, match="no filters on waveforms; m3, m5"):
        figures.main(model="ast", out=str(tmp_path))
    with pytest.raises(StoreError, match=r"given x: \(0, 80\)"):
        draw_first_layer_filters({"x": (np.zeros((0, 80)), 8_000)})
