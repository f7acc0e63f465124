"""Responses on disk: a file for each bank or room, whole or not at all, named by a hash of what decides its content.

A file is an uncompressed archive of NumPy arrays, whose checksums tell when it is damaged; it is then made anew. Two
processes that make the same one write the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robust.atomic import write_atomically
from robust.data.cache import cache_dir
from robust.errors import StoreError

VERSION = 1
"""To be raised whenever the same settings give other responses."""

SIMULATED_BY = ("pyroomacoustics", "numpy", "scipy")
"""Libraries whose other versions may give others."""

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError)
"""What reading an archive raises where any of its bytes are wrong; the last for flags of methods and passwords."""

Content: TypeAlias = tuple[NDArray[np.float32], list[dict[str, Any]]]
"""Responses (N, L) and a row of JSON for each."""


def cached(settings: Mapping[str, Any], make: Callable[[], Content]) -> Content:
    """What `make` gives, from the disk where it was made before with the same settings.

    A cache that cannot be written is a warning.
    """
    path = path_of(settings)
    found = _read(path)
    if found is not None:
        return found
    responses, rows = make()
    buffer = io.BytesIO()
    np.savez(buffer, responses=responses, rows=np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8))
    try:
        write_atomically(path, buffer.getvalue())
    except StoreError as error:
        warnings.warn(
            f"Rooms cannot be cached in {path.parent} ({error.__cause__ or error}); they are simulated again in the "
            "next run. Set ROBUST_CACHE to a folder that can be written.",
            stacklevel=3,
        )
    return responses, rows


def path_of(settings: Mapping[str, Any]) -> Path:
    """The file of these settings."""
    text = json.dumps([settings, {name: metadata.version(name) for name in SIMULATED_BY}], sort_keys=True)
    return cache_dir() / "rooms" / f"v{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def _read(path: Path) -> Content | None:
    """What a file holds, or nothing where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            responses, rows = archive["responses"], json.loads(archive["rows"].tobytes())
    except DAMAGED:
        return None
    whole = responses.ndim == 2 and responses.dtype == np.float32 and len(responses) == len(rows)
    return (responses, rows) if whole else None
