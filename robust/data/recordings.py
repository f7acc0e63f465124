"""A data set over audio files, with one label each or any number; every set of real recordings is one of these."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.data.audio_io import fit_length, read_audio
from robust.errors import DataError
from robust.types import Clip, Dataset, Task, VictimSpec

UNLABELLED = -1
"""Label of a clip nobody labelled: whoever scores it takes the victim's own clean prediction for its label."""

WHOLE_BYTES = 1 << 30  # a set up to this size is hashed byte for byte
_EDGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of a set.

    Attributes:
        id: Stable and unique within the set: its path below the root, with forward slashes.
        path: Where it is on this machine.
        label: Index into the set's labels, or `UNLABELLED`; always that in a multilabel set.
        heard: In a multilabel set, the indices of all classes that are heard, which may be none.
    """

    id: str
    path: Path
    label: int = UNLABELLED
    heard: tuple[int, ...] = ()


class Recordings(Dataset):
    """Labelled audio files, read at a victim's rate and length when asked for.

    A clip is the first `clip_seconds` of its file, padded with zeros at the end and masked where the file is shorter.
    What was decoded and resampled is kept in memory up to `cache_bytes`, so that epochs after the first read no disk;
    once full, nothing is thrown out and the rest is decoded every time.

    Attributes:
        recordings: The files, in order.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        name: str,
        split: str,
        labels: Sequence[str],
        task: Task = "multiclass",
        cache_bytes: int = 1 << 30,
    ) -> None:
        """Makes the set.

        Raises:
            ValueError: If two recordings share an id, or a label does not fit `task` and `labels`; a fault of the
                caller's.
        """
        if len({recording.id for recording in recordings}) != len(recordings):
            raise ValueError("ids of recordings must be unique")
        _check_labels(recordings, task, len(labels))
        self.name = name
        self.split = split
        self.labels = tuple(labels)
        self.task = task
        self.recordings = tuple(recordings)
        self._targets = tuple(recording.label for recording in self.recordings)
        self._cache: dict[tuple[int, int, int], NDArray[Any]] = {}
        self._cache_left = cache_bytes
        self._fingerprint: str | None = None

    @property
    def targets(self) -> tuple[int, ...]:
        """Label index of every clip, known without reading it; an `AttributeError` in a multilabel set."""
        if self.task != "multiclass":
            raise AttributeError(f"the data set {self.name!r} is multilabel and has no single target a clip")
        return self._targets

    def __len__(self) -> int:
        return len(self.recordings)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        if tuple(spec.modalities) != ("audio",):
            raise DataError(
                f"The victim {spec.name!r} takes {', '.join(spec.modalities)}; the recordings of {self.name!r} hold "
                "audio alone. Take an audio victim, or a data set with all of these, such as events."
            )
        recording = self.recordings[index]
        audio, valid = fit_length(self._read(index, spec), spec.clip_samples)
        return Clip(
            id=recording.id,
            inputs={"audio": torch.from_numpy(audio)},
            label=self._label(recording),
            valid={"audio": torch.from_numpy(valid)},
        )

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        return self.recordings[index].id

    def fingerprint(self) -> str:
        """Hash of labels, ids and content, the same wherever the set lies.

        All bytes of all files count in a set up to 1 GiB; in a larger one, each file's size, first and last 64 KiB,
        and the hash begins with `edges-` to say so.
        """
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def path_for(self, index: int, sample_rate: int) -> Path:
        """The file to read clip `index` from at `sample_rate` Hz; a set that lies there in several rates chooses."""
        return self.recordings[index].path

    def paths(self, index: int) -> tuple[Path, ...]:
        """All that `path_for` may answer, for the fingerprint."""
        return (self.recordings[index].path,)

    def _label(self, recording: Recording) -> Tensor:
        """() int64, or (K,) float32 multi-hot."""
        if self.task == "multiclass":
            return torch.tensor(recording.label, dtype=torch.int64)
        multi_hot = torch.zeros(len(self.labels))
        multi_hot[list(recording.heard)] = 1.0
        return multi_hot

    def _read(self, index: int, spec: VictimSpec) -> NDArray[Any]:
        """The clip before padding, from memory where it is kept."""
        key = (index, spec.sample_rate, spec.clip_samples)
        if key not in self._cache:
            path = self.path_for(index, spec.sample_rate)
            audio = read_audio(path, spec.sample_rate, clip_seconds=spec.clip_samples / spec.sample_rate)
            if audio.nbytes > self._cache_left:
                return audio
            self._cache[key] = audio
            self._cache_left -= audio.nbytes
        return self._cache[key]

    def _hash(self) -> str:
        digest = hashlib.blake2b("\0".join(self.labels).encode(), digest_size=16)
        whole = total_bytes(path for index in range(len(self)) for path in self.paths(index)) <= WHOLE_BYTES
        for index, recording in enumerate(self.recordings):
            label = recording.label if self.task == "multiclass" else recording.heard
            for path in self.paths(index):
                size = total_bytes([path])
                digest.update(os.fsencode(f"\0{recording.id}\0{label}\0{size}\0"))
                digest.update(content_hash(path, whole=whole))
        return digest.hexdigest() if whole else f"edges-{digest.hexdigest()}"


def _check_labels(recordings: Sequence[Recording], task: Task, classes: int) -> None:
    """Refuses labels that are no indices, of the wrong task, or told twice."""
    if task == "multiclass":
        if any(recording.heard or not UNLABELLED <= recording.label < classes for recording in recordings):
            raise ValueError("every label must be an index into labels, or UNLABELLED")
        return
    known = frozenset(range(classes))
    for recording in recordings:
        heard = recording.heard
        if recording.label != UNLABELLED or len(set(heard)) != len(heard) or not known.issuperset(heard):
            raise ValueError(
                "what is heard in a multilabel recording must be different indices into labels, in `heard`"
            )


def total_bytes(paths: Iterable[Path]) -> int:
    """Size of files together; a `DataError` where one cannot be read."""
    try:
        return sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error


def content_hash(path: Path, *, whole: bool) -> bytes:
    """Hash of a file's bytes, or of its first and last 64 KiB; reads it in pieces.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if whole:
                return hashlib.file_digest(file, "blake2b").digest()
            head = file.read(_EDGE_BYTES)
            file.seek(max(path.stat().st_size - _EDGE_BYTES, 0))
            return hashlib.blake2b(head + file.read(_EDGE_BYTES)).digest()
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
