"""Small run folders of the kinds that are tables: thresholds, surfaces, latents, latencies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.robust.stores import CLASSES, write_run


def thresholds_run(folder: Path, victim: str = "av-mid", *, clips: int = 160) -> Path:
    """Log-normal thresholds, the fused ones larger, some wrong at first and some beyond the largest radius."""
    from robust.evaluation.thresholds import Thresholds

    generator = np.random.default_rng(7)
    largest = {"audio": 0.01, "video": 0.16}
    columns: dict[str, Any] = {
        "index": range(clips),
        "id": [f"clip-{index:03d}" for index in range(clips)],
        "label_name": [CLASSES[index % len(CLASSES)] for index in range(clips)],
    }
    agree = generator.random(clips) < 0.75
    columns["agree"] = agree
    for sense, name in (("A", "audio"), ("V", "video")):
        alone = largest[name] * np.exp(1.1 * generator.standard_normal(clips) - 3.6)
        gain = np.where(agree, 1.2, 0.1) + 0.8 * generator.standard_normal(clips)
        for column, radii, wrong in ((f"eps_{sense}", alone, 0.08), (f"eps_{sense}_to_AV", alone * np.exp(gain), 0.04)):
            radii = np.where(radii > largest[name], np.inf, radii)
            columns[column] = np.where(generator.random(clips) < wrong, 0.0, radii)
        columns[f"right_{sense}"] = columns[f"eps_{sense}"] > 0
        columns[f"prediction_{sense}"] = columns["label_name"]
    columns["right_AV"] = (columns["eps_A_to_AV"] > 0) & (columns["eps_V_to_AV"] > 0)
    for sense in "AV":
        columns[f"eps_{sense}_to_AV"] = np.where(columns["right_AV"], columns[f"eps_{sense}_to_AV"], 0.0)
    columns["prediction_AV"] = columns["label_name"]
    columns["backwards"] = np.full(clips, 200)
    victims = {"fused": victim, "audio": "av-audio", "video": "av-video"}
    found = Thresholds(pd.DataFrame(columns), ("audio", "video"), largest, "linf", 1.05, victims)
    summary = {**found.summary(), "kind": "thresholds", "victim": victim}
    return write_run(folder, summary, manifest={"condition": "thresholds"}, table=found.frame)


def surface_run(folder: Path, victim: str = "ast", *, points: int = 25, clips: int = 3) -> Path:
    """Margins that fall along the attack and bend across it."""
    generator = np.random.default_rng(11)
    places = np.linspace(-1, 2, points)
    x, y = np.meshgrid(places, places)
    parts = []
    for clip in range(clips):
        slope, bend = 2.5 + generator.random(), 0.6 + 0.4 * generator.random()
        margin = 2 - slope * x + bend * np.sin(2 * y + clip) - 0.3 * y**2
        part = {"clip": f"clip-{clip}", "label_name": CLASSES[clip], "x": x.ravel(), "y": y.ravel()}
        parts.append(pd.DataFrame({**part, "margin": margin.ravel(), "loss": np.logaddexp(0, -margin).ravel()}))
    summary = {
        "kind": "surface",
        "victim": victim,
        "norm": "linf",
        "eps": 0.001,
        "modality": "audio",
        "extent": [-1, 2],
        "points": points,
        "clips": clips,
    }
    return write_run(folder, summary, manifest={"condition": "surface"}, table=pd.concat(parts, ignore_index=True))


def latents_run(folder: Path, victim: str = "av-mid", *, classes: Sequence[str] = CLASSES, each: int = 12) -> Path:
    """Clusters that an attack draws together."""
    generator = np.random.default_rng(13)
    rows: list[dict[str, Any]] = []
    for latent, spread in (("audio", 2.0), ("video", 3.0), ("fused", 4.0)):
        for place, name in enumerate(classes):
            angle = 2 * np.pi * place / len(classes)
            centre = spread * np.array([np.cos(angle), np.sin(angle)])
            for clip in range(each):
                at = centre + 0.7 * generator.standard_normal(2)
                moved = at - 0.7 * centre + 0.5 * generator.standard_normal(2)
                for state, (x, y) in (("clean", at), ("adversarial", moved)):
                    told = {"clip": f"{name}-{clip}", "label_name": name, "correct": state == "clean", "latent": latent}
                    rows.append({**told, "state": state, "x": x, "y": y})
    senses = ("audio", "video", "fused")
    summary = {
        "kind": "latents",
        "victim": victim,
        "method": "pca",
        "explained": {sense: [0.41, 0.22] for sense in senses},
        "silhouette": {sense: {"clean": 0.31, "adversarial": -0.04} for sense in senses},
    }
    return write_run(folder, summary, manifest={"condition": "latents"}, table=pd.DataFrame(rows))


def latency_run(folder: Path, victim: str = "ast", *, blocks: int = 6) -> Path:
    """Layers of a small transformer."""
    generator = np.random.default_rng(17)
    layers = [("frontend.mel", "LogMel", 1.9), ("frontend.resample", "Resample", 0.4)]
    for block in range(blocks):
        path = f"backbone.encoder.layer.{block}"
        layers += [
            (f"{path}.attention.query", "Linear", 0.9),
            (f"{path}.attention.softmax", "Softmax", 0.35),
            (f"{path}.intermediate.dense", "Linear", 2.1),
            (f"{path}.output.dense", "Linear", 1.8),
            (f"{path}.layernorm", "LayerNorm", 0.12),
        ]
    milliseconds = np.array([size for *_, size in layers]) * np.exp(0.1 * generator.standard_normal(len(layers)))
    table = pd.DataFrame(
        {
            "layer": [path for path, *_ in layers],
            "operation": [operation for _, operation, _ in layers],
            "depth": [path.count(".") + 1 for path, *_ in layers],
            "milliseconds": milliseconds,
            "low": 0.94 * milliseconds,
            "high": 1.09 * milliseconds,
            "share": milliseconds / milliseconds.sum(),
            "calls": 1,
            "parameters": 1000,
        }
    )
    summary = {
        "kind": "latency",
        "victim": victim,
        "device": "cpu",
        "threads": 1,
        "batch_size": 8,
        "clip_seconds": 1.0,
        "total_milliseconds": float(milliseconds.sum()),
        "repeats": 20,
    }
    return write_run(folder, summary, manifest={"condition": "latency"}, table=table)
