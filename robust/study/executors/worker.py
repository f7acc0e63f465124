"""What every worker does before its first job."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from robust.evaluation.progress import silence
from robust.memory import keep_freed_memory

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(workers: int) -> int:
    """Threads for each of `workers` on this machine; never more than OMP_NUM_THREADS where the user has set it."""
    share = max(1, cores() // workers)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(given)) if given.isdecimal() and int(given) else share


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes that are started inside, and puts back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def prepare(threads: int) -> None:
    """Makes this process a worker: silent, with its share of threads, and with no processes of its own.

    Args:
        threads: That PyTorch may use, and the libraries that are not loaded yet.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    silence()
    keep_freed_memory()
    multiprocessing.current_process().daemon = True  # data sets are then generated here, not by as many more processes
    if "torch" in sys.modules:  # loaded, perhaps for a job with another share
        import torch

        torch.set_num_threads(threads)
