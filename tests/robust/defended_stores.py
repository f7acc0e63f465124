"""Small run folders behind a defense: a purifier at one radius and at several, certificates, corruptions purified."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robust.evaluation.listening import clip_stem
from robust.evaluation.purification_summary import purification_scores
from robust.metrics.classification import wilson
from tests.robust import stores
from tests.robust.physical_stores import edited, noise_run, records, wav
from tests.robust.stores import CLASSES, score, write_run

CLIPS = 12
DRAWS = 4
RATE = 16_000
ADAPTIVE = "adaptive"
WEAK = "non-adaptive: no full gradient, no black box"
STANDING = {"unperturbed": 0.95, "transfer": 0.7, "bpda": 0.5, "full-1": 0.3, "square": 0.6}
FAMILIES: Mapping[str, Sequence[int]] = {"waveform": (1, 3, 10)}
"""Kind of diffusion -> numbers of steps."""
RADII = (0.001, 0.002, 0.004)


def of_clips(right: int, clips: int = 24) -> dict[str, Any]:
    """An accuracy over draws."""
    return {**score(right, clips), "metric": "accuracy over draws"}


def threat(radius: float) -> dict[str, Any]:
    """As summaries tell it."""
    told = {"norm": "linf", "radius": radius, "unit": "amplitude", "radius_amplitude": radius}
    return {"audio": {**told, "radius_dbfs": 20 * np.log10(radius), "snr_db_median": 24.9}}


def purifier(name: str, steps: int | None = None) -> dict[str, Any]:
    """What a summary says of a purifier; with steps it is one of diffusion."""
    own = {"channel": name, **({} if steps is None else {"steps": steps, "method": "ddpm"})}
    return {"name": name, "random": steps is not None, "gradient": "exact", "settings": own}


def purification_run(folder: Path, victim: str = "m18", *, label: str = ADAPTIVE, audio: bool = True) -> Path:
    """Four attacks without a cascade on clips of six classes; three clips may be listened to."""
    generator = np.random.default_rng(4)
    truth = np.arange(CLIPS) % len(CLASSES)
    columns: dict[str, Any] = {}
    for version, standing in STANDING.items():
        ceiling = generator.random((CLIPS, DRAWS)) < standing
        for purpose in ("selection", "scoring"):
            columns[f"{version}_{purpose}"] = ceiling.tolist()
        columns[f"{version}_gain"] = -ceiling.mean(axis=1)
        columns |= {f"{version}_{way}": 20 for way in ("forwards", "backwards")}
    shares = np.array([np.stack(columns[f"{version}_scoring"]).mean(axis=1) for version in STANDING])
    worst = shares.argmin(axis=0)
    columns["worst"] = [list(STANDING)[place] for place in worst]
    for purpose in ("selection", "scoring"):
        columns[f"worst_{purpose}"] = [columns[f"{name}_{purpose}"][clip] for clip, name in enumerate(columns["worst"])]
    columns |= {"attacked": shares[0] > 0, "success": [not any(row) for row in columns["worst_scoring"]]}
    columns |= {"bare_stands": np.arange(CLIPS) < 2, "adaptivity": label, "violated": False}
    sizes = {"linf_audio": 0.002, "radius_audio": 0.002, "snr_db_audio": 27.8, "ratio_audio": 1.0, "valid_audio": RATE}
    rows = records(truth, truth, CLASSES, **columns, **sizes)
    summary = {
        "kind": "purification",
        "victim": victim,
        "clips": CLIPS,
        "purifier": purifier("waveform:3", 3),
        "threat": threat(0.002),
        **{"steps": 70, "draws": DRAWS, "cascade": False, "sure": 8, "queries": 300},
        "success": {**score(3, CLIPS), "metric": "attack success"},
        "perceptual": {"snr_db": 27.8},
        "audit": {"violations": 0, "worst_ratio": 1.0},
        "checks": [{"name": "S19 gradient masking", "verdict": "pass", "detail": "transfer leaves 70 %, full-1 30 %"}],
        **{"forwards_per_clip": 80.0, "backwards_per_clip": 80.0, "seconds": 3.0},
        **purification_scores(rows, {"fixed": "the purifier draws nothing: the same as full-1"}),
        "audio": [],
    }
    few = rows[rows["attacked"] & (rows["worst"] != "unperturbed")]
    order = few.assign(share=[np.mean(row) for row in few["worst_scoring"]]).sort_values("share", kind="stable")
    for place, clip in enumerate(order["id"].head(3) if audio else ()):
        for number, kind in enumerate(("clean", "adversarial", "purified-adversarial")):
            sound = 0.1 * np.sin(np.arange(800) * 0.3) + 0.001 * number * generator.standard_normal(800)
            summary["audio"].append(wav(folder / "audio" / f"{clip_stem(place, clip)}-{kind}.wav", sound))
    ball = {"norm": "linf", "radius": 0.002, "unit": "amplitude"}
    manifest = {"condition": "purification", "threat": {"audio": ball}, "config": {"steps": 70, "loss": None}}
    manifest |= {"target": None, "draws": DRAWS, "cascade": False, "sure": 8, "queries": 300, "device": "cpu"}
    manifest |= {"attacks": ["transfer", "bpda", "full-1", "square"], "purifier": purifier("waveform:3", 3)["settings"]}
    return write_run(folder, summary, manifest=manifest, records=rows)


def purify_run(
    folder: Path,
    victim: str = "m18",
    *,
    name: str = "waveform:3",
    steps: int | None = 3,
    clean: int = 22,
    bare: Sequence[int] = (6, 2, 0),
    transfer: Sequence[int] = (18, 14, 9),
    robust: Sequence[int] = (12, 7, 2),
    labels: Sequence[str] = (ADAPTIVE,) * 3,
    data: str = "events",
) -> Path:
    """A purifier at three radii, of 24 clips."""
    levels = [
        {
            "robust": of_clips(left),
            "bare_robust": {**score(without, 24)},
            "always": of_clips(max(left - 1, 0)),
            "attacks": {
                "transfer": {"robust": of_clips(blind), "left": of_clips(blind), "clips": 24, "worst_for": 3},
                "full-1": {"robust": of_clips(left), "left": of_clips(left), "clips": 24, "worst_for": 21},
            },
            "label": label,
            "audit": {"violations": 0, "worst_ratio": 1.0},
            "threat": threat(radius),
        }
        for radius, label, left, blind, without in zip(RADII, labels, robust, transfer, bare, strict=True)
    ]
    told = sorted(set(labels))
    missing = list(dict.fromkeys(part for one in told for part in one.partition(": ")[2].split(", ") if part))
    summary = {
        "kind": "purify",
        "victim": victim,
        "data": {**stores.DATA, "name": data},
        "clips": 24,
        "purifier": purifier(name, steps),
        "clean": of_clips(clean),
        "bare_clean": score(23, 24),
        **{"steps": 70, "draws": 4, "cascade": True},
        "axis": {"norm": "linf", "unit": "amplitude", "modality": "audio"},
        "radii": list(RADII),
        **{"adaptive": not missing, "missing": missing, "label": "; ".join(told)},
        "levels": levels,
        "checks": [],
        "seconds": 9.0,
    }
    return write_run(folder, summary, manifest={"condition": "purified-curve"})


def certificate_run(
    folder: Path, victim: str = "m18", *, sigma: float = 0.25, denoiser: str | None = None, clips: int = 60
) -> Path:
    """Certified radii up to the ceiling of 1,000 votes, and an attack that leaves more."""
    generator = np.random.default_rng(stores.hash_of(victim, str(sigma), str(denoiser)))
    ceiling = 2.46 * sigma
    radii = np.minimum(1.6 * sigma * generator.random(clips) + (0.4 * sigma if denoiser else 0.0), ceiling)
    right = generator.random(clips) < 0.8
    table = pd.DataFrame(
        {
            "index": range(clips),
            "id": [f"clip-{place}" for place in range(clips)],
            "right": right,
            "radius": np.where(right, radii, 0.0),
            "norm": 8 + generator.random(clips),
        }
    )
    asked = [round(float(level), 4) for level in np.linspace(0, ceiling, 6)]
    held = [int((right & (radii >= level)).sum()) for level in asked]
    shares = [{**score(count, clips), "metric": "certified accuracy"} for count in held]
    tried = [min(int(right.sum()), count + 6) for count in held]
    snr_db = [None, *(float(20 * np.log10(8.5 / level)) for level in asked[1:])]
    told = None if denoiser is None else {"name": f"checkpoints/{denoiser}.safetensors", "domain": denoiser}
    summary = {
        "kind": "certificate",
        "victim": victim,
        "denoiser": told,
        "clips": clips,
        **{"sigma": sigma, "n0": 100, "n": 1000, "alpha": 0.001, "decisions": 1, "ceiling": ceiling, "radius": None},
        "clean": score(57, clips),
        "smoothed": {**score(int(right.sum()), clips), "metric": "accuracy of the smoothed classifier"},
        "abstained": {**score(2, clips), "metric": "clips with an answer withheld"},
        "radii": asked,
        "certified": shares,
        "high_probability": [max(share["score"] - 0.08, 0.0) for share in shares],
        "average_radius": {"score": 0.31, "low": 0.28, "high": 0.34},
        "snr_db": snr_db,
        "votes_per_clip": 1100.0,
        "certified_in": ["fp32"],
        "recast_share": 0.0,
        "radius_snr_db_median": 28.5,
        "attacked": {
            "radii": asked,
            "scores": [{**score(count, clips), "metric": "accuracy under attack"} for count in tried],
            "snr_db": snr_db,
            **{"violations": 0, "steps": 20, "draws": 8},
        },
        "checks": [{"name": "S22 certificate", "verdict": "pass", "detail": "no answer changed in 300 attacks"}],
    }
    manifest = {"condition": "smoothing", "sigma": sigma, "n0": 100, "n": 1000, "alpha": 0.001, "radius": None}
    manifest |= {"radii": asked, "draws": 8, "attack": {"steps": 20}, "denoiser": told, "device": "cpu"}
    return write_run(folder, summary, manifest=manifest, records=table)


def purified_noise_run(folder: Path, victim: str = "m5") -> Path:
    """Three corruptions at five severities before and after a purifier that wins on noise and costs two clean clips."""
    summary = json.loads((noise_run(folder, victim) / "summary.json").read_text())
    cells = []
    for cell in summary["cells"]:
        gain = 2 if cell["category"] == "noise" and cell["severity"] > 2 else 0
        kept = ("corruption", "severity", "parameter", "value")
        cells.append({**{name: cell[name] for name in kept}, **compared(round(12 * cell["score"]), gain)})
    figures = {"mean_error": 0.5, "mean_error_low": 0.4, "mean_error_high": 0.6, "degradation": 0.4, "mce": 1.25}
    purified = {
        "purifier": purifier("waveform:3", 3),
        "clean": compared(12, -2),
        "cells": cells,
        "before": figures,
        "after": {**figures, "mean_error": 0.42, "mce": None},
    }
    return edited(folder, purified=purified)


def compared(right: int, gain: int) -> dict[str, Any]:
    """An accuracy of 12 clips before and after, and the difference."""
    low, high = (end - 0.5 for end in wilson(6, 12))
    difference = {"difference": gain / 12, "low": gain / 12 + low, "high": gain / 12 + high}
    told = {"a": (right + gain) / 12, "b": right / 12, "p": 0.5 if gain else 1.0, "test": "exact McNemar"}
    return {"before": score(right, 12), "after": score(right + gain, 12), "difference": {**difference, **told}}


def purifier_study(folder: Path, families: Mapping[str, Sequence[int]] = FAMILIES) -> Path:
    """Two victims on two data sets behind diffusion and a median; the purifiers of one set are paths."""
    runs = []
    for data in ("events", "fsdd"):
        for number, victim in enumerate(("ast", "m18")):
            place = folder / "cells" / f"{victim}-{data}"
            runs.append(purify_run(place / "median", victim, name="median:3", steps=None, clean=23, data=data,
                                   transfer=(10, 6, 1), robust=(8, 3, 0)))  # fmt: skip
            for family, every in families.items():
                for rank, steps in enumerate(every):
                    lost = 2 * rank + number
                    runs.append(
                        purify_run(place / f"{family}-{steps}", victim, name=f"{family}:{steps}", steps=steps,
                                   clean=23 - lost, data=data, transfer=(19 - lost, 15 - lost, 9 - rank),
                                   robust=(9 + rank, 5 + rank, 1 + rank))
                    )  # fmt: skip
    return stores.write_study(folder, runs)


def purifiers(folder: Path) -> Path:
    """One victim behind several purifiers, one of which was not attacked adaptively at the two larger radii."""
    cells = folder / "cells"
    runs = [
        purify_run(cells / "median", name="median:3", steps=None, transfer=(10, 6, 1), robust=(8, 3, 0)),
        purify_run(cells / "codec", name="codec:mp3:32", steps=None, robust=(13, 9, 4), labels=(ADAPTIVE, WEAK, WEAK)),
        purify_run(cells / "waveform-3"),
        purify_run(cells / "mel-5", name="mel:5", steps=5, clean=19, robust=(14, 9, 4)),
    ]
    return stores.write_study(folder, runs)


def certificates(folder: Path) -> Path:
    """Three smoothings side by side, as `robust certify --out` leaves them."""
    certificate_run(folder / "gaussian-0.25", "m18-gaussian")
    certificate_run(folder / "gaussian-0.5", "m18-gaussian", sigma=0.5)
    certificate_run(folder / "denoised-0.25", denoiser="waveform")
    return folder
