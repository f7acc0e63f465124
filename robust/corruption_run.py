"""`robust.noise`: a victim under named corruptions at five severities, all clips and victims under the same draws."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attacks.channel import Channel
from attacks.gradients import frozen
from attacks.weights import weights_hash
from robust.api import make_manifest
from robust.atomic import Folder, open_folder
from robust.corruptions.base import SEVERITIES, Corruption
from robust.corruptions.cache import DEFAULT_GIB, CorruptionCache
from robust.corruptions.naming import ALL, checked_severities, chosen_corruptions
from robust.corruptions.rendering import VERSION
from robust.errors import DataError
from robust.evaluation.corruption_cells import CLEAN, PIECE, Cell, cells_of, evaluate_cells
from robust.evaluation.corruption_reference import Reference, pinned_reference
from robust.evaluation.corruption_table import RESAMPLES, Scored, corruption_summary
from robust.evaluation.engine import AlignedData, checked_batch, fitting_batch
from robust.evaluation.purified_table import purified_summary
from robust.evaluation.store import Store
from robust.metrics.classification import Score
from robust.types import Dataset
from robust.victims.base import Victim
from robust.victims.purified import purified

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class NoiseRun:
    """A victim under corruptions.

    Attributes:
        clean: Score on unchanged clips.
        summary: What `robust noise --json` prints.
        records: One row for each clip and cell; `corruption` is `clean` for the clips as they were.
    """

    clean: Score
    summary: dict[str, Any]
    records: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """One row for each corruption and severity."""
        import pandas as pd

        return pd.DataFrame(self.summary["cells"])

    def plot(self) -> Figure:
        """The heat map of scores."""
        from robust.plots.corruptions import draw_corruptions

        return draw_corruptions(self.summary)

    def as_reference(self) -> Reference:
        """This run's errors as those of the reference of mCE."""
        told = {name: self.summary[name] for name in ("weights", "data", "seed")}
        return Scored(self.records, self.summary["task"]).as_reference({"model": self.summary["victim"], **told})


def noise(
    victim: Victim,
    data: Dataset,
    corruptions: str | Iterable[str | Corruption] = ALL,
    severities: Iterable[int] = SEVERITIES,
    *,
    reference: Victim | NoiseRun | None = None,
    purify: str | Channel | None = None,
    cache_gib: float = DEFAULT_GIB,
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> NoiseRun:
    """Scores a victim under named corruptions.

    Each clip meets one draw of a corruption at all severities, derived from the seed, the clip's id and the
    corruption's name: every victim of one sample rate and length hears the same.

    Args:
        victim: From `load_victim` or `Victim.wrap`; it takes audio (a waveform), video, or both.
        data: From `load_data`.
        corruptions: `all`, names or categories, `audiomentations:NAME,PARAMETER=VALUE`, or corruptions of your own.
        severities: Of 1 to 5.
        reference: Of mCE: a victim, or what it gave on the same data. None: the pinned one, where the data is of the
            test split of `events`.
        purify: A purifier, by name as `robust.purifiers` has it or made for the victim's clips and on its device: the
            same clips are heard through it too, each in one draw, and the summary has a `purified` table of before and
            after.
        cache_gib: Bound of the corrupted clips on disk; 0 keeps none.
        batch_size: Clips classified at once; `auto` is 32 or what fits. Changes no result.
        seed: From which all randomness is derived.
        out: Run folder; records are kept in memory alone when None.
        resume: Go on with the run in `out`, cell by cell.
        facts: More entries for the manifest.

    Raises:
        RobustError: For anything the caller can mend.
    """
    cells = check(victim, data, corruptions, severities)
    subject = None if purify is None else purified(victim, purify)
    aligned = AlignedData(data, victim.spec)
    size = min(PIECE, fitting_batch(victim, aligned)) if batch_size == "auto" else checked_batch(batch_size)
    pairs = [(cell.corruption, cell.severity) for cell in cells if cell.corruption]
    cache = CorruptionCache.open(pairs, victim.spec, len(data), data.fingerprint(), seed, cache_gib)
    described = {"condition": "noise", "version": VERSION, "cells": [cell.describe() for cell in cells]}
    started = time.monotonic()
    purifier = subject.purifier.channel if subject else None
    with tempfile.TemporaryDirectory() as scratch, frozen(purifier):
        manifest = make_manifest(subject or victim, data, described, seed, size, facts or {})
        store = Store.open(open_folder(out) if out is not None else Path(scratch) / "run", manifest, resume=resume)
        evaluate_cells(victim, aligned, cells, store, cache, batch_size=size, seed=seed, purifier=purifier)
        records = store.records()
        task = victim.spec.task
        told = {
            "victim": victim.spec.name,
            "weights": weights_hash(victim),
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint()},
            "seed": seed,
            "cache": cache.told,
            "seconds": time.monotonic() - started,
            "run": str(store.folder) if out is not None else None,
        }
        theirs, why = _reference(reference, victim, data, cells, cache_gib, seed, records)
        summary = corruption_summary(records, task, cells, theirs, told, why)
        if subject is not None and purifier is not None:
            named = {"name": subject.label, "gradient": purifier.gradient, "settings": purifier.describe()}
            summary["purified"] = purified_summary(records, task, cells, theirs, named)
        if out is not None:
            store.write_summary(summary)
    clean = Score(**{name: summary["clean"][name] for name in Score.__dataclass_fields__})
    return NoiseRun(clean, summary, records)


def check(
    victim: Victim,
    data: Dataset,
    corruptions: str | Iterable[str | Corruption] = ALL,
    severities: Iterable[int] = SEVERITIES,
    purify: str | Channel | None = None,
) -> list[Cell]:
    """The cells of such a run; refuses what `noise` would, without asking the victim.

    Raises:
        RobustError: For anything the caller can mend.
    """
    chosen = chosen_corruptions(corruptions, victim.spec.modalities)
    AlignedData(data, victim.spec)
    for corruption in chosen:
        corruption.transform(corruption.severities[0], victim.spec.sample_rate)
    if purify is not None:
        purified(victim, purify)
    return cells_of(chosen, checked_severities(severities))


def _reference(
    given: Victim | NoiseRun | None,
    victim: Victim,
    data: Dataset,
    cells: list[Cell],
    cache_gib: float,
    seed: int,
    records: pd.DataFrame,
) -> tuple[Reference | None, str | None]:
    """Errors of the reference on the same clips, or why there are none."""
    ids = records[records["corruption"] == CLEAN].sort_values("clip")["id"].tolist()
    if given is None:
        if victim.spec.task != "multiclass":
            return None, "the pinned reference has one label a clip; give --reference MODEL"
        return pinned_reference(ids, RESAMPLES["multiclass"])
    if isinstance(given, Victim):
        named = [cell.corruption for cell in cells if cell.corruption]
        severities = sorted({cell.severity for cell in cells if cell.severity}) or list(SEVERITIES)
        fit = [one for one in dict.fromkeys(named) if set(one.modalities) <= set(given.spec.modalities)]
        if not fit:
            return None, f"{given.spec.name} takes nothing that these corruptions damage"
        given = noise(given, data, fit, severities, cache_gib=cache_gib, seed=seed)
    theirs = given.records
    if theirs[theirs["corruption"] == CLEAN].sort_values("clip")["id"].tolist() != ids:
        raise DataError("The reference was run on other clips; run it on the same data, split and limit.")
    return given.as_reference(), None


__all__ = ["NoiseRun", "check", "noise"]
