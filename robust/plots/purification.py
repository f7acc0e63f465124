"""Purifiers under attack: accuracy against the number of reverse steps, and purifiers beside each other.

What an attack that knows nothing of the purifier leaves is dashed and hollow; what attacks leave that know of it is
solid, its marker filled where their suite was adaptive and hollow where it was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.errors import StoreError
from robust.evaluation.purifier_label import ADAPTIVE as ADAPTIVE_LABEL
from robust.plots.bars import Bar, bar_handles, ordered, place_bars
from robust.plots.style import (
    COLUMN_INCHES,
    NORMS,
    PAGE_INCHES,
    Look,
    bar_looks,
    blank,
    looks,
    number,
    percent,
    percent_limits,
    styled,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]
"""Of one run of `robust attack --purify`, or of `robust.purified_curve`, which is one at each of its radii."""

CLEAN, UNAWARE, PARTIAL, ADAPTIVE = SERIES = (
    "clean",
    "unaware attack",
    "aware, non-adaptive",
    "aware, adaptive",
)
AWARE = (PARTIAL, ADAPTIVE)
NOTHING = "no defense"
ASIDE = 0.04
"""By how many steps of the axis lines are moved beside each other, so that their whiskers can be told apart."""
FEW = 10
"""Purifiers with room to spread; more of them must still fit on a page."""


@dataclass(frozen=True)
class Point:
    """Three scores of a summary, each with `score`, `low` and `high`, None where it has none.

    Attributes:
        victim: And data set, of which it is.
        purifier: As `--purify` names it, a diffusion model by its domain and not by its path.
        family: The same without the number of steps.
        steps: n*, reverse steps of diffusion; None of other purifiers.
        radius: With norm and unit, in words.
        scores: A name from `SERIES` -> score behind the purifier.
        bare: The same without it.
    """

    victim: str
    purifier: str
    family: str
    steps: int | None
    radius: str
    scores: Mapping[str, Summary | None]
    bare: Mapping[str, Summary | None]


def points_of(summary: Summary) -> list[Point]:
    """What the figures show of a run, or of a curve: a point for each radius."""
    if summary.get("kind") != "purify":
        return [point_of(summary)]
    levels = [{**level, "adaptive": level["label"] == ADAPTIVE_LABEL} for level in summary["levels"]]
    return [point_of({**summary, **level}) for level in levels]


def point_of(summary: Summary) -> Point:
    """What the figures show of a run at one radius.

    The transfer attack is unaware of the purifier; a suite of it alone has no other score.
    """
    settings = summary["purifier"]["settings"]
    name, steps = settings.get("channel", summary["purifier"]["name"]), settings.get("steps")
    words = name.split(":")
    family = ":".join(word for place, word in enumerate(words) if place == 0 or word != str(steps))
    adaptive = bool(summary["adaptive"])
    transfer = summary["attacks"].get("transfer", {}).get("robust")
    aware = None if list(summary["attacks"]) == ["transfer"] else summary["robust"]
    threat = next(iter(summary["threat"].values()))
    return Point(
        victim=f"{summary['victim']}, {summary['data']['name']}",
        purifier=name,
        family=family,
        steps=steps,
        radius=f"{NORMS[threat['norm']]} {_level(threat)}",
        scores={
            CLEAN: summary["clean"],
            UNAWARE: transfer,
            PARTIAL: None if adaptive else aware,
            ADAPTIVE: aware if adaptive else None,
        },
        bare={CLEAN: summary["bare_clean"], UNAWARE: None, PARTIAL: None, ADAPTIVE: summary["bare_robust"]},
    )


def draw_steps(points: Sequence[Point]) -> Figure:
    """Clean and robust accuracy against n*, a line for each radius; a panel for each victim and kind of diffusion.

    At n* = 0 there is no purifier, and the attack on the bare victim knows all there is.

    Raises:
        StoreError: If no purifier has steps.
    """
    points = [point for point in points if point.steps is not None]
    if not points:
        raise StoreError("There is nothing to draw: no run has a purifier with reverse steps, as waveform:3 has.")
    panels: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        panels.setdefault((point.victim, point.family), []).append(point)
    styles = looks(ordered(point.radius for point in points))
    columns = _columns(len(panels))
    rows, width = -(-len(panels) // columns), COLUMN_INCHES if columns == 1 else PAGE_INCHES
    with styled():
        handles = _step_handles(styles)
        abreast = 2 if columns == 1 else 3
        figure = blank(width, 2.15 * rows + 0.16 * -(-len(handles) // abreast))
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, ((victim, family), own) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(f"{victim}, {family}")
            _step_panel(axes, own, styles)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy (%)")
        figure.legend(handles=handles, loc="outside upper center", ncols=abreast)
    return figure


def draw_purifiers(points: Sequence[Point]) -> Figure:
    """Purifiers below each other, each with its clean score and those under attack; a panel for each radius.

    Raises:
        StoreError: If there are no runs.
    """
    if not points:
        raise StoreError("There is nothing to draw: no run against a purifier.")
    panels: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        panels.setdefault((point.victim, point.radius), []).append(point)
    groups = [NOTHING, *ordered(point.purifier for point in points)]
    styles = bar_looks(list(SERIES))
    columns = _columns(len(panels))
    rows = -(-len(panels) // columns)
    with styled():
        width = COLUMN_INCHES if columns == 1 else PAGE_INCHES
        thickness = 0.36 if len(groups) <= FEW else 0.28
        figure = blank(width, 0.5 + rows * (0.55 + thickness * len(groups)))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, ((victim, radius), own) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(f"{victim}, {radius}")
            place_bars(axes, _bars(own), groups, styles, lying=True)
            axes.set_yticks(range(len(groups)), groups)
            axes.tick_params(axis="y", length=0)
            axes.set_ylim(len(groups) - 0.45, -0.55)
            percent_limits(axes, "accuracy", 100, axis="x")
            axes.set_xlabel("accuracy (%)")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        figure.legend(handles=bar_handles(styles), loc="outside upper center", ncols=2 if columns == 1 else 4)
    return figure


def _columns(panels: int) -> int:
    return 2 if panels == 4 else min(panels, 3)


def _bars(points: Sequence[Point]) -> list[Bar]:
    """Those of the bare victim, of the first run that has them, and of each purifier."""
    first = next((point for point in points if point.bare[ADAPTIVE] is not None), points[0])
    rows = [(NOTHING, first.bare), *((point.purifier, point.scores) for point in points)]
    found: dict[tuple[str, str], Bar] = {}
    for group, scores in rows:
        for series, score in scores.items():
            if score is not None:
                found.setdefault((group, series), Bar(group, series, score["score"], score["low"], score["high"]))
    return sorted(found.values(), key=lambda bar: SERIES.index(bar.series))


def _step_panel(axes: Axes, points: Sequence[Point], styles: Mapping[str, Look]) -> None:
    """All lines of one victim behind one kind of diffusion."""
    by_radius = {radius: [point for point in points if point.radius == radius] for radius in styles}
    told: list[tuple[str, Look, list[Point]]] = [(CLEAN, CLEAN_LOOK, list(points))]
    told += [(series, styles[radius], own) for radius, own in by_radius.items() for series in (UNAWARE, ADAPTIVE)]
    steps = sorted({0, *(point.steps or 0 for point in points)})
    places = {step: place for place, step in enumerate(steps)}
    for rank, (series, style, own) in enumerate(told):
        line = _line(series, own)
        if line:
            aside = ASIDE * (rank - (len(told) - 1) / 2)
            levels = np.array([places[step] + aside for step in line])
            scores, low, high = ([score[part] for score in line.values()] for part in ("score", "low", "high"))
            axes.errorbar(
                levels, percent(scores), yerr=whiskers(scores, low, high), **_dress(series, style), clip_on=False
            )
            partial = [place for place, step in enumerate(line) if series == ADAPTIVE and _is_partial(own, step)]
            if partial:  # a line without points would have no bounds, and the layout none
                hollow = {**_dress(PARTIAL, style), "linestyle": "none", "zorder": 4}
                del hollow["elinewidth"]
                axes.plot(levels[partial], np.array(percent(scores))[partial], **hollow, clip_on=False)
    axes.set_xticks(range(len(steps)), [str(step) for step in steps])
    axes.set_xlim(-0.3, len(steps) - 0.7)
    axes.set_xlabel("reverse steps n*")
    percent_limits(axes, "accuracy", 100)


def _line(series: str, points: Sequence[Point]) -> dict[int, Summary]:
    """n* -> score, from the bare victim at 0 on; empty where no run has such a score."""
    names = AWARE if series in AWARE else (series,)
    own = {point.steps or 0: point.scores[name] for name in names for point in points if point.scores[name] is not None}
    bare = next((point.bare[CLEAN if series == CLEAN else ADAPTIVE] for point in points), None)
    found: dict[int, Summary | None] = {**({0: bare} if own else {}), **own}
    return {step: score for step, score in sorted(found.items()) if score is not None}


def _is_partial(points: Sequence[Point], steps: int) -> bool:
    return any(point.steps == steps and point.scores[PARTIAL] is not None for point in points)


CLEAN_LOOK = Look("#8a8a8a", (0, (1.2, 1.2)), "x", "")


def _dress(series: str, style: Look) -> dict[str, Any]:
    """Dashed where the attack was unaware of the purifier, filled where adaptive; clean scores dotted and grey."""
    hollow = series in (UNAWARE, PARTIAL)
    return {
        "color": style.colour,
        "linestyle": style.dashes if series == CLEAN else (0, (4, 1.8)) if series == UNAWARE else "-",
        "marker": style.marker,
        "markersize": 3.8,
        "markerfacecolor": "white" if hollow else style.colour,
        "markeredgecolor": style.colour,
        "markeredgewidth": 0.9,
        "elinewidth": 0.7,
        "zorder": 2 if series == CLEAN else 3,
    }


def _step_handles(styles: Mapping[str, Look]) -> list[Artist]:
    """Radii by colour and marker, attacks by line."""
    from matplotlib.lines import Line2D

    black = Look("#000000", "-", "o", "")
    dressed = {**{radius: (ADAPTIVE, style) for radius, style in styles.items()}, CLEAN: (CLEAN, CLEAN_LOOK)}
    dressed |= {series: (series, black) for series in (UNAWARE, *AWARE)}
    entries: list[Artist] = []
    for label, (series, style) in dressed.items():
        look = {name: value for name, value in _dress(series, style).items() if name not in ("elinewidth", "zorder")}
        entries.append(Line2D([], [], **look, label=label))
    stem: dict[str, Any] = {"marker": "|", "markersize": 8, "markeredgewidth": 0.7, "color": "black"}
    entries.append(Line2D([], [], linestyle="none", **stem, label="95 % interval"))
    return entries


def _level(threat: Summary) -> str:
    """A radius with its unit; amplitudes go without."""
    unit = {"amplitude": "", "dbfs": " dBFS", "snr_db": " dB SNR", "lsb16": " LSB"}.get(threat["unit"], threat["unit"])
    return f"{number(float(threat['radius']))}{unit}"
