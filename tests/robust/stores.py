"""Small run and study folders of every kind, with fixed random numbers, in the layout that the suite writes."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robust.atomic import write_atomically
from robust.metrics.classification import wilson

CLIPS = 96
CLASSES = ("bell", "dog", "drum", "engine", "rain", "speech")
DATA = {"name": "events", "split": "test", "fingerprint": "0" * 32}
START = {"linf": 3e-6, "l2": 3e-4, "l1": 3e-2}
LABELS = {
    "linf": "$L_\\infty$ radius (full scale = 1)",
    "l2": "$L_2$ radius (full scale = 1)",
    "l1": "$L_1$ radius (full scale = 1)",
    "noise": "SNR of white noise (dB)",
}


def write_run(
    folder: Path,
    summary: Mapping[str, Any],
    *,
    manifest: Mapping[str, Any] | None = None,
    records: pd.DataFrame | None = None,
    table: pd.DataFrame | None = None,
) -> Path:
    """One run folder; returns it."""
    told = {"data": DATA, "clips": CLIPS, "task": "multiclass", "run": str(folder), **summary}
    write_atomically(folder / "summary.json", json.dumps(told, indent=2).encode())
    if manifest is not None:
        usual = {
            "victim": {"name": summary["victim"], "config": {"clip_seconds": 1.0}, "labels": list(CLASSES)},
            "data": {**DATA, "clips": CLIPS},
            "seed": 0,
            "command": "robust attack",
            "created": "2026-11-22T00:00:00+00:00",
        }
        write_atomically(folder / "manifest.json", json.dumps({**usual, **manifest}, indent=2).encode())
    if records is not None:
        write_atomically(folder / "records" / f"part-{0:07d}-{len(records) - 1:07d}.parquet", _parquet(records))
    if table is not None:
        write_atomically(folder / "table.parquet", _parquet(table))
    return folder


def score(right: int, clips: int = CLIPS) -> dict[str, Any]:
    """An accuracy with its interval, as summaries hold it."""
    low, high = wilson(right, clips)
    return {"score": right / clips, "low": low, "high": high, "metric": "accuracy", "clips": clips}


def curve_run(
    folder: Path,
    victim: str = "av-mid",
    *,
    norm: str = "linf",
    modality: str = "audio",
    half: float = 3e-4,
    clean: int = 92,
) -> Path:
    """A curve of clips whose smallest radii are log-normal around `half`; of noise, normal around `half` dB."""
    generator = np.random.default_rng(hash_of(victim, norm, modality))
    down = norm == "noise"
    if down:
        levels = np.linspace(40, -10, 11)
        breaking = half + 6 * generator.standard_normal(clean)
        right = [int((breaking < level).sum()) for level in levels]
    else:
        levels = START[norm] * np.geomspace(1, 1e4, 16)
        breaking = half * np.exp(1.1 * generator.standard_normal(clean))
        right = [int((breaking > level).sum()) for level in levels]
    scores = [score(count) for count in right]
    middle = np.array([one["score"] for one in scores])
    places = levels if down else np.log(levels)
    beaten = np.flatnonzero(middle < 0.5)
    at_half = None if not len(beaten) else float(levels[beaten[0]])
    summary = {
        "kind": "curve",
        "victim": victim,
        "metric": "accuracy",
        "axis": {
            "name": norm,
            "modality": modality,
            "unit": "dB" if down else "amplitude",
            "label": LABELS[norm],
            "log": not down,
            "harder": "down" if down else "up",
        },
        "radii": levels.tolist(),
        "scores": middle.tolist(),
        "low": [one["low"] for one in scores],
        "high": [one["high"] for one in scores],
        "clean": score(clean),
        "auc": float(np.trapezoid(middle, places) / (places[-1] - places[0])),
        "radius_half": at_half,
        "threshold": 0.5,
        "radius_threshold": at_half,
        "seed": 0,
        "checks": [],
    }
    return write_run(folder, summary, manifest={"condition": f"{norm}-{modality}"})


def attack_run(
    folder: Path,
    victim: str = "cnn-transformer",
    *,
    modality: str = "audio",
    norm: str = "linf",
    eps: float = 0.001,
    right: int = 40,
    clean: int = 90,
    support: str | None = None,
    cut: str | None = None,
) -> Path:
    """An attack on the first `clean` clips that leaves the first `right`; `modality` may be `both`."""
    names = ("audio", "video") if modality == "both" else (modality,)
    threat = {"norm": norm, "radius": eps, "unit": "amplitude"}
    told = {name: {**threat, "radius_amplitude": eps, "radius_dbfs": None, "snr_db_median": 40.0} for name in names}
    budgets = {name: {**threat, **({} if support is None else {"support": support})} for name in names}
    summary = {
        "kind": "attack",
        "victim": victim,
        "threat": told,
        "clean": score(clean),
        "robust": score(right),
        "success": {**score(clean - right, clean), "metric": "attack success"},
        "audit": {"violations": 0, "worst_ratio": 1.0},
        "checks": [{"name": "budget", "verdict": "pass", "detail": "no violation"}],
        "forwards_per_clip": 41.0,
        "backwards_per_clip": 40.0,
        "seconds": 1.0,
        "audio": [],
    }
    manifest: dict[str, Any] = {"condition": "attack", "threat": budgets, "config": {"steps": 40}, "target": None}
    if cut is not None:
        manifest |= {"cut": cut, "rescale": False}
    return write_run(folder, summary, manifest=manifest, records=_attack_records(names, eps, right, clean))


def change_run(
    folder: Path,
    victim: str = "cnn-transformer",
    *,
    modality: str = "logmel",
    pattern: str = "first-half",
    right: int = 60,
) -> Path:
    """A clip of 1 s with parts hidden."""
    condition = {"condition": f"occlusion-{modality}-{pattern}", "modality": modality, "pattern": pattern}
    difference = {
        "a": right / CLIPS,
        "b": 90 / CLIPS,
        "difference": (right - 90) / CLIPS,
        "low": -0.5,
        "high": -0.1,
        "p": 0.01,
    }
    summary = {
        "kind": "change",
        "victim": victim,
        "condition": condition,
        "clean": score(90),
        "changed": score(right),
        "difference": difference,
    }
    return write_run(folder, summary, manifest=condition)


def universal_run(folder: Path, victim: str = "cnn-transformer", *, modality: str = "logmel", frames: int = 64) -> Path:
    """A universal perturbation in linf, smooth over time and bands."""
    from safetensors.numpy import save

    generator = np.random.default_rng(5)
    shape = (frames, 64) if modality == "logmel" else (16_000,)
    delta = generator.standard_normal(shape)
    for axis in range(len(shape)):
        delta = sum(np.roll(delta, shift, axis=axis) for shift in range(-2, 3))
    ramp = np.linspace(0.3, 1.0, shape[-1])
    delta = (0.1 * np.clip(3 * ramp * delta / np.abs(delta).max(), -1, 1)).astype(np.float32)
    threat = {modality: {"norm": "linf", "radius": 0.1, "realised": float(np.abs(delta).max())}}
    summary = {
        "kind": "universal",
        "victim": victim,
        "fitted_on": {"split": "train", "clips": 400, "fingerprint": "1" * 32},
        "threat": threat,
        "legacy": False,
        "clean": score(90),
        "robust": score(12),
        "random": score(85),
        "audit": {"violations": 0, "worst_ratio": 1.0},
        "trace": [0.5, 1.0, 1.5],
    }
    write_run(folder, summary)
    budgets = {modality: {"norm": "linf", "radius": 0.1, "unit": "amplitude"}}
    told = {"victim": {"name": victim, "config": {}, "labels": list(CLASSES)}, "seed": 0, "threat": budgets}
    for name in ("universal", "random"):
        content = json.dumps({**told, "condition": name}, indent=2).encode()
        write_atomically(folder / name / "manifest.json", content)
    write_atomically(folder / "delta.safetensors", save({modality: delta}))
    return folder


def write_study(
    folder: Path, runs: Mapping[str, Path] | Iterable[Path], *, states: Mapping[str, str] | None = None
) -> Path:
    """`study.json` over run folders that lie in `folder / "cells"`; the condition of a cell is its folder's name."""
    cells = []
    for run in runs.values() if isinstance(runs, Mapping) else runs:
        summary = json.loads((run / "summary.json").read_text())
        state = (states or {}).get(run.name, "done")
        cells.append(
            {
                "key": f"{hash_of(run.name):012x}",
                "folder": str(run.relative_to(folder)),
                "victim": summary["victim"],
                "condition": run.name,
                "kind": summary.get("kind", "attack"),
                "data": summary["data"]["name"],
                "seed": 0,
                "state": state,
                "error": "out of memory" if state == "failed" else None,
            }
        )
    told = {"name": "small", "title": "A small study", "thesis": "10", "claim": "None.", "cells": cells, "check": False}
    write_atomically(folder / "study.json", json.dumps(told, indent=2).encode())
    return folder


