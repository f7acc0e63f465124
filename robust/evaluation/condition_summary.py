"""From the records of a condition that is no attack (a missing modality, occlusion, noise) to its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.evaluation.paired import Comparison, clean_view, compare
from robust.evaluation.summary import clean_score, finite
from robust.metrics.classification import Score, accuracy, mean_average_precision
from robust.metrics.multilabel import class_table, multilabel_scores
from robust.types import Task

if TYPE_CHECKING:
    import pandas as pd


def condition_score(records: pd.DataFrame, task: Task) -> Score:
    """The victim's score under the condition.

    Unlike an attack, which leaves clips alone that are wrong at first, a condition changes every clip, and some that
    were wrong may come right.
    """
    if task == "multiclass":
        return accuracy(records["correct"].to_numpy())
    return mean_average_precision(np.stack(records["logits"].tolist()), np.stack(records["label"].tolist()))


def condition_summary(records: pd.DataFrame, task: Task, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line prints of a condition.

    Args:
        records: One row per clip, as the engine writes them.
        task: Of the victim.
        facts: Entries that come first: the victim, the data, the condition.

    Returns:
        JSON-ready: `facts`, `clips`, `task`, `clean` and `changed` (each a score with its 95 % interval; `changed` is
        the score under the condition), `difference` (changed - clean, paired, with interval, p and test), and for many
        labels `multilabel`: mAUC and d' of both.
    """
    told: dict[str, Any] = {
        "kind": "change",
        **facts,
        "clips": len(records),
        "task": task,
        "clean": score_dict(clean_score(records, task)),
        "changed": score_dict(condition_score(records, task)),
        "difference": comparison_dict(compare(records, clean_view(records), task)),
    }
    if task == "multilabel":
        told["multilabel"] = {
            "clean": multilabel_dict(clean_view(records)),
            "changed": multilabel_dict(records),
        }
    return told


def score_dict(score: Score) -> dict[str, Any]:
    """A score as JSON; None where it is undefined."""
    return {**asdict(score), "score": finite(score.score)}


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON; None where it is undefined."""
    numbers = {name: finite(getattr(comparison, name)) for name in ("a", "b", "difference", "low", "high", "p")}
    return {**asdict(comparison), **numbers}


def multilabel_dict(records: pd.DataFrame) -> dict[str, Any]:
    """mAP, mAUC and d' of one set of records, as JSON."""
    found = multilabel_scores(np.stack(records["logits"].tolist()), np.stack(records["label"].tolist()))
    return {**asdict(found), "mean_ap": score_dict(found.mean_ap), "mean_auc": score_dict(found.mean_auc)}


def multilabel_tables(records: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    """mAP, mAUC and d' of clean clips and of changed ones, and the same class by class, as JSON."""
    truth = np.stack(records["label"].tolist())
    tables = {
        "clean": class_table(np.stack(records["clean_logits"].tolist()), truth, labels),
        "robust": class_table(np.stack(records["logits"].tolist()), truth, labels),
    }
    return {
        "clean": multilabel_dict(clean_view(records)),
        "robust": multilabel_dict(records),
        "classes": {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()},
    }
