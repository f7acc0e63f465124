"""Where a victim spends its time: own time of every layer of a forward pass, by torch.profiler (thesis, chapter 6.9).

On a CPU time is wall time; on CUDA it is that of the kernels, which run on after their layer has returned.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from attacks.errors import ThreatModelError
from attacks.gradients import frozen
from robust.types import Inputs, VictimSpec
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

OUTSIDE = "(outside of layers)"
PREFIX = "layer:"
QUARTILES = (0.25, 0.5, 0.75)


def layer_latency(
    victim: Victim,
    *,
    batch_size: int = 1,
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Own time of each layer in a forward pass on random inputs, without the layers inside it.

    Args:
        victim: On the device to be measured.
        batch_size: Clips in a pass.
        repeats: Passes measured; times are medians over them, with quartiles.
        warmup: Passes before, not measured.
        threads: Of torch on the CPU; as they are when None.
        seed: Of the inputs.

    Returns:
        One row per layer that ran, in order of first use: `layer` (dotted path), `operation` (class), `depth` (1 for
        the victim's own children), `milliseconds`, `low`, `high` (median and quartiles of all its calls in a pass),
        `share` (of all rows' sum), `calls` (per pass), `parameters` (its own). What the victim computes in no
        layer is the last row, "(outside of layers)". And a summary: `victim`, `device`, `threads`, `batch_size`,
        `clip_seconds`, `repeats`; `total_milliseconds`, the sum of all rows: a pass that nothing interrupted;
        `pass_milliseconds`, lower quartile, median and upper quartile of whole passes measured with their layers, and
        `plain_milliseconds`, the same without profiler and hooks: far from the total, the machine was busy or the
        layers too small to be measured.

    Raises:
        ThreatModelError: If a count cannot be.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
        ("threads", 1 if threads is None else threads, 1),
    ):
        if value < least:
            raise ThreatModelError(f"{name} must be {least} or more; given {value}.")
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    inputs = _random_inputs(victim.spec, batch_size, device, seed)
    with _threads(threads), frozen(victim), torch.no_grad():
        for _ in range(warmup):
            victim(inputs)
        plain = [_timed(victim, inputs, device) for _ in range(repeats)]
        passes = _profiled(victim, inputs, device, repeats)
        used = torch.get_num_threads()
    totals = [sum(one.own.values()) for one in passes]
    frame = _table(victim, passes)
    return frame, {
        "kind": "latency",
        "victim": victim.spec.name,
        "device": str(device),
        "threads": used,
        "batch_size": batch_size,
        "clip_seconds": victim.spec.clip_seconds,
        "total_milliseconds": float(frame["milliseconds"].sum()),
        "pass_milliseconds": np.quantile(totals, QUARTILES).tolist(),
        "plain_milliseconds": np.quantile(plain, QUARTILES).tolist(),
        "repeats": repeats,
    }


@dataclass
class _Pass:
    """Milliseconds and calls of one forward pass by layer; the victim itself is the empty path."""

    own: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)


@dataclass
class _Span:
    """A layer at work: from when to when (microseconds on the host), and how long (on the device measured)."""

    path: str
    start: float
    end: float
    duration: float


def _random_inputs(spec: VictimSpec, batch_size: int, device: torch.device, seed: int) -> Inputs:
    """Uniform in the range of each modality."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for name in spec.modalities:
        low, high = spec.bounds[name]
        drawn = torch.rand(batch_size, *spec.shape(name), generator=generator)
        inputs[name] = (low + (high - low) * drawn).to(device)
    return inputs


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if wanted is not None:
            torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


def _timed(victim: Victim, inputs: Inputs, device: torch.device) -> float:
    """Milliseconds of one pass on the clock."""
    _wait(device)
    start = time.perf_counter()
    victim(inputs)
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _labelled(victim: nn.Module) -> Iterator[None]:
    """Every call of a module within is a span of the profiler; all hooks are gone afterwards, whatever happens."""
    open_spans: list[ExitStack] = []
    handles = []

    def enter(path: str) -> Any:
        def hook(module: nn.Module, args: object) -> None:
            spans = ExitStack()
            spans.enter_context(torch.profiler.record_function(PREFIX + path))
            open_spans.append(spans)

        return hook

    def leave(module: nn.Module, args: object, output: object) -> None:
        open_spans.pop().close()

    try:
        for path, module in victim.named_modules():
            # First to open and last to close, so that the module's other hooks count as its own time.
            handles.append(module.register_forward_pre_hook(enter(path), prepend=True))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()
        while open_spans:  # a layer that raised
            open_spans.pop().close()


def _profiled(victim: Victim, inputs: Inputs, device: torch.device, repeats: int) -> list[_Pass]:
    """Times of each of `repeats` passes."""
    # Its library writes to stderr when it starts and stops, and that it found no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *((ProfilerActivity.CUDA,) if cuda else ())]
    with _labelled(victim):
        with profile(activities=activities, acc_events=True) as warm:  # the first profile sets the profiler up
            victim(inputs)
            _wait(device)
        del warm
        with profile(activities=activities, acc_events=True) as found:
            for _ in range(repeats):
                victim(inputs)
            _wait(device)
    spans = [
        _Span(
            event.name.removeprefix(PREFIX),
            event.time_range.start,
            event.time_range.end,
            event.device_time_total if cuda else event.time_range.elapsed_us(),
        )
        for event in found.events()
        if event.name.startswith(PREFIX) and event.device_type.name == "CPU"
    ]
    return _by_pass(spans)


def _by_pass(spans: Sequence[_Span]) -> list[_Pass]:
    """Own times by pass: what a span lasted less what the spans directly within it did."""
    passes: list[_Pass] = []
    above: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        while above and above[-1].end <= span.start:
            above.pop()
        if not above:
            passes.append(_Pass())
        else:
            passes[-1].own[above[-1].path] -= span.duration / 1000
        passes[-1].own[span.path] += span.duration / 1000
        passes[-1].calls[span.path] += 1
        above.append(span)
    return passes


def _table(victim: nn.Module, passes: Sequence[_Pass]) -> pd.DataFrame:
    import pandas as pd

    modules = dict(victim.named_modules())
    rows = []
    for path in [*(path for path in passes[0].own if path), ""]:
        low, median, high = np.quantile([one.own[path] for one in passes], QUARTILES).tolist()
        rows.append(
            {
                "layer": path or OUTSIDE,
                "operation": type(modules[path]).__name__,
                "depth": path.count(".") + 1 if path else 0,
                "milliseconds": median,
                "low": low,
                "high": high,
                "share": 0.0,
                "calls": passes[0].calls[path],
                "parameters": sum(parameter.numel() for parameter in modules[path].parameters(recurse=False)),
            }
        )
    frame = pd.DataFrame(rows)
    frame["share"] = frame["milliseconds"] / max(float(frame["milliseconds"].sum()), 1e-12)
    return frame
