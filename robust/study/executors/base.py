"""The interface of executors, and what those with workers share: sending jobs, collecting them, trying again.

A job's work returns nothing: it writes to a store, so that nothing but a few words travels back from a worker. It must
be idempotent and resume, since the job of a worker that died is given to another.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from robust.errors import RobustError, StoreError

ATTEMPTS = 3
"""Workers that may die at a job before it is given up."""

POLL_SECONDS = 1.0

Work: TypeAlias = Callable[[Any], None]
Poll: TypeAlias = Callable[[], None]
Handle = TypeVar("Handle")


@dataclass(frozen=True)
class Job:
    """One thing to do.

    Attributes:
        key: Unique among the jobs of a run.
        payload: What `work` is called with; picklable.
        resources: What Ray must set aside for it: `num_cpus` (1 if absent), `num_gpus`, `memory` (bytes) or a resource
            of the cluster's own. The other executors have none to set aside.
    """

    key: str
    payload: Any
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """How a job ended.

    Attributes:
        key: The job's.
        error: None if it is done; otherwise one paragraph, the type of the error and its text.
        details: The traceback of the error, where there is one.
        attempts: How often it was begun; more than 1 where workers died.
    """

    key: str
    error: str | None = None
    details: str = ""
    attempts: int = 1


class Executor(Protocol):
    """Runs jobs."""

    name: str

    def run(self, jobs: Sequence[Job], work: Work, *, poll: Poll | None = None) -> Iterator[Finished]:
        """Calls `work` with the payload of every job and yields as jobs end, in any order.

        Args:
            jobs: What to do, in the order in which to begin.
            work: A function at the top of a module, so that workers can import it. Whatever it raises fails its own
                job alone, except `StoreError`: a store that cannot be written dooms all jobs.
            poll: Called about once a second while waiting for workers; between jobs where there are none.

        Raises:
            StoreError: What `work` raised, after everything that ran or waited was stopped.
            RobustError: If no worker can be had.
            ValueError: For a key that occurs twice.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """What a worker says of a job: done, failed, or failed in a way that dooms all others."""

    error: str | None = None
    details: str = ""
    fatal: bool = False

    def finished(self, key: str, attempts: int = 1) -> Finished:
        """What is told of the job.

        Raises:
            StoreError: If the error dooms all jobs.
        """
        if self.fatal:
            raise StoreError(self.error)
        return Finished(key, self.error, self.details, attempts)


def attempt(work: Callable[[], object]) -> Outcome:
    """Works; errors become words, since not every error can be pickled. KeyboardInterrupt passes."""
    try:
        work()
    except StoreError as error:
        return Outcome(str(error), traceback.format_exc(), fatal=True)
    except (Exception, SystemExit) as error:
        return Outcome(paragraph(error), traceback.format_exc())
    return Outcome()


def paragraph(error: BaseException) -> str:
    """The type of an error and its text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Unsendable(Exception):
    """A job whose work or payload cannot be pickled."""


class WorkerLost(Exception):
    """A worker ended before its job did.

    Attributes:
        how: What is known of its end.
        blameless: Whether it was certainly not the job that brought it down.
    """

    def __init__(self, how: str, *, blameless: bool = False) -> None:
        super().__init__(how)
        self.how, self.blameless = how, blameless


class Workers(Protocol[Handle]):
    """What `drive` needs of a pool or a cluster."""

    most: int
    """Jobs that are given out at once."""

    def submit(self, job: Job, work: Work) -> Handle:
        """Gives a job to whoever is free; raises `Unsendable`."""
        ...

    def wait(self, handles: Collection[Handle], seconds: float) -> Collection[Handle]:
        """Those that ended; returns as soon as one has."""
        ...

    def outcome(self, handle: Handle) -> Outcome:
        """How one that ended did; raises `WorkerLost`."""
        ...


@dataclass
class Driver(Generic[Handle]):
    """Gives jobs to workers until all have ended."""

    workers: Workers[Handle]
    work: Work
    waiting: deque[tuple[Job, int]]
    flying: dict[Handle, tuple[Job, int]] = field(default_factory=dict)

    def run(self, poll: Poll | None) -> Iterator[Finished]:
        """Yields as jobs end."""
        polled = time.monotonic()
        while self.waiting or self.flying:
            finished = self._launch()
            finished += self._collect()
            finished += self._launch()  # no worker need idle while the caller writes down what finished
            yield from finished
            if poll is not None and time.monotonic() - polled >= POLL_SECONDS:
                poll()
                polled = time.monotonic()

    def _launch(self) -> list[Finished]:
        failed = []
        while self.waiting and len(self.flying) < self.workers.most:
            job, attempts = self.waiting.popleft()
            try:
                self.flying[self.workers.submit(job, self.work)] = (job, attempts)
            except Unsendable as error:
                failed.append(Finished(job.key, str(error), traceback.format_exc(), attempts))
        return failed

    def _collect(self) -> list[Finished]:
        if not self.flying:
            return []
        ended = [self._end(handle) for handle in self.workers.wait(list(self.flying), POLL_SECONDS)]
        return [finished for finished in ended if finished is not None]

    def _end(self, handle: Handle) -> Finished | None:
        """How a job ended; None if it waits for another attempt."""
        job, attempts = self.flying.pop(handle)
        try:
            return self.workers.outcome(handle).finished(job.key, attempts)
        except WorkerLost as lost:
            if lost.blameless:
                self.waiting.appendleft((job, attempts))
                return None
            if attempts < ATTEMPTS:  # behind all others: where memory ran out, there is more of it at the end
                self.waiting.append((job, attempts + 1))
                return None
            return Finished(job.key, _given_up(attempts, lost.how), attempts=attempts)


def _given_up(attempts: int, how: str) -> str:
    return (
        f"The worker died at this job {attempts} times, at last {how}. Most likely memory ran out: use fewer workers, "
        "smaller batches, or a machine with more of it."
    )


def pack(dumps: Callable[[Any], bytes], work: Work, payload: Any) -> bytes:
    """What `unpack_and_work` takes. Unpickling is left to `attempt`, so that it fails the job alone.

    Raises:
        Unsendable: Whatever `dumps` raises.
    """
    try:
        return dumps((work, payload))
    except Exception as error:
        raise Unsendable(f"The job cannot be sent to a worker. {paragraph(error)}") from error


def unpack_and_work(packed: bytes) -> None:
    """In a worker: the other end of `pack`."""
    work, payload = pickle.loads(packed)
    work(payload)


def drive(workers: Workers[Handle], jobs: Sequence[Job], work: Work, poll: Poll | None) -> Iterator[Finished]:
    """Runs jobs on workers; yields as they end. Stopping the workers is the caller's."""
    return Driver(workers, work, deque((job, 1) for job in jobs)).run(poll)


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raises ValueError for a key that occurs twice: two jobs would write to one place."""
    seen: set[str] = set()
    for job in jobs:
        if job.key in seen:
            raise ValueError(f"two jobs have the key {job.key!r}")
        seen.add(job.key)


def check_workers(workers: object) -> int:
    """A number of workers, or a `RobustError`."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise RobustError(f"The number of workers is a whole number of at least 1; given {workers!r}.")
    return workers
