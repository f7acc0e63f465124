"""`robust.jam`: adversarial music against a wake-word detector, fitted in some rooms and heard in others."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.jamming import Jamming, Played, fit_music
from attacks.music import LOUDNESS_LUFS, Music, ValidSet
from attacks.score import Score as Tune
from attacks.score import tune
from attacks.tune_masking import HiddenIn
from robust.api import make_manifest
from robust.atomic import Folder, open_folder, write_atomically
from robust.channels.bank import RoomBank
from robust.channels.rooms import Reverberation
from robust.errors import DataError, StoreError
from robust.evaluation.engine import AlignedData, evaluate, fitting_batch
from robust.evaluation.jamming import (
    MASKERS,
    Jammed,
    against_plain,
    at_loudness,
    cell,
    speech_loudness,
    wake_index,
    white_loop,
)
from robust.evaluation.listening import clip_stem, save_sound
from robust.evaluation.progress import track
from robust.evaluation.store import Store
from robust.scoring import victim_device
from robust.seeds import derived_seed
from robust.types import Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

SMR_DB = (-5.0, 0.0, 5.0, 10.0)
LISTENING_CLIPS = 4


@dataclass(frozen=True)
class JamRun:
    """What music did to a detector.

    Attributes:
        played: The music and the trace of its fit.
        loops: Masker -> (L,) float32, all of one loudness.
        summary: What `robust music --json` prints.
        records: (masker, speech-to-music ratio in dB) -> a row for each test clip; silence has the ratio NaN.
    """

    played: Played
    loops: dict[str, Tensor]
    summary: dict[str, Any]
    records: dict[tuple[str, float], pd.DataFrame]


def jam(
    victim: Victim,
    training: Dataset,
    test: Dataset,
    *,
    bank: RoomBank | None = None,
    score: Tune | None = None,
    valid: ValidSet | None = None,
    config: Jamming | None = None,
    smr_db: Sequence[float] = SMR_DB,
    wake: str | None = None,
    fit_clips: int = 400,
    masking: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    out: str | Folder | None = None,
    facts: Mapping[str, Any] | None = None,
) -> JamRun:
    """Optimises music on training clips in training rooms, and tells what it does to test clips in held-out rooms.

    Beside it, at the same loudness, at the same moments and in the same rooms: the music before it was optimised, and
    white noise; and silence.

    Args:
        victim: A detector of 16 kHz waveforms or whatever its rate; two classes or more, one of them the word.
        training: Clips it is fitted to; those of the word count.
        test: Clips it is scored on, of all classes.
        bank: Rooms, from `robust.channels.bank.load_bank` at the victim's rate; None for none.
        score: What is played; `attacks.score.tune()` when None.
        valid: How it may be played.
        config: Settings of the fit.
        smr_db: Speech-to-music ratios at which it is scored, dB.
        wake: Class to be missed; found by its name when None.
        fit_clips: Most clips it is fitted to.
        masking: Weight of what can be heard of the difference from the plain tune (`attacks.tune_masking`); 0 is none.
        batch_size: Clips at once in scoring; fitted to their length when None.
        seed: From which all randomness is derived.
        out: Run folder: a store for each masker and ratio, the music's parameters, and recordings to listen to.
        facts: More entries for the manifest.

    Raises:
        RobustError: For anything the caller can mend.
    """
    if out is not None and (there := open_folder(out)).exists() and (not there.is_dir() or any(there.iterdir())):
        raise StoreError(f"{out} holds something already; choose another --out.")  # before the fit, not after it
    config = config or Jamming()
    ratios = _checked_ratios(smr_db)
    spec = victim.spec
    if spec.modalities != ("audio",):
        raise ThreatModelError(f"Music jams what hears alone; {spec.name!r} takes {', '.join(spec.modalities)}.")
    if bank is not None and bank.sample_rate != spec.sample_rate:
        raise ThreatModelError(
            f"The rooms are for {bank.sample_rate} Hz and the victim hears {spec.sample_rate} Hz; load the bank with "
            f"sample_rate={spec.sample_rate}."
        )
    word = wake_index(spec.labels, wake)
    music = Music(score or tune(), spec.sample_rate, valid)
    aligned, fitting = AlignedData(test, spec), AlignedData(training, spec)
    if not masking >= 0:
        raise ThreatModelError(f"The weight of masking must be 0 or more; given {masking}.")
    with torch.no_grad():
        plain = music.render(music.plain(torch.Generator().manual_seed(derived_seed(seed, "music"))))
    hidden = HiddenIn.under(plain.float(), spec.sample_rate)
    config = replace(config, penalty_weight=masking)
    played = _fitted(victim, music, fitting, word, bank, config, fit_clips, hidden if masking else None, seed)
    told = hidden.excess(played.loop)
    loops, measured = _maskers(music, played, seed)
    conditions = _conditions(loops, ratios, bank, music.samples)
    size = batch_size or fitting_batch(victim, aligned)
    manifest = make_manifest(victim, test, {"music": music.describe(), "fit": asdict(config)}, seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        folder = open_folder(out) if out is not None else Path(scratch) / "run"
        records = {}
        for key, condition in conditions.items():
            store = Store.open(folder / condition.name, {**manifest, **condition.describe()})
            evaluate(victim, aligned, condition, store, batch_size=size, seed=seed)
            records[key] = store.records()
        summary = {
            "kind": "music",
            "victim": spec.name,
            "data": {"name": test.name, "split": test.split, "fingerprint": test.fingerprint()},
            "fitted_on": {"split": training.split, "fingerprint": training.fingerprint(), "smr_db": config.smr_db},
            "clips": len(aligned),
            "wake": spec.labels[word],
            "rooms": None if bank is None else bank.describe(),
            "score": music.score.name,
            "cells": [cell(part, word, *_told(key)) for key, part in records.items()],
            "adversarial_over_plain": [against_plain(records, word, ratio) for ratio in ratios],
            "loudness_lufs": measured,
            "masking": {"weight": masking, "audible": float(told.audible), "mean_db": float(told.mean_db)},
            "audit": {"violations": music.violations(played.theta), "worst_loudness_error_lu": _worst(measured)},
            "trace": played.trace,
            "forwards": played.forwards,
            "backwards": played.backwards,
            "run": str(folder) if out is not None else None,
            "audio": [],
        }
        if out is not None:
            heard = _listen(folder, victim, aligned, conditions, loops, word, seed)
            summary["audio"] = [str(path) for path in heard]
            _save(folder, played, summary)
    return JamRun(played, loops, summary, records)


def _checked_ratios(smr_db: Sequence[float]) -> tuple[float, ...]:
    ratios = tuple(float(ratio) for ratio in smr_db)
    if not ratios or len(set(ratios)) < len(ratios) or not all(-60 <= ratio <= 60 for ratio in ratios):
        raise ThreatModelError(f"Speech-to-music ratios are one or more, different, of -60 to 60 dB; given {smr_db}.")
    return ratios


def _fitted(
    victim: Victim,
    music: Music,
    fitting: AlignedData,
    word: int,
    bank: RoomBank | None,
    config: Jamming,
    fit_clips: int,
    penalty: HiddenIn | None,
    seed: int,
) -> Played:
    """Music fitted to the first clips of the word."""
    batches = fitting.batches([range(first, min(first + 64, len(fitting))) for first in range(0, len(fitting), 64)])
    clips, loudness, count = [], [], 0
    with closing(batches):
        for _, batch in batches:
            rows = (batch.labels == word).nonzero()[:, 0][: fit_clips - count]
            audio, real = batch.inputs["audio"][rows], batch.valid["audio"].expand_as(batch.inputs["audio"])[rows]
            clips.append(audio)
            loudness.append(speech_loudness(audio, real, fitting.spec.sample_rate))
            count += len(rows)
            if count >= fit_clips:
                break
    if count == 0:
        raise DataError(
            f"No clip of the split {fitting.data.split!r} is of the class {fitting.spec.labels[word]!r}; fit to more."
        )
    device = victim_device(victim)
    rooms = [None if bank is None else Reverberation(bank, split="train") for _ in range(2)]
    with closing(track(range(config.steps), "Optimising music")) as steps:
        return fit_music(
            victim,
            music,
            torch.cat(clips).to(device),
            torch.full((count,), word, device=device),
            torch.cat(loudness).to(device),
            generator=torch.Generator().manual_seed(derived_seed(seed, "music")),
            config=config,
            speech_channel=rooms[0],
            music_channel=rooms[1],
            penalty=penalty,
            progress=lambda _: _advance(steps),
        )


def _advance(bar: Iterator[int]) -> None:
    next(bar, None)


def _maskers(music: Music, played: Played, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Loops at one loudness, and what was measured of it. The plain music is that from which the fit began."""
    before = music.plain(torch.Generator().manual_seed(derived_seed(seed, "music")))
    sounds = {
        "adversarial": played.loop,
        "plain": music.render(before),
        "noise": white_loop(
            music.samples, music.sample_rate, torch.Generator().manual_seed(derived_seed(seed, "white noise"))
        ),
    }
    found = {name: at_loudness(sounds[name].detach(), music.sample_rate) for name in MASKERS}
    loops = {name: loop.float() for name, (loop, _) in found.items()}
    return loops, {name: lufs for name, (_, lufs) in found.items()}


