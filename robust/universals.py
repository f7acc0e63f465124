"""`robust.universal`: one perturbation for a whole data set, fitted on training clips, scored on test clips."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.legacy import Legacy, legacy_universal
from attacks.supports import Support
from attacks.threat import Ball
from attacks.universal import Clips, Universal, UniversalResult, fit_universal, random_universal
from robust.api import make_manifest, target_index
from robust.atomic import Folder, open_folder
from robust.errors import StoreError
from robust.evaluation.condition_summary import comparison_dict, condition_score, score_dict
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, evaluate, fitting_batch
from robust.evaluation.paired import compare
from robust.evaluation.progress import track
from robust.evaluation.shared import SharedPerturbation
from robust.evaluation.store import Store
from robust.evaluation.summary import clean_score
from robust.metrics.classification import Score
from robust.seeds import derived_seed
from robust.threats import posed, threat_model
from robust.types import Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class UniversalRun:
    """What one perturbation for all did.

    Attributes:
        clean, robust: Scores on the test clips as they are and perturbed, with 95 % intervals.
        random: The same with random noise of the same norm.
        result: The perturbation, its realised norm and the trace of its fit.
        summary: What `robust universal --json` prints.
        records: One row per test clip.
    """

    clean: Score
    robust: Score
    random: Score
    result: UniversalResult
    summary: dict[str, Any]
    records: pd.DataFrame


def universal(
    victim: Victim,
    training: Dataset,
    test: Dataset,
    *,
    norm: str = "linf",
    eps: float | Mapping[str, float] | None = None,
    unit: str | Mapping[str, str] = "amplitude",
    modality: str = "audio",
    support: Support | None = None,
    target: str | None = None,
    config: Universal | None = None,
    legacy: Legacy | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: str | Folder | None = None,
    facts: Mapping[str, Any] | None = None,
) -> UniversalRun:
    """Fits a universal perturbation and says what it does to clips it never saw.

    Args:
        victim: From `load_victim` or `Victim.wrap`.
        training: Clips it is fitted to.
        test: Clips it is scored on.
        norm: `linf`, `l2` or `l1`.
        eps: Radius, or modality -> radius; one for all clips.
        unit: Of the radius; not `snr_db`, which differs from clip to clip.
        modality: As of `robust.attack`, but not `joint`.
        support: Where the perturbation may live.
        target: Class that the attacker wants to see; any wrong one when None.
        config: Settings of the fit.
        legacy: Fit by the author's algorithm instead, which does not keep to the radius (methods.md 1.3); labelled.
        batch_size: Clips at once; fitted to their length when None.
        seed: Of the random start and the random noise beside it.
        out: Run folder, with `delta.safetensors` in it.
        facts: More entries for the manifest.

    Raises:
        RobustError: For anything the caller can mend.
    """
    if modality == "joint":
        raise ThreatModelError("A universal perturbation has a budget for each modality; use 'both' for 'joint'.")
    if out is not None and (there := open_folder(out)).exists() and (not there.is_dir() or any(there.iterdir())):
        raise StoreError(f"{out} holds something already; choose another --out.")  # before the fit, not after it
    own = victim
    victim, test = posed(own, test, modality)
    _, training = posed(own, training, modality)
    threat = threat_model(victim, modality, norm, eps, unit, support=support).balls
    aligned, fitting = AlignedData(test, victim.spec), AlignedData(training, victim.spec)
    size = batch_size or fitting_batch(victim, aligned)
    goal_of = Attack(threat, target=target_index(victim, target)).goal
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    epochs = legacy.num_steps if legacy is not None else (config or Universal()).epochs
    indices = [range(first, min(first + size, len(fitting))) for first in range(0, len(fitting), size)]
    with closing(track(range(epochs + 1), "Fitting epochs")) as passes:

        def batches() -> Iterator[Clips]:
            next(passes, None)
            for _, batch in fitting.batches(indices):
                moved = batch.to(device)
                yield moved.inputs, goal_of(moved.labels), moved.valid

        if legacy is None:
            generator = torch.Generator().manual_seed(derived_seed(seed, "universal"))
            result = fit_universal(victim, batches, threat, config=config, generator=generator)
        else:
            result = legacy_universal(victim, batches, _radii(victim, threat), config=legacy)
    conditions = {
        "universal": SharedPerturbation(result.delta, threat, "universal", result.legacy),
        "random": SharedPerturbation(_noise(victim, threat, seed), threat, "random"),
    }
    manifest = make_manifest(victim, test, conditions["universal"].describe(), seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        folder = open_folder(out) if out is not None else Path(scratch) / "run"
        records = {}
        for name, condition in conditions.items():
            store = Store.open(folder / name, {**manifest, **condition.describe()})
            evaluate(victim, aligned, condition, store, batch_size=size, seed=seed)
            records[name] = store.records()
        summary = _summary(victim, training, test, records, result)
        summary["run"] = str(folder) if out is not None else None
        if out is not None:
            _save(folder, result, summary)
    task = victim.spec.task
    return UniversalRun(
        clean_score(records["universal"], task),
        condition_score(records["universal"], task),
        condition_score(records["random"], task),
        result,
        summary,
        records["universal"],
    )


def _radii(victim: Victim, threat: Mapping[str, Ball]) -> dict[str, float]:
    """Radii in input units, of clips without padding."""
    blank = {name: torch.zeros(1, *victim.spec.shape(name)) for name in threat}
    return {name: float(ball.radius_amplitude(blank[name])) for name, ball in threat.items()}


def _noise(victim: Victim, threat: Mapping[str, Ball], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(derived_seed(seed, "random"))
    return {name: random_universal(victim.spec.shape(name), ball, generator) for name, ball in threat.items()}


def _summary(
    victim: Victim, training: Dataset, test: Dataset, records: Mapping[str, pd.DataFrame], result: UniversalResult
) -> dict[str, Any]:
    task, found = victim.spec.task, records["universal"]
    ratios = [float(found[column].max()) for column in found if column.startswith("ratio_")]
    return {
        "kind": "universal",
        "victim": victim.spec.name,
        "data": {"name": test.name, "split": test.split, "fingerprint": test.fingerprint()},
        "fitted_on": {"split": training.split, "clips": len(training), "fingerprint": training.fingerprint()},
        "clips": len(found),
        "task": task,
        "threat": {
            name: {"norm": result.norm[name], "radius": result.radius[name], "realised": result.realised[name]}
            for name in result.delta
        },
        "legacy": result.legacy,
        "clean": asdict(clean_score(found, task)),
        "robust": score_dict(condition_score(found, task)),
        "random": score_dict(condition_score(records["random"], task)),
        "against_random": comparison_dict(compare(found, records["random"], task)),
        "audit": {"violations": int(found["violated"].sum()), "worst_ratio": max(ratios, default=0.0)},
        "trace": result.trace,
        "forwards": result.forwards,
        "backwards": result.backwards,
    }


def _save(folder: Folder, result: UniversalResult, summary: Mapping[str, Any]) -> None:
    import json

    from safetensors.torch import save

    from robust.atomic import write_atomically

    write_atomically(folder / "delta.safetensors", save({name: value.cpu() for name, value in result.delta.items()}))
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
