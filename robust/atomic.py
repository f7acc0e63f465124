"""Folders on any file system, and files that are written whole or not at all.

A folder is a `pathlib.Path`, or, for an address such as `s3://bucket/study`, a `upath.UPath`, which reads and writes
through fsspec with the same methods.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from robust.errors import StoreError

if TYPE_CHECKING:
    from upath import UPath

    Folder: TypeAlias = Path | UPath
else:
    Folder: TypeAlias = Path

WHOLE_PUTS = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "hf", "http", "https"}
"""File systems where an object appears when it is complete: a put is atomic, and a rename a copy."""


def open_folder(place: str | Folder) -> Folder:
    """A folder by path or by address (`s3://...`, `memory://...`, `file://...`).

    Raises:
        StoreError: If no file system answers to the address, or the library that it needs is not installed.
    """
    if not isinstance(place, str):
        return place
    if "://" not in place:
        return Path(place)
    from upath import UPath

    try:
        found = UPath(place, **({} if place.startswith("file:") else {"use_listings_cache": False}))
        if found.protocol in ("file", "local"):
            return Path(found.path)
        _ = found.fs  # made on first use, so that a missing library is named now
    except (ImportError, ValueError, OSError) as error:
        raise StoreError(f"The address {place!r} cannot be used: {error}.") from error
    return found


def in_memory(folder: Folder) -> bool:
    """Whether a folder lies in the memory of this process, where no other sees it."""
    return not isinstance(folder, Path) and folder.protocol == "memory"


def absolute(folder: Folder) -> Folder:
    """The folder as it is called from anywhere."""
    return folder.absolute() if isinstance(folder, Path) else folder


def write_atomically(path: Folder, content: bytes) -> None:
    """Writes `content` to `path` whole or not at all.

    Raises:
        StoreError: If the folder cannot be made or written, or the disk is full.
    """
    try:
        if isinstance(path, Path):
            _rename_into(path, content)
        else:
            _put(path, content)
    except OSError as error:
        raise StoreError(
            f"Cannot write {path}: {error.strerror or error}. Choose another place or free some."
        ) from error


def _rename_into(path: Path, content: bytes) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def _put(path: UPath, content: bytes) -> None:
    """Through fsspec: one put where that is whole, a put beside it and a rename elsewhere."""
    files, target = path.fs, path.path
    files.makedirs(path.parent.path, exist_ok=True)
    if path.protocol in WHOLE_PUTS:
        files.pipe_file(target, content)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}").path
    try:
        files.pipe_file(temporary, content)
        files.mv(temporary, target)
    except OSError:
        if files.exists(temporary):
            files.rm(temporary)
        raise


def clear(folder: Folder) -> None:
    """Removes a folder with all that is in it, or a file, if it is there.

    Raises:
        StoreError: If it cannot be removed.
    """
    try:
        if isinstance(folder, Path):
            if folder.is_dir():
                shutil.rmtree(folder)
            elif folder.exists():
                folder.unlink(missing_ok=True)
        elif folder.fs.exists(folder.path):
            folder.fs.rm(folder.path, recursive=True)
    except OSError as error:
        raise StoreError(f"Cannot remove {folder}: {error.strerror or error}.") from error
