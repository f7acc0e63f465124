"""A purifier under attack in one call: `robust.attack_purified(victim, data, purifier="waveform:3")`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attacks.channel import Channel
from attacks.gradients import Oracle, frozen
from attacks.pgd import PGD
from attacks.supports import Support
from robust.api import make_config, make_manifest, target_index
from robust.atomic import Folder, open_folder
from robust.evaluation.checks import Check
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, checked_batch, evaluate
from robust.evaluation.perception import perceptual_medians
from robust.evaluation.purification import Purification
from robust.evaluation.purification_checks import purification_checks
from robust.evaluation.purification_listening import save_purified
from robust.evaluation.purification_summary import (
    attack_names,
    bare_robust,
    purification_scores,
    purified_clean,
    purified_robust,
)
from robust.evaluation.purifier_attacks import SUITE
from robust.evaluation.purifier_label import STEPS
from robust.evaluation.store import Store
from robust.evaluation.summary import threat_summary
from robust.evaluation.transfer_memory import TransferMemory
from robust.metrics.classification import Score, accuracy
from robust.threats import threat_model
from robust.types import Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

BATCH, GROUP = 16, 4
"""Clips whose gradients are taken at once (a sampler's are large), and how many such batches are worked on together."""


@dataclass(frozen=True)
class PurifiedRun:
    """What attacks do to a victim behind a purifier.

    Attributes:
        clean: How often clips that nobody attacked stand behind the purifier.
        robust: How often clips stand behind it, each under the attack that does worst to it.
        bare: Score without a purifier under the transfer attack; None where that was not run.
        adaptive: Whether the suite was strong enough for `robust` to be called adaptive; `summary["label"]` says what
            was missing.
        summary: Everything that `robust attack --purify --json` prints.
        records: One row per clip.
        checks: Verdicts of the automatic checks.
    """

    clean: Score
    robust: Score
    bare: Score | None
    adaptive: bool
    summary: dict[str, Any]
    records: pd.DataFrame
    checks: list[Check]


def attack_purified(
    victim: Victim,
    data: Dataset,
    *,
    purifier: str | Channel = "waveform:3",
    norm: str = "linf",
    eps: float | Mapping[str, float] | None = None,
    unit: str | Mapping[str, str] = "amplitude",
    modality: str = "audio",
    support: Support | None = None,
    attacks: Sequence[str] | None = None,
    draws: int = 8,
    cascade: bool = True,
    sure: int | None = 8,
    queries: int = 300,
    speech: bool = False,
    config: PGD | None = None,
    target: str | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    checks: bool = True,
    facts: Mapping[str, Any] | None = None,
    transfers: TransferMemory | None = None,
    **settings: Any,
) -> PurifiedRun:
    """Attacks a victim behind a purifier and says how often it stands, and what the number may be called.

    Args:
        victim: The bare victim, from `load_victim` or `Victim.wrap`, of one label a clip.
        data: From `load_data`.
        purifier: As `--purify` takes it (`robust.purifiers`), or a channel at the victim's sample rate.
        norm: `linf`, `l2` or `l1`.
        eps: Radius in `unit`; a usual one for the norm when None. The budget is on the waveform handed in.
        unit: `amplitude`, `dbfs`, `lsb16` or `snr_db`.
        modality: The waveform that is attacked and purified.
        support: Where the perturbation may live, e.g. a band.
        attacks: Names from `robust.evaluation.purifier_attacks.ATTACKS`, or `full-K` for any K; when None the smallest
            suite that may be called adaptive.
        draws: Draws of the purifier's noise on which the worst attack of each clip is chosen, and as many fresh ones
            on which it is scored.
        cascade: From cheap to dear, each attack works only on what is still standing; if not, each on all clips.
        sure: Fresh draws in a row after which an attack takes a clip for broken; None: it takes all its steps.
        queries: Of each black-box attack on each clip.
        speech: Records hold PESQ and STOI, too, as far as their libraries are installed.
        config: Settings of PGD for all attacks; or give them singly as `settings` (70 steps unless told).
        target: Class that the attacker wants to see; any wrong one when None.
        batch_size: Clips at once; `auto` is 16. Changes no result.
        seed: From which all randomness is derived.
        out: Run folder; records are kept in memory alone when None.
        resume: Go on with the run in `out`.
        checks: Ask whether the numbers are believable; they attack a few clips again.
        facts: More entries for the manifest.
        transfers: Where what the transfer attack finds is kept, and taken from by the next purifier before this victim
            under this budget, attack and seed; its clips are the same then, and not attacked again.
        **settings: Settings of PGD by name, instead of `config`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    threat = threat_model(victim, modality, norm, eps, unit, support=support)
    attack = Attack(
        threat.balls,
        config or make_config({"steps": STEPS, **settings}),
        target=target_index(victim, target),
        packing=threat.packing,
        speech=speech,
    )
    channel = _loaded(purifier, victim)
    condition = Purification(attack, channel, suite(norm, attacks), draws, cascade, sure, queries, transfers)
    aligned = AlignedData(data, victim.spec)
    aligned.read_all()
    size = BATCH if batch_size == "auto" else checked_batch(batch_size)
    random, skipped = _try_on_one(victim, aligned, condition, seed)
    manifest = make_manifest(victim, data, condition.describe(), seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(open_folder(out) if out is not None else Path(scratch) / "run", manifest, resume=resume)
        started = time.monotonic()
        evaluate(victim, aligned, condition, store, batch_size=size, seed=seed, group=GROUP)
        seconds = time.monotonic() - started
        records = store.records()
        found = purification_checks(victim, aligned, condition, records, seed) if checks else []
        told = {
            "victim": victim.spec.name,
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint()},
            "purifier": {
                "name": purifier if isinstance(purifier, str) else channel.name,
                "random": random,
                "gradient": channel.gradient,
                "settings": channel.describe(),
            },
            "seconds": seconds,
            "run": str(store.folder) if out is not None else None,
        }
        scores = purification_scores(records, skipped, seed)
        summary = {**told, **_summary(condition, records, found, draws if random else 1), **scores}
        if out is not None:
            written = save_purified(store.folder, victim, aligned, condition, records, seed)
            summary["audio"] = [str(path) for path in written]
            store.write_summary(summary)
    clean, robust = purified_clean(records, seed), purified_robust(records, seed)
    return PurifiedRun(clean, robust, bare_robust(records), scores["adaptive"], summary, records, found)


def suite(norm: str, attacks: Sequence[str] | None) -> tuple[str, ...]:
    """The attacks asked for, or the usual ones; Square knows no L1."""
    if attacks is not None:
        return tuple(attacks)
    return tuple("nes" if name == "square" and norm == "l1" else name for name in SUITE)


def _loaded(purifier: str | Channel, victim: Victim) -> Channel:
    if isinstance(purifier, Channel):
        return purifier
    from robust.purifiers import load_purifier

    spec = victim.spec
    return load_purifier(purifier, sample_rate=spec.sample_rate, samples=spec.clip_samples, device=_device(victim))


def _try_on_one(
    victim: Victim, aligned: AlignedData, condition: Purification, seed: int
) -> tuple[bool, dict[str, str]]:
    """Whether the purifier draws anything, and which attacks it makes needless.

    Purifies the first clip once, so that what cannot be is refused before anything is written.
    """
    batch = aligned.batch([0]).to(_device(victim))
    with frozen(victim):
        condition.try_on(victim, batch, Oracle(victim, 1, batch.labels.device), seed)
    clips = batch.inputs[condition.modality]
    return condition.random(clips), condition.plan(clips)[1]


def _summary(condition: Purification, records: pd.DataFrame, checks: list[Check], draws: int) -> dict[str, Any]:
    ratios = [f"{name}_ratio_{condition.modality}" for name in attack_names(records)]
    return {
        "kind": "purification",
        "clips": len(records),
        "task": "multiclass",
        "threat": threat_summary(records, condition.attack.threat),
        "steps": condition.attack.config.steps,
        "draws": draws,
        "cascade": condition.cascade,
        "sure": condition.sure,
        "queries": condition.queries,
        "success": _success(records),
        "perceptual": perceptual_medians(records),
        "audit": {
            "violations": int(records["violated"].sum()),
            "worst_ratio": float(records[ratios].max().fillna(0.0).max()),
        },
        "checks": [asdict(check) for check in checks],
        "forwards_per_clip": float(records["forwards"].mean()),
        "backwards_per_clip": float(records["backwards"].mean()),
    }


def _success(records: pd.DataFrame) -> dict[str, Any]:
    """Share of the attacked clips that fall in every scoring draw; no score where none was attacked."""
    found = accuracy(records[records["attacked"]]["success"].to_numpy(dtype=bool))
    return {**asdict(found), "score": found.score if found.clips else None, "metric": "attack success"}


def _device(victim: Victim) -> torch.device:
    return next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))


__all__ = ["PurifiedRun", "attack_purified", "suite"]
