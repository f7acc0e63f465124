"""AudioSet as precomputed features in HDF5: log-mel spectrograms and one video vector a second, read row by row.

The layout is that of AudioSetDoneRight (Li et al., ICASSP 2021 and 2022): `data.h5` with the groups `valid/data` and
`eval/data`, each of `feat_a` (N, 400, 64), `feat_v` (N, 10, 2048) and `labels` (N, 527); `data_train.h5` with a group
`{epoch}_{batch}` for every hundred clips, each of `audio`, `video` and `label`. Files with `feat_a` and `labels` at the
top, and perhaps `feat_v` and `hashes` (ids of the videos), are read by name. `class_labels_indices.csv` names classes.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robust.data.annotations import check_request, listed
from robust.data.audioset import read_classes
from robust.data.recordings import WHOLE_BYTES, content_hash, total_bytes
from robust.data.registry import register_data
from robust.errors import DataError, unknown
from robust.frontends.logmel import AUDIOSET_MEAN, AUDIOSET_STD
from robust.types import Clip, Dataset, VictimSpec

NORMALISE = {"off": None, "20log10": 1.0, "10log10": 2.0}
"""Decibels the log-mel is stored in -> the factor that takes it to 20 log10; `off` leaves it as it is."""

_EVALUATION = {"logmel": "feat_a", "video_features": "feat_v", "labels": "labels", "hashes": "hashes"}
_TRAINING = {"logmel": "audio", "video_features": "video", "labels": "label"}
_NEEDED = ("logmel", "labels")
_DIMENSIONS = {"logmel": 3, "video_features": 3, "labels": 2, "hashes": 1}
_SLAB = 1024  # rows of labels hashed at once
_EXPECTED = (
    "Expected ROOT/data.h5 with the groups valid/data and eval/data of feat_a, feat_v and labels, and "
    "ROOT/data_train.h5 with groups such as 1_1 of audio, video and label; or, by file=NAME, a file with feat_a and "
    "labels at its top."
)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that lie together in one group of a file.

    Attributes:
        name: How the ids of its clips begin.
        path: The file.
        keys: `logmel`, `labels` and what else there is -> its data set in the file.
        shapes: The same -> its shape.
    """

    name: str
    path: Path
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int:
        return self.shapes["labels"][0]


