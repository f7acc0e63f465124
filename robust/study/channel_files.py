"""What channels and purifiers that a study names are made of: their text, and the files that the text names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from robust.channels.presets import PRESETS, read_channel
from robust.victims.loading import embedded_weights


def channel_identity(name: str) -> dict[str, Any]:
    """All that the sound of a channel depends on besides code: a file may stay as it is and its recordings change.

    Args:
        name: A preset or a YAML file.

    Raises:
        ThreatModelError: If there is no such channel, or the file says what cannot be.
    """
    text = read_channel(name)
    told: dict[str, Any] = {"text": text}
    if name not in PRESETS:
        folders = [entry["folder"] for entry in yaml.safe_load(text)["channels"] if entry.get("folder") is not None]
        told["recordings"] = [_contents(Path(name).parent / Path(str(folder)).expanduser()) for folder in folders]
    return told


def purifier_identity(name: str) -> dict[str, Any]:
    """All that a purifier depends on besides code: its text, and the weights of the files that the text names.

    Args:
        name: As `--purify` takes it.
    """
    words = [word for part in name.split("+") for word in part.strip().split(":")]
    embedded = [str(embedded_weights(f"diffusion-{word}")) for word in words]
    files = [Path(word) for word in (*words, *embedded) if Path(word).is_file()]
    return {
        "text": name,
        "weights": [_digest(path, path.stat().st_size, path.stat().st_mtime_ns).hex() for path in files],
    }


def _contents(folder: Path) -> str:
    """A hash of names and contents of all files below a folder; of nothing where there is none (the run says so)."""
    whole = hashlib.blake2b(digest_size=16)
    for path in sorted(_files(folder)):
        told = path.stat()
        whole.update(os.fsencode(path.relative_to(folder)) + b"\0" + _digest(path, told.st_size, told.st_mtime_ns))
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for name in names if not name.startswith(".") and (path := Path(here) / name).is_file())


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, changed_ns: int) -> bytes:
    """Of a file as it was then: the cells of a study do not read it again and again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
