"""A victim under many corruptions: cell by cell into one store, resumable, on all cores.

A cell is a corruption at a severity. Clips are corrupted and classified in pieces of a few, each by one thread of its
own: small pieces stay in the processor's cache, and no thread waits for another at every layer (measured: two to six
times as fast as batches of 64 on two cores).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attacks.channel import Channel
from attacks.gradients import Oracle, frozen
from attacks.losses import Goal, margin
from robust.channels.condition import heard_through
from robust.corruptions.base import Corruption
from robust.corruptions.cache import CorruptionCache
from robust.corruptions.rendering import COLUMNS, Rendered, render
from robust.data.reading import ahead, default_workers
from robust.evaluation.engine import UNLABELLED, AlignedData
from robust.evaluation.progress import track
from robust.evaluation.store import Store
from robust.seeds import generators_for
from robust.types import Batch, Inputs
from robust.victims.base import Victim

CLEAN = "clean"
PIECE = 32
"""Clips that a thread works on; a multiple of the lanes in which results do not depend on neighbours."""

CHUNK_BYTES = 2**28
"""Of clean clips held at a time."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cell:
    """A corruption at a severity; without corruption, the clips as they are.

    Attributes:
        corruption: None for clean clips.
        severity: 1 to 5; 0 for clean clips and for corruptions without severities.
    """

    corruption: Corruption | None
    severity: int

    @property
    def name(self) -> str:
        """Of the corruption, or `clean`."""
        return self.corruption.name if self.corruption else CLEAN

    def describe(self) -> dict[str, Any]:
        """As JSON, for the manifest."""
        return self.corruption.describe(self.severity) if self.corruption else {"corruption": CLEAN, "severity": 0}


def cells_of(corruptions: Sequence[Corruption], severities: Sequence[int]) -> list[Cell]:
    """Clean clips first, then every corruption at those of its severities that are asked for."""
    found = [Cell(None, 0)]
    for corruption in corruptions:
        own = corruption.severities
        found += [Cell(corruption, one) for one in (own if own == (0,) else severities)]
    return found


def evaluate_cells(
    victim: Victim,
    data: AlignedData,
    cells: Sequence[Cell],
    store: Store,
    cache: CorruptionCache,
    *,
    batch_size: int = PIECE,
    seed: int = 0,
    purifier: Channel | None = None,
) -> None:
    """Fills `store` with one record for each clip in each cell that it does not hold yet.

    Args:
        victim: On its device.
        data: Clips aligned to the victim.
        cells: What is asked, in this order.
        store: Where records go, one part for each cell and chunk of clips. `index` is the place in the run, cell by
            cell; `clip` the clip's place in the data.
        cache: Of corrupted clips.
        batch_size: Clips classified at once; changes no record.
        seed: From which all randomness is derived.
        purifier: The same clips are heard through it as well, each through one draw in all cells; what the victim says
            then is in the columns `purified_prediction`, `purified_margin`, `purified_correct` and `purified_logits`.
    """
    clips = len(data)
    done = set(store.records()["index"].tolist()) if store.done() else set()
    work = _Work(victim, data, cache, batch_size, seed, purifier)
    steps = [
        (chunk, place)
        for chunk in _chunks(data, clips)
        for place in range(len(cells))
        if any(place * clips + clip not in done for clip in chunk)
    ]
    with frozen(victim), one_thread_each():
        for chunk, place in track(steps, f"{data.spec.name} under noise", by=lambda step: len(step[0])):
            store.add(work.records(chunk, cells[place], place * clips))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within, an operation of torch uses one thread: parallel is what calls it. The number is restored afterwards."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


