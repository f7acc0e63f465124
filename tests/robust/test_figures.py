"""Figure scripts render from small stores: each picture stays as it was looked at, and a journal could print it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from robust.errors import StoreError
from robust.plots import saving
from robust.plots.purification import ADAPTIVE, SERIES
from robust.plots.style import COLUMN_INCHES, PAGE_INCHES, SMALLEST_POINTS, bar_looks, number, styled
from robust.study.store import read_study
from tests.robust import defended_stores, geometry_stores, physical_stores, stores, table_stores
from tests.robust.drawing import (
    DPI,
    FIGURES,
    FUSED,
    HERE,
    KINDS,
    STORED,
    TOLERANCE,
    curves,
    figures_of,
    module,
    pixels,
    rms,
)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name of a figure -> its store."""
    folder = tmp_path_factory.mktemp("stores")
    return {name: build(folder / name) for name, build in FIGURES.items()}


@pytest.fixture(scope="session")
def drawn(small: dict[str, Path]) -> dict[str, Figure]:
    """Name of a figure -> what its script draws."""
    return {name: next(iter(figures_of(name, store).values())) for name, store in small.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_script_draws_the_stored_picture(name: str, small: dict[str, Path], tmp_path: Path) -> None:
    module(name).main(str(small[name]), out=str(tmp_path / "out"), dpi=DPI)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.pdf", f"{name}.png"]
    found = pixels(tmp_path / "out" / f"{name}.png")
    assert rms(found, pixels(STORED / f"{name}.png")) < TOLERANCE
    assert (STORED / f"{name}.png").stat().st_size < 40_000
    document = (tmp_path / "out" / f"{name}.pdf").read_bytes()
    assert document.startswith(b"%PDF")
    assert b"CreationDate" not in document
    assert b"/Type3" not in document
    assert b"/CIDFontType2" in document
    fields = {"universal_map", "loss_surface", "sticker_sheet"}
    assert (b"/Subtype /Image" in document) <= (name in fields), "lines and bars must stay vectors"


def test_other_numbers_are_another_picture(tmp_path: Path) -> None:
    """The tolerance sees a single line that moved."""
    curves(tmp_path / "store")
    stores.curve_run(tmp_path / "store" / "cells" / "av-mid-linf", "av-mid", half=3e-3, clean=90)
    (figure,) = figures_of("robustness_curves", tmp_path / "store").values()
    found = pixels(saving.rendered(figure, "png", dpi=DPI))
    assert rms(found, pixels(STORED / "robustness_curves.png")) > TOLERANCE


@pytest.mark.parametrize("name", ["robustness_curves", "universal_map"])
def test_the_same_store_gives_the_same_bytes(name: str, small: dict[str, Path]) -> None:
    once, again = (next(iter(figures_of(name, small[name]).values())) for _ in range(2))
    for kind in ("pdf", "png", "svg"):
        assert saving.rendered(once, kind, dpi=DPI) == saving.rendered(again, kind, dpi=DPI)


def test_settings_of_the_user_change_nothing(small: dict[str, Path]) -> None:
    (plain,) = figures_of("layer_latency", small["layer_latency"]).values()
    with mpl.rc_context({"font.size": 20, "axes.grid": True, "lines.linewidth": 9, "savefig.bbox": "tight"}):
        (other,) = figures_of("layer_latency", small["layer_latency"]).values()
        shown = saving.rendered(other, "png", dpi=DPI)
    assert shown == saving.rendered(plain, "png", dpi=DPI)


@pytest.mark.parametrize("name", FIGURES)
def test_a_journal_could_print_it(name: str, drawn: dict[str, Figure]) -> None:
    """A column or a page wide; text large enough, within the picture and apart; a word on every axis with numbers."""
    figure = drawn[name]
    assert figure.get_figwidth() in (COLUMN_INCHES, PAGE_INCHES)
    canvas = FigureCanvasAgg(figure)
    with styled():
        canvas.draw()
    page, renderer = figure.bbox, canvas.get_renderer()
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible() and artist.get_text()):
        assert isinstance(text, Text)
        assert text.get_fontsize() >= SMALLEST_POINTS, text.get_text()
        assert "$" not in text.get_text(), "an index of a formula would be smaller"
    for axes in figure.findobj(mpl.axes.Axes):
        assert isinstance(axes, mpl.axes.Axes)
        for axis in (axes.xaxis, axes.yaxis):
            boxes = ticks(axis, renderer)
            words = [label for label, _ in boxes]
            if any(re.fullmatch(r"[−\d.·⁻⁰¹²³⁴-⁹]+", word) for word in words):
                assert axis.label.get_text(), f"{name}: numbers without a word for them: {words}"
            for (_, one), (_, other) in itertools.pairwise(boxes):
                assert not one.overlaps(other), f"{name}: tick labels {words} overlap"
            shown = [(axis.label.get_text(), axis.label.get_window_extent(renderer)), *boxes]
            for word, box in shown:
                if word:
                    assert page.x0 <= box.x0, word
                    assert box.x1 <= page.x1, word
                    assert page.y0 <= box.y0, word
                    assert box.y1 <= page.y1, word
        title = axes.get_title(loc="left") and axes._left_title.get_window_extent(renderer)
        assert not title or title.x1 <= page.x1


