"""Small run folders of the physical world: over the air, under corruptions, under music, through stickers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from PIL import Image

from robust.evaluation.air import VERSIONS
from robust.evaluation.air_summary import air_scores
from robust.evaluation.listening import clip_stem
from tests.robust.stores import CLASSES, score, write_run

RATE = 16_000
CLIPS = 12
ROOMS = 5
STANDING = {"unperturbed": 0.95, "random": 0.93, "plain": 0.5, "eot": 0.25}
CORRUPTIONS = {"white": ("noise", 1.0), "hum": ("noise", 0.5), "mp3": ("codec", 0.4)}
PERCEPTUAL = {"snr_db": 27.81, "perturbation_loudness_lu": -26.24, "masking_audible": 0.3117, "masking_mean_db": None}


def ids() -> list[str]:
    return [f"clip/{index:03d}" for index in range(CLIPS)]


def wav(path: Path, sound: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound.astype(np.float32), RATE, subtype="FLOAT")
    return str(path)


def records(prediction: np.ndarray, label: np.ndarray, labels: tuple[str, ...], **columns: Any) -> pd.DataFrame:
    """Rows of clips that are said to be `prediction`, and right without the condition."""
    count = len(label)
    logits = np.eye(len(labels))
    return pd.DataFrame(
        {
            "index": range(count),
            "id": ids()[:count],
            "label": label,
            "label_name": [labels[place] for place in label],
            "clean_prediction": label,
            "clean_correct": True,
            "clean_logits": [3 * logits[place] for place in label],
            "prediction": prediction,
            "correct": prediction == label,
            "logits": [2 * logits[place] for place in prediction],
            **columns,
        }
    )


def part(folder: Path, rows: pd.DataFrame, **manifest: Any) -> None:
    """A store within a run's folder, without a summary of its own."""
    write_run(folder, {"victim": "m"}, manifest=manifest, records=rows)
    (folder / "summary.json").unlink()


def air_run(folder: Path, victim: str = "ast") -> Path:
    """An attack with and without EOT; four clips may be listened to."""
    generator = np.random.default_rng(3)
    label = np.arange(CLIPS) % len(CLASSES)
    columns: dict[str, Any] = {}
    for version in VERSIONS:
        for place in ("no_channel", "train_rooms", "held_out_rooms"):
            stands = generator.random((CLIPS, 1 if place == "no_channel" else ROOMS)) < STANDING[version]
            columns[f"{version}_{place}"] = stands[:, 0].tolist() if place == "no_channel" else stands.tolist()
    sizes = {"linf_audio": 0.001, "radius_audio": 0.001, "snr_db_audio": 27.8, "ratio_audio": 1.0, "valid_audio": RATE}
    rows = records(label, label, CLASSES, **columns, attacked=True, success=False, **sizes)
    threat = {"norm": "linf", "radius": 0.001, "unit": "amplitude"}
    summary = {
        "kind": "air",
        "victim": victim,
        "channel": "room",
        "clips": CLIPS,
        "threat": {"audio": {**threat, "radius_amplitude": 0.001, "radius_dbfs": -60.0, "snr_db_median": 24.9}},
        **{"steps": 60, "plain_steps": 60, "draws": 4, "keep_steps": 1, "situations": ROOMS},
        "clean": score(CLIPS, CLIPS),
        "robust": {**score(5, CLIPS), "metric": "accuracy in held-out rooms"},
        **air_scores(rows),
        "perceptual": {"eot": PERCEPTUAL, "plain": PERCEPTUAL},
        "gradient_noise": 0.81,
        "audit": {"violations": 0, "worst_ratio": 1.0},
        "checks": [{"name": "S17 unseen rooms", "verdict": "pass", "detail": "training rooms +1.0 points above"}],
        "audio": [],
    }
    few = rows.sort_values("eot_no_channel", kind="stable").head(4)
    for place, clip in enumerate(few["id"]):
        for number, version in enumerate(VERSIONS):
            for where in ("", "-in-room"):
                sound = 0.1 * np.sin(np.arange(800) * 0.3) + 0.001 * number * generator.standard_normal(800)
                summary["audio"].append(wav(folder / "audio" / f"{clip_stem(place, clip)}-{version}{where}.wav", sound))
    manifest = {"condition": "air", "threat": {"audio": threat}, "config": {"steps": 60, "loss": None}, "draws": 4}
    manifest |= {"keep_steps": 1, "situations": ROOMS, "plain_steps": None, "target": None, "device": "cpu"}
    return write_run(folder, summary, manifest=manifest, records=rows)


def noise_run(folder: Path, victim: str = "m5") -> Path:
    """Three corruptions at five severities."""
    cells, rows = [], []
    for name, (category, slope) in CORRUPTIONS.items():
        errors = []
        for severity in range(1, 6):
            right = round(CLIPS * (1 - slope * severity / 6))
            errors.append(1 - right / CLIPS)
            told = {"corruption": name, "category": category, "severity": severity, "parameter": "SNR (dB)"}
            told |= {"value": 25.0 - 5 * severity, **score(right, CLIPS), "snr_db": 25.01 - 5 * severity}
            cells.append({**told, "psnr_db": None, "ece": 0.05 * severity, "nll": 0.2 * severity, "silent": 0})
        error = float(np.mean(errors))
        rows.append({"corruption": name, "category": category, "mean_error": error, "degradation": error})
        rows[-1] |= {"ce": None if name == "hum" else 1.25, "relative_ce": None}
    mean = float(np.mean([row["mean_error"] for row in rows]))
    total = {"mean_error": mean, "mean_error_low": mean - 0.1, "mean_error_high": mean + 0.1}
    categories = {name: {"mean_error": 0.4321, "mce": 1.5} for name in ("noise", "codec")}
    mce = {"mce": 1.25, "mce_low": 1.1, "mce_high": 1.4, "mce_corruptions": 2}
    reference = {"model": "m5", "data": "the test split of events"}
    summary = {
        "kind": "noise",
        "victim": victim,
        "clips": CLIPS,
        "clean": {**score(CLIPS, CLIPS), "ece": 0.021, "nll": 0.11},
        "cells": cells,
        "corruptions": rows,
        "categories": categories,
        **total,
        **mce,
        "silent_clips": 1,
        "reference": reference,
        "no_reference": None,
    }
    return write_run(folder, summary, manifest={"condition": "noise", "command": "robust noise --model m5 --limit 12"})


