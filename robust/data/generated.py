"""Clips that are in memory, as a data set, and data sets one after another: real and generated clips to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robust.data.audio_io import fit_length
from robust.data.subset import Targeted
from robust.errors import DataError
from robust.types import Clip, Dataset, Task, VictimSpec


class GeneratedClips(Dataset):
    """Sounds of one class each.

    Args:
        clips: (N, T) int16, or float in [-1, 1].
        targets: N class indices.
        sample_rate: Hz of the clips; they are resampled where a victim hears another.
        labels: Class names.
        name: Of the set; ids begin with it.
        task: With `multilabel`, the one class of a clip is all that is heard in it.
    """

    split = "train"

    def __init__(
        self,
        clips: NDArray[Any],
        targets: Sequence[int],
        sample_rate: int,
        labels: tuple[str, ...],
        *,
        name: str = "generated",
        task: Task = "multiclass",
    ) -> None:
        if len(clips) != len(targets) or clips.ndim != 2:
            raise ValueError(f"clips {clips.shape} must be (N, T), with {len(targets)} targets as N")
        self._clips, self._targets, self._sample_rate = clips, tuple(targets), sample_rate
        self.name, self.labels, self.task = name, labels, task

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def targets(self) -> tuple[int, ...]:
        """Class index of every clip."""
        if self.task != "multiclass":
            raise AttributeError(f"the data set {self.name!r} is multilabel and has no single target a clip")
        return self._targets

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        if tuple(spec.modalities) != ("audio",):
            raise DataError(
                f"The victim {spec.name!r} takes {', '.join(spec.modalities)}; generated clips are sound alone. Train "
                "an audio victim on them."
            )
        audio, valid = fit_length(self._read(index, spec.sample_rate), spec.clip_samples)
        label = torch.tensor(self._targets[index])
        if self.task == "multilabel":
            label = torch.nn.functional.one_hot(label, len(self.labels)).float()
        return Clip(
            self.clip_id(index, spec), {"audio": torch.from_numpy(audio)}, label, {"audio": torch.from_numpy(valid)}
        )

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        return f"{self.name}-{index:06d}"

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(f"{self.labels} {self._targets} {self._sample_rate}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self._clips).tobytes())
        return digest.hexdigest()

    def _read(self, index: int, sample_rate: int) -> NDArray[np.float32]:
        clip = self._clips[index]
        audio: NDArray[np.float32] = clip.astype(np.float32) / (32768 if clip.dtype == np.int16 else 1)
        if sample_rate != self._sample_rate:
            import soxr

            audio = np.clip(soxr.resample(audio, self._sample_rate, sample_rate, quality="HQ"), -1.0, 1.0)
        return audio


class Joined(Dataset):
    """Data sets of the same classes, one after another.

    Raises:
        DataError: If classes or task differ.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if (part.labels, part.task) != (first.labels, first.task):
                raise DataError(
                    f"{part.name!r} cannot be joined to {first.name!r}: their classes or tasks differ "
                    f"({len(part.labels)} {part.task}, {len(first.labels)} {first.task})."
                )
        self.parts, self.labels, self.task, self.split = tuple(parts), first.labels, first.task, first.split
        self.name = "+".join(part.name for part in parts)
        self.modalities = tuple(name for name in first.modalities if all(name in part.modalities for part in parts))
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def targets(self) -> tuple[int, ...]:
        """Class index of every clip, where all parts know them."""
        found: list[int] = []
        for part in self.parts:
            if not isinstance(part, Targeted):
                raise AttributeError(f"the data set {part.name!r} has no targets")
            found.extend(part.targets)
        return tuple(found)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        part, place = self._place(index)
        return part.clip(place, spec)

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        part, place = self._place(index)
        return part.clip_id(place, spec)

    def fingerprint(self) -> str:
        parts = " ".join(part.fingerprint() for part in self.parts)
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    def _place(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has clips 0 to {len(self) - 1}, not {index}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part], index - (int(self._ends[part - 1]) if part else 0)


__all__ = ["GeneratedClips", "Joined"]
