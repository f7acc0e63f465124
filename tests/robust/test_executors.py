"""Every executor runs every job once, whatever dies meanwhile, and leaves nothing running."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from robust.errors import DataError, RobustError, StoreError
from robust.evaluation.progress import bars, silence, track
from robust.study.executors import ATTEMPTS, Executor, Finished, Job, find_executor, list_executors
from robust.study.executors import processes as processes_module
from robust.study.executors.base import drive
from robust.study.executors.worker import THREAD_VARIABLES, cores, environment, threads_each

HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'robust-audio[ray]'")
WITH_WORKERS = ["processes", pytest.param("ray", marks=NEEDS_RAY)]
ALL = ["local", *WITH_WORKERS]


# What jobs do: functions at the top of a module, which workers import.


def write_once(path: str) -> None:
    """Fails where the job has been done before."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def fail(kind: str) -> None:
    if kind == "value":
        raise ValueError("two\nlines")
    if kind == "data":
        raise DataError("no such clips")
    if kind == "exit":
        sys.exit(3)
    if kind == "unpicklable":
        raise type("Local", (Exception,), {})("of no module")


def doom(path: str) -> None:
    """The job called `full` finds a full disk once another has begun; that other would go on for a minute."""
    folder, name = os.path.split(path)
    write_once(path)
    if name == "full":
        _until(lambda: os.path.exists(os.path.join(folder, "long")))
        raise StoreError("no space left on device")
    time.sleep(60 if name == "long" else 0)
    write_once(path + ".done")


def die_once(path: str) -> None:
    """Is killed at the first attempt where the name asks for it, done at the second."""
    if "weak" in path and not os.path.exists(path + ".died"):
        write_once(path + ".died")
        os.kill(os.getpid(), signal.SIGKILL)
    write_once(path)


