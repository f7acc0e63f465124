"""Who breaks more at equal steps? Ours at its defaults beside torchattacks, foolbox and ART, one process.

    python experiments/benchmarks/strength.py --clips 100

Every attack starts at a random point of the ball and takes the same number of steps; at these radii some clips stand.
That ours equals torchattacks' PGD from the very same start, at its settings, is a test (tests/attacks/test_pgd.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a script beside its two modules

import torch
from peers import PEERS, ours, standing_within
from subjects import arguments, subject
from torch import Tensor

from attacks.fmn import fmn
from attacks.losses import Goal
from attacks.minimal import FMN_STEP, minimal_scale
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.victims import Victim

RADII = {"linf": (2e-4, 4e-4, 8e-4), "l2": (8e-3, 1.8e-2, 4e-2), "l1": (0.3, 0.8, 2.0)}


def table(name: str, victim: Victim, audio: Tensor, labels: Tensor, steps: int) -> bool:
    """Prints robust accuracy by attack and radius; true where ours is no higher than any."""
    best = True
    for norm, radii in RADII.items():
        print(f"\n{name}, {norm}, {steps} steps, {len(audio)} clips right at first: robust accuracy in %\n")
        print("| attack | " + " | ".join(f"{eps:g}" for eps in radii) + " |")
        print("|---" * (len(radii) + 1) + "|")
        rows = {}
        for attack, run in {"ours": ours, **PEERS[norm]}.items():
            found = [run(victim, audio, labels, norm, eps, steps) for eps in radii]
            rows[attack] = [
                100 * float(standing_within(victim, audio, point, labels, norm, eps).double().mean())
                for point, eps in zip(found, radii, strict=True)
            ]
            print(f"| {attack} | " + " | ".join(f"{value:.1f}" for value in rows[attack]) + " |", flush=True)
        best &= all(mine <= min(others) for mine, *others in zip(*rows.values(), strict=True))
    return best


def minimum_norm(name: str, victim: Victim, audio: Tensor, labels: Tensor) -> None:
    """Prints median smallest radii: bisection alone, FMN alone (at as many gradients), and the default."""
    print(f"\n{name}: median smallest breaking radius (mean gradients spent)\n")
    print("| norm | bisection | FMN | default |\n|---|---|---|---|")
    for norm in ("linf", "l2"):
        ball, goal, cells = Ball(norm, 1.0), Goal(labels), []
        for forecast in (0, None, 100):
            if forecast is None:
                steps, size = round(float(cells[0][1])), FMN_STEP.get(norm, 1.0)
                found = fmn(victim, {"audio": audio}, goal, "audio", ball, steps=steps, step_size=size)
            else:
                found = minimal_scale(
                    victim,
                    {"audio": audio},
                    goal,
                    {"audio": ball},
                    config=PGD(steps=20),
                    tolerance=1.05,
                    forecast=forecast,
                )
            cells.append((float(found.scale.median()), float(found.backwards.double().mean())))
        print(f"| {norm} | " + " | ".join(f"{radius:.3g} ({spent:.0f})" for radius, spent in cells) + " |", flush=True)


def main() -> None:
    """Both tables for every victim."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--minimum-norm-only", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)  # the peers draw from the global state
    verdicts = {}
    for name in options.victims:
        victim, audio, labels = subject(name, options)
        if not options.minimum_norm_only:
            verdicts[name] = table(name, victim, audio, labels, options.steps)
        minimum_norm(name, victim, audio, labels)
    if verdicts:
        print("\nours no higher than any peer: " + ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items()))


if __name__ == "__main__":
    main()
