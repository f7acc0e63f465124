"""Plots show the numbers they are given, in colours and words that a reader can tell apart."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from attacks import supports
from robust.evaluation.curve_summary import from_summary
from robust.metrics.classification import wilson
from robust.plots.bars import Bar, draw_bars
from robust.plots.curve import draw_curves
from robust.plots.regions import region_words
from robust.plots.style import COLOURS, MAP, luminance, number
from robust.study.store import read_study
from tests.robust import stores
from tests.robust.drawing import pixels


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65 of linear sRGB."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = matrix @ np.clip(linear_rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


# Machado, Oliveira and Fernandes 2009, severity 1.
DICHROMATS = {
    "nobody": np.eye(3),
    "protan": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deutan": np.array([[0.3673, 0.8607, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
    "tritan": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]),
}


@pytest.mark.parametrize("eyes", DICHROMATS)
def test_colours_stay_apart(eyes: str) -> None:
    seen = [lab(DICHROMATS[eyes] @ linear(np.array(to_rgb(colour)))) for colour in COLOURS]
    assert min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)) > 20


def test_colours_are_told_apart_in_grey() -> None:
    greys = [luminance(colour) for colour in COLOURS]
    steps = np.diff(greys)
    assert (steps > 0.085).all(), "each is lighter than the one before, by a step that a print shows"
    assert greys[-1] < 0.8, "the lightest still shows on white"
    assert greys == pytest.approx([pixels(png_of(colour))[0, 0, 0] / 255 for colour in COLOURS], abs=0.01)
    field = [luminance(mpl.colors.to_hex(colour)) for colour in mpl.colormaps[MAP](np.linspace(0, 1, 64))]
    assert (np.diff(field) > 0).all()


def png_of(colour: str) -> bytes:
    """One pixel of a colour, turned grey by another library."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), colour).convert("L").save(buffer, format="png")
    return buffer.getvalue()


def curve_cell(folder: Path, **options: Any) -> Any:
    """A curve as `draw_curves` takes it."""
    return from_summary(read_study(stores.curve_run(folder, **options)).cells()[0].summary)


def test_harder_is_to_the_right(tmp_path: Path) -> None:
    noise, radius = (curve_cell(tmp_path / norm, norm=norm) for norm in ("noise", "linf"))
    figure = draw_curves([noise, radius], threshold=0.4)
    falling, rising = figure.axes
    assert falling.get_xlim()[0] > noise.radii[0] > noise.radii[-1] > falling.get_xlim()[1]
    assert falling.get_xscale() == "linear"
    assert falling.get_ylabel() == "accuracy (%)"
    assert rising.get_xlim()[0] < radius.radii[0] < radius.radii[-1] < rising.get_xlim()[1]
    assert rising.get_xscale() == "log"
    assert rising.get_ylabel() == "robust accuracy (%)"
    assert "40 %" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_curve_is_where_its_numbers_are(tmp_path: Path) -> None:
    curve = curve_cell(tmp_path / "one")
    (axes,) = draw_curves([curve]).axes
    line, clean = axes.get_lines()
    assert line.get_xdata() == pytest.approx(curve.radii)
    assert line.get_ydata() == pytest.approx(100 * curve.scores)
    assert clean.get_ydata() == pytest.approx([100 * curve.clean])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(100 * curve.low.min())
    assert band[:, 1].max() == pytest.approx(100 * curve.high.max())


def test_lines_of_many_victims_differ_without_colour(tmp_path: Path) -> None:
    lines = [curve_cell(tmp_path / f"v{place}", victim=f"v{place}") for place in range(6)]
    (axes,) = draw_curves(lines).axes
    drawn = [line for line in axes.get_lines() if line.get_linestyle() != "None"]
    assert len({line.get_marker() for line in drawn}) == 6
    assert len({str(line._dash_pattern) for line in drawn}) == 6


def test_bars_are_where_their_numbers_are() -> None:
    low, high = wilson(60, 100)
    bars = [Bar("audio", "a", 0.6, low, high, 0.9), Bar("audio", "b", 0.3), Bar("video", "b", 0.5)]
    axes = draw_bars(bars, ylabel="accuracy (%)").axes[0]
    assert [patch.get_height() for patch in axes.patches] == pytest.approx([60, 30, 50])
    middles = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    assert middles[0] < 0 < middles[1] < 0.5 < middles[2]
    assert middles[2] == pytest.approx(1), "a series that is absent leaves no gap"
    ends = np.concatenate([path.vertices[:, 1] for line in axes.collections for path in line.get_paths()])
    assert sorted(set(ends.round(6))) == pytest.approx([100 * low, 100 * high])


@pytest.mark.parametrize(
    ("support", "words"),
    [
        ("MelBand(first=0, last=20)", "mel bands 0–20"),
        ("TimeWindow(start=0.25, stop=0.5)", "25–50 % of the clip"),
        ("FrequencyBand(low_hz=707.9, high_hz=1412.5, sample_rate=16000)", "708–1412 Hz"),
        ("Both(parts=(TimeWindow(start=0, stop=0.5), MelBand(first=1, last=2)))", "0–50 % of the clip, mel bands 1–2"),
        ("Sphere(radius=2)", "Sphere(radius=2)"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("not a support", "not a support"),
    ],
)
def test_region_words(support: str, words: str) -> None:
    assert region_words(support) == words


def test_region_words_know_every_support() -> None:
    """The words are made from what manifests hold, the `repr` of a support."""
    every = (supports.MelBand(0, 3), supports.TimeWindow(0, 1), supports.FrequencyBand(100.0, 200.0, 16_000))
    for support in (*every, supports.Both((every[0], every[1]))):
        assert region_words(repr(support)) != repr(support)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (1e-4, "10⁻⁴"),
        (3e-5, "3·10⁻⁵"),
        (2.5e-3, "2.5·10⁻³"),
        (1000, "1000"),
        (9999.9, "10⁴"),
        (-0.1, "−0.1"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text
