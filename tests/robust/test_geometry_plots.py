"""Figures of geometry: every number of the store is in them once, and what cannot be drawn is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from robust.errors import StoreError
from robust.plots.geometry import FILLS, Interval, ScatterPanel, draw_measures, draw_scatter, measure_words
from robust.plots.geometry_cells import class_counts, class_intervals, interval_words, victim_intervals
from robust.plots.style import luminance
from robust.study.points import victim_points
from robust.study.store import read_study
from tests.robust import stores
from tests.robust.drawing import figures_of
from tests.robust.geometry_stores import geometry_run, geometry_study, plain_study, rewritten, small_study, table_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_study(tmp_path_factory.mktemp("study") / "kin")


def marked(axes: Axes) -> list[Line2D]:
    """Points, and not the lines of intervals."""
    return [line for line in axes.get_lines() if line.get_marker() not in ("None", "")]


def of_measure(figure: Figure, panel: str, measure: str) -> list[Line2D]:
    (axes,) = [one for one in figure.axes if one.get_title(loc="left") == panel and one.get_xlabel() == measure]
    return marked(axes)


def test_every_measure_of_every_victim_is_drawn(folder: Path) -> None:
    (figure,) = figures_of("geometry", folder).values()
    study = read_study(folder)
    cells = study.cells(kind="geometry")
    tables = [table_of(Path(str(cell.folder))) for cell in cells]
    shown = sorted(float(line.get_xdata()[0]) for axes in figure.axes for line in marked(axes))
    assert shown == pytest.approx(sorted(value for table in tables for value in table["value"]))
    points = of_measure(figure, "convexity, fused", "top")
    wanted = [t.set_index(["group", "space", "measure"]).loc[("convexity", "fused", "top"), "value"] for t in tables]
    assert [float(line.get_xdata()[0]) for line in points] == pytest.approx(wanted)
    rows = [round(float(line.get_ydata()[0])) for line in points]
    assert rows == [0, 0, 1, 1, 2, 2, 3, 3], "seeds of a victim share its row"
    assert len({float(line.get_ydata()[0]) for line in points}) == 8, "and lie beside each other"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(
        dict.fromkeys(cell.victim for cell in cells)
    )
    assert {line.get_marker() for line in points[:4]} != {line.get_marker() for line in points[4:]}
    one, other = (luminance(str(points[place].get_color())) for place in (0, 4))
    assert abs(one - other) > 0.08, "families differ in grey too"


def test_intervals_are_the_stores(folder: Path) -> None:
    (figure,) = figures_of("geometry", folder, measures="sharpness").values()
    tables = [table_of(Path(str(cell.folder))) for cell in read_study(folder).cells(kind="geometry")]
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_xlabel()}
    assert list(panels) == ["SAM", "worst L∞", "average"]
    ends = [line.get_xdata() for line in panels["SAM"].get_lines() if len(line.get_xdata()) == 2]
    wanted = [table.loc[0, ["low", "high"]].astype(float).tolist() for table in tables]
    assert np.array(ends) == pytest.approx(np.array(wanted))
    assert all(len(line.get_xdata()) == 1 for line in panels["worst L∞"].get_lines()), "no interval is known"
    with pytest.raises(StoreError, match=r"Unknown group of measures 'sharpnes'.*Did you mean 'sharpness'"):
        figures_of("geometry", folder, measures="sharpnes")


def test_what_does_not_fit_goes_on_the_next_page(tmp_path: Path) -> None:
    intervals = [
        Interval("density, audio", f"measure-{number}", f"victim {row}", "one", number + row / 10, number, number + 1)
        for number in range(9)
        for row in range(20)
    ]
    pages = draw_measures(intervals)
    assert [sum(axes.get_visible() for axes in page.axes) for page in pages] == [8, 1]
    assert all(page.get_figheight() < 9.3 for page in pages)
    found = figures_of("geometry", geometry_study(tmp_path / "study", seeds=(0,)))
    assert list(found) == ["geometry-1", "geometry-2"]


def test_numbers_over_decades_get_a_logarithmic_axis() -> None:
    def scale(values: list[float]) -> str:
        (page,) = draw_measures([Interval("p", "m", str(row), "s", value) for row, value in enumerate(values)])
        return page.axes[0].get_xscale()

    assert scale([0.001, 0.1, 3.0]) == "log"
    assert scale([0.1, 0.2, 0.3]) == "linear"
    assert scale([-5.0, 0.1, 300.0]) == "linear", "a log density may be negative"
    assert scale([0.0, 300.0]) == "linear"
    assert scale([3.0]) == "linear"


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no measures to draw"):
        draw_measures([Interval("p", "m", "r", "s", float("nan"))])
    with pytest.raises(StoreError, match="no pairs"):
        draw_scatter([])
    many = [f"defense {number}" for number in range(len(FILLS) + 1)]
    ones = np.ones(len(many))
    with pytest.raises(StoreError, match=r"7 defenses cannot be told apart.*6 can"):
        draw_scatter([ScatterPanel("x", "y", ones, ones, ["m"] * len(many), many)])
    alone = plain_study(tmp_path / "alone", [geometry_run(tmp_path / "alone" / "cells" / "one")])
    with pytest.raises(StoreError, match="holds no scores"):
        figures_of("geometry_scatter", alone)
    run = geometry_run(tmp_path / "mixed" / "cells" / "one")
    curve = stores.curve_run(tmp_path / "mixed" / "cells" / "curve")
    mixed = plain_study(tmp_path / "mixed", [run, curve])
    with pytest.raises(StoreError, match="holds no scores with records"):
        figures_of("geometry_scatter", mixed, over="classes")


def test_a_scatter_shows_every_point_with_its_look(folder: Path) -> None:
    pair = "convexity.fused.top:pgd"
    (figure,) = figures_of("geometry_scatter", folder, pair=[pair]).values()
    (axes,) = figure.axes
    points = victim_points(read_study(folder))
    x = points.geometry[(points.geometry["measure"] == "top") & (points.geometry["space"] == "fused")]
    y = points.scores[points.scores["number"] == "pgd"]
    shown = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marked(axes)]
    assert np.array(shown) == pytest.approx(np.stack([x["value"], 100 * y["value"]], axis=1))
    looks = {(line.get_marker(), line.get_fillstyle()) for line in marked(axes)}
    assert looks == {("o", "full"), ("o", "none"), ("s", "full"), ("s", "none")}, "model by marker, defense by filling"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [word for word in words if word.strip()] == ["av-mid", "none", "av-late", "pgd"], "columns of two lines"
    across = stats.kendalltau(x["value"], y["value"]).statistic
    within = np.mean(
        [stats.kendalltau(a["value"], b["value"]).statistic for (_, a), (_, b) in zip(
            x.groupby("family"), y.groupby("family"), strict=True)]
    )  # fmt: skip
    title = axes.get_title(loc="left").replace("−", "-")
    assert f"τ within {within:+.2f} [" in title
    assert f"τ of all {across:+.2f} [" in title
    with pytest.raises(StoreError, match=r"Unknown pair MEASURE:SCORE 'convexity.fused.top:pdg'.*Did you mean"):
        figures_of("geometry_scatter", folder, pair=["convexity.fused.top:pdg"])


def test_the_best_of_each_group_and_kind_are_chosen(folder: Path) -> None:
    (figure,) = figures_of("geometry_scatter", folder).values()
    shown = [(axes.get_xlabel().replace("\n", " "), axes.get_ylabel()) for axes in figure.axes if axes.get_visible()]
    groups = [(label.partition(",")[0].partition(":")[0], score) for label, score in shown]
    assert sorted(groups) == sorted(
        (group, score) for group in ("sharpness", "input", "density", "convexity") for score in ("pgd (%)", "hiss (%)")
    )


def test_classes_against_their_scores_and_their_frequency(folder: Path) -> None:
    (figure,) = figures_of("geometry_scatter", folder, over="classes").values()
    victims = len(read_study(folder).cells(kind="geometry"))
    for axes in figure.axes:
        if axes.get_visible():
            assert len(marked(axes)) == victims * len(stores.CLASSES)
    (figure,) = figures_of("geometry_scatter", folder, over="frequency").values()
    assert [axes.get_ylabel() for axes in figure.axes] == [
        f"convexity of {space} (%)" for space in ("audio", "video", "fused")
    ]
    counts = sorted({float(line.get_xdata()[0]) for line in marked(figure.axes[0])})
    assert counts == [8 + 3 * rank for rank in range(6)]
    own = [table_of(Path(str(cell.folder)), "classes") for cell in read_study(folder).cells(kind="geometry")]
    means = np.mean(
        [t[(t["space"] == "audio") & (t["measure"] == "convexity")]["value"].to_numpy() for t in own], axis=0
    )
    rho = stats.spearmanr(range(6), means).statistic
    assert f"ρ of means {rho:+.2f}" in figure.axes[0].get_title(loc="left")


def test_clips_of_a_class_are_counted(tmp_path: Path) -> None:
    run = geometry_run(tmp_path / "run")
    (cell,) = read_study(run).cells()
    assert class_counts(cell) == {label: 8 + 3 * rank for rank, label in enumerate(stores.CLASSES)}
    classes = table_of(run, "classes")
    classes.assign(over="pairs").to_parquet(run / "classes.parquet")
    assert class_counts(cell) == dict.fromkeys(stores.CLASSES, 16), "from the clips, where no measure says"
    found = class_intervals(cell)
    assert {one.row for one in found} == set(stores.CLASSES)
    assert len(found) == 6 * 6, "convexity and purity in three spaces"
    many = classes.assign(label=[f"class {place}" for place in range(len(classes))])
    many.to_parquet(run / "classes.parquet")
    assert class_intervals(cell) == []


def test_victims_of_different_senses_share_a_figure(tmp_path: Path) -> None:
    """A victim without sight has no row of its own there, and takes no room of others."""
    runs = [geometry_run(tmp_path / "cells" / name, name) for name in ("av-mid", "m5")]
    table = table_of(runs[1])
    table[table["space"] != "video"].to_parquet(runs[1] / "table.parquet")
    study = read_study(plain_study(tmp_path, runs))
    intervals = victim_intervals(study.cells())
    seen = {one.row for one in intervals if one.panel == "density, video"}
    assert seen == {"av-mid"}
    (page,) = draw_measures(intervals)
    assert all(len(axes.get_yticks()) == 2 for axes in page.axes if axes.get_visible())


def test_words() -> None:
    assert measure_words("knn-class-log-density") == "kNN class log density"
    assert measure_words("worst-linf-error") == "worst L∞ error"
    assert measure_words("asam") == "ASAM"
    assert interval_words(-0.5, -0.75, 0.1) == "−0.50 [−0.75, +0.10]"
    assert interval_words(0.5, float("nan"), float("nan")) == "+0.50"
    assert interval_words(float("nan"), 0.0, 0.0) == "–"


def test_a_family_is_what_the_study_says(tmp_path: Path) -> None:
    folder = small_study(tmp_path / "study")
    told = json.loads((folder / "study.json").read_text())["victims"]
    rewritten(folder / "study.json", victims={name: {**one, "model": "one"} for name, one in told.items()})
    (figure,) = figures_of("geometry", folder).values()
    assert figure.legends == []
