"""Where should hearing and seeing meet? The six audio-visual victims under attack on either sense and on both.

    python experiments/fusion.py --root ../shared/data/fsdd

trains every victim that is not yet in `checkpoints/fusion/` (three seeds, on `events` and on `avdigits`), attacks them
at three radii in two norms, measures point-wise thresholds and modality dominance, and writes tables to
`runs/fusion/`. What is there already is not computed again. Thesis chapters 10 and 11; methods.md 2.6.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads in each of two processes wait for one another

import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from attacks.minimal import minimal_scale
from attacks.pgd import PGD
from robust import load_data, load_victim
from robust.api import aligned_to
from robust.atomic import write_atomically
from robust.change import evaluate, swap
from robust.data import Subset
from robust.evaluation.conditions import Attack
from robust.evaluation.thresholds import thresholds
from robust.memory import keep_freed_memory
from robust.seeds import generators_for
from robust.threats import ThreatModel, threat_model
from robust.training import default_recipe, train, with_limits
from robust.types import Dataset
from robust.victims import Victim

MEETINGS = ("audio", "video", "early", "mid", "late", "decision")
TOGETHER = MEETINGS[2:]
THREATS = ("audio", "video", "both", "joint")
RADII = {"linf": (0.0001, 0.0003, 0.001), "l2": (0.005, 0.015, 0.05)}
"""Of the audio, in amplitude."""
VIDEO_SCALE = 16.0
"""Video radii are so many times the audio's: 0.4, 1.2 and 4 of 255 in linf. A joint ball counts
video in units of it, so that in linf `joint` is `both`, and in L2 a part of it."""
CLIPS, THRESHOLD_CLIPS, SWAP_CLIPS, STEPS = 48, 32, 200, 20
LARGEST = {"audio": 0.01, "video": 0.16}
CHECKPOINTS = Path("checkpoints/fusion")


def main(
    root: Annotated[Path | None, typer.Option(help="Folder of FSDD, for avdigits; without it events alone.")] = None,
    seeds: Annotated[int, typer.Option(help="How many.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 2,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("runs/fusion"),
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one seed, untrained victims, four clips.")] = False,
) -> None:
    """Trains, attacks, and writes the tables."""
    from fusion_table import write_tables

    started = time.monotonic()
    sets = ["events", *([] if root is None else ["avdigits"])]
    jobs = [(data, seed, root, out, check) for seed in range(1 if check else seeds) for data in sets]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(one_seed, *job): job[:2] for job in jobs}
        for done in as_completed(waiting):
            data, seed = waiting[done]
            print(f"{data} seed {seed}: {done.result()} after {(time.monotonic() - started) / 60:.1f} min", flush=True)
    write_tables(out, sets, RADII)
    print(f"tables in {out} after {(time.monotonic() - started) / 60:.1f} minutes")


def one_seed(data: str, seed: int, root: Path | None, out: Path, check: bool) -> str:
    """Everything of one data set and one seed; says what took how long."""
    torch.set_num_threads(1)
    keep_freed_memory()
    clock, told = time.monotonic(), []
    victims = {meeting: trained(meeting, data, seed, root, check) for meeting in MEETINGS}
    steps = {"training": lambda: None, "attacks": attack_all, "thresholds": all_thresholds, "dominance": all_swaps}
    for name, step in steps.items():
        if name != "training":
            step(victims, opened(data, root), out / f"{data}-{seed}", seed, check)
        told.append(f"{name} {(time.monotonic() - clock) / 60:.1f}")
        clock = time.monotonic()
    return ", ".join(told)


def trained(meeting: str, data: str, seed: int, root: Path | None, check: bool) -> Victim:
    """The victim of one meeting point, trained by the family's one recipe unless that is done."""
    name = f"av-{meeting}"
    path = CHECKPOINTS / f"{'check-' if check else ''}{data}-{name}-{seed}.safetensors"
    if not path.is_file():
        limits = {"epochs": 1, "max_steps": 1} if check else {}
        recipe = with_limits(default_recipe(name), seed=seed, **limits)
        train(name, data, root=None if data == "events" else root, out=path, recipe=recipe, half=True)
    return load_victim(name, weights=path)


def opened(data: str, root: Path | None) -> Dataset:
    """The test split."""
    return load_data(data, split="test", root=None if data == "events" else root)


