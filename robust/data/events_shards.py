"""Generating `events` on every core, once, and keeping it: a pair of .npy files for each thousand clips.

A file appears whole or not at all (written beside, then renamed), and what two processes write at once is the same.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust.data.cache import cache_dir
from robust.data.events_clip import Arrays, labels_of, render_range
from robust.data.events_settings import FRAMES, SAMPLES, SIDE, VERSION

SHARD_CLIPS = 1000
_PIECE_CLIPS = 50
_SHAPES = {"audio": ((SAMPLES,), np.dtype(np.int16)), "video": ((FRAMES, 3, SIDE, SIDE), np.dtype(np.uint8))}


def load_shards(seed: int, split: str, count: int) -> list[Arrays]:
    """The first `count` clips, SHARD_CLIPS to a shard, from the cache where it has them, else generated and cached.

    A cache that cannot be written is a warning; the clips then live in memory.
    """
    folder = cache_dir() / "events" / f"v{VERSION}-seed{seed}-{split}"
    sizes = [min(SHARD_CLIPS, count - start) for start in range(0, count, SHARD_CLIPS)]
    found = [_read(folder, shard, size) for shard, size in enumerate(sizes)]
    missing = [shard for shard, arrays in enumerate(found) if arrays is None]
    if missing:
        labels = labels_of(seed, split, count)
        with _progress(f"generating events ({split})", sum(sizes[shard] for shard in missing)) as advance:
            for shard in missing:
                start = shard * SHARD_CLIPS
                arrays = _generate(seed, split, start, labels[start : start + sizes[shard]], advance)
                found[shard] = _keep(folder, shard, arrays)
    return [arrays for arrays in found if arrays is not None]


def _file(folder: Path, shard: int, size: int, modality: str) -> Path:
    return folder / f"{shard:04d}-{size:04d}.{modality}.npy"


def _read(folder: Path, shard: int, size: int) -> Arrays | None:
    """The shard's first `size` clips, memory-mapped, from any cached copy that has as many."""
    copies = sorted(folder.glob(f"{shard:04d}-[0-9][0-9][0-9][0-9].audio.npy"))
    for copy in copies:
        held = int(copy.name[5:9])
        if held >= size and (arrays := _map(folder, shard, held)) is not None:
            return arrays[0][:size], arrays[1][:size]
    return None


def _map(folder: Path, shard: int, size: int) -> Arrays | None:
    """A cached copy, or nothing where a file is missing or is not what it should be."""
    mapped = {}
    for modality, (shape, dtype) in _SHAPES.items():
        try:
            array = np.load(_file(folder, shard, size, modality), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != (size, *shape) or array.dtype != dtype:
            return None
        mapped[modality] = array
    return mapped["audio"], mapped["video"]


def _keep(folder: Path, shard: int, arrays: Arrays) -> Arrays:
    """Writes a shard and returns it memory-mapped; where that fails, warns and returns it as it is."""
    size = len(arrays[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(_file(folder, shard, size, "audio"), arrays[0])
        _write(_file(folder, shard, size, "video"), arrays[1])
    except OSError as error:
        warnings.warn(
            f"events cannot be cached in {folder} ({error.strerror or error}); generated in memory for this run. "
            "Set ROBUST_CACHE to a folder that can be written.",
            stacklevel=5,
        )
        return arrays
    return _map(folder, shard, size) or arrays


def _write(path: Path, array: NDArray[np.generic]) -> None:
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _generate(seed: int, split: str, start: int, labels: NDArray[np.int64], advance: Callable[[int], None]) -> Arrays:
    """Renders clips `start` and following, over all cores where that pays."""
    edges = [*range(0, len(labels), _PIECE_CLIPS), len(labels)]
    pieces = [(start + low, labels[low:high]) for low, high in pairwise(edges)]
    workers = min(len(pieces), _cores())
    if workers > 1 and not multiprocessing.current_process().daemon:  # a daemon may have no children
        try:
            return _stack(_in_parallel(seed, split, pieces, workers, advance))
        except (BrokenProcessPool, PermissionError):
            pass  # no processes to be had here, as under a script without a __main__ guard where they are spawned
    rendered = []
    for first, piece in pieces:
        rendered.append(render_range(seed, split, first, piece))
        advance(len(piece))
    return _stack(rendered)


def _in_parallel(
    seed: int, split: str, pieces: list[tuple[int, NDArray[np.int64]]], workers: int, advance: Callable[[int], None]
) -> list[Arrays]:
    # Forked children start at once and need no guard in the caller's script; they touch NumPy and SciPy alone, which
    # is safe in a process that has torch loaded. Elsewhere forking is not safe or not there.
    method = "fork" if sys.platform == "linux" else "spawn"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
            futures: dict[Future[Arrays], int] = {}
            for order, (first, labels) in enumerate(pieces):
                futures[pool.submit(render_range, seed, split, first, labels)] = order
            for future in as_completed(futures):
                future.result()
                advance(len(pieces[futures[future]][1]))
    return [future.result() for future in futures]


def _stack(rendered: list[Arrays]) -> Arrays:
    return np.concatenate([audio for audio, _ in rendered]), np.concatenate([video for _, video in rendered])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts clips, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # No refresh thread: it could hold a lock at the moment of a fork.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=total)

        def advance(clips: int) -> None:
            bar.update(task, advance=clips, refresh=True)

        yield advance
