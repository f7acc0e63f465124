"""Where a run keeps what it found: a folder with a manifest, record parts and a summary.

    RUN/manifest.json            what was run on what: config, versions, revision, hashes
    RUN/records/part-*.parquet   one row per clip, written whole or not at all
    RUN/summary.json             scores and checks, once the run is complete
    RUN/audio/*.wav              original, adversarial and difference triples

The folder lies on this machine or behind any address that fsspec knows. A part that exists is finished; an
interrupted run resumes with the clips that no part holds.
"""

from __future__ import annotations

import io
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust.atomic import Folder, open_folder, write_atomically
from robust.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

RESUMABLE_DIFFERENCES = ("batch_size", "device", "created", "command", "versions", "git_revision")
"""Entries of a manifest that may differ between a run and its resumption, because no record depends on them."""


class Store:
    """One run folder; make it with `Store.open`."""

    def __init__(self, folder: Folder, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def open(cls, folder: Folder | str, manifest: Mapping[str, Any], *, resume: bool = False) -> Store:
        """Begins a run in `folder`, or goes on with one.

        Raises:
            StoreError: If the folder cannot be written, holds something already and `resume` is false, or holds a run
                of something else.
        """
        folder = open_folder(folder)
        wanted = json.loads(json.dumps(dict(manifest), default=str))
        existing = folder / "manifest.json"
        if existing.is_file():
            if not resume:
                raise StoreError(f"{folder} holds a run already; pass --resume to go on with it, or another --out.")
            _check_same(cls.read(folder).manifest, wanted, folder)
        elif folder.is_dir() and any(not place.name.startswith(".") for place in folder.iterdir()):
            raise StoreError(f"{folder} is not empty and holds no run; choose another --out.")
        elif folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; choose a folder for --out.")
        store = cls(folder, wanted)
        write_atomically(existing, json.dumps(wanted, indent=2).encode())
        return store

    @classmethod
    def read(cls, folder: Folder | str) -> Store:
        """The run that `folder` holds."""
        folder = open_folder(folder)
        path = folder / "manifest.json"
        try:
            return cls(folder, json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder} holds no readable run: {path.name}: {error}.") from error

    def done(self) -> set[str]:
        """Ids of the clips that are finished."""
        import pyarrow.parquet as parquet

        parts = (parquet.read_table(io.BytesIO(part.read_bytes()), columns=["id"]) for part in self._parts())
        return {clip for part in parts for clip in part["id"].to_pylist()}

    def add(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Writes a part; `rows` maps columns to equally long sequences and has `index` and `id`."""
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        buffer = io.BytesIO()
        parquet.write_table(arrow.table(dict(rows)), buffer)
        first, last = int(min(rows["index"])), int(max(rows["index"]))
        write_atomically(self.folder / "records" / f"part-{first:07d}-{last:07d}.parquet", buffer.getvalue())

    def records(self) -> pd.DataFrame:
        """All rows, in the order of the data set.

        Raises:
            StoreError: If there are none, or a part cannot be read.
        """
        import pandas as pd

        parts = self._parts()
        if not parts:
            raise StoreError(f"{self.folder} holds no records yet.")
        try:
            table = pd.concat([pd.read_parquet(io.BytesIO(part.read_bytes())) for part in parts], ignore_index=True)
        except (OSError, ValueError) as error:
            raise StoreError(f"The records of {self.folder} cannot be read: {error}.") from error
        return table.sort_values("index", ignore_index=True)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary that `--json` prints."""
        write_atomically(self.folder / "summary.json", json.dumps(dict(summary), indent=2).encode())

    def _parts(self) -> list[Folder]:
        records = self.folder / "records"
        return sorted(records.glob("part-*.parquet"), key=str) if records.is_dir() else []


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    names = ("robust-audio", "torch", "torchvision", "transformers", "numpy", "soxr", "soundfile")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def git_revision() -> str | None:
    """The commit of this checkout, with `+` where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Folder, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], folder: Folder) -> None:
    keys = (old.keys() | new.keys()) - set(RESUMABLE_DIFFERENCES)
    different = sorted(key for key in keys if old.get(key) != new.get(key))
    if different:
        told = "; ".join(f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} here" for key in different)
        raise StoreError(f"{folder} holds another run ({told}); choose another --out.")


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."
