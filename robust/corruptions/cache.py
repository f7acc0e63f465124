"""Corrupted clips on disk, shared by all victims of one rate and length.

A file is some clips under one corruption at one severity: an uncompressed archive of NumPy arrays, whose checksums
tell when it is damaged (it is then made anew), written whole or not at all, and named by a hash of all that decides
its content. What users define themselves, whose code no hash tells, is not cached.
Where a run would not fit into the bound, nothing of it is cached.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from attacks.errors import ThreatModelError
from robust.atomic import write_atomically
from robust.channels.response_cache import DAMAGED
from robust.corruptions.base import Corruption
from robust.corruptions.rendering import COLUMNS, VERSION, Rendered
from robust.data.cache import cache_dir
from robust.errors import StoreError
from robust.types import VictimSpec

DEFAULT_GIB = 4.0
GIB = 2**30
LIBRARIES = ("audiomentations", "av", "numpy", "pyroomacoustics", "scipy", "soxr", "torch", "torchvision")


class CorruptionCache:
    """What a run keeps and finds; make it with `CorruptionCache.open`.

    Attributes:
        folder: Where files lie; None where nothing is cached.
        data: A hash that tells of the clips, of their order and of the seed.
        told: For summaries: `used`, `estimate_gib`, `limit_gib`, and counts of cells `found` and `made`.
    """

    def __init__(self, folder: Path | None, data: str, told: dict[str, Any]) -> None:
        self.folder, self.data, self.told = folder, data, {**told, "found": 0, "made": 0}

    @classmethod
    def open(
        cls,
        cells: Sequence[tuple[Corruption, int]],
        spec: VictimSpec,
        clips: int,
        fingerprint: str,
        seed: int,
        limit_gib: float = DEFAULT_GIB,
    ) -> CorruptionCache:
        """A cache for some cells of a data set, if they fit.

        Raises:
            ThreatModelError: If the limit is below 0 or no number.
        """
        if not limit_gib >= 0:
            raise ThreatModelError(f"The bound of the cache is a number of GiB from 0 (none); given {limit_gib}.")
        estimate = sum(clips * clip_bytes(corruption, spec) for corruption, _ in cells if corruption.lasting)
        told = {"used": False, "estimate_gib": round(estimate / GIB, 3), "limit_gib": limit_gib}
        if estimate > limit_gib * GIB:
            if limit_gib > 0:
                warnings.warn(
                    f"Corrupted clips would take {estimate / GIB:.1f} GiB and the cache may have {limit_gib:g}: they "
                    "are computed anew for every victim. Raise --cache-gib to keep them.",
                    stacklevel=2,
                )
            return cls(None, "", told)
        return cls(cache_dir() / "corruptions", f"{fingerprint} {seed}", {**told, "used": True})

    def rendered(
        self, corruption: Corruption, severity: int, spec: VictimSpec, ids: Sequence[str], make: Callable[[], Rendered]
    ) -> Rendered:
        """What `make` gives, from the disk where it was made before.

        Room for it is made by removing what was used longest ago. Corruptions that their name does not tell whole (see
        `Corruption.lasting`) are made anew.
        """
        if self.folder is None or not corruption.lasting:
            return make()
        path = self.folder / f"{key_of(corruption, severity, spec, ids, self.data)}.npz"
        found = read(path, len(ids))
        self.told["found" if found else "made"] += 1
        if found is not None:
            return found
        made = make()
        content = packed(made)
        try:
            make_room(self.folder, self.told["limit_gib"] * GIB - len(content))
            write_atomically(path, content)
        except (StoreError, OSError) as error:
            self.folder, self.told["used"] = None, False
            warnings.warn(f"Corrupted clips are not cached: {error}", stacklevel=2)
        return made


def clip_bytes(corruption: Corruption, spec: VictimSpec) -> int:
    """What one clip takes on disk, nearly."""
    sizes = {"audio": 2 * spec.clip_samples + 4}
    if "video" in corruption.modalities:
        sizes["video"] = int(np.prod(spec.shape("video")))
    return sum(sizes[name] for name in corruption.modalities) + 40


def key_of(corruption: Corruption, severity: int, spec: VictimSpec, ids: Sequence[str], data: str) -> str:
    """A hash of what decides the clips: not the victim, but what it hears and sees."""
    settings = {
        "version": VERSION,
        "data": data,
        "clips": hashlib.sha256("\x1f".join(ids).encode()).hexdigest(),
        "shapes": {name: list(spec.shape(name)) for name in corruption.modalities},
        "rate": spec.sample_rate if "audio" in corruption.modalities else None,
        "corruption": corruption.describe(severity),
        "libraries": library_versions(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]
    return f"v{VERSION}-{corruption.name.partition(',')[0].replace(':', '-')}-{severity}-{digest}"


@cache
def library_versions() -> dict[str, str]:
    """Of what corrupted clips depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def packed(rendered: Rendered) -> bytes:
    """The content of a file."""
    buffer = io.BytesIO()
    content: Mapping[str, Any] = {**rendered.arrays, **{f"column_{n}": v for n, v in rendered.columns.items()}}
    np.savez(buffer, **content)
    return buffer.getvalue()


def read(path: Path, clips: int) -> Rendered | None:
    """What a file holds, or nothing where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
        columns = {name: content.pop(f"column_{name}") for name in COLUMNS}
    except DAMAGED:
        return None
    with suppress(OSError):  # a cache that others own can be read all the same
        os.utime(path)
    whole = all(len(value) == clips for value in (*content.values(), *columns.values()))
    return Rendered(content, columns) if whole and content else None


def make_room(folder: Path, most_bytes: float) -> None:
    """Removes the files used longest ago until no more than `most_bytes` are left."""
    if not folder.is_dir():
        return
    files = []
    for path in folder.glob("*.npz"):
        try:
            status = path.stat()
        except OSError:  # another process removed it
            continue
        files.append((status.st_mtime, status.st_size, path))
    left = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if left <= most_bytes:
            return
        path.unlink(missing_ok=True)
        left -= size
