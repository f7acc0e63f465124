"""Where jobs run: in this process, in worker processes, or on a Ray cluster; what a job does is not their business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robust.errors import RobustError, unknown
from robust.study.executors.base import ATTEMPTS, Executor, Finished, Job
from robust.study.executors.local import Local
from robust.study.executors.processes import Processes
from robust.study.executors.ray import Ray

Options = Mapping[str, Any]

_EXECUTORS: dict[str, tuple[Callable[..., Executor], tuple[str, ...]]] = {
    "local": (Local, ()),
    "processes": (Processes, ("workers",)),
    "ray": (Ray, ("workers", "address", "runtime_env")),
}
"""Name -> what builds it, and the options that it takes."""


def list_executors() -> list[str]:
    """Names for `find_executor`."""
    return sorted(_EXECUTORS)


def find_executor(
    name: str,
    *,
    workers: int | None = None,
    address: str | None = None,
    runtime_env: Options | None = None,
) -> Executor:
    """The executor called `name`.

    Args:
        name: `local` (this process), `processes` (worker processes on this machine) or `ray` (a cluster).
        workers: How many jobs run at once, at least 1. Under `processes` and a Ray that is started here: the number of
            cores if absent. On a Ray cluster: as many as its resources allow if absent.
        address: Of a Ray cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`; if absent, Ray is started here.
        runtime_env: How code reaches the workers of a Ray cluster, handed through to Ray.

    Raises:
        RobustError: For an unknown name, an option that this executor does not take, a bad number of workers, or Ray
            where it is not installed.
    """
    if name not in _EXECUTORS:
        raise RobustError(unknown("executor", name, _EXECUTORS))
    build, takes = _EXECUTORS[name]
    given = {"workers": workers, "address": address, "runtime_env": runtime_env}
    options = {option: value for option, value in given.items() if value is not None}
    if name == "local" and options.get("workers") == 1:  # what it has anyway
        del options["workers"]
    for option, value in options.items():
        if option not in takes:
            able = " or ".join(other for other, (_, taken) in _EXECUTORS.items() if option in taken)
            raise RobustError(f"The executor {name!r} takes no {option}; given {value!r}. Leave it out or use {able}.")
    return build(**options)


__all__ = ["ATTEMPTS", "Executor", "Finished", "Job", "Local", "Processes", "Ray", "find_executor", "list_executors"]
