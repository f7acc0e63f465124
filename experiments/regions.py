"""Which part of the sound does a victim rest on? Attacks confined to bands and windows, and parts of the clip hidden.

    python experiments/regions.py --model cnn-transformer

Every region is attacked at the same L2 and at the same linf radius, by perturbations optimised inside it and by ones
optimised everywhere and cut down to it (methods.md 1.4); then the occlusion battery (methods.md 3.1). On the log-mel
features of the victim: thirds of the mel bands, halves and quarters of the clip; on its waveform: octave bands.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Annotated

import typer

import robust
from attacks.supports import Support, octave_bands, thirds, time_windows
from robust.atomic import write_atomically
from robust.evaluation.occlusion import PATTERNS, Occlusion, battery
from robust.threats import posed

RADII = {"logmel": {"linf": 0.1, "l2": 1.0}, "audio": {"linf": 0.001, "l2": 0.05}}


def main(
    model: Annotated[str, typer.Option(help="A victim with a log-mel front end.")] = "cnn-transformer",
    clips: Annotated[int, typer.Option(help="Test clips of events.")] = 96,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 20,
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("runs/regions"),
) -> None:
    """Prints and writes both tables."""
    victim, data = robust.load_victim(model), robust.load_data("events", limit=clips)
    lines = [
        f"{model} on {clips} test clips of `events`, {steps} steps: robust accuracy",
        "",
        "| input | region | linf inside | linf cut | l2 inside | l2 cut |",
        "|---|---|---|---|---|---|",
    ]
    for modality, name, support in regions(victim):
        cells = []
        for norm in ("linf", "l2"):
            for place in ("support", "cut"):
                told = {"modality": modality, "norm": norm, "eps": RADII[modality][norm], "checks": False}
                run = robust.attack(victim, data, steps=steps, **told, **({} if support is None else {place: support}))
                cells.append(str(run.robust))
        lines.append(f"| {modality} | {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    lines += ["", "| condition | accuracy | change |", "|---|---|---|"]
    hidden, features = posed(victim, data, "logmel")
    frames = hidden.spec.shape("logmel")[0]
    for condition in (*battery("logmel"), *battery("audio")):
        on_features = condition.modality == "logmel"
        blocks = PATTERNS[condition.pattern].blocks if isinstance(condition, Occlusion) else 1
        if on_features and blocks > frames:
            lines.append(f"| {condition.name} | blocks shorter than one of {frames} frames | |")
            continue
        asked = (hidden, features) if on_features else (victim, data)
        found = robust.evaluate(*asked, condition)
        change = found.summary["difference"]
        shown = f"{100 * change['difference']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
        lines.append(f"| {condition.name} | {found.changed} | {shown} |")
        print(lines[-1], flush=True)
    write_atomically(out / f"{model}.md", "\n".join(lines).encode())


def regions(victim: robust.Victim) -> list[tuple[str, str, Support | None]]:
    """Input, name and support of every region; None is everywhere."""
    found: list[tuple[str, str, Support | None]] = [("logmel", "everywhere", None)]
    found += [("logmel", f"{name} third of the bands", band) for name, band in thirds(64).items()]
    for count, word in ((2, "half"), (4, "quarter")):
        found += [("logmel", f"{word} {place + 1}", part) for place, part in enumerate(time_windows(count))]
    found.append(("audio", "everywhere", None))
    bands = octave_bands(victim.spec.sample_rate)
    found += [("audio", f"octave at {name}", band) for name, band in bands.items() if band.low_hz > 80]
    return found


if __name__ == "__main__":
    typer.run(main)