class _Work:
    """One victim on one data set; holds the chunk of clean clips that was read last."""

    def __init__(
        self,
        victim: Victim,
        data: AlignedData,
        cache: CorruptionCache,
        batch_size: int,
        seed: int,
        purifier: Channel | None,
    ) -> None:
        self.victim, self.data, self.cache, self.seed, self.purifier = victim, data, cache, seed, purifier
        self.device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
        self.workers = default_workers() if self.device.type == "cpu" else 1
        self.batch_size = batch_size
        self.chunk: Sequence[int] = ()
        self.batch, self.logits = Batch((), {}, torch.empty(0), {}), torch.empty(0)

    def records(self, chunk: Sequence[int], cell: Cell, offset: int) -> dict[str, Sequence[Any]]:
        """One row for each clip of the chunk."""
        if chunk != self.chunk:
            self._read(chunk)
        rendered = self._rendered(cell)
        logits = self.logits
        if rendered is not None:
            logits = self._asked(lambda first, last: self._inputs(rendered, first, last), len(chunk))
        goal, clean = Goal(self.batch.labels), self.logits
        count = len(chunk)
        nothing = {name: np.full(count, np.nan) for name in ("snr_db", "psnr_db", "realised")}
        nothing |= {"silent": np.zeros(count, dtype=bool), "over_range": np.zeros(count)}
        columns = nothing if rendered is None else rendered.columns
        told = cell.describe()
        labels = self.batch.labels.tolist()
        return {
            "index": [offset + clip for clip in chunk],
            "clip": list(chunk),
            "id": list(self.batch.ids),
            "label": labels,
            "label_name": [_named(self.data.spec.labels, label) for label in labels],
            "corruption": [cell.name] * count,
            "severity": [cell.severity] * count,
            "value": [float(told.get("value", np.nan))] * count,
            "prediction": logits.argmax(dim=1).tolist(),
            "margin": (-margin(logits, goal)).tolist(),
            "correct": (~goal.broken(logits)).tolist(),
            "logits": logits.tolist(),
            "clean_prediction": clean.argmax(dim=1).tolist(),
            "clean_correct": (~goal.broken(clean)).tolist(),
            "seed": [self.seed] * count,
            **{name: columns[name].tolist() for name in COLUMNS},
            **self._purified(rendered, goal),
        }

    def _purified(self, rendered: Rendered | None, goal: Goal) -> dict[str, Sequence[Any]]:
        """What the victim says behind the purifier, if there is one."""
        purifier = self.purifier
        if purifier is None:
            return {}

        def piece(first: int, last: int) -> Inputs:
            inputs = self._inputs(rendered, first, last)
            clips = inputs["audio"].to(self.device)
            generators = generators_for(self.seed, self.batch.ids[first:last], f"purifier-{purifier.name}")
            with torch.no_grad():
                return {**inputs, "audio": heard_through(purifier, clips, purifier.draw(clips, generators), None)}

        logits = self._asked(piece, len(self.batch))
        return {
            "purified_prediction": logits.argmax(dim=1).tolist(),
            "purified_margin": (-margin(logits, goal)).tolist(),
            "purified_correct": (~goal.broken(logits)).tolist(),
            "purified_logits": logits.tolist(),
        }

    def _read(self, chunk: Sequence[int]) -> None:
        """Clean clips and what the victim says of them; clips without a label take its answer for one."""
        (_, batch), *_ = self.data.batches([chunk])
        self.batch = batch
        self.logits = self._asked(lambda first, last: self._inputs(None, first, last), len(chunk))
        labels = batch.labels
        if labels.ndim == 1:
            labels = torch.where(labels == UNLABELLED, self.logits.argmax(dim=1), labels)
        self.chunk, self.batch = chunk, Batch(batch.ids, batch.inputs, labels, batch.valid)

    def _rendered(self, cell: Cell) -> Rendered | None:
        """The chunk under the cell's corruption; None for clean clips."""
        corruption, spec, batch = cell.corruption, self.data.spec, self.batch
        if corruption is None:
            return None

        def piece(first: int, last: int) -> Rendered:
            inputs, valid = ({n: v[first:last] for n, v in part.items()} for part in (batch.inputs, batch.valid))
            ids = batch.ids[first:last]
            return render(corruption, cell.severity, inputs, valid, ids, spec.sample_rate, self.seed)

        def make() -> Rendered:
            return Rendered.joined(in_pieces(piece, len(batch), PIECE, default_workers()))

        return self.cache.rendered(corruption, cell.severity, spec, batch.ids, make)

    def _inputs(self, rendered: Rendered | None, first: int, last: int) -> Inputs:
        """Clips `first` to `last` of the chunk as the victim gets them: corrupted, if they are."""
        clean = {name: value[first:last] for name, value in self.batch.inputs.items()}
        return clean if rendered is None else {**clean, **rendered.rows(first, last).inputs(clean)}

    def _asked(self, inputs: Callable[[int, int], Inputs], count: int) -> Tensor:
        def piece(first: int, last: int) -> Tensor:
            moved = {name: value.to(self.device) for name, value in inputs(first, last).items()}
            rows = torch.arange(last - first, device=self.device)
            return Oracle(self.victim, last - first, self.device).logits(moved, rows).cpu()

        return torch.cat(in_pieces(piece, count, self.batch_size, self.workers))


def in_pieces(function: Callable[[int, int], Result], count: int, size: int, workers: int) -> list[Result]:
    """`function(first, last)` of every piece of `size`, in order, some at a time."""
    ends = [(first, min(first + size, count)) for first in range(0, count, size)]
    return list(ahead(lambda piece: function(*piece), ends, workers=min(workers, len(ends))))


def _chunks(data: AlignedData, clips: int) -> list[range]:
    """Stretches of the data set that are held in memory at a time, alike for all victims of one shape of clips."""
    size = sum(4 * int(np.prod(data.spec.shape(name))) for name in data.spec.modalities)
    most = max(PIECE, CHUNK_BYTES // size // PIECE * PIECE)
    return [range(first, min(first + most, clips)) for first in range(0, clips, most)]


def _named(names: Sequence[str], label: int | list[float]) -> str:
    if isinstance(label, list):
        return ", ".join(name for name, present in zip(names, label, strict=True) if present)
    return names[label]


__all__ = ["CLEAN", "PIECE", "Cell", "cells_of", "evaluate_cells", "in_pieces", "one_thread_each"]