def _conditions(
    loops: Mapping[str, Tensor], ratios: Sequence[float], bank: RoomBank | None, samples: int
) -> dict[tuple[str, float], Jammed]:
    """(Masker, ratio) -> what is heard; silence first."""
    # One for each: they keep spectra for clips of one length, and music begins to play before the clip.
    speech, playing = (None if bank is None else Reverberation(bank, split="held-out") for _ in range(2))
    conditions = {("silence", float("nan")): Jammed("silence", 0.0, None, speech, playing, samples)}
    for ratio in ratios:
        for name in MASKERS:
            conditions[name, ratio] = Jammed(name, ratio, loops[name], speech, playing, samples)
    return conditions


def _told(key: tuple[str, float]) -> tuple[str, float | None]:
    return key[0], None if np.isnan(key[1]) else key[1]


def _worst(measured: Mapping[str, float]) -> float:
    return max(abs(lufs - LOUDNESS_LUFS) for lufs in measured.values())


def _listen(
    folder: Folder,
    victim: Victim,
    data: AlignedData,
    conditions: Mapping[tuple[str, float], Jammed],
    loops: Mapping[str, Tensor],
    word: int,
    seed: int,
) -> list[Folder]:
    """Two turns of every masker, and the first clips of the word as they are heard with each, at the lowest ratio."""
    rate = data.spec.sample_rate
    written = [save_sound(folder / f"music-{name}.wav", loop.repeat(2), rate) for name, loop in loops.items()]
    places = []
    for index in range(len(data)):
        if int(data.batch([index]).labels[0]) == word:
            places.append(index)
        if len(places) == LISTENING_CLIPS:
            break
    if not places:
        return written
    batch = data.batch(places)
    lowest = min(ratio for _, ratio in conditions if not np.isnan(ratio))
    for (name, ratio), condition in conditions.items():
        if ratio == lowest or name == "silence":
            mixed = condition.apply(victim, batch, torch.empty(0), seed).inputs["audio"]
            for place, (clip, sound) in enumerate(zip(batch.ids, mixed, strict=True)):
                path = folder / "audio" / f"{clip_stem(place, clip)}-{name}.wav"
                written.append(save_sound(path, sound, rate))
    return written


def _save(folder: Folder, played: Played, summary: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    content = {name: value.detach().cpu().contiguous() for name, value in played.theta.items()}
    write_atomically(folder / "music.safetensors", save({**content, "loop": played.loop.cpu().contiguous()}))
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
