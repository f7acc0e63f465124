"""Levels of a curve: what they are called, and which of them each clip withstands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.curve_summary import TIE
from robust.evaluation.radius_search import level_at, shares

if TYPE_CHECKING:
    import pandas as pd

_MATHS = {r"\infty": "∞", "$": "", "_": "", "{": "", "}": "", "\\": ""}
PLAIN = ("full scale = 1", "amplitude", "")
"""Units that go without saying beside a number."""


def axis_words(axis: Mapping[str, Any]) -> tuple[str, str]:
    """What an axis shows and in which unit, from a label such as `SNR of white noise (dB)`; the unit may be empty."""
    label = str(axis.get("label") or axis.get("name") or "level")
    for sign, plain in _MATHS.items():
        label = label.replace(sign, plain)
    found = re.fullmatch(r"(.*?)\s*\(([^()]*)\)", label)
    name, unit = (found[1], found[2]) if found else (label, str(axis.get("unit", "")))
    return name, "" if unit in PLAIN else unit


def searched(records: pd.DataFrame) -> bool:
    """Whether the records are of a search, which tells of each clip by what it breaks."""
    return "scale" in records or "radius" in records


def stands(records: pd.DataFrame, summary: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(N, G) whether each clip stands at each level, from the smallest level found to break it.

    Args:
        records: Of a search: with `scale` (share of the last level's budget) or `radius` (a level).
        summary: Of the run: `radii` and `axis`.
    """
    levels, axis = summary["radii"], summary["axis"]
    if "scale" in records:
        grid = shares(levels, axis["unit"]).numpy()
        return np.asarray(records["scale"].to_numpy(dtype=np.float64)[:, None] > grid * TIE)
    radius, places = records["radius"].to_numpy(dtype=np.float64)[:, None], np.array(levels, dtype=np.float64)
    slack = (TIE - 1) * np.abs(places)
    return np.asarray(radius < places - slack if axis.get("harder") == "down" else radius > places + slack)


def median_level(records: pd.DataFrame, summary: Mapping[str, Any]) -> float:
    """The median of the smallest levels that break a clip; infinite where half of them stand at every level."""
    if "scale" not in records:
        return float(np.median(records["radius"].to_numpy(dtype=np.float64)))
    # The lower of the middle two: a mean of levels in decibels, or with an infinite one, is none.
    middle = float(np.quantile(records["scale"].to_numpy(dtype=np.float64), 0.5, method="lower"))
    return level_at(middle, summary["radii"][-1], summary["axis"]["unit"])
