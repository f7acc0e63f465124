"""A whole robustness curve in one call: `robust.curve(victim, data, norm="linf")`, against attacks, noise or rooms."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import frozen
from attacks.pgd import PGD
from robust.api import make_config, make_manifest, subject_of
from robust.atomic import Folder, open_folder
from robust.curve_levels import (
    ATTACK,
    attack_axis,
    attacked_levels,
    check_radii,
    swept_levels,
)
from robust.evaluation.checks import run_checks
from robust.evaluation.condition_summary import condition_score
from robust.evaluation.conditions import Attack, Condition, with_radius
from robust.evaluation.curve_summary import Curve, from_scales, from_scores
from robust.evaluation.engine import AlignedData, aligned_to, checked_batch, evaluate, fitting_batch, records_of
from robust.evaluation.radius_search import RadiusSearch, shares
from robust.evaluation.store import Store
from robust.evaluation.summary import clean_score, robust_score
from robust.threats import posed
from robust.types import Dataset
from robust.victims.base import Victim

CHECKED_CLIPS = 16
SEARCH_GROUP = 2
"""Batches that a search works on together: a sixth faster. More are faster still, but parts come late."""


def curve(
    victim: Victim,
    data: Dataset,
    *,
    norm: str = "linf",
    eps: Sequence[float] | NDArray[np.float64] | None = None,
    unit: str = "amplitude",
    modality: str = "audio",
    scale: Mapping[str, float] | None = None,
    against: str = ATTACK,
    config: PGD | None = None,
    threshold: float = 0.5,
    batch_size: int | str | None = None,
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    checks: bool = False,
    facts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Curve:
    """Score against how hard the test is.

    Against attacks with one label a clip the radius that breaks each clip is searched over all levels at once
    (`attacks.minimal`), which costs little more than one attack; with many labels a clip, and against noise and rooms,
    every level is measured anew.

    Args:
        victim: From `load_victim` or `Victim.wrap`.
        data: From `load_data`.
        norm: Of the attack: `linf`, `l2`, `l1`, or `snr`: an L2 ball of the size that leaves this SNR of each clip.
        eps: Levels from easy to hard: radii ascending, SNRs in dB descending; usual ones when None.
        unit: Of the radii.
        modality: Which input is attacked, as in `robust.attack`.
        scale: With `both` and `joint`: modality -> how many of its units go with one unit of the radius; 1 if absent.
        against: `attack`, or a sweep: `noise` (white, by SNR in dB), `rt60` (rooms, by reverberation time in seconds).
        config: Settings of each run of PGD; or give them singly as `settings`.
        threshold: Score of which the summary tells at which level it is lost.
        batch_size: Clips at once; fitted to their length when None. Changes no result.
        seed: From which all randomness is derived.
        out: Run folder with records and summary; nothing is kept when None.
        resume: Go on with the run in `out`.
        checks: Run the believability checks on 16 clips, at the level where the score falls under the threshold
            (searches alone); they go into the summary, so they need `out`.
        facts: More entries for the manifest.
        **settings: Settings of PGD by name.

    Raises:
        RobustError: For anything the caller can mend.
    """
    if not 0 < threshold < 1:
        raise ThreatModelError(f"The threshold is a score between 0 and 1; given {threshold}.")
    chosen = config or make_config(settings)
    victim, data = posed(victim, data, modality)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run" if out is None else open_folder(out)
        run = _Run(victim, data, folder, resume, batch_size, seed, facts or {})
        if against == ATTACK:
            levels, own, threats = attacked_levels(victim, norm, eps, unit, modality, scale)
            axis = attack_axis(norm, modality, own)
            attacks = [Attack(each.balls, chosen, packing=each.packing) for each in threats]
            if victim.spec.task == "multiclass":
                found = run.search(attacks[-1], levels, axis)
            else:
                found = run.sweep(attacks, levels, axis)
        else:
            levels, conditions, axis = swept_levels(against, eps, modality)
            found = run.sweep(conditions, levels, axis)
        if out is not None:
            told = {
                "kind": "curve",
                "data": run.data_told(),
                "task": victim.spec.task,
                "seed": seed,
                "run": str(folder),
            }
            verdicts = run.checks(found, threshold) if checks else []
            Store.read(folder).write_summary({**told, **found.summary(threshold), "checks": verdicts})
    return found


def check(
    victim: Victim,
    data: Dataset,
    *,
    norm: str = "linf",
    eps: Sequence[float] | NDArray[np.float64] | None = None,
    unit: str = "amplitude",
    modality: str = "audio",
    scale: Mapping[str, float] | None = None,
    against: str = ATTACK,
) -> None:
    """Refuses what `curve` would, by the first clip and without asking the victim.

    Raises:
        RobustError: For anything the caller can mend.
    """
    victim, data = posed(victim, data, modality)
    if against == ATTACK:
        hardest = attacked_levels(victim, norm, eps, unit, modality, scale)[2][-1]
        check_radii(hardest.balls, aligned_to(victim, data, hardest.packing)[1].batch([0]))
        return
    swept_levels(against, eps, modality)
    if modality not in victim.spec.modalities:
        raise ThreatModelError(unknown(f"modality of {victim.spec.name}", modality, victim.spec.modalities))
    AlignedData(data, victim.spec)


class _Run:
    """What all curves of one call have in common."""

    def __init__(
        self,
        victim: Victim,
        data: Dataset,
        folder: Folder,
        resume: bool,
        batch_size: int | str | None,
        seed: int,
        facts: Mapping[str, Any],
    ) -> None:
        self.victim, self.data, self.folder, self.resume = victim, data, folder, resume
        self.seed, self.facts = seed, facts
        fitted = batch_size is None or batch_size == "auto"
        self.size = None if fitted else checked_batch(batch_size or 0)
        self.searched: tuple[Victim, AlignedData, RadiusSearch] | None = None

    def data_told(self) -> dict[str, Any]:
        return {"name": self.data.name, "split": self.data.split, "fingerprint": self.data.fingerprint()}

    def search(self, attack: Attack, levels: Sequence[float], axis: Mapping[str, Any]) -> Curve:
        """One search over all levels."""
        condition = RadiusSearch(attack, tuple(shares(levels, axis["unit"]).tolist()))
        victim, aligned = aligned_to(self.victim, self.data, attack.packing)
        check_radii(attack.threat, aligned.batch([0]))
        store = self._store(self.folder, victim, condition, aligned, {"levels": list(levels), "axis": dict(axis)})
        self._evaluate(victim, aligned, condition, store, SEARCH_GROUP)
        self.searched = victim, aligned, condition
        return from_scales(store.records(), condition.grid, levels, self.victim.spec.name, axis)

    def checks(self, curve: Curve, threshold: float) -> list[dict[str, Any]]:
        """Verdicts on the attack at the first level whose score is under the threshold, or at the last."""
        if self.searched is None:
            return []
        import pandas as pd

        victim, aligned, condition = self.searched
        under = np.flatnonzero(curve.scores < threshold)
        share = condition.grid[int(under[0]) if len(under) else -1]
        attack = with_radius(condition.attack, share)
        device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
        few = range(min(CHECKED_CLIPS, len(aligned)))
        with frozen(victim):
            found = records_of(victim, aligned.batch(few).to(device), few, attack, self.seed)
        records = pd.DataFrame(found)
        subject = subject_of(victim, aligned, attack, records, self.seed, CHECKED_CLIPS)
        return [asdict(check) for check in run_checks(subject, records)]

    def sweep(self, conditions: Sequence[Condition], levels: Sequence[float], axis: Mapping[str, Any]) -> Curve:
        """One evaluation for each level."""
        task, scores, backwards = self.victim.spec.task, [], 0.0
        packing = getattr(conditions[0], "packing", None)
        victim, aligned = aligned_to(self.victim, self.data, packing)
        told = {"levels": list(levels), "axis": dict(axis)}
        hardest = conditions[-1]
        if isinstance(hardest, Attack):
            check_radii(hardest.threat, aligned.batch([0]))
        self._store(self.folder, victim, hardest, aligned, told)
        for place, condition in enumerate(conditions):
            folder = self.folder / "levels" / f"{place:02d}"
            store = self._store(folder, victim, condition, aligned, {"level": levels[place]})
            self._evaluate(victim, aligned, condition, store)
            records = store.records()
            attacked = isinstance(condition, Attack)
            scores.append(robust_score(records, task) if attacked else condition_score(records, task))
            backwards += float(records["backwards"].mean()) if attacked else 0.0
        return from_scores(scores, clean_score(records, task), levels, self.victim.spec.name, axis, backwards)

    def _store(
        self, folder: Folder, victim: Victim, condition: Condition, aligned: AlignedData, told: Mapping[str, Any]
    ) -> Store:
        size = self.size or fitting_batch(victim, aligned)
        manifest = make_manifest(victim, self.data, condition.describe(), self.seed, size, {**told, **self.facts})
        return Store.open(folder, manifest, resume=self.resume)

    def _evaluate(
        self, victim: Victim, aligned: AlignedData, condition: Condition, store: Store, group: int = 1
    ) -> None:
        size = self.size or fitting_batch(victim, aligned)
        evaluate(victim, aligned, condition, store, batch_size=size, seed=self.seed, group=group)
