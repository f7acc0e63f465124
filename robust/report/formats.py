"""Numbers as the page writes them: few digits, a true minus, a word where there is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING = "–"


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
    """

    name: str
    metric: str
    text: str
    interval: str
    score: float | None
    low: float | None
    high: float | None
    clips: int | None


def shown(name: str, told: Mapping[str, Any]) -> Shown:
    """A score from a summary (`score`, `low`, `high`, `metric`, `clips`)."""
    score, low, high = (_number(told.get(key)) for key in ("score", "low", "high"))
    metric = str(told.get("metric", "score"))
    return Shown(name, metric, percent(score), interval(low, high), score, low, high, told.get("clips"))


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def percent(share: float | None) -> str:
    """0.9333 -> `93.3 %`, which does not break before its sign."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.1f}\u00a0%".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval of shares: `84.1 to 97.4 %`."""
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%".replace("-", "−")


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
    return f"{value:.1f}\u00a0{unit}".replace("-", "−")


def p_value(p: float | None) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    if p is None or math.isnan(p):
        return NOTHING
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(number_of: int, noun: str) -> str:
    """`1 clip`, `2 clips`, `2 classes`."""
    plural = "es" if noun.endswith("ss") else "s"
    return f"{number_of:,} {noun}{'' if number_of == 1 else plural}"
