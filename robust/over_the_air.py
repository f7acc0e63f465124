"""Over the air in one call: `robust.air(victim, data, channel="living-room")`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attacks.channel import Channel
from attacks.gradients import Oracle, frozen
from attacks.inaudible import Inaudible
from attacks.pgd import PGD
from attacks.supports import Support
from robust.api import make_config, make_manifest, target_index
from robust.atomic import Folder, open_folder
from robust.channels.condition import heard_through
from robust.channels.presets import load_channel
from robust.evaluation.air import OverTheAir
from robust.evaluation.air_checks import air_checks
from robust.evaluation.air_summary import air_scores, held_out_score
from robust.evaluation.checks import Check
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, checked_batch, evaluate, fitting_batch
from robust.evaluation.listening import clip_stem, save_sound
from robust.evaluation.perception import perceptual_medians
from robust.evaluation.store import Store
from robust.evaluation.summary import clean_score, threat_summary
from robust.metrics.classification import Score
from robust.threats import threat_model
from robust.types import Batch, Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_STEPS = 60
LISTENED = 4


@dataclass(frozen=True)
class AirRun:
    """What an attack does to a victim over the air.

    Attributes:
        clean: Score on unchanged clips without a channel.
        robust: Share of clips and held-out situations that stand the EOT attack.
        summary: Everything that `robust air --json` prints.
        records: One row per clip.
        checks: Verdicts of the automatic checks.
    """

    clean: Score
    robust: Score
    summary: dict[str, Any]
    records: pd.DataFrame
    checks: list[Check]


def air(
    victim: Victim,
    data: Dataset,
    *,
    channel: str | tuple[Channel, Channel] = "room",
    norm: str = "linf",
    eps: float | None = None,
    unit: str = "amplitude",
    modality: str = "audio",
    support: Support | None = None,
    draws: int = 4,
    keep_steps: int = 1,
    situations: int = 20,
    plain_steps: int | None = None,
    inaudible: Inaudible | None = None,
    speech: bool = False,
    config: PGD | None = None,
    target: str | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    checks: bool = True,
    facts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AirRun:
    """Attacks a victim with and without EOT over a channel, and scores both in situations never seen.

    Args:
        victim: From `load_victim` or `Victim.wrap`.
        data: From `load_data`.
        channel: A preset (`robust.channels.presets.PRESETS`), a YAML file, or a channel for training and one held out.
        norm: `linf`, `l2` or `l1`.
        eps: Radius in `unit`; a usual one for the norm when None.
        unit: `amplitude`, `dbfs`, `lsb16` or `snr_db`.
        modality: The waveform that is attacked.
        support: Where the perturbation may live, e.g. a band that loudspeakers carry.
        draws: K, channels in each gradient.
        keep_steps: Q, steps for which draws are kept.
        situations: Rooms of each split in which clips are scored.
        plain_steps: Steps of the attack without EOT; as many as with it when None.
        inaudible: Hide what broke a clip under what the clip masks, by these settings (one waveform).
        speech: Records hold PESQ and STOI, too, as far as their libraries are installed.
        config: Settings of PGD for both attacks; or give them singly as `settings` (60 steps unless told).
        target: Class that the attacker wants to see; any wrong one when None.
        batch_size: Clips at once; `auto` fits it to their length. Changes no result.
        seed: From which all randomness is derived.
        out: Run folder; records are kept in memory alone when None.
        resume: Go on with the run in `out`.
        checks: Ask whether the numbers are believable.
        facts: More entries for the manifest.
        **settings: Settings of PGD by name, instead of `config`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    threat = threat_model(victim, modality, norm, eps, unit, support=support)
    attack = Attack(
        threat.balls,
        config or make_config({"steps": DEFAULT_STEPS, **settings}),
        target=target_index(victim, target),
        packing=threat.packing,
        inaudible=inaudible,
        speech=speech,
    )
    splits = channel if isinstance(channel, tuple) else channels_of(channel, victim.spec.sample_rate)
    condition = OverTheAir(attack, *splits, draws, keep_steps, situations, plain_steps)
    aligned = AlignedData(data, victim.spec)
    aligned.read_all()
    size = fitting_batch(victim, aligned) if batch_size == "auto" else checked_batch(batch_size)
    _try_on_one(victim, aligned, condition, seed)
    manifest = make_manifest(victim, data, condition.describe(), seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(open_folder(out) if out is not None else Path(scratch) / "run", manifest, resume=resume)
        started = time.monotonic()
        evaluate(victim, aligned, condition, store, batch_size=size, seed=seed)
        seconds = time.monotonic() - started
        records = store.records()
        scores = air_scores(records, seed)
        found = air_checks(victim, aligned, condition, records, scores, seed) if checks else []
        told = {
            "victim": victim.spec.name,
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint()},
            "channel": splits[0].name,
            "seconds": seconds,
            "run": str(store.folder) if out is not None else None,
        }
        summary = _summary(victim, condition, records, scores, found, aligned.batch([0]), seed, told)
        if out is not None:
            summary["audio"] = [str(path) for path in _listen(store, victim, aligned, condition, records, seed)]
            store.write_summary(summary)
    return AirRun(clean_score(records, victim.spec.task), held_out_score(records, "eot", seed), summary, records, found)


