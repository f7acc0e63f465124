"""The clips of one class of any data set."""

from __future__ import annotations

import hashlib

from robust.data.subset import Targeted
from robust.errors import DataError, unknown
from robust.types import Clip, Dataset, VictimSpec


class OneClass(Dataset):
    """The clips of class `label`, in the order of the data set.

    Classes are known beforehand where the data set has `targets`; otherwise every clip is read once.
    """

    def __init__(self, data: Dataset, label: str, spec: VictimSpec, limit: int | None = None) -> None:
        """Takes the part.

        Args:
            data: One label a clip.
            label: Name of the class.
            spec: For which clips are read where their classes are not known beforehand.
            limit: Of so many clips, the first ones, at most; all when None.

        Raises:
            DataError: If the data set has many labels a clip, no such class, or no clip of it.
        """
        if data.task != "multiclass":
            raise DataError(f"The clips of one class need one label a clip; the data set {data.name!r} has many.")
        if label not in data.labels:
            raise DataError(unknown(f"class of {data.name}", label, data.labels))
        if limit is not None and limit < 1:
            raise DataError(f"limit={limit} asks for no clip of class {label!r}; give 1 or more.")
        wanted = data.labels.index(label)
        targets = data.targets if isinstance(data, Targeted) else _read(data, spec)
        self.indices = tuple(index for index, target in enumerate(targets) if int(target) == wanted)[:limit]
        if not self.indices:
            raise DataError(f"None of the {len(data)} clips of {data.name!r} {data.split} is of class {label!r}.")
        self.data, self.name, self.split, self.labels = data, data.name, data.split, data.labels
        self.modalities = data.modalities

    def __len__(self) -> int:
        return len(self.indices)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return self.data.clip(self.indices[index], spec)

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        return self.data.clip_id(self.indices[index], spec)

    def fingerprint(self) -> str:
        chosen = f"{self.data.fingerprint()} {self.indices}"
        return hashlib.blake2b(chosen.encode(), digest_size=16).hexdigest()


def _read(data: Dataset, spec: VictimSpec) -> list[int]:
    return [int(data.clip(index, spec).label) for index in range(len(data))]
