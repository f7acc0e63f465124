"""Data sets by name, and the reading of audio files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust.data import audioset as audioset  # importing a module registers its data set
from robust.data import audioset_features as audioset_features
from robust.data import avdigits as avdigits
from robust.data import esc50 as esc50
from robust.data import events as events
from robust.data import events_wake as events_wake
from robust.data import folder as folder
from robust.data import fsdd as fsdd
from robust.data import hear_task as hear_task
from robust.data import kinetics_sounds as kinetics_sounds
from robust.data import speechcommands as speechcommands
from robust.data import urbansound8k as urbansound8k
from robust.data import vggsound as vggsound
from robust.data.audio_io import RangeWarning, fit_length, read_audio
from robust.data.recordings import UNLABELLED, Recording, Recordings
from robust.data.registry import DataEntry, data_entry, list_data, register_data
from robust.data.single_file import single_file
from robust.data.subset import Subset
from robust.errors import DataError, unknown
from robust.types import Dataset


def load_data(
    name: str,
    *,
    split: str = "test",
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    **options: Any,
) -> Dataset:
    """Opens a data set.

    Args:
        name: One of `list_data()`.
        split: `train`, `validation` or `test`; sets on disk know `all` too.
        root: Folder of a data set that lies on disk.
        limit: Number of clips, balanced over the classes and always the same ones (see `Subset`); None for all.
        **options: What this data set takes beyond these, e.g. `fold=2` for `folder`.

    Raises:
        DataError: If the name, split or an option is unknown, the root is missing or wrong, or there are fewer clips
            than `limit`.
    """
    entry = data_entry(name)
    _check_options(entry, options)
    data = entry.build(split=split, root=_root(entry, root), **options)
    return data if limit is None else Subset(data, limit)


def _check_options(entry: DataEntry, options: Mapping[str, Any]) -> None:
    """Refuses an option that the builder does not name; one that takes any refuses them itself."""
    parameters = inspect.signature(entry.build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    allowed = {parameter.name for parameter in parameters} - {"split", "root"}
    for option in sorted(options.keys() - allowed):
        if not allowed:
            raise DataError(f"The data set {entry.name!r} takes no options; {option!r} was given. Leave it out.")
        raise DataError(unknown(f"option of {entry.name}", option, allowed))


def _root(entry: DataEntry, root: str | os.PathLike[str] | None) -> Path | None:
    """The root as a path that is a folder, or None where neither given nor needed."""
    if root is None:
        if entry.needs_root:
            raise DataError(f"The data set {entry.name!r} lies on disk; pass its folder with --root DIR.")
        return None
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"The root {path} of the data set {entry.name!r} {what}; pass its folder with --root DIR.")
    return path


__all__ = [
    "UNLABELLED",
    "DataEntry",
    "Dataset",
    "RangeWarning",
    "Recording",
    "Recordings",
    "Subset",
    "data_entry",
    "fit_length",
    "list_data",
    "load_data",
    "read_audio",
    "register_data",
    "single_file",
]
