"""Jobs in worker processes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import active_children, parent_process
from multiprocessing.context import BaseContext, SpawnProcess
from typing import Any, TypeAlias

from pebble import ProcessExpired, ProcessPool

from robust.errors import RobustError
from robust.study.executors.base import (
    Finished,
    Job,
    Outcome,
    Poll,
    Work,
    WorkerLost,
    attempt,
    check_jobs,
    check_workers,
    drive,
    pack,
    unpack_and_work,
)
from robust.study.executors.worker import THREAD_VARIABLES, cores, environment, prepare, threads_each

_RENEWALS = 3
"""Pools in a row that may break before one of their jobs ends."""
_FAREWELL_SECONDS = 10.0

_Handle: TypeAlias = "Future[Outcome]"


class Processes:
    """Runs jobs in `workers` processes, which live through the run and share the cores evenly.

    Workers are spawned, so a script that uses them needs `if __name__ == "__main__":`. They print nothing. One that
    dies is replaced; they end when the run does, and when this process is killed.

    Args:
        workers: At least 1; the number of cores if absent.
    """

    name = "processes"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = cores() if workers is None else check_workers(workers)

    def run(self, jobs: Sequence[Job], work: Work, *, poll: Poll | None = None) -> Iterator[Finished]:
        """As `Executor.run` says."""
        check_jobs(jobs)
        return self._run(jobs, work, poll)

    def _run(self, jobs: Sequence[Job], work: Work, poll: Poll | None) -> Iterator[Finished]:
        if not jobs:
            return
        pool = _Pool(min(self.workers, len(jobs)))
        try:
            yield from drive(pool, jobs, work, poll)
            pool.finish()
        finally:
            pool.stop()


class _Pool:
    """A pebble pool that is replaced where it breaks, which it does when a worker dies between two jobs."""

    def __init__(self, workers: int) -> None:
        self.most = workers
        self.renewals = 0
        self.pool = self._open()

    def _open(self) -> ProcessPool:
        threads = threads_each(self.most)
        return ProcessPool(self.most, initializer=_begin, initargs=(threads,), context=_Spawn(threads))

    def submit(self, job: Job, work: Work) -> _Handle:
        packed = pack(pickle.dumps, work, job.payload)
        if not self.pool.active:
            self._renew()
        handle: _Handle = self.pool.schedule(_work, args=(packed,))
        return handle

    def wait(self, handles: Collection[_Handle], seconds: float) -> Collection[_Handle]:
        ended = wait(handles, timeout=seconds, return_when=FIRST_COMPLETED).done
        if self.pool.active:
            return ended
        self._renew()
        return handles  # those that had not ended are lost with the pool

    def outcome(self, handle: _Handle) -> Outcome:
        if not handle.done():
            raise WorkerLost("with the pool", blameless=True)
        try:
            outcome = handle.result()
        except BrokenProcessPool as error:
            raise WorkerLost(str(error), blameless=True) from None
        except ProcessExpired as error:
            raise WorkerLost(_how(error.exitcode)) from None
        self.renewals = 0
        return outcome

    def _renew(self) -> None:
        self.stop()
        self.renewals += 1
        if self.renewals > _RENEWALS:
            raise RobustError(
                "Worker processes die before they begin a job. Either memory has run out, or the script that started "
                'them does its work outside `if __name__ == "__main__":`. The executor `local` needs no workers.'
            )
        self.pool = self._open()

    def finish(self) -> None:
        """Lets idle workers go, and one that still starts: stopped then, it would print a traceback."""
        self.pool.close()
        with suppress(TimeoutError):
            self.pool.join(_FAREWELL_SECONDS)

    def stop(self) -> None:
        """Ends all workers at once, whatever they do."""
        self.pool.stop()
        self.pool.join()


class _Spawn(BaseContext):
    """Starts workers with their share of threads in the environment, where it counts from the first import."""

    _name = "spawn"

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:
        process = _Worker(*args, **kwargs)
        process.threads = self.threads
        return process


class _Worker(SpawnProcess):
    threads = 1

    def start(self) -> None:
        with environment(dict.fromkeys(THREAD_VARIABLES, str(self.threads))):
            super().start()


def _begin(threads: int) -> None:
    """In a worker, before its first job."""
    _mute()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(threads)


def _mute() -> None:
    """Sends what this process prints, also from C, to nowhere: the terminal belongs to the bars, stdout to `--json`."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _end_with_parent() -> None:
    """Ends this process when its parent does, even by SIGKILL."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        for child in active_children():
            child.kill()
        os._exit(1)


def _work(packed: bytes) -> Outcome:
    """In a worker: one job."""
    return attempt(partial(unpack_and_work, packed))


def _how(code: int) -> str:
    """The end of a process in words; negative codes are signals."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
