"""The levels of a curve: from what was asked to radii, budgets, conditions and axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from attacks.errors import ThreatModelError, unknown
from attacks.joint import JOINT
from attacks.threat import Ball, Unit
from robust.evaluation.conditions import Condition
from robust.evaluation.radius_search import shares
from robust.evaluation.sweeps import find_sweep
from robust.threats import BOTH, DEFAULT_EPS, ThreatModel, threat_model
from robust.types import Batch
from robust.victims.base import Victim

ATTACK = "attack"
NORMS: Mapping[str, str] = {"linf": "L∞ radius", "l2": "L₂ radius", "l1": "L₁ radius", "snr": "SNR"}
"""Names of attacked axes and what they are called in pictures; `snr` is an L2 ball of a size set by each clip."""
USUAL_SNR_DB = tuple(np.linspace(80.0, 0.0, 17).tolist())
SPAN, COUNT = 100.0, 20
"""Without radii: so far to either side of the usual radius, and so many."""


def geomspace(low: float, high: float, count: int) -> NDArray[np.float64]:
    """`count` radii from `low` to `high`, evenly spaced in their logarithm."""
    return np.geomspace(low, high, count)


def attacked_levels(
    victim: Victim,
    norm: str,
    eps: Sequence[float] | NDArray[np.float64] | None,
    unit: str,
    modality: str,
    scale: Mapping[str, float] | None,
) -> tuple[list[float], Unit, list[ThreatModel]]:
    """The levels of an attacked axis, their unit, and the budget at each.

    Raises:
        ThreatModelError: For what does not fit together, and for levels that do not go from easy to hard.
    """
    threat_model(victim, modality, "linf", 0.0)  # a modality that is not there is told before radii for it
    levels, own = attack_levels(norm, eps, unit, modality, scale)
    shares(levels, own)
    return levels, own, [_threat(victim, norm, level, own, modality, scale) for level in levels]


def swept_levels(
    against: str, eps: Sequence[float] | NDArray[np.float64] | None, modality: str
) -> tuple[list[float], list[Condition], dict[str, Any]]:
    """The levels of a sweep, the condition at each, and the axis; see `Curve.axis`.

    Raises:
        ThreatModelError: For a sweep that is not there, and for levels that do not go from easy to hard.
    """
    sweep = find_sweep(against)
    levels = list(sweep.usual) if eps is None else [float(level) for level in eps]
    _check_order(levels, falling=sweep.axis["harder"] == "down")
    return levels, [sweep.condition(level, modality) for level in levels], {**sweep.axis, "modality": modality}


def check_radii(threat: Mapping[str, Ball], batch: Batch) -> None:
    """Raises `ThreatModelError` for a radius beyond the data range, before anything is computed."""
    for name, ball in threat.items():
        ball.around(batch.inputs[name], batch.valid.get(name))


def attack_levels(
    norm: str,
    eps: Sequence[float] | NDArray[np.float64] | None,
    unit: str,
    modality: str,
    scale: Mapping[str, float] | None = None,
) -> tuple[list[float], Unit]:
    """The levels of an attacked axis and their unit; usual ones where none are given, scaled radii within the range."""
    if norm not in NORMS:
        raise ThreatModelError(unknown("norm", norm, NORMS))
    if unit not in get_args(Unit):
        raise ThreatModelError(unknown("unit", unit, get_args(Unit)))
    if norm == "snr":
        return (list(USUAL_SNR_DB) if eps is None else [float(level) for level in eps]), "snr_db"
    if eps is not None:
        return [float(level) for level in eps], cast(Unit, unit)
    if unit != "amplitude":
        raise ThreatModelError(f"There are no usual radii in {unit}; give them with --eps.")
    named = "audio" if modality == BOTH else modality
    if named not in DEFAULT_EPS:
        raise ThreatModelError(f"There are no usual radii for the modality {modality!r}; give them with --eps.")
    usual = DEFAULT_EPS[named][norm]
    # A pixel may move by 1 at most, and a scaled one by as much less in units of the radius.
    largest = max([1.0, *(scale or {}).values()]) if modality == BOTH else 1.0
    most = min(usual * SPAN, 1.0 / largest) if norm == "linf" else usual * SPAN
    return geomspace(usual / SPAN, most, COUNT).tolist(), "amplitude"


def attack_axis(norm: str, modality: str, unit: Unit) -> dict[str, Any]:
    """What the levels of an attack are; see `Curve.axis`."""
    units = {"amplitude": "full scale = 1", "dbfs": "dBFS", "lsb16": "steps of 16 bit", "snr_db": "dB"}
    told = units.get(unit, "steps of 8 bit")
    return {
        "name": norm,
        "modality": modality,
        "unit": unit,
        "label": f"{NORMS[norm]} ({told})",
        "log": unit not in ("dbfs", "snr_db"),
        "harder": "down" if unit == "snr_db" else "up",
    }


def _threat(
    victim: Victim, norm: str, level: float, unit: Unit, modality: str, scale: Mapping[str, float] | None
) -> ThreatModel:
    """The budget of one level."""
    lp = "l2" if norm == "snr" else norm
    if modality == JOINT:
        return threat_model(victim, modality, lp, level, unit, scale=scale)
    if scale is None:
        return threat_model(victim, modality, lp, level, unit)
    if modality != BOTH or unit in ("dbfs", "snr_db"):
        raise ThreatModelError("Scales say how radii of two modalities go together; give them with both or joint.")
    for name in scale:
        if name not in victim.spec.modalities:
            raise ThreatModelError(unknown("modality", name, victim.spec.modalities))
    eps = {name: level * scale.get(name, 1.0) for name in victim.spec.modalities}
    return threat_model(victim, modality, lp, eps, unit)


def _check_order(levels: Sequence[float], *, falling: bool) -> None:
    steps = np.diff(levels) * (-1 if falling else 1)
    if len(levels) == 0 or not np.isfinite(levels).all() or (steps <= 0).any():
        way = "descending (harder is lower)" if falling else "ascending"
        raise ThreatModelError(f"The levels must be finite and {way}, each given once; given {list(levels)}.")