def channels_of(name: str, sample_rate: int) -> tuple[Channel, Channel]:
    """A preset or YAML file in both splits."""
    return (
        load_channel(name, sample_rate=sample_rate, split="train"),
        load_channel(name, sample_rate=sample_rate, split="held-out"),
    )


def _summary(
    victim: Victim,
    condition: OverTheAir,
    records: pd.DataFrame,
    scores: Mapping[str, Any],
    checks: list[Check],
    example: Batch,
    seed: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    ratios = [column for column in records if column.startswith(("ratio_", "plain_ratio_"))]
    return {
        "kind": "air",
        **facts,
        "clips": len(records),
        "task": victim.spec.task,
        "threat": threat_summary(records, condition.attack.threat),
        "steps": condition.attack.config.steps,
        "plain_steps": condition.plain_steps or condition.attack.config.steps,
        "draws": condition.draws,
        "keep_steps": condition.keep_steps,
        "situations": condition.situations,
        "clean": asdict(clean_score(records, victim.spec.task)),
        "robust": asdict(held_out_score(records, "eot", seed)),
        **scores,
        "perceptual": {"eot": perceptual_medians(records), "plain": perceptual_medians(records, "plain_")},
        "gradient_noise": float(records["gradient_noise"].median()) if condition.draws > 1 else None,
        "rooms": condition.situation_table(example.inputs[condition.modality], seed),
        "audit": {
            "violations": int(records["violated"].sum()),
            "worst_ratio": max(float(records[column].max()) for column in ratios),
        },
        "checks": [asdict(check) for check in checks],
        "forwards_per_clip": float(records["forwards"].mean()),
        "backwards_per_clip": float(records["backwards"].mean()),
    }


def _try_on_one(victim: Victim, aligned: AlignedData, condition: OverTheAir, seed: int) -> None:
    """Hears the first clip in each place once, so that what cannot be is refused before anything is written."""
    batch = aligned.batch([0]).to(_device(victim))
    with frozen(victim):
        condition.try_on(victim, batch, Oracle(victim, 1, batch.labels.device), seed)


def _listen(
    store: Store, victim: Victim, aligned: AlignedData, condition: OverTheAir, records: pd.DataFrame, seed: int
) -> list[Folder]:
    """WAVs of a few clips: as they are, attacked without and with EOT, and each of these in one held-out room."""
    chosen = records.sort_values("eot_no_channel", kind="stable").head(LISTENED)
    batch = aligned.batch(chosen["index"].tolist()).to(_device(victim))
    if "label" in chosen and batch.labels.ndim == 1:
        batch = Batch(batch.ids, batch.inputs, torch.as_tensor(chosen["label"].tolist()).to(batch.labels), batch.valid)
    with frozen(victim):
        clean = Oracle(victim, len(batch), batch.labels.device).logits(
            batch.inputs, torch.arange(len(batch), device=batch.labels.device)
        )
        versions = condition.attacked(victim, batch, clean, seed)
    valid = batch.valid[condition.modality].expand_as(batch.inputs[condition.modality])
    written = []
    for version, clips in versions.items():
        drawn = condition.situation("held_out_rooms", 0, clips, seed)
        with torch.no_grad():
            heard = heard_through(condition.held_out, clips, drawn, valid)
        for where, sounds in (("", clips), ("-in-room", heard)):
            for place, clip in enumerate(batch.ids):
                path = store.folder / "audio" / f"{clip_stem(place, clip)}-{version}{where}.wav"
                written.append(save_sound(path, sounds[place], victim.spec.sample_rate))
    return written


def _device(victim: Victim) -> torch.device:
    return next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))


__all__ = ["AirRun", "air", "channels_of"]
