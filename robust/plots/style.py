"""The one style of all figures: sizes of a journal column, text from 7 pt, lines that survive a photocopier.

Lines differ in colour, in lightness (CIE L* in steps of 11 or more, for greyscale), in dashes and in markers; colours
stay apart for the three kinds of dichromats. Fonts are embedded as TrueType (type 42) and come with matplotlib, so
that figures look the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.35
PAGE_INCHES = 6.9
SMALLEST_POINTS = 7.0
"""No text is smaller where the figure is printed at its size."""

MAP = "cividis"
"""Colour map of all fields: its lightness grows evenly, also for dichromats and in grey."""

STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.4,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "savefig.bbox": "standard",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "pdf.compression": 6,
    "svg.hashsalt": "robust",
}


@dataclass(frozen=True)
class Look:
    """How one victim or class is told from the others.

    Attributes:
        colour: Hex.
        dashes: Line style.
        marker: Point style.
        hatch: Pattern of bars.
    """

    colour: str
    dashes: Any
    marker: str
    hatch: str


COLOURS = ("#000000", "#33208c", "#a61c3c", "#2b8a7e", "#ec8a2c", "#93c6f0")
"""From dark to light."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "")


def look(index: int) -> Look:
    """The look of the series `index`; the first six differ in all respects, the first thirty in marker or colour."""
    count = len(COLOURS)
    return Look(
        COLOURS[index % count], _DASHES[index % count], _MARKERS[index % len(_MARKERS)], _HATCHES[index % count]
    )


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Name -> look, by order."""
    return {name: look(index) for index, name in enumerate(names)}


def bar_looks(names: Sequence[str]) -> dict[str, Look]:
    """Name -> look for bars: grey for one alone, else as far apart as can be, black coming last."""
    if len(names) == 1:
        return {names[0]: Look("#8a8a8a", "-", "o", "")}
    last = len(COLOURS) - 1
    if len(names) > last:
        return looks(names)
    places = np.linspace(1, last, len(names)).round().astype(int).tolist()
    return {name: look(place) for name, place in zip(names, places, strict=True)}


@contextmanager
def styled() -> Iterator[None]:
    """Within it figures have this style, whatever the settings of the user."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcParams.update({name: value for name, value in mpl.rcParamsDefault.items() if "backend" not in name})
        mpl.rcParams.update(STYLE)
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure of this size in inches; call it within `styled`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.04, wspace=0.03, hspace=0.03)
    return Figure(figsize=(width, height), layout=engine)


def luminance(colour: str) -> float:
    """How light a colour `#rrggbb` is on a grey print, 0 to 1 (luma of ITU-R BT.601)."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def percent(shares: ArrayLike) -> NDArray[np.float64]:
    """Shares as percentages."""
    return 100 * np.asarray(shares, dtype=np.float64)


def whiskers(scores: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """(2, N) lengths below and above, in per cent, as `errorbar` takes them."""
    middle, below, above = percent(scores), percent(low), percent(high)
    return np.stack([np.maximum(middle - below, 0), np.maximum(above - middle, 0)])


NORMS = {"linf": "L∞", "l2": "L₂", "l1": "L₁"}
"""Letters that need no small print."""
MODALITIES = {"logmel": "log-mel", "video_features": "video features", "both": "both senses", "joint": "joint ball"}


def modality_word(modality: str) -> str:
    """As it is written in figures."""
    return MODALITIES.get(modality, modality)


def upright(label: str) -> str:
    """A label without formulas, whose indices would be smaller than the smallest text."""
    for name, formula in (("linf", r"$L_\infty$"), ("l2", "$L_2$"), ("l1", "$L_1$")):
        label = label.replace(formula, NORMS[name])
    return label


def metric_word(metric: str) -> str:
    """As it is written in figures."""
    return {"map": "mAP", "mauc": "mAUC"}.get(metric.lower(), metric)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """Short and without an exponent in small print: `0.05`, `3·10⁻⁵`, `10⁻⁴`."""
    if value == 0 or 0.00999 < abs(value) < 9_999.5:
        return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")
    return _power(value)


def _power(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    size, factor = int(exponent), f"{float(mantissa):g}".replace("-", "−")
    power = "10" + str(size).translate(_SUPERSCRIPTS)
    if size == 0:
        return factor
    return power if factor == "1" else f"{factor}·{power}"


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Labels an axis that is logarithmic already: decades, and 2 and 5 between where there are few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = math.log10(high / low) if 0 < low < high else 1.0
    parts = (1.0,) if decades >= 1.8 else (1.0, 3.0) if decades >= 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10, subs=parts, numticks=9))
    powers = low < 0.009 or high > 9_900
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value) if powers else number(value)))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=50))
    axis.set_minor_formatter(NullFormatter())


def percent_limits(axes: Axes, metric: str, largest: float, *, axis: str = "y") -> None:
    """0 to 100 for accuracies; to the next ten above `largest` (per cent) for other scores."""
    top = 100.0 if metric == "accuracy" else min(100.0, 10 * math.ceil(max(largest, 1) / 10))
    (axes.set_ylim if axis == "y" else axes.set_xlim)(0, top * 1.02)
    step = 20 if top > 60 else 10
    (axes.set_yticks if axis == "y" else axes.set_xticks)(np.arange(0, top + 1, step))
