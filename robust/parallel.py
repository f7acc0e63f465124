"""Work spread over processes, with a bar for whoever watches; results depend on neither their number nor order."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    task: Callable[..., T], calls: Sequence[tuple[Any, ...]], *, title: str, workers: int | None = None
) -> list[T]:
    """`task(*call)` for each call, in order; over several processes where they are to be had.

    Args:
        task: A function of a module, which touches no torch (children may be forked) and uses one thread.
        calls: Its arguments; what they hold must be picklable.
        title: Shown beside a bar on stderr, if that is a terminal.
        workers: Processes; as many as there are cores when None, none beside this one when 1.
    """
    count = min(len(calls), cores() if workers is None else workers)
    with _counted(title, len(calls)) as advance:
        if count > 1 and not multiprocessing.current_process().daemon:  # a daemon may have no children
            try:
                return _spread(task, calls, count, advance)
            except (BrokenProcessPool, PermissionError):
                pass  # none to be had here, as under a script without a __main__ guard where they are spawned
        found = []
        for call in calls:
            found.append(task(*call))
            advance()
        return found


def _spread(
    task: Callable[..., T], calls: Sequence[tuple[Any, ...]], count: int, advance: Callable[[], None]
) -> list[T]:
    # Forked children start at once and need no guard in the caller's script; those that touch no torch are safe in a
    # process that has it loaded. Elsewhere forking is not safe or not there.
    method = "fork" if sys.platform == "linux" else "spawn"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context(method)) as pool:
            futures = [pool.submit(task, *call) for call in calls]
            try:
                for future in as_completed(futures):
                    future.result()
                    advance()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [future.result() for future in futures]


@contextmanager
def _counted(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields what counts one more as done, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # No refresh thread: it could hold a lock at the moment of a fork.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.update(task, advance=1, refresh=True)
