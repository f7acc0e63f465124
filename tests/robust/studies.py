"""Studies small enough for tests: a victim in a Python file, recordings that it knows, a YAML file about both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from robust.curve_levels import attack_axis
from robust.evaluation.radius_search import shares
from robust.evaluation.store import Store
from robust.study.run import StudyRun, plan_study, run_study
from robust.study.store import CellRun
from robust.victims import load_victim

RATE, SAMPLES = 8000, 400
LABELS = ("high", "low", "middle")
MODEL = '''
import time
from pathlib import Path

import torch
from torch import nn

from robust import Victim

HERE = Path(__file__).parent


class Net(nn.Module):
    """Hears noise as one of three classes; may be slow, or out of order while a file `broken` lies beside it."""

    def __init__(self, seed, seconds=0.0, frail=False, labels=3):
        super().__init__()
        self.seconds, self.frail = seconds, frail
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 8, 32, stride=4), nn.ReLU(), nn.Conv1d(8, 16, 9), nn.ReLU(),
                nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, labels),
            )
            nn.init.normal_(self.net[-1].weight, std=3.0)
            with torch.no_grad():
                self.net[-1].bias -= self.net(0.2 * torch.randn(200, 400)).mean(dim=0)

    def forward(self, audio):
        time.sleep(self.seconds)
        if self.frail and len(audio) > 4 and (HERE / "broken").exists():
            raise RuntimeError("out of order")
        return self.net(audio)


def wrap(labels=("high", "low", "middle"), **options):
    net = Net(labels=len(labels), **options)
    return Victim.wrap(net, sample_rate=8000, labels=list(labels), clip_seconds=0.05, name="mine").eval()


def build():
    return wrap(seed=0)


def other():
    return wrap(seed=1)


def slow():
    return wrap(seed=0, seconds=0.03)


def frail():
    return wrap(seed=0, frail=True)


def elsewhere():
    return wrap(seed=0, labels=("cat", "dog"))
'''


def furnish(folder: Path, clips: int = 24) -> Path:
    """Puts `mine.py` and `recordings/{train,test}` into `folder`; every eighth clip is labelled wrongly."""
    (folder / "mine.py").write_text(MODEL)
    teacher = load_victim(f"{folder / 'mine.py'}:build")
    draw = torch.Generator().manual_seed(1)
    for split, count in (("train", 12), ("test", clips)):
        audio = (0.2 * torch.randn(count, SAMPLES, generator=draw)).clamp(-0.9, 0.9)
        with torch.no_grad():
            label = teacher({"audio": audio}).argmax(dim=1)
        label[::8] = (label[::8] + 1) % 3
        label[1:4] = torch.arange(3)  # no class is without a clip
        for index, (sound, name) in enumerate(zip(audio.numpy(), label.tolist(), strict=True)):
            place = folder / "recordings" / split / LABELS[name] / f"{index:03d}.wav"
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, sound, RATE, subtype="FLOAT")
    return folder


def run_file(path: Path, **options: Any) -> StudyRun:
    """A study in this process."""
    executor, retry = options.pop("executor", None), options.pop("retry", False)
    return run_study(plan_study(path, **options), executor=executor, retry=retry)


SAME_CODE = "import robust.study.plan as plan; plan.code_hash = lambda: 'code'; "
"""So that somebody who edits the sources while a test runs does not spoil it."""


def start(words: list[str], folder: Path, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{SAME_CODE}from robust.cli import main; main()", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )


def tables(store: Path) -> dict[str, bytes]:
    """What two runs of one study must have in common to the byte."""
    return {name: (store / name).read_bytes() for name in ("table.csv", "table.md", "claims.json")}


def snapshot(store: Path) -> dict[str, tuple[int, int]]:
    """File -> its inode and the time of its last change."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): ((told := path.stat()).st_ino, told.st_mtime_ns) for path in files}


def told(store: Path) -> dict[str, Any]:
    """`study.json`."""
    found: dict[str, Any] = json.loads((store / "study.json").read_text())
    return found


def states(store: Path) -> dict[str, str]:
    """`victim/condition/data/seed` -> state."""
    names = ("victim", "condition", "data", "seed")
    return {"/".join(str(cell[name]) for name in names): cell["state"] for cell in told(store)["cells"]}


def folders(store: Path) -> list[str]:
    """Names of all cells' folders that there are."""
    return sorted(path.name for path in (store / "cells").iterdir())


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_text(parts: Mapping[str, Any]) -> str:
    """A study file from plain values; JSON is YAML."""
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in parts.items()) + "\n"


def stored(
    folder: Path,
    victim: str,
    condition: str,
    columns: Mapping[str, Any],
    *,
    kind: str = "attack",
    seed: int = 0,
    task: str = "multiclass",
    manifest: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    state: str = "done",
) -> CellRun:
    """A cell as if it had been measured: `columns` hold what a claim reads."""
    place = folder / f"{victim}--{condition}--{seed}"
    count = len(next(iter(columns.values())))
    ids = {"index": list(range(count)), "id": [f"clip/{n}" for n in range(count)], "label": [0] * count}
    Store.open(place, dict(manifest or {})).add({**ids, **{name: list(values) for name, values in columns.items()}})
    (place / "summary.json").write_text(json.dumps({"kind": kind, "task": task, **(summary or {})}))
    return CellRun(victim, condition, kind, "d", seed, place, state)


def searched(
    folder: Path, victim: str, smallest: Sequence[float], levels: Sequence[float], unit: str = "amplitude", **more: Any
) -> CellRun:
    """A curve that was searched: the smallest radius of each clip as a share of the last level's."""
    grid = shares(levels, unit).tolist()
    axis = attack_axis("snr" if unit == "snr_db" else "linf", "audio", unit)
    columns = {"scale": list(smallest), "clean_correct": [one > 0 for one in smallest]}
    summary = {"radii": list(levels), "axis": axis}
    condition = more.pop("condition", "curve")
    return stored(folder, victim, condition, columns, kind="curve", manifest={"grid": grid}, summary=summary, **more)
