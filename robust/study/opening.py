"""Opens what cells name: victims and data sets, a few of which each process keeps."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from robust.data import load_data
from robust.evaluation.store import versions
from robust.types import Dataset
from robust.victims import Victim, load_victim

KEPT = 8
MEASURING = ("robust/study/cells.py", "robust/study/conditions.py", "robust/study/kinds.py")
"""What of the study's own code decides results."""


def open_victim(named: Mapping[str, Any], device: str) -> Victim:
    """The victim `{"model": ..., "weights": ...}`."""
    return _victim(named["model"], named["weights"], device)


def open_data(named: Mapping[str, Any], *, split: str | None = None, limit: int | None = None) -> Dataset:
    """The data set `{"set", "split", "root", "limit", "options"}`; another split or limit of it if given."""
    chosen = dict(named) if split is None else {**named, "split": split, "limit": limit}
    return _data(json.dumps(chosen, sort_keys=True, default=str))


def forget() -> None:
    """Drops what is kept, so that files that changed meanwhile are read again."""
    _victim.cache_clear()
    _data.cache_clear()


def source_of(model: str) -> str | None:
    """Hash of the file that a victim of the user's own is made by: its code may change while its weights do not."""
    place, _, _ = model.rpartition(":")
    if not place:
        return None
    if not place.endswith(".py"):
        found = importlib.util.find_spec(place)
        place = "" if found is None or found.origin is None else found.origin
    path = Path(place)
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.is_file() else None


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Hash of the sources that results depend on, and of the versions of libraries.

    A study computed by other code is not reused; what parses, draws and reports has no part in results.
    """
    libraries = {**versions(), **{name: metadata.version(name) for name in ("pyroomacoustics", "scikit-learn")}}
    digest = hashlib.blake2b(json.dumps(libraries, sort_keys=True).encode(), digest_size=16)
    root = Path(__file__).parents[2]
    apart = ("robust/cli", "robust/plots", "robust/report", "robust/study")
    for package in ("attacks", "defenses", "robust"):
        for path in sorted(path for ending in ("*.py", "*.yaml") for path in (root / package).rglob(ending)):
            name = path.relative_to(root).as_posix()
            if not name.startswith(apart) or name in MEASURING:
                digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=KEPT)
def _victim(model: str, weights: str | None, device: str) -> Victim:
    return load_victim(model, weights=weights, device=device)


@lru_cache(maxsize=KEPT)
def _data(described: str) -> Dataset:
    told = json.loads(described)
    return load_data(told["set"], split=told["split"], root=told["root"], limit=told["limit"], **told["options"])