class Features(Dataset):
    """Clips that are rows of HDF5 files: `logmel` (frames, mels) and `video_features` (seconds, 2048), float32.

    Every process opens the files for itself, so that workers may read, and holds one group of them open at a time.
    """

    name = "audioset-features"
    task = "multilabel"

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        split: str,
        labels: Sequence[str],
        scale: float | None,
        mean: float,
        std: float,
    ) -> None:
        self.split, self.labels, self.blocks = split, tuple(labels), tuple(blocks)
        self.shapes = {name: blocks[0].shapes[name][1:] for name in _TRAINING if name in blocks[0].shapes}
        classes = self.shapes.pop("labels")
        self.modalities = tuple(self.shapes)
        self._ends = list(accumulate(map(len, self.blocks)))
        self._scale, self._mean, self._std = scale, mean, std
        self._files: dict[tuple[int, Path], Any] = {}
        self._current: tuple[tuple[int, int], dict[str, Any]] | None = None
        self._fingerprint: str | None = None
        if classes != (len(self.labels),):
            raise DataError(
                f"{blocks[0].path} has labels of {classes[0]} classes, the class list {len(self.labels)}. Take both "
                "from one release."
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_current": None}  # open files stay in their process

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        """Reads one row.

        Raises:
            DataError: If the victim takes other modalities or shapes, or the row holds NaN or labels but 0 and 1.
        """
        self._check_spec(spec)
        number, row = self._place(index)
        block, columns, id = self.blocks[number], self._columns(number), self.clip_id(index, spec)
        with _readable(block.path):
            inputs = {name: torch.from_numpy(self._scaled(name, columns[name][row])) for name in spec.modalities}
            label = np.asarray(columns["labels"][row], dtype=np.float32)
        if not all(bool(value.isfinite().all()) for value in inputs.values()):
            raise DataError(f"{block.path} holds NaN or infinite features in {id}. Compute them again.")
        if not np.isin(label, (0.0, 1.0)).all():
            raise DataError(f"{block.path} holds labels other than 0 and 1 in {id}.")
        return Clip(id=id, inputs=inputs, label=torch.from_numpy(label))

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        number, row = self._place(index)
        block = self.blocks[number]
        if "hashes" not in block.keys:
            return f"{block.name}/{row}"
        with _readable(block.path):
            return f"{block.name}/{row}/{_text(self._columns(number)['hashes'][row])}"

    def fingerprint(self) -> str:
        """Hash of the files' content, the rows taken and their normalisation, the same wherever the set lies.

        All bytes count up to 1 GiB; beyond, all labels and each file's size, first and last 64 KiB, and the hash begins
        with `edges-` to say so.
        """
        if self._fingerprint is None:
            paths = sorted({block.path for block in self.blocks})
            whole = total_bytes(paths) <= WHOLE_BYTES
            digest = hashlib.blake2b(repr((self.labels, self._scale, self._mean, self._std)).encode(), digest_size=16)
            for path in paths:
                digest.update(f"\0{path.name}\0{total_bytes([path])}\0".encode())
                digest.update(content_hash(path, whole=whole))
            for number, block in enumerate(self.blocks):
                digest.update(f"\0{block.name}\0{sorted(block.keys.items())}\0{len(block)}\0".encode())
                for first in range(0, 0 if whole else len(block), _SLAB):
                    with _readable(block.path):
                        digest.update(self._columns(number)["labels"][first : first + _SLAB].tobytes())
            self._fingerprint = digest.hexdigest() if whole else f"edges-{digest.hexdigest()}"
        return self._fingerprint

    def _place(self, index: int) -> tuple[int, int]:
        """The block of clip `index` and its row there."""
        number = bisect.bisect_right(self._ends, index)
        return number, index - self._ends[number] + len(self.blocks[number])

    def _check_spec(self, spec: VictimSpec) -> None:
        """Refuses a victim that these features cannot feed."""
        if strange := [name for name in spec.modalities if name not in self.modalities]:
            raise DataError(
                f"The victim {spec.name!r} takes {', '.join(strange)}; audioset-features holds "
                f"{' and '.join(self.modalities)}. Take a victim of these, or the data set audioset for recordings."
            )
        for name in spec.modalities:
            if spec.shape(name) != self.shapes[name]:
                raise DataError(
                    f"The victim {spec.name!r} takes {name} of shape {spec.shape(name)}; the features have "
                    f"{self.shapes[name]}. Take features computed for it."
                )

    def _scaled(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A feature as float32, normalised where it is the log-mel and that is asked for."""
        if name != "logmel" or self._scale is None:
            return np.asarray(values, dtype=np.float32)
        scaled = (self._scale * np.asarray(values, dtype=np.float64) - self._mean) / (2 * self._std)
        return scaled.astype(np.float32)

    def _columns(self, number: int) -> dict[str, Any]:
        """The open data sets of a block, in this process; those of the block before are let go."""
        key = os.getpid(), number
        if self._current is None or self._current[0] != key:
            block = self.blocks[number]
            file = self._files.get((key[0], block.path))
            if file is None:
                file = self._files[key[0], block.path] = _open_file(block.path)
            with _readable(block.path):
                self._current = key, {name: file[place] for name, place in block.keys.items()}
        return self._current[1]


@register_data(
    "audioset-features", summary="AudioSet as log-mel and video features in HDF5, multilabel", needs_root=True
)
def audioset_features(
    *,
    split: str,
    root: Path | None,
    file: str | None = None,
    normalise: str = "off",
    mean: float = AUDIOSET_MEAN,
    std: float = AUDIOSET_STD,
) -> Features:
    """Opens one split of AudioSet's features.

    The log-mel is taken as stored unless `normalise` says otherwise, since `data.h5` and `data_train.h5` hold it
    normalised. For files in decibels, `20log10` gives (x - mean) / (2 std) and `10log10` gives (2 x - mean) / (2 std);
    the factor 2 undoes that AudioSetDoneRight was trained on 20 log10 of the mel power, by an oversight of its front
    end. Video features are never changed.

    Args:
        split: `test` (`eval/data` in data.h5), `validation` (`valid/data`), `train` (data_train.h5) or `all`. With
            `file`, a name for whatever the file holds.
        root: The folder of the files and of class_labels_indices.csv.
        file: Reads this one file below `root`, whose data sets lie at its top.
        normalise: `off`, `20log10` or `10log10`.
        mean: In dB of 20 log10.
        std: Likewise, above 0.

    Raises:
        DataError: If an option is unknown, or a file, a group or a data set is missing, damaged or of another shape.
    """
    root = check_request("audioset-features", split, root)
    if normalise not in NORMALISE:
        raise DataError(unknown("normalise of audioset-features", normalise, NORMALISE))
    if not std > 0:
        raise DataError(f"std={std}; it must be above 0.")
    labels, _ = read_classes(root)
    blocks = list(_blocks(root, split) if file is None else _groups(root / file, {Path(file).stem: "/"}))
    for block in blocks:
        _check_alike(blocks[0], block)
    return Features(blocks, split=split, labels=labels, scale=NORMALISE[normalise], mean=mean, std=std)


def _blocks(root: Path, split: str) -> Iterator[Block]:
    """The groups of a split in AudioSetDoneRight's own files."""
    if split in ("train", "all"):
        path = root / "data_train.h5"
        with _opened(path) as file:
            found = [match for name in file if (match := re.fullmatch(r"(\d+)_(\d+)", name))]
        if not found:
            raise DataError(f"{path} holds no group such as 1_1. {_EXPECTED}")
        found.sort(key=lambda match: (int(match[1]), int(match[2])))
        yield from _groups(path, {match[0]: match[0] for match in found})
    parts = {"validation": ("valid",), "test": ("eval",), "all": ("valid", "eval")}.get(split, ())
    if parts:
        yield from _groups(root / "data.h5", {part: f"{part}/data" for part in parts})


def _groups(path: Path, groups: Mapping[str, str]) -> Iterator[Block]:
    """Blocks of a file, name -> group, each with its data sets checked."""
    with _opened(path) as file:
        for name, group in groups.items():
            if not hasattr(file.get(group), "keys"):
                raise DataError(f"{path} has no group {group!r}, but {listed(sorted(file)) or 'nothing'}. {_EXPECTED}")
            names = _TRAINING if _TRAINING["logmel"] in file[group] else _EVALUATION
            keys = {role: key for role, key in names.items() if key in file[group]}
            if absent := [names[role] for role in _NEEDED if role not in keys]:
                raise DataError(
                    f"The group {group!r} of {path} lacks {' and '.join(absent)}; it holds "
                    f"{listed(sorted(file[group]), 8) or 'nothing'}. {_EXPECTED}"
                )
            shapes = {role: tuple(getattr(file[group][key], "shape", ())) for role, key in keys.items()}
            _check_shapes(f"The group {group!r} of {path}", shapes, keys)
            yield Block(name, path, {role: f"{group}/{key}" for role, key in keys.items()}, shapes)


def _check_shapes(where: str, shapes: Mapping[str, tuple[int, ...]], keys: Mapping[str, str]) -> None:
    """Refuses data sets of odd shapes, of different lengths or without a row."""
    for role, shape in shapes.items():
        if len(shape) != _DIMENSIONS[role]:
            raise DataError(f"{where} has {keys[role]} of shape {shape}; {_DIMENSIONS[role]} dimensions are needed.")
    if len({shape[0] for shape in shapes.values()}) > 1 or not shapes["labels"][0]:
        lengths = ", ".join(f"{keys[role]} {shape[0]}" for role, shape in shapes.items())
        raise DataError(f"{where} must hold equally many rows of everything, and some; it holds {lengths}.")


def _check_alike(first: Block, other: Block) -> None:
    """Refuses a group with other modalities or shapes than the first."""
    if {role: shape[1:] for role, shape in first.shapes.items()} != {
        role: shape[1:] for role, shape in other.shapes.items()
    }:
        raise DataError(
            f"The group {other.name!r} of {other.path} has {dict(other.shapes)}, unlike {first.name!r} with "
            f"{dict(first.shapes)}; one set has clips of one shape."
        )


def _open_file(path: Path) -> Any:
    """An `h5py.File`, or a `DataError`."""
    import h5py

    if not path.is_file():
        raise DataError(f"{path} is missing. {_EXPECTED}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be opened as HDF5 ({error}). Copy or download it again.") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open `h5py.File` that is closed afterwards."""
    with _open_file(path) as file, _readable(path):
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what h5py raises for damaged files into a `DataError`."""
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Copy or download it again.") from error


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