def die_always(path: str) -> None:
    if "weak" in path:
        with open(path + ".begun", "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    write_once(path)


def tell_threads(path: str) -> None:
    import torch

    Path(path).write_text(" ".join([str(torch.get_num_threads()), *(os.environ[name] for name in THREAD_VARIABLES)]))


def tell_process(path: str) -> None:
    """Which process, and how many jobs it has had: caches live in modules."""
    sys.__dict__["_jobs"] = sys.__dict__.get("_jobs", 0) + 1
    Path(path).write_text(f"{os.getpid()} {sys.__dict__['_jobs']} {multiprocessing.current_process().daemon}")
    time.sleep(0.02)


def linger(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(120)


def chatter(path: str) -> None:
    print("a word")
    print("a word", file=sys.stderr)
    warnings.warn("a word", stacklevel=1)
    os.system("echo a word from a child; echo another >&2")
    for _ in track([1, 2], "clips"):
        pass
    write_once(path)


# The rest is in the test's own process.


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[str]:
    """One Ray of two CPUs for all tests that need no other; its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    with environment({"PYTHONPATH": os.pathsep.join(sys.path)}):
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init("local", num_cpus=2, object_store_memory=100_000_000, **quiet)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "ray":
        request.getfixturevalue("shared_ray")
    return find_executor(request.param, workers=None if request.param == "local" else 2)


def _jobs(folder: Path, *names: str) -> list[Job]:
    return [Job(name, str(folder / name)) for name in names]


def _until(holds: object, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _by_key(finished: Iterator[Finished]) -> dict[str, Finished]:
    found = list(finished)
    assert len({one.key for one in found}) == len(found)
    return {one.key: one for one in found}


@pytest.mark.parametrize("executor", ALL, indirect=True)
def test_every_job_runs_once(executor: Executor, tmp_path: Path) -> None:
    names = [f"{index:02d}" for index in range(12)]
    found = _by_key(executor.run(_jobs(tmp_path, *names), write_once))
    assert found == {name: Finished(name) for name in names}
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert list(executor.run([], write_once)) == []


@pytest.mark.parametrize("executor", ALL, indirect=True)
def test_an_error_fails_its_own_job(executor: Executor) -> None:
    kinds = ["value", "none", "data", "exit", "unpicklable", "other"]
    found = _by_key(executor.run([Job(kind, kind) for kind in kinds], fail))
    told = {kind: one.error for kind, one in found.items()}
    assert told == {
        "value": "ValueError: two lines",
        "none": None,
        "data": "DataError: no such clips",
        "exit": "SystemExit: 3",
        "unpicklable": "Local: of no module",
        "other": None,
    }
    assert "in fail" in found["value"].details
    assert "Traceback" in found["value"].details
    assert found["none"].details == ""


@pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)
def test_a_doomed_store_ends_all(executor: Executor, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError, match="no space left"):
        list(executor.run(_jobs(tmp_path, "full", "long", *map(str, range(50))), doom))
    assert time.monotonic() - begun < 30
    left = {path.name for path in tmp_path.iterdir()}
    time.sleep(0.5)
    assert {path.name for path in tmp_path.iterdir()} == left, "jobs went on"
    assert "long.done" not in left
    assert len(left) < 20, "jobs that waited were begun"


def test_a_doomed_store_ends_all_here(tmp_path: Path) -> None:
    (tmp_path / "long").touch()
    with pytest.raises(StoreError, match="no space left"):
        list(find_executor("local").run(_jobs(tmp_path, "first", "full", "after"), doom))
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)
def test_a_killed_worker_costs_an_attempt(executor: Executor, tmp_path: Path) -> None:
    names = ["0", "weak", "1", "weak2", "2", "3"]
    found = _by_key(executor.run(_jobs(tmp_path, *names), die_once))
    assert found == {name: Finished(name, attempts=2 if "weak" in name else 1) for name in names}
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)
def test_a_job_that_kills_its_workers_is_given_up(executor: Executor, tmp_path: Path) -> None:
    found = _by_key(executor.run(_jobs(tmp_path, "weak", "0", "1", "2"), die_always))
    assert found["weak"].attempts == ATTEMPTS
    assert (tmp_path / "weak.begun").read_text() == "x" * ATTEMPTS
    assert found["weak"].error is not None
    assert "died" in found["weak"].error
    assert "memory" in found["weak"].error
    assert [found[name].error for name in "012"] == [None] * 3


@pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)
def test_workers_live_on_between_jobs_and_have_no_children(executor: Executor, tmp_path: Path) -> None:
    list(executor.run(_jobs(tmp_path, *map(str, range(16))), tell_process))
    told = [path.read_text().split() for path in tmp_path.iterdir()]
    assert len({pid for pid, _, _ in told}) <= 2
    assert max(int(count) for _, count, _ in told) >= 8
    assert {daemon for _, _, daemon in told} == {"True"}
    assert str(os.getpid()) not in {pid for pid, _, _ in told}


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_share_the_cores(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_module, "threads_each", lambda workers: 2 // workers)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    list(find_executor("processes", workers=workers).run(_jobs(tmp_path, "0", "1"), tell_threads))
    assert {path.read_text() for path in tmp_path.iterdir()} == {" ".join([str(2 // workers)] * 4)}
    assert dict(os.environ) == before


def test_shares_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust.study.executors.worker.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_each(workers) for workers in (1, 2, 3, 8, 100)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_each(workers) for workers in (1, 2, 8)] == [3, 3, 1]


@NEEDS_RAY
def test_ray_gives_threads_for_cpus(shared_ray: str, tmp_path: Path) -> None:
    for cpus in (1, 2):  # in this order: PyTorch is loaded by then
        job = Job("0", str(tmp_path / str(cpus)), {"num_cpus": cpus})
        assert list(find_executor("ray").run([job], tell_threads)) == [Finished("0")]
        assert (tmp_path / str(cpus)).read_text() == " ".join([str(cpus)] * 4)


def test_ctrl_c_passes_here() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(find_executor("local").run([Job("a", None)], interrupt))


@pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)
def test_who_stops_listening_stops_the_workers(executor: Executor, tmp_path: Path) -> None:
    jobs = [*_jobs(tmp_path, "quick"), *_jobs(tmp_path, "slow")]
    finished = executor.run(jobs, write_or_linger)
    assert next(finished).key == "quick"
    assert _until((tmp_path / "slow").exists)
    assert _until(lambda: bool((tmp_path / "slow").read_text()))
    finished.close()
    assert _until(lambda: _gone(int((tmp_path / "slow").read_text())))


def write_or_linger(path: str) -> None:
    if path.endswith("slow"):
        linger(path)
    write_once(path)


@pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)
def test_payloads_that_do_not_travel_fail_their_own_job(executor: Executor, tmp_path: Path) -> None:
    odd = threading.Lock()
    jobs = [Job("odd", odd), *_jobs(tmp_path, "0"), Job("alien", Alien())]
    found = _by_key(executor.run(jobs, write_once))
    assert found["0"].error is None
    assert "cannot be sent" in str(found["odd"].error)
    assert found["alien"].error == "ImportError: known elsewhere"


class Alien:
    """Pickles, but cannot be read back."""

    def __reduce__(self) -> tuple[object, ...]:
        return _not_here, ()


def _not_here() -> None:
    raise ImportError("known elsewhere")


def test_an_idle_worker_that_dies_costs_no_attempt(tmp_path: Path) -> None:
    pool = processes_module._Pool(1)
    try:
        assert list(drive(pool, _jobs(tmp_path, "before"), write_once, None)) == [Finished("before")]
        (idle,) = multiprocessing.active_children()
        idle.kill()
        assert _until(lambda: not pool.pool.active), "pebble takes it for the end of the pool"
        assert list(drive(pool, _jobs(tmp_path, "0", "1"), write_once, None)) == [Finished("0"), Finished("1")]
        (idle,) = multiprocessing.active_children()
        idle.kill()  # and now the job is sent before the pool knows
        assert list(drive(pool, _jobs(tmp_path, "2"), write_once, None)) == [Finished("2")]
    finally:
        pool.stop()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("executor", ALL, indirect=True)
def test_polls_while_it_waits(executor: Executor) -> None:
    polls: list[float] = []
    jobs = [Job(str(index), 0.01 if executor.name == "local" else 1.2) for index in range(2)]
    assert len(list(executor.run(jobs, time.sleep, poll=lambda: polls.append(time.monotonic())))) == 2
    assert 1 <= len(polls) <= 6


# A driver in a process of its own.


def _drive(folder: Path, name: str, work: str, jobs: int, options: str = "workers=2") -> subprocess.Popen[str]:
    script = folder / "driver.py"
    script.write_text(
        f"""
import os, sys
if __name__ != "__main__":  # in a worker, before anything of ours: libraries that a script imports read it then
    open({str(folder / "threads")!r}, "w").write(os.environ["OMP_NUM_THREADS"])
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from robust.study.executors import Job, find_executor
import test_executors
if __name__ == "__main__":
    jobs = [Job(str(index), {str(folder)!r} + f"/{{index}}") for index in range({jobs})]
    for finished in find_executor({name!r}, {options}).run(jobs, test_executors.{work}):
        assert finished.error is None, finished
"""
    )
    unset = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=unset
    )


def _pids(folder: Path, count: int) -> list[int]:
    files = [folder / str(index) for index in range(count)]
    assert _until(lambda: all(file.exists() and file.read_text() for file in files), 40)
    return [int(file.read_text()) for file in files]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("name", WITH_WORKERS)
def test_no_worker_outlives_its_driver(name: str, tmp_path: Path) -> None:
    drivers = {}
    for end in (signal.SIGKILL, signal.SIGINT):
        (tmp_path / end.name).mkdir()
        drivers[end] = _drive(tmp_path / end.name, name, "linger", 2)  # side by side, since Ray starts slowly
    for end, driver in drivers.items():
        pids = _pids(tmp_path / end.name, 2)
        assert not any(_gone(pid) for pid in pids)
        driver.send_signal(end)
        driver.communicate(timeout=30)
        assert driver.returncode != 0
        assert _until(lambda pids=pids: all(_gone(pid) for pid in pids)), end.name


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_nothing_is_printed(name: str, tmp_path: Path) -> None:
    driver = _drive(tmp_path, name, "chatter", 3)
    assert driver.communicate(timeout=60) == ("", "")
    assert driver.returncode == 0
    assert all((tmp_path / str(index)).exists() for index in range(3))
    if name == "processes":
        assert (tmp_path / "threads").read_text() == str(max(1, cores() // 2))


@NEEDS_RAY
def test_a_cluster_that_runs_is_used_and_left_alone(shared_ray: str, tmp_path: Path) -> None:
    import ray

    def processes() -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    before = processes()
    driver = _drive(tmp_path, "ray", "chatter", 3, f"address={shared_ray!r}")
    assert driver.communicate(timeout=60) == ("", "")
    assert processes() == before
    assert list(find_executor("ray", workers=1).run(_jobs(tmp_path, "after"), write_once)) == [Finished("after")]


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import time\n"
        "from robust.study.executors import Job, find_executor\n"
        "list(find_executor('processes', workers=1).run([Job('a', 1)], time.sleep))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert '__name__ == "__main__"' in done.stderr.splitlines()[-1]


# What is refused.


def test_unknown_executors_are_refused() -> None:
    assert list_executors() == ["local", "processes", "ray"]
    with pytest.raises(RobustError, match="Did you mean 'processes'"):
        find_executor("proceses")


@pytest.mark.parametrize("workers", [0, -1, "x", 1.5, True])
@pytest.mark.parametrize("name", WITH_WORKERS)
def test_bad_numbers_of_workers_are_refused(name: str, workers: object) -> None:
    with pytest.raises(RobustError, match=f"at least 1; given {workers!r}"):
        find_executor(name, **{"workers": workers})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("local", {"workers": 2}, "takes no workers.*processes or ray"),
        ("processes", {"address": "auto"}, "takes no address.*use ray"),
        ("local", {"runtime_env": {"pip": []}}, "takes no runtime_env.*use ray"),
    ],
)
def test_options_of_others_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(RobustError, match=words):
        find_executor(name, **options)


def test_missing_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RobustError, match=r"pip install 'robust-audio\[ray\]'"):
        find_executor("ray")


@NEEDS_RAY
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:x", "nonsense"])
def test_addresses_without_a_cluster_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: (_ for _ in ()).throw(ValueError(f"no {address}")))
    begun = time.monotonic()
    with pytest.raises(RobustError, match=f"No Ray cluster answers at '{address}'.*ray start --head"):
        list(find_executor("ray", address=address).run([Job("a", 1)], time.sleep))
    assert time.monotonic() - begun < 5


@NEEDS_RAY
@pytest.mark.parametrize("amount", [-1, "x", float("nan"), True, 1.5])
def test_bad_resources_are_refused(amount: object) -> None:
    with pytest.raises(RobustError, match="num_gpus"):
        find_executor("ray").run([Job("a", 1, {"num_gpus": amount})], time.sleep)


@NEEDS_RAY
def test_resources_that_no_node_has(shared_ray: str) -> None:
    from robust.study.executors.ray import _check_fit

    _check_fit([Job("a", 1, {"num_cpus": 2, "num_gpus": 0})], ours=True)
    job = Job("a", 1, {"num_cpus": 1, "loudspeaker": 1})
    with pytest.raises(RobustError, match=r"CPU 1, loudspeaker 1.*The nodes have: CPU 2, loudspeaker 0"):
        _check_fit([job], ours=True)
    with pytest.warns(UserWarning, match="waits until one joins"):
        _check_fit([job], ours=False)


@pytest.mark.parametrize("name", ALL)
def test_keys_occur_once(name: str) -> None:
    with pytest.raises(ValueError, match="two jobs have the key 'a'"):
        find_executor(name).run([Job("a", 1), Job("a", 2)], time.sleep)


# Bars.


def test_bars_are_silent_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    with bars(2, "cells") as outer:
        for _ in range(2):
            assert list(track([1, 2, 3], "clips")) == [1, 2, 3]
            outer.advance("next")
        outer.show("a", "clips of a", 1, 3)
        outer.hide("a")
        outer.hide("b")
    assert capfd.readouterr() == ("", "")


def test_bars_show_cells_and_clips_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    threads = threading.active_count()
    with bars(2, "cells") as outer:
        assert threading.active_count() == threads, "a thread that draws may hold a lock at a fork"
        for batch in track([[1, 2], [3]], "clips", by=len):
            outer.refresh(now=True)
            shown = capfd.readouterr().err
            assert "cells" in shown
            assert "clips" in shown
            assert ("0/3" if batch == [1, 2] else "2/3") in shown
        outer.advance("second cell")
        shown = capfd.readouterr().err
        assert "1/2" in shown
        assert "second cell" in shown
        assert "clips" not in shown
        outer.show("a", "clips of a", 7, 9)
        outer.refresh(now=True)
        assert "7/9" in capfd.readouterr().err
    assert list(track([1], "alone")) == [1]
    assert "alone" in capfd.readouterr().err


def test_silence_holds_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("robust.evaluation.progress._silent", False)
    silence()
    with bars(1, "cells") as outer:
        assert list(track([1], "clips")) == [1]
        outer.advance()
    assert list(track([1], "clips")) == [1]
    assert capfd.readouterr() == ("", "")
