"""Small run and study folders with geometry: measures of victims whose order is known, and scores beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robust.atomic import write_atomically
from tests.robust import stores
from tests.robust.stores import CLASSES, CLIPS, hash_of, write_run

MODELS = ("av-early", "av-mid", "av-late")
DEFENSES = ("none", "mixup", "latent-mixup", "pgd")
SEEDS = (0, 1)
SPACES = ("audio", "video", "fused")
OVER = {"sharpness": "batches", "curvature": "batches", "input": "clips", "density": "clips", "convexity": "clips"}
MEASURES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sharpness": (("weights",), ("sam", "worst-linf", "average")),
    "input": (("audio", "video"), ("gradient-l2", "local-linearity")),
    "density": (SPACES, ("knn-class-log-density", "local-purity")),
    "convexity": (SPACES, ("convexity", "conditional", "top")),
}


def geometry_run(
    folder: Path, victim: str = "av-mid", *, seed: int = 0, shift: float = 0.0, weights: str | None = None
) -> Path:
    """Random measures; those that `shift` moves rise with it."""
    generator = np.random.default_rng(hash_of(victim, str(seed), str(weights)))
    rows: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    for group, (spaces, names) in MEASURES.items():
        for space in spaces:
            for name in names:
                place = {"group": group, "space": space, "measure": name}
                value = float(np.exp(shift + 0.4 * generator.standard_normal()))
                if group == "convexity":
                    value = 1 / (1 + 1 / value)
                spread = 0.15 * value
                ends = {"low": value - spread, "high": value + spread, "over": OVER[group], "count": CLIPS}
                rows.append({**place, "value": value, **ends})
                if group in ("density", "convexity"):
                    classes += _by_class(place, value, generator)
    # One whose interval is not known, as of sharpness on one batch.
    rows[1] |= {"low": np.nan, "high": np.nan, "count": 1}
    table, by_class = pd.DataFrame(rows), pd.DataFrame(classes)
    clips = pd.DataFrame(
        {"id": [f"clip-{place:03d}" for place in range(CLIPS)], "label": [CLASSES[i % 6] for i in range(CLIPS)]}
    )
    summary = {"kind": "geometry", "victim": victim, "data": "events", **_nested(rows), "left_out": {}}
    manifest: dict[str, Any] = {"condition": "geometry", "settings": {"neighbours": 10}, "seed": seed}
    if weights is not None:
        manifest["weights"] = weights
    write_run(folder, summary, manifest=manifest, table=table)
    for name, frame in (("classes", by_class), ("clips", clips)):
        write_atomically(folder / f"{name}.parquet", frame.to_parquet())
    return folder


def geometry_study(
    folder: Path,
    *,
    models: Sequence[str] = MODELS,
    defenses: Sequence[str] = DEFENSES,
    seeds: Sequence[int] = SEEDS,
    slope: float = 1.0,
) -> Path:
    """Victims MODEL-DEFENSE: geometry, an attack, noise; the measures rise with what stands the attack if slope > 0."""
    cells, listed = folder / "cells", []
    for model in models:
        for place, defense in enumerate(defenses):
            victim = f"{model}-{defense}"
            for seed in seeds:
                name = f"{victim}-{seed}"
                right = 20 + 14 * place + 3 * seed
                runs = {
                    "geometry": geometry_run(
                        cells / f"{name}-geometry", model, seed=seed, shift=slope * place, weights=name
                    ),
                    "pgd": stores.attack_run(cells / f"{name}-pgd", model, right=right),
                    "hiss": edited_change(cells / f"{name}-hiss", model, right=90 - right // 2),
                }
                for condition, run in runs.items():
                    _of_weights(run, name, seed)
                    kind = {"geometry": "geometry", "pgd": "attack", "hiss": "change"}[condition]
                    told = {"victim": victim, "condition": condition, "kind": kind, "data": "events", "seed": seed}
                    where = {"folder": str(run.relative_to(folder)), "key": f"{hash_of(run.name):012x}"}
                    listed.append({**told, **where, "state": "done", "error": None})
    kin = {f"{model}-{defense}": {"model": model, "defense": defense} for model in models for defense in defenses}
    told = {"name": "kin", "title": "Kin", "claim": "", "check": False, "victims": kin, "cells": listed}
    write_atomically(folder / "study.json", json.dumps(told, indent=2).encode())
    return folder


def edited_change(folder: Path, victim: str, *, right: int) -> Path:
    """White noise on every clip."""
    stores.change_run(folder, victim, right=right)
    told = json.loads((folder / "summary.json").read_text())
    told["condition"] = {"condition": "noise", "modality": "audio", "std": 0.1}
    told["difference"] |= {"test": "McNemar"}
    write_atomically(folder / "summary.json", json.dumps(told, indent=2).encode())
    return folder


def table_of(folder: Path, name: str = "table") -> pd.DataFrame:
    """A table of a run as it lies there."""
    return pd.read_parquet(io.BytesIO((folder / f"{name}.parquet").read_bytes()))


def _by_class(place: Mapping[str, str], value: float, generator: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for rank, label in enumerate(CLASSES):
        own = value * (0.6 + 0.08 * rank) + 0.02 * generator.standard_normal()
        ends = {"low": own - 0.05, "high": own + 0.05, "over": "clips", "count": 8 + 3 * rank}
        found.append({**place, "label": label, "value": own, **ends})
    return found


def _nested(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As `Geometry.summary` tells it."""
    told: dict[str, Any] = {}
    for row in rows:
        inner = told.setdefault(row["group"], {})
        if row["space"] != "weights":
            inner = inner.setdefault(row["space"], {})
        inner[row["measure"]] = {name: row[name] for name in ("value", "low", "high", "over", "count")}
        inner[row["measure"]] |= {name: None for name in ("low", "high") if row[name] != row[name]}
    return told


