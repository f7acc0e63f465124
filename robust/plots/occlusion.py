"""The patterns of the occlusion battery, drawn, beside what they leave of the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robust.errors import StoreError
from robust.plots.bars import Bar, bar_handles, ordered, place_bars
from robust.plots.style import COLUMN_INCHES, PAGE_INCHES, bar_looks, blank, modality_word, percent_limits, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robust.evaluation.occlusion import Pattern


def draw_occlusion(panels: Mapping[str, Sequence[Bar]], *, score_label: str, metric: str = "accuracy") -> Figure:
    """One row per pattern: what it keeps of the clip, in shades of where it was, and bars of the scores.

    Args:
        panels: Modality -> bars; a bar's group is the name of a pattern of `robust.evaluation.occlusion`, its series
            the victim.
        score_label: With its unit.
        metric: Of the scores.

    Raises:
        StoreError: If there are no bars, or a pattern is unknown.
    """
    from robust.errors import unknown
    from robust.evaluation.occlusion import PATTERNS

    bars = [bar for panel in panels.values() for bar in panel]
    if not bars:
        raise StoreError("There are no scores under occlusion to draw.")
    for bar in bars:
        if bar.group not in PATTERNS:
            raise StoreError(unknown("occlusion pattern", bar.group, PATTERNS))
    groups = [name for name in PATTERNS if name in {bar.group for bar in bars}]
    styles = bar_looks(ordered(bar.series for bar in bars))
    with styled():
        width = COLUMN_INCHES if len(panels) == 1 else PAGE_INCHES
        row = 0.19 + 0.035 * max(len(styles) - 1, 0)
        figure = blank(width, 0.95 + row * len(groups))
        left, *right = figure.subplots(1, 1 + len(panels), sharey=True, width_ratios=(0.62, *[1] * len(panels)))
        for place, name in enumerate(groups):
            _stripes(left, PATTERNS[name], place)
        left.set_yticks(range(len(groups)), groups)
        left.tick_params(axis="y", length=0)
        left.set(xlim=(0, 100), xlabel="time (% of clip)", ylim=(len(groups) - 0.4, -0.6))
        left.set_xticks((0, 50, 100))
        left.set_title("what is kept")
        left.spines["left"].set_visible(False)
        largest = max(100 * max(bar.score, bar.high or 0, bar.clean or 0) for bar in bars)
        for axes, (modality, own) in zip(right, panels.items(), strict=True):
            place_bars(axes, own, groups, styles, lying=True)
            percent_limits(axes, metric, largest, axis="x")
            axes.set_xlabel(score_label)
            axes.tick_params(axis="y", length=0, labelleft=False)
            axes.set_title(f"{modality_word(modality)} hidden")
        handles = bar_handles(styles, clean=any(bar.clean is not None for bar in bars))
        figure.legend(handles=handles, loc="outside upper center", ncols=3 if width == COLUMN_INCHES else 6)
    return figure


def _stripes(axes: Axes, pattern: Pattern, place: int) -> None:
    """What a pattern leaves, as it lies afterwards; the shade of a block tells from when it is, early ones light."""
    step = 100 / pattern.blocks
    kept = [block for block in range(pattern.blocks) if block not in pattern.hidden]
    for rank, block in enumerate(kept):
        shade = 0.78 - 0.6 * block / max(pattern.blocks - 1, 1)
        start = (rank if pattern.concat else block) * step
        axes.broken_barh([(start, step)], (place - 0.34, 0.68), facecolor=str(round(shade, 3)), linewidth=0)
    axes.broken_barh([(0, 100)], (place - 0.34, 0.68), facecolor="none", edgecolor="0.4", linewidth=0.5)


__all__ = ["draw_occlusion"]