def music_run(folder: Path, victim: str = "wakeword") -> Path:
    """F1 falls with the ratio, most under adversarial music; two clips may be listened to."""
    labels, label = ("other", "wake"), np.arange(CLIPS) % 2
    lost = {"silence": 0.0, "noise": 0.1, "plain": 0.3, "adversarial": 0.8}
    shares = {"precision": {"score": 0.9, "low": 0.7, "high": 0.97}, "recall": {"score": 0.4, "low": 0.2, "high": 0.6}}
    cells: list[dict[str, Any]] = []
    for ratio in (None, -5.0, 5.0):
        for masker in ("silence",) if ratio is None else ("adversarial", "plain", "noise"):
            f1 = 1 - lost[masker] * (1.0 if ratio == -5.0 else 0.5)
            ends = {"low": f1 - 0.08, "high": min(1.0, f1 + 0.07)}
            cells.append({"masker": masker, "smr_db": ratio, "f1": f1, **ends, **shares})
            said = np.where(np.arange(CLIPS) < CLIPS * lost[masker], 0, label)
            part(folder / f"jam-{masker}{'' if ratio is None else f'-{ratio:g}dB'}", records(said, label, labels),
                 victim={"name": victim, "labels": list(labels)}, condition=f"jam-{masker}")  # fmt: skip
    generator, audio = np.random.default_rng(1), []
    for masker in ("adversarial", "plain", "noise"):
        audio.append(wav(folder / f"music-{masker}.wav", 0.1 * generator.standard_normal(1600)))
    for place, clip in enumerate([ids()[1], ids()[3]]):
        for masker in lost:
            sound = 0.1 * generator.standard_normal(800)
            audio.append(wav(folder / "audio" / f"{clip_stem(place, clip)}-{masker}.wav", sound))
    summary = {
        "kind": "music",
        "victim": victim,
        "clips": CLIPS,
        "wake": "wake",
        "rooms": {"rooms": {"name": "adapted"}, "held_out": 100},
        "score": "Am-F-C-G",
        "cells": cells,
        "adversarial_over_plain": [
            {"smr_db": -5.0, "ratio": 0.2857, "low": 0.11, "high": 0.52,
             "recall_difference": {"difference": -0.5, "low": -0.7, "high": -0.2, "p": 0.0123, "test": "exact McNemar"}}
        ],
        "loudness_lufs": {"adversarial": -23.0, "plain": -23.0, "noise": -23.0},
        "audit": {"violations": 0, "worst_loudness_error_lu": 0.0},
        "trace": [3.0, 1.0],
        "audio": audio,
    }  # fmt: skip
    return write_run(folder, summary)


def sticker_run(folder: Path, victim: str = "av-video") -> Path:
    """Half of the clips reach the target; two clips may be looked at."""
    label = np.zeros(CLIPS, dtype=int)
    said = np.where(np.arange(CLIPS) < 6, 1, 0)
    part(folder / "stickers", records(said, label, CLASSES), victim={"name": victim, "labels": list(CLASSES)},
         condition="stickers")  # fmt: skip
    rates = {
        "clean": score(CLIPS, CLIPS),
        "targeted": {"rate": score(6, CLIPS), "random": score(1, CLIPS),
                     "difference": {"difference": 5 / 12, "low": 0.1, "high": 0.7, "p": 0.0312,
                                    "test": "exact McNemar"}},
        "untargeted": {"rate": score(7, CLIPS), "random": score(2, CLIPS)},
    }  # fmt: skip
    summary = {
        "kind": "stickers",
        "victim": victim,
        "clips": CLIPS,
        "source": CLASSES[0],
        "target": CLASSES[1],
        "config": {"radius": 0.1, "alpha_max": 0.6, "views": {"jitter_pixels": 2.0}},
        "fitted_on": {"split": "train", "clips": 64},
        "stickers": {"centres": [[0.2, 0.74], [0.7, 0.3]], "colours": [[1.0, 0.95, 0.0], [0.4, 0.8, 1.0]],
                     "colour_names": ["yellow", "cyan 50 %"]},
        "still": rates,
        "jittered": rates,
    }  # fmt: skip
    generator = np.random.default_rng(2)
    few = records(said, label, CLASSES).sort_values("correct", kind="stable").head(2)
    for place, clip in enumerate(few["id"]):
        for kind, shade in (("original", 60), ("stickers", 160)):
            for frame in (1, 4):
                noise = generator.integers(0, 60, (16, 16, 3)) + shade
                picture(folder / "video" / f"{clip_stem(place, clip)}-{kind}-{frame:02d}.png", noise)
    sheet = np.full((32, 32, 3), 255)
    sheet[4:10, 20:26] = (255, 240, 0)
    picture(folder / "sheet.png", sheet)
    return write_run(folder, summary)


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())


def edited(folder: Path, **entries: Any) -> Path:
    """The run with other entries in its summary; None takes one out."""
    path = folder / "summary.json"
    told = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))
    return folder
