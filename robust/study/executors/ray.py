"""Jobs on a Ray cluster, or on a Ray that is started on this machine for the run."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

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
    paragraph,
    unpack_and_work,
)
from robust.study.executors.worker import cores, environment, prepare

_ANSWER_SECONDS = 10.0

_STORE_BYTES = 100_000_000
"""Ray's shared memory; results do not travel through it, and by default it takes a third of the machine's."""


class Ray:
    """Runs jobs as Ray tasks with the resources that each asks for.

    Ray keeps the processes of its workers, so that imports and caches live from job to job; but one that had a GPU
    ends with its job, since the next may get another GPU. The workers must find this package: installed on the
    cluster, or sent by `runtime_env`.

    Args:
        workers: At least 1. Of a Ray started here: its CPUs, the number of cores if absent. On a cluster: jobs that
            run at once, as many as fit if absent.
        address: `auto` or `HOST:PORT` on a machine of the cluster, `ray://HOST:PORT` (with `ray[client]`) from outside;
            if absent, Ray is started here and shut down after the run.
        runtime_env: Handed to `ray.init`, e.g. `{"working_dir": "."}` or `{"pip": [...]}`.

    Raises:
        RobustError: If Ray is not installed, or the number of workers is none.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RobustError("The executor 'ray' needs Ray, which is not installed: pip install 'robust-audio[ray]'")
        self.workers = None if workers is None else check_workers(workers)
        self.address, self.runtime_env = address, dict(runtime_env or {})

    def run(self, jobs: Sequence[Job], work: Work, *, poll: Poll | None = None) -> Iterator[Finished]:
        """As `Executor.run` says."""
        check_jobs(jobs)
        for job in jobs:
            _check_resources(job)
        return self._run(jobs, work, poll)

    def _run(self, jobs: Sequence[Job], work: Work, poll: Poll | None) -> Iterator[Finished]:
        if not jobs:
            return
        with self._connected() as ours:
            tasks = _Tasks(self.workers or len(jobs))
            _check_fit(jobs, ours)
            try:
                yield from drive(tasks, jobs, work, poll)
            finally:
                tasks.cancel()

    @contextmanager
    def _connected(self) -> Iterator[bool]:
        """Ray, connected; yields whether it was started here. Shuts down only what was opened here."""
        # Before the import: both are read by it or by what it starts. The second silences a warning about GPUs.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if ray.is_initialized():
            yield False
            return
        ours = self.address is None
        self._check_answers()
        options: dict[str, Any] = {"runtime_env": self.runtime_env} if self.runtime_env else {}
        if ours:
            options |= {
                "num_cpus": self.workers or cores(),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            }
        # As spawned processes do, workers on this machine find the modules that this process finds.
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if ours else {}
        try:
            with environment(path):
                ray.init(self.address or "local", log_to_driver=False, logging_level="error", **options)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise RobustError(self._refused(error)) from None
        try:
            yield ours
        finally:
            ray.shutdown()

    def _check_answers(self) -> None:
        """Refuses an address where nobody listens: Ray would try again for minutes, and fill stderr with it."""
        address = self.address or ""
        parts = urlsplit(address if "//" in address else f"//{address}")
        try:
            if parts.hostname is None or parts.port is None:
                return  # `auto`, or what Ray itself refuses at once
            socket.create_connection((parts.hostname, parts.port), timeout=_ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            raise RobustError(self._refused(error)) from None

    def _refused(self, error: BaseException) -> str:
        if self.address is None:
            return f"Ray cannot be started on this machine. {paragraph(error)}"
        return (
            f"No Ray cluster answers at {self.address!r}; give 'auto', HOST:PORT or ray://HOST:PORT of one that runs "
            f"(`ray start --head` starts one), or no address to start Ray here. {paragraph(error)}"
        )


class _Tasks:
    """Jobs as Ray tasks. Ray itself retries none, so that attempts are counted here."""

    def __init__(self, most: int) -> None:
        import ray

        self.most = most
        self.ray = ray
        self.task = ray.remote(max_retries=0)(_work)
        self.flying: set[Any] = set()

    def submit(self, job: Job, work: Work) -> Any:
        packed = pack(self.ray.cloudpickle.dumps, work, job.payload)
        told, own = _split(job.resources)
        handle = self.task.options(**told, resources=own, name=job.key).remote(packed, max(1, int(told["num_cpus"])))
        self.flying.add(handle)
        return handle

    def wait(self, handles: Collection[Any], seconds: float) -> Collection[Any]:
        ended, others = self.ray.wait(list(handles), num_returns=1, timeout=seconds)
        if ended and others:
            more, _ = self.ray.wait(others, num_returns=len(others), timeout=0)
            ended += more
        return list(ended)

    def outcome(self, handle: Any) -> Outcome:
        errors = self.ray.exceptions
        self.flying.discard(handle)
        try:
            outcome: Outcome = self.ray.get(handle)
        except errors.RayTaskError as error:  # not of the job, whose errors are words by then
            return Outcome(f"The worker could not begin. {paragraph(error.cause)}", str(error))
        except errors.OutOfMemoryError:
            raise WorkerLost("because its node ran out of memory") from None
        except errors.NodeDiedError:
            raise WorkerLost("with its node") from None
        except (errors.WorkerCrashedError, errors.ObjectLostError):
            raise WorkerLost("by a signal or a crash") from None
        except errors.RayError as error:
            raise RobustError(f"The Ray cluster failed. {paragraph(error)}") from None
        return outcome

    def cancel(self) -> None:
        """Ends what still runs or waits."""
        for handle in self.flying:
            try:
                self.ray.cancel(handle, force=True)
            except Exception:  # the cluster is gone, and its tasks with it
                return


def _work(packed: bytes, threads: int) -> Outcome:
    """In a worker: one job."""
    prepare(threads)
    return attempt(partial(unpack_and_work, packed))


def _split(resources: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Resources that Ray has names for, and those of the cluster's own."""
    ours = ("num_cpus", "num_gpus", "memory")
    told = {"num_cpus": 1.0, **{name: amount for name, amount in resources.items() if name in ours}}
    return told, {name: amount for name, amount in resources.items() if name not in ours}


def _check_resources(job: Job) -> None:
    for name, amount in job.resources.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
            raise RobustError(f"The resource {name!r} of {job.key!r} is a number of at least 0; given {amount!r}.")
        if amount > 1 and amount != int(amount):
            raise RobustError(f"Ray divides no resource above 1: {name!r} of {job.key!r} is {amount!r}; make it whole.")


def _check_fit(jobs: Sequence[Job], ours: bool) -> None:
    """Refuses jobs that would wait for ever; on a cluster, which may grow, warns."""
    import ray

    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for job in jobs:
        told, own = _split(job.resources)
        wanted = {names.get(name, name): amount for name, amount in {**told, **own}.items() if amount}
        if any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes):
            continue
        has = "; ".join(", ".join(f"{name} {node.get(name, 0.0):g}" for name in wanted) for node in nodes)
        needs = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items())
        unfit = f"No node of the Ray cluster has what the job {job.key!r} asks for: {needs}. The nodes have: {has}."
        if ours:
            raise RobustError(f"{unfit} Ask for less, or give the address of a cluster that has it.")
        warnings.warn(f"{unfit} It waits until one joins.", stacklevel=2)
        return