def attack_all(victims: dict[str, Victim], data: Dataset, folder: Path, seed: int, check: bool) -> None:
    """Clean predictions on all clips; on some, the smallest radius that breaks each, for every threat and norm."""
    few = Subset(data, 4 if check else CLIPS)
    for meeting, victim in victims.items():
        save(folder / f"clean-{meeting}.parquet", clean_answers, victim, data)
        for norm, radii in RADII.items():
            for word in THREATS if meeting in TOGETHER else (meeting,):
                path = folder / f"{norm}-{word}-{meeting}.parquet"
                save(path, smallest, victim, few, norm, word, radii, seed)


def clean_answers(victim: Victim, data: Dataset) -> pd.DataFrame:
    """Whether each clip is right as it is."""
    _, aligned = aligned_to(victim, data, None)
    rows = []
    with torch.no_grad():
        for first in range(0, len(aligned), 64):
            batch = aligned.batch(range(first, min(first + 64, len(aligned))))
            right = victim(batch.inputs).argmax(dim=1) == batch.labels
            rows += zip(batch.ids, right.tolist(), strict=True)
    return pd.DataFrame(rows, columns=["id", "right"])


def smallest(victim: Victim, data: Dataset, norm: str, word: str, radii: tuple[float, ...], seed: int) -> pd.DataFrame:
    """The smallest of `radii` that breaks each clip: 0 where wrong at first, infinite where none does."""
    threat = budget(victim, norm, word, radii[-1])
    victim, aligned = aligned_to(victim, data, threat.packing)
    attack = Attack(threat.balls, PGD(steps=STEPS), packing=threat.packing)
    found = []
    for first in range(0, len(aligned), 32):
        batch = aligned.batch(range(first, min(first + 32, len(aligned))))
        result = minimal_scale(
            victim,
            batch.inputs,
            attack.goal(batch.labels),
            attack.threat,
            config=attack.config,
            grid=torch.tensor(radii, dtype=torch.float64) / radii[-1],
            valid=batch.valid,
            generators=generators_for(seed, batch.ids, "fusion"),
        )
        found += zip(batch.ids, (radii[-1] * result.scale).tolist(), result.backwards.tolist(), strict=True)
    return pd.DataFrame(found, columns=["id", "radius", "backwards"])


def budget(victim: Victim, norm: str, word: str, radius: float) -> ThreatModel:
    """The threat of which `radius` is the audio's, or the joint one's."""
    if word == "joint":
        return threat_model(victim, word, norm, radius, scale={"video": VIDEO_SCALE})
    eps = {"audio": radius, "video": VIDEO_SCALE * radius}
    return threat_model(victim, word, norm, eps if word == "both" else eps[word])


def all_thresholds(victims: dict[str, Victim], data: Dataset, folder: Path, seed: int, check: bool) -> None:
    """Point-wise thresholds of every fused victim against its parts (theorem 1, methods.md 2.1)."""
    few = Subset(data, 4 if check else THRESHOLD_CLIPS)
    known = None
    for meeting in TOGETHER:
        frame, told = folder / f"thresholds-{meeting}.parquet", folder / f"thresholds-{meeting}.json"
        if frame.is_file() and told.is_file():
            continue
        known = thresholds(
            victims[meeting],
            victims["audio"],
            victims["video"],
            few,
            largest=LARGEST,
            config=PGD(steps=10),
            tolerance=1.2,
            seed=seed,
            parts=known,
        )
        save(frame, known.frame.copy)
        write_atomically(told, json.dumps(known.summary(), indent=2).encode())


def all_swaps(victims: dict[str, Victim], data: Dataset, folder: Path, seed: int, check: bool) -> None:
    """Which sense decides where they contradict each other."""
    few = Subset(data, 8 if check else SWAP_CLIPS)
    for meeting in TOGETHER:
        path = folder / f"swap-{meeting}.parquet"
        if not path.is_file():
            victim = victims[meeting]
            found = evaluate(victim, few, swap(victim, few, "video", seed=0), seed=seed)
            save(path, found.records.copy)


def save(path: Path, compute: Any, *arguments: Any) -> None:
    """Writes the table that `compute` gives, whole, unless it is there."""
    if not path.is_file():
        write_atomically(path, compute(*arguments).to_parquet())


if __name__ == "__main__":
    typer.run(main)
