"""`robust.evaluate`: a victim under any condition - a modality missing or swapped, occlusion, noise."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from attacks.gradients import Oracle, frozen
from robust.api import make_manifest
from robust.atomic import Folder, open_folder
from robust.evaluation import engine
from robust.evaluation.condition_summary import condition_score, condition_summary, score_dict
from robust.evaluation.conditions import Condition
from robust.evaluation.deletions import Fill, Missing, Swap, mean_input
from robust.evaluation.dominance import Dominance, dominance
from robust.evaluation.engine import AlignedData, checked_batch, fitting_batch
from robust.evaluation.store import Store
from robust.evaluation.summary import clean_score
from robust.metrics.classification import Score
from robust.types import Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

MEAN_CLIPS = 256
"""Over so many clips the mean input of a missing modality is taken."""


@dataclass(frozen=True)
class Evaluation:
    """A victim before and under a condition.

    Attributes:
        clean, changed: Scores with 95 % intervals.
        summary: What the command line prints as JSON.
        records: One row per clip.
        dominance: Which sense decides; of a swap alone.
    """

    clean: Score
    changed: Score
    summary: dict[str, Any]
    records: pd.DataFrame
    dominance: Dominance | None = None


def evaluate(
    victim: Victim,
    data: Dataset,
    condition: Condition,
    *,
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Scores a victim on a data set as it is and under a condition, clip by clip.

    Args:
        victim: From `load_victim` or `Victim.wrap`.
        data: From `load_data`.
        condition: E.g. `missing(victim, data, "video")`, `swap(...)`, `robust.evaluation.occlusion.Occlusion(...)`.
        batch_size: Clips at once; `auto` fits it to their length. Changes no result.
        seed: From which all randomness is derived.
        out: Run folder; records are kept in memory alone when None.
        resume: Go on with the run in `out`.
        facts: More entries for the manifest.

    Raises:
        RobustError: For anything the caller can mend.
    """
    aligned = AlignedData(data, victim.spec)
    size = fitting_batch(victim, aligned) if batch_size == "auto" else checked_batch(batch_size)
    _try_on_one(victim, aligned, condition, seed)
    manifest = make_manifest(victim, data, condition.describe(), seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(open_folder(out) if out is not None else Path(scratch) / "run", manifest, resume=resume)
        engine.evaluate(victim, aligned, condition, store, batch_size=size, seed=seed)
        records = store.records()
        told = {
            "victim": victim.spec.name,
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint()},
            "condition": condition.describe(),
            "run": str(store.folder) if out is not None else None,
        }
        summary = condition_summary(records, victim.spec.task, told)
        who = dominance(records) if isinstance(condition, Swap) else None
        if who is not None:
            shares = {name: score_dict(getattr(who, name)) for name in ("audio", "video", "neither")}
            summary["dominance"] = {**shares, "pairs": who.pairs, "asked": who.asked}
        if out is not None:
            store.write_summary(summary)
    task = victim.spec.task
    return Evaluation(clean_score(records, task), condition_score(records, task), summary, records, who)


def _try_on_one(victim: Victim, aligned: AlignedData, condition: Condition, seed: int) -> None:
    """Applies the condition to the first clip, so that what cannot be is refused before anything is written."""
    batch = aligned.batch([0])
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = batch.to(device)
    with frozen(victim):
        clean = Oracle(victim, 1, device).logits(batch.inputs, torch.zeros(1, dtype=torch.int64, device=device))
        condition.apply(victim, batch, clean, seed)


def missing(victim: Victim, data: Dataset, modality: str, fill: str = "zeros") -> Missing:
    """The condition that a modality is missing: `zeros`, the `mean` of the data set's clips, or `silence`."""
    mean = mean_input(AlignedData(data, victim.spec), modality, MEAN_CLIPS) if fill == "mean" else None
    return Missing(modality, cast(Fill, fill), mean)


def swap(victim: Victim, data: Dataset, modality: str, seed: int | None = None) -> Swap:
    """The condition that a modality comes from another clip of the data set, with another label."""
    return Swap(modality, AlignedData(data, victim.spec), seed)


__all__ = ["Evaluation", "evaluate", "missing", "swap"]
