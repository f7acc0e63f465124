"""The one pass: victim x condition x data -> records in a store."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import torch
from torch import Tensor

from attacks.gradients import Oracle, at_most, frozen
from attacks.joint import Packing, packed_victim
from attacks.losses import Goal, margin
from robust.data.reading import read_batches, read_clips
from robust.errors import DataError
from robust.evaluation.conditions import Condition
from robust.evaluation.progress import track
from robust.evaluation.store import Store
from robust.types import Batch, Clip, Dataset, VictimSpec
from robust.victims.base import Victim

UNLABELLED = -1


class AlignedData:
    """A data set as one victim sees it: clips at its rate and length, labels in the order of its logits."""

    def __init__(self, data: Dataset, spec: VictimSpec) -> None:
        self.data, self.spec = data, spec
        self.order = align_labels(data, spec)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The clips at `indices`, stacked."""
        return self.aligned([self.data.clip(index, self.spec) for index in indices])

    def batches(self, groups: Sequence[Sequence[int]]) -> Generator[tuple[Sequence[int], Batch], None, None]:
        """Each group of indices with its clips, stacked; the next clips are read while one is used."""
        for indices, clips in read_batches(self.data, self.spec, groups):
            yield indices, self.aligned(clips)

    def aligned(self, clips: Sequence[Clip]) -> Batch:
        """Clips of the data set stacked, their labels in the victim's order."""
        batch = Batch.collate(clips)
        return Batch(batch.ids, batch.inputs, self._labels(batch.labels), batch.valid)

    def read_all(self) -> None:
        """Reads every clip once, so that a bad recording is found before anything is computed or written."""
        with closing(read_clips(self.data, self.spec, range(len(self.data)))) as clips:
            for _, _ in zip(track(range(len(self.data)), "Reading clips"), clips, strict=True):
                pass

    def _labels(self, labels: Tensor) -> Tensor:
        if labels.ndim == 1:
            known = labels >= 0
            return torch.where(known, self.order[labels.clamp_min(0)], labels)
        moved = torch.zeros(len(labels), len(self.spec.labels), dtype=labels.dtype)
        moved[:, self.order] = labels
        return moved


class JointData(AlignedData):
    """The same with several modalities packed into one, for a victim of `attacks.joint.packed_victim`."""

    def __init__(self, data: Dataset, spec: VictimSpec, packing: Packing) -> None:
        super().__init__(data, spec)
        self.packing = packing

    def aligned(self, clips: Sequence[Clip]) -> Batch:
        """As of `AlignedData`, packed."""
        batch = super().aligned(clips)
        joint = self.packing.join(batch.inputs)
        return Batch(batch.ids, joint, batch.labels, self.packing.join_valid(batch.valid, len(batch)))


def align_labels(data: Dataset, spec: VictimSpec) -> Tensor:
    """(K,) for each label of the data, its place among the victim's.

    Raises:
        DataError: If the victim lacks one of them, or the tasks differ.
    """
    if data.task != spec.task:
        raise DataError(
            f"The data set {data.name!r} is {data.task} and the model {spec.name!r} is {spec.task}; train one for it "
            f"with `robust train --data {data.name}`."
        )
    places = {label: place for place, label in enumerate(spec.labels)}
    missing = [label for label in data.labels if label not in places]
    if missing:
        raise DataError(
            f"The model {spec.name!r} does not know {len(missing)} of the {len(data.labels)} classes of the data set "
            f"{data.name!r}: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. It knows "
            f"{', '.join(spec.labels[:5])}{', ...' if len(spec.labels) > 5 else ''}. Train one for this data with "
            f"`robust train --data {data.name}`, or name the folders after the model's classes."
        )
    return torch.tensor([places[label] for label in data.labels])


def aligned_to(victim: Victim, data: Dataset, packing: Packing | None) -> tuple[Victim, AlignedData]:
    """Victim and clips as an attack sees them: with a packing, modalities are one."""
    if packing is None:
        return victim, AlignedData(data, victim.spec)
    return cast(Victim, packed_victim(victim, packing)), JointData(data, victim.spec, packing)