def ticks(axis: Any, renderer: Any) -> list[tuple[str, Any]]:
    """Labels within the view, with their places."""
    low, high = sorted(axis.get_view_interval())
    shown = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    return [
        (tick.label1.get_text(), tick.label1.get_window_extent(renderer)) for tick in shown if tick.label1.get_text()
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_a_store_without_the_cells_is_refused(name: str, small: dict[str, Path], tmp_path: Path) -> None:
    other = small["layer_latency" if KINDS[name] != "latency" else "loss_surface"]
    with pytest.raises(StoreError, match=r"holds no finished"):
        module(name).main(str(other), out=str(tmp_path / "out"))
    with pytest.raises(StoreError, match=r"neither a study|no study"):
        module(name).main(str(tmp_path / "nothing"), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FIGURES)
def test_a_run_that_lacks_something_is_refused(name: str, small: dict[str, Path], tmp_path: Path) -> None:
    """Half of what a summary must hold is gone, or the table is: a message that names the run, nothing written."""
    store = shutil.copytree(small[name], tmp_path / "store")
    for path in store.rglob("summary.json"):
        told = json.loads(path.read_text())
        if told["kind"] == KINDS[name]:
            kept = {key: told[key] for key in ("kind", "victim", "data", "clips")}
            path.write_text(json.dumps(kept))
    for path in store.rglob("table.parquet"):
        path.write_bytes(b"no table")
    with pytest.raises(StoreError, match=r"no whole run|cannot be read"):
        module(name).main(str(store), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    store = table_stores.surface_run(tmp_path / "store")
    (cell,) = read_study(store).cells()
    cell.table().drop(columns="margin").to_parquet(store / "table.parquet")
    with pytest.raises(StoreError, match=r"lacks the columns margin"):
        figures_of("loss_surface", store)


def test_the_command_line_says_it_in_one_line(small: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "loss_surface.py"), str(small["latent_projections"]), "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "it holds 1 latents done" in done.stderr
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_unless_all_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = table_stores.latency_run(tmp_path / "store")
    plain = saving.rendered

    def failing(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
        if kind == "png":
            raise StoreError("no room")
        return plain(figure, kind, dpi=dpi)

    monkeypatch.setattr(saving, "rendered", failing)
    with pytest.raises(StoreError, match="no room"):
        module("layer_latency").main(str(store), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    store = table_stores.latency_run(tmp_path / "store")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="Cannot write"):
        module("layer_latency").main(str(store), out=str(tmp_path / "out"), dpi=DPI)
    with pytest.raises(StoreError, match=r"Did you mean 'png'\?"):
        saving.save_figure(Figure(), tmp_path / "figure.pngg")


def test_cells_that_failed_are_left_out(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    runs = [stores.curve_run(cells / victim, victim) for victim in ("ast", "cnn14")]
    stores.write_study(tmp_path, runs, states={"cnn14": "failed"})
    (figure,) = figures_of("robustness_curves", tmp_path).values()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any(word.startswith("ast") for word in words)
    assert not any(word.startswith("cnn14") for word in words)
    stores.write_study(tmp_path, runs, states={"ast": "waiting", "cnn14": "failed"})
    with pytest.raises(StoreError, match=r"1 curve failed, 1 curve waiting"):
        figures_of("robustness_curves", tmp_path)


def test_files_are_named_after_what_differs(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    stores.write_study(tmp_path, [table_stores.surface_run(cells / name, name) for name in ("ast", "mine.py:make")])
    found = figures_of("loss_surface", tmp_path)
    assert list(found) == ["loss_surface-ast-ast", "loss_surface-mine.py_make-mine.py_make"]
    assert list(figures_of("loss_surface", cells / "ast", clip="clip-1")) == ["loss_surface-clip-1"]
    with pytest.raises(StoreError, match=r"Unknown clip 'clip-9'"):
        figures_of("loss_surface", cells / "ast", clip="clip-9")


def test_bars_are_taken_at_the_level_asked_for(small: dict[str, Path]) -> None:
    summary = json.loads((small["fusion_bars"] / "cells" / "av-mid-audio" / "summary.json").read_text())
    level = summary["radii"][3]
    (figure,) = figures_of("fusion_bars", small["fusion_bars"], at=f"audio={level * 1.005}").values()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"audio\n{number(level)}"]
    heights = [patch.get_height() for patch in axes.patches]
    assert 100 * summary["scores"][3] == pytest.approx(heights[2])
    with pytest.raises(StoreError, match=r"at the level 7"):
        figures_of("fusion_bars", small["fusion_bars"], at="7")


def in_dbfs(folder: Path) -> None:
    """A curve of amplitudes told in dBFS instead."""
    told = json.loads((folder / "summary.json").read_text())
    told["axis"] |= {"unit": "dbfs", "log": False}
    told["radii"] = (20 * np.log10(told["radii"])).tolist()
    (folder / "summary.json").write_text(json.dumps(told))


def test_bars_say_the_unit_of_their_radii(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    runs = [stores.curve_run(cells / modality, modality=modality) for modality in ("audio", "video")]
    stores.write_study(tmp_path, runs)
    in_dbfs(runs[0])
    level = json.loads((runs[0] / "summary.json").read_text())["radii"][3]
    (figure,) = figures_of("fusion_bars", tmp_path, at=f"audio={level + 0.1}").values()
    (axes,) = figure.axes
    assert level < -80
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"audio\n{number(level)}"]
    assert axes.get_xlabel().endswith("radius (dBFS)")
    with pytest.raises(StoreError, match=r"at the level audio=-7"):
        figures_of("fusion_bars", tmp_path, at="audio=-7.77")
    with pytest.raises(StoreError, match=r"amplitude, dbfs cannot stand in one figure"):
        figures_of("fusion_bars", tmp_path)
    with pytest.raises(typer.BadParameter, match="given 'audio=loud'"):
        figures_of("fusion_bars", tmp_path, at="audio=loud")


def test_bars_come_from_attacks_where_there_are_no_curves(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    runs = [
        stores.attack_run(cells / f"{name}-{sense}", name, modality=sense)
        for name in FUSED
        for sense in ("audio", "both")
    ]
    runs.append(stores.attack_run(cells / "band", FUSED[0], support="MelBand(first=0, last=20)"))
    stores.write_study(tmp_path, runs)
    (figure,) = figures_of("fusion_bars", tmp_path).values()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["audio\n10⁻³", "both senses\n10⁻³"]
    assert len(axes.patches) == 6, "an attack confined to a region is none of them"


def test_regions_stand_beside_the_map(drawn: dict[str, Figure]) -> None:
    axes = drawn["universal_map"].findobj(
        lambda artist: isinstance(artist, mpl.axes.Axes) and "accuracy" in artist.get_xlabel()
    )
    assert len(axes) == 1
    words = [label.get_text() for label in axes[0].get_yticklabels()]
    assert words == [
        "everywhere (log-mel)",
        "mel bands 0–20",
        "mel bands 43–63",
        "0–50 % of the clip (log-mel)",
        "708–1412 Hz",
    ], "the attack at another radius is no part of the ablation"
    assert len(axes[0].patches) == 8


def test_a_waveform_has_no_map(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"--modality logmel"):
        figures_of("universal_map", stores.universal_run(tmp_path / "run", modality="audio"))


def test_scatter_shows_every_clip_once(small: dict[str, Path], drawn: dict[str, Figure]) -> None:
    table = read_study(small["threshold_scatter"]).cells()[0].table()
    for axes, sense in zip(drawn["threshold_scatter"].axes, "AV", strict=True):
        right = (table[f"eps_{sense}"] > 0) & (table[f"eps_{sense}_to_AV"] > 0)
        marked = [line for line in axes.get_lines() if line.get_marker() != "None"]
        assert sum(len(line.get_xdata()) for line in marked) == int(right.sum())
        censored = [line for line in marked if line.get_markerfacecolor() == "white"]
        beyond = np.isinf(table[f"eps_{sense}"]) | np.isinf(table[f"eps_{sense}_to_AV"])
        assert sum(len(line.get_xdata()) for line in censored) == int((right & beyond).sum()) > 0
        told = json.loads((small["threshold_scatter"] / "summary.json").read_text())
        both = told["audio" if sense == "A" else "video"]["all"]["both_right"]
        count = round(both["weaker"]["score"] * both["weaker"]["clips"])
        assert f"fusion weaker: {count}" in [text.get_text() for text in axes.texts]


def test_the_border_of_the_decision_is_bold(drawn: dict[str, Figure], small: dict[str, Path]) -> None:
    """The zero contour of the mean runs where the mean margin is 0."""
    field = read_study(small["loss_surface"]).cells()[0].table().groupby(["y", "x"])["margin"].mean().unstack()
    bold = [line for line in drawn["loss_surface"].axes[0].collections if max(line.get_linewidths()) == 1.5]
    assert len(bold) == 1
    across, up = bold[0].get_paths()[0].vertices.T
    from scipy.interpolate import RegularGridInterpolator

    assert "perturbation found" in drawn["loss_surface"].axes[0].get_xlabel()
    margin = RegularGridInterpolator((field.index, field.columns), field.to_numpy())
    assert np.abs(margin(np.stack([up, across], axis=1))).max() < 0.05


def test_the_rest_of_the_layers_is_summed(small: dict[str, Path], drawn: dict[str, Figure]) -> None:
    table = read_study(small["layer_latency"]).cells()[0].table()
    bars = drawn["layer_latency"].axes[0].patches
    assert len(bars) == 16
    assert sum(bar.get_width() for bar in bars) == pytest.approx(table["milliseconds"].sum())
    widths = [bar.get_width() for bar in bars[:-1]]
    assert widths == sorted(widths, reverse=True)


def test_more_than_ten_classes_are_other(tmp_path: Path) -> None:
    store = table_stores.latents_run(tmp_path / "run", classes=[f"class {place:02d}" for place in range(13)], each=3)
    (figure,) = figures_of("latent_projections", store).values()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["clean", "adversarial"]
    assert words[-1] == "other"
    assert len(words) == 13


def test_lines_stay_lines_in_pdf(drawn: dict[str, Figure]) -> None:
    """The page's content holds as many path strokes as a vector picture must."""
    document = saving.rendered(drawn["robustness_curves"], "pdf")
    streams = [part.split(b"endstream")[0] for part in document.split(b"stream\n")[1::1]]
    content = b"".join(inflated(stream) for stream in streams)
    assert content.count(b" l\n") > 100


def inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(stream)
    except zlib.error:
        return b""


def test_a_store_may_lie_anywhere(small: dict[str, Path]) -> None:
    """A study on an fsspec address gives the same picture, and figures can be written to one."""
    from robust.atomic import open_folder

    there = open_folder("memory://figures-test/study")
    for path in small["occlusion_patterns"].rglob("*.json"):
        target = there / path.relative_to(small["occlusion_patterns"]).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    module("occlusion_patterns").main("memory://figures-test/study", out="memory://figures-test/out", dpi=DPI)
    written = (open_folder("memory://figures-test/out") / "occlusion_patterns.png").read_bytes()
    assert rms(pixels(written), pixels(STORED / "occlusion_patterns.png")) < TOLERANCE


def test_a_heat_map_shows_every_score_and_mean_error(tmp_path: Path) -> None:
    run = physical_stores.noise_run(tmp_path / "run")
    told = json.loads((run / "summary.json").read_text())
    (figure,) = figures_of("corruption_heatmap", run).values()
    words = [text.get_text() for text in figure.axes[0].texts]
    for cell in told["cells"]:
        assert f"{100 * cell['score']:.0f}" in words
    assert [f"{100 * row['mean_error']:.0f}" in words for row in told["corruptions"]] == [True] * 3
    assert words.count("1.25") == 2, "the error over the reference's, where there is one"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["white", "hum", "mp3"]
    mixed = sorted(told["cells"], key=lambda cell: cell["severity"])
    physical_stores.edited(run, cells=mixed)
    (figure,) = figures_of("corruption_heatmap", run).values()
    assert [text.get_text() for text in figure.axes[0].texts].count("noise") == 1


def test_a_heat_map_gathers_the_cells_of_a_study(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    runs = []
    for severity, right in ((1, 80), (5, 44)):
        told = {"condition": f"white-{severity}", "corruption": "white", "severity": severity}
        runs.append(physical_stores.edited(stores.change_run(cells / f"w{severity}", right=right), condition=told))
    stores.write_study(tmp_path, runs)
    study = json.loads((tmp_path / "study.json").read_text())
    for cell in study["cells"]:
        cell["kind"] = "corruption"
    (tmp_path / "study.json").write_text(json.dumps(study))
    (figure,) = figures_of("corruption_heatmap", tmp_path).values()
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {f"{100 * 80 / 96:.0f}", f"{100 * 44 / 96:.0f}", f"{100 * (1 - 62 / 96):.0f}"} <= set(words)
    with pytest.raises(StoreError, match=r"holds no finished run of `robust noise"):
        figures_of("corruption_heatmap", cells / "w1")


def test_lines_under_music_are_the_numbers_of_the_run(small: dict[str, Path], drawn: dict[str, Figure]) -> None:
    told = json.loads((small["wake_word_music"] / "summary.json").read_text())
    drawn_points = {
        round(float(value), 6)
        for container in drawn["wake_word_music"].axes[0].containers
        for value in container.lines[0].get_ydata()
    }
    assert drawn_points == {round(100 * cell["f1"], 6) for cell in told["cells"] if cell["smr_db"] is not None}


def test_lines_over_steps_lie_in_a_panel_for_each_victim_and_data_set(drawn: dict[str, Figure]) -> None:
    """The purifiers of a data set may be paths: panels and lines are named after their domain."""
    panels = drawn["purification_steps"].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"{victim}, {data}, waveform" for data in ("events", "fsdd") for victim in ("ast", "m18")
    ]
    words = [text.get_text() for text in drawn["purification_steps"].legends[0].get_texts()]
    assert words[:3] == ["L∞ 10⁻³", "L∞ 2·10⁻³", "L∞ 4·10⁻³"]
    assert {"unaware attack", "aware, non-adaptive", "aware, adaptive"} <= set(words)
    for axes in panels:
        assert [line.get_linestyle() for line in axes.lines].count("-") == 3
        assert [line.get_markerfacecolor() for line in axes.lines].count("white") == 3
    first = next(line.get_ydata() for line in panels[0].lines if line.get_linestyle() == "-")
    np.testing.assert_allclose(first, [100 * right / 24 for right in (6, 9, 10, 11)])


def test_each_kind_of_diffusion_has_its_figure(tmp_path: Path) -> None:
    families = {"waveform": (1, 3), "mel": (3,)}
    found = figures_of("purification_steps", defended_stores.purifier_study(tmp_path, families))
    assert list(found) == ["purification_steps-waveform", "purification_steps-mel"]
    with pytest.raises(StoreError, match="reverse steps"):
        figures_of("purification_steps", defended_stores.purify_run(tmp_path / "run", name="median:3", steps=None))


def test_a_run_at_one_radius_is_drawn_like_a_curve_s(tmp_path: Path) -> None:
    run = defended_stores.purification_run(tmp_path / "run")
    told = json.loads((run / "summary.json").read_text())
    (figure,) = figures_of("purifier_bars", run).values()
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    shown = [
        told["bare_clean"],
        told["bare_robust"],
        told["clean"],
        told["attacks"]["transfer"]["robust"],
        told["robust"],
    ]
    np.testing.assert_allclose(widths, [100 * score["score"] for score in shown])


def test_what_was_not_attacked_adaptively_has_no_such_bar(drawn: dict[str, Figure]) -> None:
    colour = bar_looks(list(SERIES))[ADAPTIVE].colour
    counts = [
        (len(axes.patches), sum(to_rgba(colour) == bar.get_facecolor() for bar in axes.patches))
        for axes in drawn["purifier_bars"].axes
    ]
    assert counts == [(2 + 4 * 3, 1 + 4), (2 + 4 * 3, 1 + 3), (2 + 4 * 3, 1 + 3)]


def test_smoothings_are_told_apart(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    words = [text.get_text() for text in drawn["certified_curves"].legends[0].get_texts()]
    assert words[:3] == [
        "m18, σ 0.25, waveform denoiser, certified",
        "m18-gaussian, σ 0.25, certified",
        "m18-gaussian, σ 0.5, certified",
    ]
    (figure,) = figures_of("certified_curves", defended_stores.certificates(tmp_path / "all"), sigma=0.25).values()
    assert [text.get_text().split(",")[0] for text in figure.legends[0].get_texts()[:3]] == [
        "m18",
        "m18-gaussian",
        "under attack",
    ]
    with pytest.raises(StoreError, match=r"sigma 0\.3; those there are have 0\.25, 0\.5"):
        figures_of("certified_curves", tmp_path / "all", sigma=0.3)
    shutil.rmtree(tmp_path / "all")
    for name in ("one", "two"):
        defended_stores.certificate_run(tmp_path / name)
    (figure,) = figures_of("certified_curves", tmp_path).values()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["σ 0.25 (one), certified", "σ 0.25 (two), certified"]
    physical_stores.edited(tmp_path / "one", radius=0.1)
    with pytest.raises(StoreError, match=r"one radius 0\.1"):
        figures_of("certified_curves", tmp_path)


def test_long_names_stay_on_the_page(drawn: dict[str, Figure]) -> None:
    for name in ("certified_curves", "purification_steps", "purifier_bars"):
        figure = drawn[name]
        canvas = FigureCanvasAgg(figure)
        with styled():
            canvas.draw()
        box = figure.legends[0].get_window_extent(canvas.get_renderer())
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, name


def test_architectures_are_scored_and_ranked(tmp_path: Path) -> None:
    found = figures_of("architectures", geometry_stores.scored_study(tmp_path))
    assert list(found) == ["architectures-scores", "architectures-ranks"]
    (panel,) = found["architectures-ranks"].axes
    assert "τ = +0.67" in panel.get_title("left")
    rows = [tick.get_text() for tick in found["architectures-scores"].axes[0].get_yticklabels()]
    assert rows == ["cnn14", "m5", "m18", "ast"], "by family"
