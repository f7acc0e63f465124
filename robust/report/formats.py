"""Numbers as the page writes them: few digits, a true minus, a word where there is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING = "–"
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
UNITS = {"snr_db": "dB of SNR", "dbfs": "dBFS", "lsb16": "steps of 16 bit", "pixel255": "of 255 grey levels"}


@dataclass(frozen=True)
class Shown:
    """A score ready for the page.

    Attributes:
        name: What it is of: `clean`, `robust`, `changed`...
        metric: `accuracy` or `mAP`.
        text: The score in percent.
        interval: Its 95 % interval in percent, or empty.
        score, low, high: The numbers, 0 to 1; None where undefined.
        clips: Number of clips.
        words: What it is called where name and metric do not say it.
        called: What a score behind a purifier may be called: `adaptive`, or `non-adaptive: ...`; empty of others.
    """

    name: str
    metric: str
    text: str
    interval: str
    score: float | None
    low: float | None
    high: float | None
    clips: int | None
    words: str = ""
    called: str = ""

    @property
    def weak(self) -> bool:
        """Whether a stronger attack was left out."""
        return self.called not in ("", "adaptive")

    @property
    def called_short(self) -> str:
        """The same without what was left out."""
        return self.called.partition(":")[0]

    @property
    def label(self) -> str:
        """What stands above the number."""
        return self.words or f"{self.name} {self.metric}"


def shown(name: str, told: Mapping[str, Any], words: str = "", called: str = "") -> Shown:
    """A score from a summary (`score`, `low`, `high`, `metric`, `clips`)."""
    score, low, high = (_number(told.get(key)) for key in ("score", "low", "high"))
    metric = str(told.get("metric", "score"))
    return Shown(name, metric, percent(score), interval(low, high), score, low, high, told.get("clips"), words, called)


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def norm_name(norm: str) -> str:
    """`L∞` for `linf`."""
    return NORMS.get(norm, norm)


def percent(share: float | None) -> str:
    """0.9333 -> `93.3 %`, which does not break before its sign."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.1f}\u00a0%".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval of shares: `84.1 to 97.4 %`."""
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%".replace("-", "−")


def with_interval(score: Mapping[str, Any]) -> str:
    """`90.6 % (95 % interval 83.1 to 95.0 %)`."""
    ends = interval(_number(score.get("low")), _number(score.get("high")))
    return percent(_number(score.get("score"))) + (f" (95\u00a0% interval {ends})" if ends else "")


def difference_words(told: Mapping[str, Any]) -> str:
    """`+12.5 points, 95 % interval +4.1 to +20.2` of a paired difference of shares; nothing where there is none."""
    value, low, high = (_number(told.get(key)) for key in ("difference", "low", "high"))
    if value is None:
        return ""
    ends = "" if low is None or high is None else f", 95\u00a0% interval {points(low)} to {points(high)}"
    return f"{points(value)} points{ends}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return NOTHING if difference is None or not math.isfinite(difference) else signed(100 * difference, 1)


def signed(value: float, digits: int) -> str:
    """With a plus or a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits; infinity and absence in words."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}".replace("-", "−")


def decibels(value: float | None, unit: str = "dB") -> str:
    """One decimal and the unit; infinite where nothing changed."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return f"{'' if value > 0 else '−'}∞\u00a0{unit}"
    return f"{round(value, 1) + 0.0:.1f}\u00a0{unit}".replace("-", "−")  # no minus before nought


def p_value(p: float | None) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    if p is None or math.isnan(p):
        return NOTHING
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(number_of: int, noun: str) -> str:
    """`1 clip`, `2 clips`, `2 classes`."""
    plural = "es" if noun.endswith("ss") else "s"
    return f"{number_of:,} {noun}{'' if number_of == 1 else plural}"