def fitting_batch(victim: Victim, data: AlignedData) -> int:
    """Clips at once: 64 of one second at 16 kHz, fewer of longer ones, in multiples of 8."""
    size = sum(value[0].numel() for value in data.batch([0]).inputs.values())
    return max(8, min(64, 64 * 16_000 // max(size, 1)) // 8 * 8)


def checked_batch(batch_size: int | str) -> int:
    """A number of clips at once, from what the user gave."""
    try:
        size = int(batch_size)
    except ValueError:
        size = 0
    if size < 1:
        raise DataError(f"The batch size must be 'auto' or a whole number from 1; given {batch_size!r}.")
    return size


def evaluate(
    victim: Victim,
    data: AlignedData,
    condition: Condition,
    store: Store,
    *,
    batch_size: int,
    seed: int = 0,
    group: int = 1,
) -> None:
    """Fills `store` with one record per clip that it does not hold yet.

    Args:
        victim: In evaluation mode, on its device.
        data: Clips aligned to the victim.
        condition: What is done to them.
        store: Where records go, one part for each batch.
        batch_size: Clips attacked at once; changes speed and memory, never a record. Halved when memory runs out.
        seed: From which, with the clip's id and the condition, all randomness is derived.
        group: Batches worked on together: gradients are still of `batch_size` clips at most, but a search whose clips
            finish one by one keeps them full.
    """
    done = store.done()
    wanted = [index for index in range(len(data)) if not done or data.data.clip_id(index, data.spec) not in done]
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    chunks = list(_chunks(wanted, batch_size * group))
    with frozen(victim), at_most(batch_size), closing(data.batches(chunks)) as batches:
        for _ in track(chunks, f"{condition.name} on {data.data.name}", by=len):
            indices, batch = next(batches)
            for part in _fitting(indices, batch, victim, data, condition, seed, device):
                store.add(part)


def _fitting(
    indices: Sequence[int],
    batch: Batch,
    victim: Victim,
    data: AlignedData,
    condition: Condition,
    seed: int,
    device: torch.device,
) -> Iterator[dict[str, Sequence[Any]]]:
    """Records of a chunk, in two halves where it does not fit in memory."""
    try:
        part = records_of(victim, batch.to(device), indices, condition, seed)
    except torch.OutOfMemoryError:
        if len(indices) == 1:
            raise DataError("One clip alone does not fit in the device's memory; use --device cpu.") from None
        torch.cuda.empty_cache()
        half = len(indices) // 2
        for some in (indices[:half], indices[half:]):
            yield from _fitting(some, data.batch(some), victim, data, condition, seed, device)
        return
    yield part | {"label_name": [_name(data.spec, label) for label in part["label"]]}


def records_of(
    victim: Victim, batch: Batch, indices: Sequence[int], condition: Condition, seed: int
) -> dict[str, Sequence[Any]]:
    """One row per clip: before, after, and what the condition says of it."""
    rows = torch.arange(len(batch), device=batch.labels.device)
    oracle = Oracle(victim, len(batch), batch.labels.device)
    clean = oracle.logits(batch.inputs, rows)
    batch = _labelled(batch, clean)
    outcome = condition.apply(victim, batch, clean, seed)
    after = oracle.logits(outcome.inputs, rows)
    goal = Goal(batch.labels)
    labels = batch.labels.cpu()
    return {
        "index": list(indices),
        "id": list(batch.ids),
        "label": labels.tolist(),
        "clean_prediction": clean.argmax(dim=1).tolist(),
        "clean_margin": (-margin(clean, goal)).tolist(),
        "clean_correct": (~goal.broken(clean)).tolist(),
        "clean_logits": clean.cpu().tolist(),
        "prediction": after.argmax(dim=1).tolist(),
        "margin": (-margin(after, goal)).tolist(),
        "correct": (~goal.broken(after)).tolist(),
        "logits": after.cpu().tolist(),
        "seed": [seed] * len(batch),
        **outcome.columns,
    }


def _labelled(batch: Batch, clean: Tensor) -> Batch:
    """Clips without a label get the victim's own prediction as theirs: the attack then asks what changes it."""
    if batch.labels.ndim == 2 or not bool((batch.labels == UNLABELLED).any()):
        return batch
    labels = torch.where(batch.labels == UNLABELLED, clean.argmax(dim=1), batch.labels)
    return Batch(batch.ids, batch.inputs, labels, batch.valid)


def _name(spec: VictimSpec, label: int | list[float]) -> str:
    if isinstance(label, list):
        return ", ".join(name for name, present in zip(spec.labels, label, strict=True) if present)
    return spec.labels[label]


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(indices), size):
        yield indices[first : first + size]
