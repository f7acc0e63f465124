"""A robustness curve: score against how hard the test is, and the numbers that sum it up."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.summary import finite
from robust.metrics.classification import Score, wilson

if TYPE_CHECKING:
    import pandas as pd

TIE = 1 + 1e-9
"""A perturbation of a level's size to within rounding is of that level."""


@dataclass(frozen=True)
class Curve:
    """Score of one victim against levels that grow harder.

    Attributes:
        radii: (G,) levels in the unit of the axis, from easy to hard (an SNR falls).
        scores: (G,) score at each; accuracy or mAP.
        low, high: (G,) ends of 95 % intervals.
        clean: Score without anything done.
        victim: Name of the victim.
        axis: What the levels are: `name` (`linf`, `l2`, `l1`, `snr`, `noise`, `rt60`...), `modality`, `unit`, `label`
            for a picture, `log` (levels are spaced in their logarithm), `harder` (`up` or `down`).
        metric: `accuracy` or `mAP`.
        smallest: (N,) for a search, the smallest level found to break each clip: 0 where the clip is wrong at first,
            infinite where none was found (for levels in dB: infinite and minus infinite). None for a sweep.
        backwards_per_clip: Mean number of gradients spent on a clip.
        clips: Number of clips.
    """

    radii: NDArray[np.float64]
    scores: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    clean: float
    victim: str
    axis: Mapping[str, Any]
    metric: str = "accuracy"
    smallest: NDArray[np.float64] | None = None
    backwards_per_clip: float = 0.0
    clips: int = 0
    name: str | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """Name of the line in a picture."""
        return self.name or self.victim

    @property
    def norm(self) -> str:
        """Of the radii."""
        return str(self.axis["name"])

    @property
    def auc(self) -> float:
        """Mean score over the axis (over log radius where the axis is logarithmic), first level to last; 0 to 1."""
        if len(self.radii) == 1:
            return float(self.scores[0])
        place = self._places()
        return float(np.trapezoid(self.scores, place) / (place[-1] - place[0]))

    @property
    def radius_half(self) -> float:
        """Level at which half of all clips are lost; see `radius_below`."""
        return self.radius_below(0.5)

    def radius_below(self, threshold: float, of: str = "scores") -> float:
        """Level at which the score falls under `threshold`: the "attack potency" of thesis chapter 10.

        Of a search it is the size of a perturbation that was found, so that the truth is no larger. Of a sweep it is
        interpolated between levels on the axis; if the score is under at the first level already, that level. Infinite
        (minus infinite where levels fall) if the score stays above within the levels.

        Args:
            threshold: A score, 0 to 1.
            of: `scores`, or `low` or `high` for the ends of the interval of this level.
        """
        if self.smallest is not None:
            return self._found_below(threshold, of)
        values = getattr(self, of)
        under = np.flatnonzero(values < threshold)
        if len(under) == 0:
            return self.never
        first = int(under[0])
        if first == 0:
            return float(self.radii[0])
        place = self._places()[first - 1 : first + 1]
        above, below = float(values[first - 1]), float(values[first])
        found = place[0] + (above - threshold) / (above - below) * (place[1] - place[0])
        return float(np.exp(found) if self.axis["log"] else found)

    def _found_below(self, threshold: float, of: str) -> float:
        """The same at the resolution of the clips."""
        assert self.smallest is not None
        ordered = np.sort(self.smallest)[:: -1 if self.axis["harder"] == "down" else 1]
        for lost, level in enumerate(ordered.tolist(), start=1):
            standing = len(ordered) - lost
            ends = wilson(standing, len(ordered))
            if {"scores": standing / len(ordered), "low": ends[0], "high": ends[1]}[of] < threshold:
                return float(level)
        return self.never

    @property
    def never(self) -> float:
        """What `radius_below` returns where the score stays above the threshold."""
        return -math.inf if self.axis["harder"] == "down" else math.inf

    def named(self, name: str) -> Curve:
        """The same curve under another name in a picture."""
        return replace(self, name=name)

    def summary(self, threshold: float = 0.5) -> dict[str, Any]:
        """Everything but the clips, as JSON; `from_summary` makes the curve again."""
        ends = sorted(self.radius_below(threshold, of) for of in ("low", "high"))
        return {
            "victim": self.victim,
            "metric": self.metric,
            "axis": dict(self.axis),
            "clips": self.clips,
            "clean": self.clean_score(),
            "radii": self.radii.tolist(),
            "scores": [finite(score) for score in self.scores.tolist()],
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "auc": finite(self.auc),
            "radius_half": finite(self.radius_half),
            "threshold": threshold,
            "radius_threshold": finite(self.radius_below(threshold)),
            "radius_threshold_low": finite(ends[0]),
            "radius_threshold_high": finite(ends[1]),
            "backwards_per_clip": self.backwards_per_clip,
        }

    def clean_score(self) -> dict[str, Any]:
        """The clean score as JSON; its interval is Wilson's for an accuracy, absent for mAP."""
        ends: tuple[float | None, float | None] = (None, None)
        if self.metric == "accuracy":
            ends = wilson(round(self.clean * self.clips), self.clips)
        return {
            "score": finite(self.clean),
            "low": ends[0],
            "high": ends[1],
            "clips": self.clips,
            "metric": self.metric,
        }

    def plot(self, path: str | Path) -> None:
        """Draws the curve with its band into `path` (`.pdf`, `.png` or `.svg`)."""
        from robust.plots.curve import draw_curves, save_figure

        save_figure(draw_curves([self]), Path(path))

    def _places(self) -> NDArray[np.float64]:
        """Where levels lie on the axis."""
        return np.log(self.radii) if self.axis["log"] else self.radii


