"""A data set over audio files with one label each; every set of real recordings is one of these."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from robust.data.audio_io import fit_length, read_audio
from robust.errors import DataError
from robust.types import Clip, Dataset, VictimSpec

UNLABELLED = -1
"""Label of a clip nobody labelled: whoever scores it takes the victim's own clean prediction for its label."""

_WHOLE_BYTES = 1 << 30  # a set up to this size is hashed byte for byte
_EDGE_BYTES = 1 << 16


@dataclass(frozen=True)
class Recording:
    """One file of a set.

    Attributes:
        id: Stable and unique within the set: its path below the root, with forward slashes.
        path: Where it is on this machine.
        label: Index into the set's labels, or `UNLABELLED`.
    """

    id: str
    path: Path
    label: int


class Recordings(Dataset):
    """Labelled audio files, read at a victim's rate and length when asked for.

    A clip is the first `clip_seconds` of its file, padded with zeros at the end and masked where the file is shorter.
    What was decoded and resampled is kept in memory up to `cache_bytes`, so that epochs after the first read no disk;
    once full, nothing is thrown out and the rest is decoded every time.

    Attributes:
        recordings: The files, in order.
        targets: Label index of every clip, known without reading it.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        name: str,
        split: str,
        labels: Sequence[str],
        cache_bytes: int = 1 << 30,
    ) -> None:
        """Makes the set.

        Raises:
            ValueError: If two recordings share an id, or a label is no index into `labels`; a fault of the caller's.
        """
        if len({recording.id for recording in recordings}) != len(recordings):
            raise ValueError("ids of recordings must be unique")
        if not all(UNLABELLED <= recording.label < len(labels) for recording in recordings):
            raise ValueError("every label must be an index into labels, or UNLABELLED")
        self.name = name
        self.split = split
        self.labels = tuple(labels)
        self.recordings = tuple(recordings)
        self.targets = tuple(recording.label for recording in recordings)
        self._cache: dict[tuple[int, int, int], NDArray[Any]] = {}
        self._cache_left = cache_bytes
        self._fingerprint: str | None = None

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
            label=torch.tensor(recording.label, dtype=torch.int64),
            valid={"audio": torch.from_numpy(valid)},
        )

    def fingerprint(self) -> str:
        """Hash of labels, ids and content, the same wherever the set lies.

        All bytes of all files count in a set up to 1 GiB; in a larger one, each file's size, first and last 64 KiB,
        and the hash begins with `edges-` to say so.
        """
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _read(self, index: int, spec: VictimSpec) -> NDArray[Any]:
        """The clip before padding, from memory where it is kept."""
        key = (index, spec.sample_rate, spec.clip_samples)
        if key not in self._cache:
            path = self.recordings[index].path
            audio = read_audio(path, spec.sample_rate, clip_seconds=spec.clip_samples / spec.sample_rate)
            if audio.nbytes > self._cache_left:
                return audio
            self._cache[key] = audio
            self._cache_left -= audio.nbytes
        return self._cache[key]

    def _hash(self) -> str:
        digest = hashlib.blake2b("\0".join(self.labels).encode(), digest_size=16)
        try:
            sizes = [recording.path.stat().st_size for recording in self.recordings]
            whole = sum(sizes) <= _WHOLE_BYTES
            for recording, size in zip(self.recordings, sizes, strict=True):
                digest.update(os.fsencode(f"\0{recording.id}\0{recording.label}\0{size}\0"))
                digest.update(_content_hash(recording.path, size, whole=whole))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
        return digest.hexdigest() if whole else f"edges-{digest.hexdigest()}"


def _content_hash(path: Path, size: int, *, whole: bool) -> bytes:
    """Hash of a file's bytes, or of both its ends."""
    with path.open("rb") as file:
        if whole:
            return hashlib.file_digest(file, "blake2b").digest()
        head = file.read(_EDGE_BYTES)
        file.seek(max(size - _EDGE_BYTES, 0))
        return hashlib.blake2b(head + file.read(_EDGE_BYTES)).digest()
