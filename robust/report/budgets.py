"""What perturbations really measured, in three units: a norm of the amplitude, a level, a signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.report.formats import decibels, norm_name, number

if TYPE_CHECKING:
    import pandas as pd

LEVELS = {"audio": "dBFS", "video": "dB of full range", "joint": "dBFS"}
"""Modalities of which an amplitude has a level: their full scale is known."""


@dataclass(frozen=True)
class Budget:
    """One modality's budget as used; medians, extremes in words where they differ."""

    modality: str
    norm: str
    allowed: str
    realised: str
    level: str
    noise: str
    ratio: str


def budgets(records: pd.DataFrame | None, threat: Mapping[str, Any]) -> list[Budget]:
    """Over the clips that were changed; empty where records keep no sizes."""
    if records is None:
        return []
    changed = records[records["attacked"]] if "attacked" in records else records
    return [] if len(changed) == 0 else [*_declared(changed, threat), *_parts(changed, threat)]


def clip_budgets(row: Mapping[str, Any], threat: Mapping[str, Any]) -> list[Budget]:
    """Of one clip, a row of the records."""
    import pandas as pd

    return _declared(pd.DataFrame([dict(row)]), threat)


def _declared(records: pd.DataFrame, threat: Mapping[str, Any]) -> list[Budget]:
    found = []
    for name, told in threat.items():
        norm = str(told["norm"])
        if f"{norm}_{name}" not in records:
            continue
        size = records[f"{norm}_{name}"].to_numpy(dtype=np.float64)
        allowed = records[f"radius_{name}"].to_numpy(dtype=np.float64) if f"radius_{name}" in records else None
        found.append(
            Budget(
                name,
                norm_name(norm),
                _span(allowed, number),
                _span(size, number),
                _level(records, name, norm, size),
                _span(_column(records, f"snr_db_{name}"), decibels),
                number(float(records[f"ratio_{name}"].max()), 7) if f"ratio_{name}" in records else "",
            )
        )
    return found


def _parts(records: pd.DataFrame, threat: Mapping[str, Any]) -> list[Budget]:
    """Of a joint budget: what each sense took of it, in its own units."""
    if set(threat) != {"joint"}:
        return []
    norm = str(threat["joint"]["norm"])
    names = [column.removeprefix(f"{norm}_") for column in records if column.startswith(f"{norm}_")]
    return [
        Budget(f"of which {name}", norm_name(norm), "", _span(_column(records, f"{norm}_{name}"), number), "", "", "")
        for name in names
        if name != "joint"
    ]


def _column(records: pd.DataFrame, name: str) -> NDArray[np.float64] | None:
    return records[name].to_numpy(dtype=np.float64) if name in records else None


def _level(records: pd.DataFrame, name: str, norm: str, size: NDArray[np.float64]) -> str:
    """The norm as a level: of the largest value (linf), the RMS (l2) or the mean magnitude (l1)."""
    if name not in LEVELS or f"valid_{name}" not in records:
        return ""
    valid = records[f"valid_{name}"].to_numpy(dtype=np.float64).clip(min=1)
    per_sample = {"linf": np.ones_like(valid), "l2": np.sqrt(valid), "l1": valid}[norm]
    with np.errstate(divide="ignore"):
        level = 20 * np.log10(size / per_sample)
    return _span(level, lambda value: decibels(value, LEVELS[name]))


def _span(values: NDArray[np.float64] | None, text: Any) -> str:
    """The median, with the extremes where these read differently."""
    if values is None or len(values) == 0:
        return ""
    low, middle, high = (text(float(value)) for value in (values.min(), np.median(values), values.max()))
    return middle if low == high else f"{middle} ({low} to {high})"
