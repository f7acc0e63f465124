"""Reading many clips at once: in order, on all cores, a few ahead of whoever uses them.

Threads, not processes: decoding and resampling happen in C with the interpreter's lock released, so threads keep the
cores busy (`experiments/benchmarks/reading.py` measures it), with nothing to pickle, to share or to be killed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from robust.types import Clip, Dataset, VictimSpec

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """How many clips are read at once unless told: one for each core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, depth: int | None = None
) -> Generator[Result, None, None]:
    """`map(read, items)` with the next few already under way.

    Results come in the order of `items` and do not depend on `workers`; at most `depth` are held at a time. What `read`
    raises is raised where its result would have come, and nothing more is read.

    Args:
        read: Called from several threads at once.
        items: Taken as they are needed, from the caller's thread.
        workers: Threads; a core each when None. With 1, `read` is called in the caller's thread.
        depth: Results read or under way at a time; twice the workers when None.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    if workers == 1:
        yield from map(read, items)
        return
    depth = max(depth or 2 * workers, 1)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="reading")
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_clips(
    data: Dataset, spec: VictimSpec, indices: Iterable[int], *, workers: int | None = None
) -> Generator[Clip, None, None]:
    """The clips at `indices`, in that order, each read once by one of `workers` threads; see `ahead`.

    Raises:
        DataError: That of the first clip that cannot be read, where it would have come.
    """
    return ahead(lambda index: data.clip(index, spec), indices, workers=workers)


def read_batches(
    data: Dataset, spec: VictimSpec, batches: Iterable[Sequence[int]], *, workers: int | None = None
) -> Generator[tuple[Sequence[int], list[Clip]], None, None]:
    """Each of `batches` with its clips; while one is used, the first clips of the next are read.

    Raises:
        DataError: As `read_clips`.
    """
    queue: deque[Sequence[int]] = deque()

    def flattened() -> Iterator[int]:
        for batch in batches:
            if batch:
                queue.append(batch)
                yield from batch

    with closing(read_clips(data, spec, flattened(), workers=workers)) as clips:
        gathered: list[Clip] = []
        for clip in clips:
            gathered.append(clip)
            if len(gathered) == len(queue[0]):
                yield queue.popleft(), gathered
                gathered = []