def _of_weights(run: Path, weights: str, seed: int) -> None:
    told = json.loads((run / "manifest.json").read_text())
    write_atomically(run / "manifest.json", json.dumps({**told, "weights": weights, "seed": seed}, indent=2).encode())


def rewritten(path: Path, **values: Any) -> Path:
    """A JSON object with other values."""
    write_atomically(path, json.dumps({**json.loads(path.read_text()), **values}, indent=2).encode())
    return path


def plain_study(folder: Path, runs: Sequence[Path]) -> Path:
    """`stores.write_study` over runs of which some, as geometry's, tell of their data by name alone."""
    kept = {run: (run / "summary.json").read_text() for run in runs}
    for run in runs:
        rewritten(run / "summary.json", data={"name": "events"})
    stores.write_study(folder, runs)
    for run, text in kept.items():
        (run / "summary.json").write_text(text)
    return folder


def scored_study(folder: Path, shares: Mapping[str, tuple[float, float]] | None = None) -> Path:
    """No geometry: models, each with its scores under an attack and in noise."""
    shares = shares or {"ast": (0.1, 0.2), "m5": (0.3, 0.4), "cnn14": (0.5, 0.8), "m18": (0.9, 0.6)}
    runs = []
    for name, (attacked, noisy) in shares.items():
        runs += [stores.attack_run(folder / "cells" / f"{name}--pgd", name)]
        rewritten(runs[-1] / "summary.json", robust={**stores.score(1), "score": attacked})
        runs += [stores.change_run(folder / "cells" / f"{name}--hiss", name)]
        told = json.loads((runs[-1] / "summary.json").read_text())
        changed, difference = {**told["changed"], "score": noisy}, {**told["difference"], "test": "McNemar's test"}
        noise = {"condition": {"corruption": "white"}, "changed": changed, "difference": difference}
        rewritten(runs[-1] / "summary.json", **noise)
    plain_study(folder, runs)
    told = json.loads((folder / "study.json").read_text())
    cells = [{**cell, "condition": cell["condition"].partition("--")[2]} for cell in told["cells"]]
    kin = {name: {"model": name, "defense": "none"} for name in shares}
    write_atomically(folder / "study.json", json.dumps({**told, "cells": cells, "victims": kin}).encode())
    return folder


def small_study(folder: Path) -> Path:
    """One whose measures fit on a page."""
    return geometry_study(folder, models=("av-mid", "av-late"), defenses=("none", "pgd"), slope=0.8)
