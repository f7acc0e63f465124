"""From records to the numbers people quote: scores with intervals, sizes, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attacks.threat import Ball
from robust.errors import StoreError, unknown
from robust.evaluation.checks import Check
from robust.evaluation.perception import perceptual_medians
from robust.metrics.classification import Score, accuracy, mean_average_precision
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd


def clean_score(records: pd.DataFrame, task: Task) -> Score:
    """The victim's score on unchanged clips."""
    if task == "multiclass":
        return accuracy(records["clean_correct"].to_numpy())
    return mean_average_precision(np.stack(records["clean_logits"]), np.stack(records["label"]))


def robust_score(records: pd.DataFrame, task: Task) -> Score:
    """The victim's score under the condition."""
    if task == "multiclass":
        return accuracy((records["clean_correct"] & records["correct"]).to_numpy())
    return mean_average_precision(np.stack(records["logits"]), np.stack(records["label"]))


def threat_summary(records: pd.DataFrame, threat: Mapping[str, Ball]) -> dict[str, dict[str, Any]]:
    """Per modality: the budget as declared, as a norm, as a level and as the SNR it leaves at worst (medians)."""
    told = {}
    for name, ball in threat.items():
        radius, energy = records[f"radius_{name}"].to_numpy(), records[f"energy_{name}"].to_numpy()
        count = records[f"valid_{name}"].to_numpy().clip(min=1)
        per_sample = {"linf": np.ones_like(radius), "l2": np.sqrt(count), "l1": count.astype(float)}[ball.norm]
        loudest = radius * np.sqrt(count) if ball.norm == "linf" else radius
        with np.errstate(divide="ignore", invalid="ignore"):
            snr_db = 20 * np.log10(energy / loudest)
            level_dbfs = 20 * np.log10(radius / per_sample)
        told[name] = {
            "norm": ball.norm,
            "radius": torch.as_tensor(ball.radius, dtype=torch.float64).tolist(),
            "unit": ball.unit,
            "radius_amplitude": float(np.median(radius)),
            "radius_dbfs": finite(float(np.median(level_dbfs))),
            "snr_db_median": finite(float(np.median(snr_db))),
        }
    return told


def attack_summary(
    records: pd.DataFrame, threat: Mapping[str, Ball], checks: list[Check], task: Task, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What `robust attack --json` prints."""
    ratios = [column for column in records if column.startswith("ratio_")]
    worst = max((float(records[column].max()) for column in ratios), default=0.0)
    attacked = records[records["attacked"]]
    return {
        "kind": "attack",
        **facts,
        "clips": len(records),
        "task": task,
        "threat": threat_summary(records, threat),
        "clean": asdict(clean_score(records, task)),
        "robust": asdict(robust_score(records, task)),
        "success": _success(attacked),
        "perceptual": perceptual_medians(records),
        "audit": {"violations": int(records["violated"].sum()), "worst_ratio": worst},
        "checks": [asdict(check) for check in checks],
        "forwards_per_clip": float(attacked["forwards"].mean()) if len(attacked) else 0.0,
        "backwards_per_clip": float(attacked["backwards"].mean()) if len(attacked) else 0.0,
    }


def _success(attacked: pd.DataFrame) -> dict[str, Any]:
    """Share of the attacked clips where the attacker got what he wanted; no score where none was attacked."""
    found = asdict(replace(accuracy(attacked["success"].to_numpy()), metric="attack success"))
    return {**found, "score": finite(found["score"])}


def failed_checks(summary: Mapping[str, Any]) -> list[str]:
    """What the automatic checks of a run warn of or fail, one line each."""
    return [f"{check['verdict'].upper()} {check['name']}: {check['detail']}" for check in _doubts(summary)]


def grouped_checks(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The same of many runs (name, summary): a line for each check and verdict, failures first, with one example."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, summary in runs:
        for check in _doubts(summary):
            found.setdefault((check["verdict"], check["name"]), []).append(f"{name}: {check['detail']}")
    return [
        f"{verdict.upper()} {check} in {len(told)} of {len(runs)} cells, e.g. {told[0]}"
        for (verdict, check), told in sorted(found.items())
    ]


def _doubts(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [check for check in summary.get("checks") or [] if check["verdict"] in ("warn", "fail")]


GROUPS = ("label_name", "clean_prediction", "prediction", "clean_correct", "correct", "attacked", "success", "violated")
"""Columns of the records that take few values."""


def check_group(column: str) -> None:
    """Raises `StoreError` unless scores can be told apart by `column`."""
    if column not in GROUPS:
        raise StoreError(unknown("column", column, GROUPS))


def scores_by(records: pd.DataFrame, column: str, task: Task) -> dict[str, tuple[Score, Score]]:
    """Clean and robust score for each value of one of the columns `GROUPS`.

    Raises:
        StoreError: If it is none of them.
    """
    check_group(column)
    groups = records.groupby(column, sort=True)
    return {str(value): (clean_score(part, task), robust_score(part, task)) for value, part in groups}


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