def hash_of(*words: str) -> int:
    """A number that is the same in every process."""
    return zlib.crc32("/".join(words).encode())


def _attack_records(names: Sequence[str], eps: float, right: int, clean: int) -> pd.DataFrame:
    """Records as the engine writes them: the first `clean` clips are right at first, the first `right` stay so."""
    generator = np.random.default_rng(19)
    labels = np.arange(CLIPS) % len(CLASSES)
    clean_correct, correct = np.arange(CLIPS) < clean, np.arange(CLIPS) < right
    wrong = (labels + 1) % len(CLASSES)
    logits = [generator.standard_normal((CLIPS, len(CLASSES))) for _ in range(2)]
    for values, rights in zip(logits, (clean_correct, correct), strict=True):
        values[np.arange(CLIPS), np.where(rights, labels, wrong)] += 6
    columns: dict[str, Any] = {
        "index": np.arange(CLIPS),
        "id": [f"clip-{index:03d}" for index in range(CLIPS)],
        "label": labels,
        "clean_prediction": logits[0].argmax(axis=1),
        "clean_margin": np.where(clean_correct, 3.0, -3.0),
        "clean_correct": clean_correct,
        "clean_logits": logits[0].tolist(),
        "prediction": logits[1].argmax(axis=1),
        "margin": np.where(correct, 2.0, -2.0),
        "correct": correct,
        "logits": logits[1].tolist(),
        "attacked": clean_correct,
        "success": clean_correct & ~correct,
        "forwards": np.where(clean_correct, 41, 0),
        "backwards": np.where(clean_correct, 40, 0),
        "violated": np.zeros(CLIPS, dtype=bool),
        "violation": "",
        "label_name": [CLASSES[label] for label in labels],
    }
    for name in names:
        columns |= {f"linf_{name}": eps, f"l2_{name}": 50 * eps, f"l1_{name}": 5000 * eps, f"snr_db_{name}": 40.0}
        columns |= {f"ratio_{name}": 1.0, f"radius_{name}": eps, f"energy_{name}": 20.0, f"valid_{name}": 16_000}
    return pd.DataFrame(columns)


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()