def level_range(first: float, last: float, count: int) -> list[float]:
    """`count` levels from `first` to `last`: evenly in the logarithm upwards, in equal steps downwards or from 0."""
    evenly = np.geomspace if 0 < first < last else np.linspace
    return [float(level) for level in evenly(first, last, count)]


def from_summary(told: Mapping[str, Any]) -> Curve:
    """The curve that a stored summary tells of, without its clips."""
    return Curve(
        radii=np.array(told["radii"], dtype=np.float64),
        scores=np.array(told["scores"], dtype=np.float64),
        low=np.array(told["low"], dtype=np.float64),
        high=np.array(told["high"], dtype=np.float64),
        clean=math.nan if told["clean"]["score"] is None else told["clean"]["score"],
        victim=told["victim"],
        axis=told["axis"],
        metric=told["metric"],
        backwards_per_clip=told.get("backwards_per_clip", 0.0),
        clips=told["clips"],
    )


def from_scales(
    records: pd.DataFrame, grid: Sequence[float], levels: Sequence[float], victim: str, axis: Mapping[str, Any]
) -> Curve:
    """The curve of a search: the share of clips that nothing found breaks within each share of the budget.

    Args:
        records: With the columns of `RadiusSearch`.
        grid: (G,) shares that were searched.
        levels: (G,) the same in the unit of the axis.
        victim: Name.
        axis: See `Curve`.
    """
    from robust.evaluation.radius_search import level_at

    scale = records["scale"].to_numpy(dtype=np.float64)
    standing = [int((scale > share * TIE).sum()) for share in grid]
    ends = np.array([wilson(count, len(scale)) for count in standing])
    smallest = [level_at(share, levels[-1], axis["unit"]) for share in scale.tolist()]
    return Curve(
        radii=np.array(levels, dtype=np.float64),
        scores=np.array(standing) / len(scale),
        low=ends[:, 0],
        high=ends[:, 1],
        clean=float((scale > 0).mean()),
        victim=victim,
        axis=axis,
        smallest=np.array(smallest),
        backwards_per_clip=float(records["backwards"].mean()),
        clips=len(scale),
    )


def from_scores(
    scores: Sequence[Score],
    clean: Score,
    levels: Sequence[float],
    victim: str,
    axis: Mapping[str, Any],
    backwards_per_clip: float = 0.0,
) -> Curve:
    """The curve of a sweep: a score measured anew at every level."""
    return Curve(
        radii=np.array(levels, dtype=np.float64),
        scores=np.array([score.score for score in scores]),
        low=np.array([score.low for score in scores]),
        high=np.array([score.high for score in scores]),
        clean=clean.score,
        victim=victim,
        axis=axis,
        metric=clean.metric,
        backwards_per_clip=backwards_per_clip,
        clips=clean.clips,
    )


def curves_csv(curves: Sequence[Curve]) -> bytes:
    """One row per curve and level."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = ("axis", "modality", "unit", "level", "metric", "clips", "clean", "score", "low", "high")
    table.writerow(("victim", *columns))
    for curve in curves:
        axis = [curve.axis[name] for name in ("name", "modality", "unit")]
        for values in zip(curve.radii, curve.scores, curve.low, curve.high, strict=True):
            level, score, low, high = (float(value) for value in values)
            table.writerow((curve.label, *axis, level, curve.metric, curve.clips, curve.clean, score, low, high))
    return text.getvalue().encode()
