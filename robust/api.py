"""The main job as one call: `robust.attack(victim, data, norm="linf", eps=0.002)`."""

from __future__ import annotations

import datetime
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import frozen
from attacks.inaudible import Inaudible
from attacks.pgd import PGD
from attacks.supports import Support
from attacks.weights import weights_hash
from robust.atomic import Folder, open_folder
from robust.errors import DataError
from robust.evaluation.checks import Check, Subject, run_checks
from robust.evaluation.condition_summary import multilabel_tables
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, aligned_to, checked_batch, evaluate, fitting_batch
from robust.evaluation.listening import save_triples
from robust.evaluation.pictures import save_frames
from robust.evaluation.store import Store, git_revision, versions
from robust.evaluation.summary import attack_summary, clean_score, robust_score
from robust.metrics.classification import Score
from robust.threats import posed, threat_model
from robust.types import Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AttackRun:
    """What an attack did to a victim.

    Attributes:
        clean, robust: Scores with 95 % intervals.
        checks: Verdicts of the automatic checks.
        summary: Everything that `robust attack --json` prints.
        records: One row per clip.
    """

    clean: Score
    robust: Score
    checks: list[Check]
    summary: dict[str, Any]
    records: pd.DataFrame


def attack(
    victim: Victim,
    data: Dataset,
    *,
    norm: str = "linf",
    eps: float | Mapping[str, float] | None = None,
    unit: str | Mapping[str, str] = "amplitude",
    modality: str = "audio",
    support: Support | None = None,
    cut: Support | None = None,
    rescale: bool = False,
    scale: Mapping[str, float] | None = None,
    inaudible: Inaudible | None = None,
    speech: bool = False,
    config: PGD | None = None,
    target: str | None = None,
    success: str | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    checks: bool = True,
    facts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AttackRun:
    """Attacks a victim on a data set and says how often it breaks, and whether to believe it.

    Args:
        victim: From `load_victim` or `Victim.wrap`.
        data: From `load_data`.
        norm: `linf`, `l2` or `l1`.
        eps: Radius in `unit`, or modality -> radius; a usual one for the norm when None.
        unit: `amplitude`, `dbfs`, `lsb16`, `snr_db` or `pixel255`; or modality -> unit.
        modality: Which input is attacked: one of the victim's, `both` (a budget each) or `joint` (one ball over their
            concatenation); `logmel` takes the front end of a victim off and attacks what it computes.
        support: Where the perturbation may live (`attacks.supports`): a time window, mel bands, a frequency band.
        cut: Attack everywhere, then keep what lies in this support.
        rescale: With `cut`, scale what is left up to the radius.
        scale: With `joint`: modality -> units that make one unit of the joint norm.
        inaudible: Hide what broke a clip under what the clip masks, by these settings (one waveform).
        speech: Records hold PESQ and STOI, too, as far as their libraries are installed.
        config: Settings of PGD; or give them singly as `settings` (`steps=40`, `restarts=2`...).
        target: Class that the attacker wants to see; any wrong one when None.
        success: With many labels a clip, what counts: a name from `SUCCESS`.
        batch_size: Clips at once; `auto` fits it to their length. Changes no result.
        seed: From which all randomness is derived.
        out: Run folder; records are kept in memory alone when None.
        resume: Go on with the run in `out`.
        checks: Run the believability checks.
        facts: More entries for the manifest, e.g. the command line.
        **settings: Settings of PGD by name, instead of `config`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    victim, data = posed(victim, data, modality)
    threat = threat_model(victim, modality, norm, eps, unit, support=support, scale=scale)
    condition = Attack(
        threat.balls,
        config or make_config(settings),
        target=target_index(victim, target),
        success=success,
        packing=threat.packing,
        cut=cut,
        rescale=rescale,
        inaudible=inaudible,
        speech=speech,
    )
    victim, aligned = aligned_to(victim, data, threat.packing)
    aligned.read_all()
    size = fitting_batch(victim, aligned) if batch_size == "auto" else checked_batch(batch_size)
    _check_condition(condition, aligned)
    manifest = make_manifest(victim, data, condition.describe(), seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(open_folder(out) if out is not None else Path(scratch) / "run", manifest, resume=resume)
        started = time.monotonic()
        evaluate(victim, aligned, condition, store, batch_size=size, seed=seed)
        seconds = time.monotonic() - started
        records = store.records()
        found = run_checks(subject_of(victim, aligned, condition, records, seed), records) if checks else []
        task = victim.spec.task
        told = {
            "victim": victim.spec.name,
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint()},
            "seconds": seconds,
            "run": str(store.folder) if out is not None else None,
        }
        summary = attack_summary(records, threat.balls, found, task, told)
        if task == "multilabel":
            summary["multilabel"] = multilabel_tables(records, victim.spec.labels)
        if out is not None:
            summary["audio"] = [str(path) for path in _listen(store, victim, aligned, condition, records, seed)]
            store.write_summary(summary)
    return AttackRun(clean_score(records, task), robust_score(records, task), found, summary, records)


def make_config(settings: Mapping[str, Any]) -> PGD:
    """PGD settings from keyword arguments; an unknown one is an error."""
    allowed = PGD.__dataclass_fields__.keys()
    for name in settings:
        if name not in allowed:
            raise ThreatModelError(unknown("setting", name, allowed))
    return PGD(**settings)


def target_index(victim: Victim, target: str | None) -> int | None:
    """The place of a class among the victim's."""
    if target is None:
        return None
    if target not in victim.spec.labels:
        raise DataError(unknown("class", target, victim.spec.labels))
    return victim.spec.labels.index(target)


def make_manifest(
    victim: Victim, data: Dataset, described: Mapping[str, Any], seed: int, batch_size: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is needed to repeat a run; `described` is what a condition's `describe()` says."""
    return {
        "victim": {"name": victim.spec.name, "config": victim.config, "labels": list(victim.spec.labels)},
        "weights": weights_hash(victim),
        "data": {"name": data.name, "split": data.split, "clips": len(data), "fingerprint": data.fingerprint()},
        **described,
        "seed": seed,
        "batch_size": batch_size,
        "device": str(next((parameter.device for parameter in victim.parameters()), "cpu")),
        "command": shlex.join(sys.argv),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "versions": versions(),
        **facts,
    }


def _check_condition(condition: Attack, data: AlignedData) -> None:
    """Applies budgets and loss to the first clip, so that what cannot hold is refused before anything is written."""
    from attacks.losses import find_loss

    batch = data.batch([0])
    for name, ball in condition.threat.items():
        kept = ball if condition.cut is None else replace(ball, support=condition.cut)
        kept.around(batch.inputs[name], batch.valid.get(name))
    logits = torch.zeros(1, len(data.spec.labels))
    goal = condition.goal(batch.labels.clamp_min(0), logits)
    if condition.config.loss is not None:
        find_loss(condition.config.loss)(logits, goal)


def subject_of(
    victim: Victim, data: AlignedData, condition: Attack, records: pd.DataFrame, seed: int, clips: int = 32
) -> Subject:
    """The first clips of the run, for the checks."""
    few = records.head(clips)
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(few["index"].tolist()).to(device)
    labels = torch.as_tensor(np.stack(few["label"].tolist()), device=device).to(batch.labels.dtype)
    batch = type(batch)(batch.ids, batch.inputs, labels, batch.valid)
    clean = torch.as_tensor(np.stack(few["clean_logits"].tolist()), device=device).float()
    standing = torch.tensor((few["clean_correct"] & few["correct"]).tolist(), device=device)
    return Subject(victim, condition, batch, clean, standing, seed)


def _listen(
    store: Store, victim: Victim, data: AlignedData, condition: Attack, records: pd.DataFrame, seed: int
) -> list[Folder]:
    """Saves recordings to listen to."""
    with frozen(victim):
        save_frames(store.folder, victim, data, condition, records, seed)
        return save_triples(store.folder, victim, data, condition, records, seed)
