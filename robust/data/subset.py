"""`--limit N`: a part of any data set, balanced over the classes, that grows without changing what was in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from robust.errors import DataError
from robust.types import Clip, Dataset, VictimSpec


@runtime_checkable
class Targeted(Protocol):
    """A data set that knows the class index of every clip without reading it."""

    @property
    def targets(self) -> Sequence[int]: ...


class Subset(Dataset):
    """The first `limit` clips of a data set in an order that depends on the set alone.

    The order goes round the classes, a clip of each at a time, clips and classes shuffled by a fixed seed: counts per
    class differ by one at most until a class runs out, and a limit of 50 is the beginning of a limit of 100. Where a
    clip has no single class known beforehand (multilabel, or no `targets`), the order is a plain shuffle, seeded alike.
    """

    def __init__(self, data: Dataset, limit: int) -> None:
        """Takes the part.

        Raises:
            DataError: If `limit` is below 1 or above the number of clips there are.
        """
        if limit < 1:
            raise DataError(f"limit={limit} asks for no clip; give 1 to {len(data)}, or leave it out for all.")
        if limit > len(data):
            raise DataError(
                f"Fewer clips than asked: {limit} asked, {len(data)} there in the split {data.split!r} of "
                f"{data.name!r}. Lower --limit to {len(data)} or leave it out."
            )
        self.data = data
        self.indices = _order(data)[:limit]
        self.name, self.split, self.labels = data.name, data.split, data.labels
        self.task, self.modalities = data.task, data.modalities

    @property
    def targets(self) -> tuple[int, ...]:
        """Class index of every clip, where the whole set knows them."""
        if not isinstance(self.data, Targeted):
            raise AttributeError(f"the data set {self.name!r} has no targets")
        targets = self.data.targets
        return tuple(targets[index] for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return self.data.clip(self.indices[index], spec)

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        return self.data.clip_id(self.indices[index], spec)

    def fingerprint(self) -> str:
        chosen = f"{self.data.fingerprint()} {self.indices}"
        return hashlib.blake2b(chosen.encode(), digest_size=16).hexdigest()


def _order(data: Dataset) -> tuple[int, ...]:
    """All indices of `data`, in an order of which every beginning is balanced."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(len(data)).tolist()
    if data.task != "multiclass" or not isinstance(data, Targeted):
        return tuple(shuffled)
    waiting: dict[int, list[int]] = {}
    targets = data.targets
    for index in shuffled:
        waiting.setdefault(int(targets[index]), []).append(index)
    order: list[int] = []
    while waiting:
        classes = sorted(waiting)
        for place in rng.permutation(len(classes)):
            label = classes[place]
            order.append(waiting[label].pop())
            if not waiting[label]:
                del waiting[label]
    return tuple(order)
