"""What a step and a curve cost, as medians of ratios taken in one process.

    python experiments/benchmarks/speed.py --clips 40

A step: our PGD over a bare forward pass and input gradient of the same victim, turns taken. A curve of 20 radii: one
search of ours over foolbox's grid (one call) and torchattacks' (a call for each radius).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a script beside its two modules

import numpy as np
import torch
from peers import AudioModule
from subjects import arguments, subject
from torch import Tensor, nn

from attacks.losses import Goal, margin
from attacks.minimal import minimal_scale, robust_at
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from robust.victims import Victim

GRIDS = {"linf": (1e-5, 1e-2), "l2": (1e-3, 1.0)}


class Image(nn.Module):
    """The victim as torchattacks wants it."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.victim, self.anchor = victim, nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.victim({"audio": image.flatten(1) * 2 - 1})


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def step_ratio(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    threat: Mapping[str, Ball],
    batch: int = 16,
    steps: int = 40,
    rounds: int = 5,
) -> str:
    """Our step over a bare one with the same gradients: median and interquartile range over interleaved rounds."""
    inputs, goal = {name: value[:batch] for name, value in inputs.items()}, Goal(labels[:batch])

    def bare() -> None:
        for _ in range(steps):
            leaves = {name: value.clone().requires_grad_(name in threat) for name, value in inputs.items()}
            torch.autograd.grad(margin(victim(leaves), goal).sum(), [leaves[name] for name in threat])
        with torch.no_grad():
            victim(dict(inputs))

    def attacked() -> None:
        pgd(victim, inputs, goal, threat, config=PGD(steps=steps, stop_when_broken=False))

    bare(), attacked()
    ratios = [seconds(attacked) / seconds(bare) for _ in range(rounds)]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def curves(
    name: str, victim: Victim, audio: Tensor, labels: Tensor, norms: list[str], steps: int = 40, count: int = 20
) -> None:
    """Prints the cost of a curve over the peers' grids, and whether it is anywhere higher than theirs."""
    print(f"\n{name}: curve of {count} radii, {len(audio)} clips, {steps} steps\n")
    print("| norm | ours, s | foolbox / ours | torchattacks / ours | ours never higher |\n|---|---|---|---|---|")
    for norm in norms:
        grid = np.geomspace(*GRIDS[norm], count)
        found, spent = {}, {}
        for who, run in {"ours": _ours, "foolbox": _foolbox, "torchattacks": _theirs}.items():
            started = time.perf_counter()
            found[who] = run(victim, audio, labels, norm, grid, steps)
            spent[who] = time.perf_counter() - started
        lower = all((found["ours"] <= found[peer] + 1e-9).all() for peer in ("foolbox", "torchattacks"))
        ratios = " | ".join(f"{spent[peer] / spent['ours']:.1f}" for peer in ("foolbox", "torchattacks"))
        print(f"| {norm} | {spent['ours']:.1f} | {ratios} | {lower} |", flush=True)
        for peer, curve in found.items():
            print(f"  {peer:13}" + " ".join(f"{100 * value:3.0f}" for value in curve), flush=True)


def _ours(victim: Victim, audio: Tensor, labels: Tensor, norm: str, grid: np.ndarray, steps: int) -> np.ndarray:
    radii = torch.from_numpy(grid)
    found = minimal_scale(
        victim, {"audio": audio}, Goal(labels), {"audio": Ball(norm, 1.0)}, config=PGD(steps=steps), grid=radii
    )
    return robust_at(found.scale, radii).numpy()


def _foolbox(victim: Victim, audio: Tensor, labels: Tensor, norm: str, grid: np.ndarray, steps: int) -> np.ndarray:
    import foolbox

    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm](steps=steps)
    model = foolbox.PyTorchModel(AudioModule(victim).eval(), bounds=(-1, 1), device="cpu")
    _, _, success = attack(model, audio, labels, epsilons=list(grid))
    return 1 - success.double().mean(dim=1).numpy()


def _theirs(victim: Victim, audio: Tensor, labels: Tensor, norm: str, grid: np.ndarray, steps: int) -> np.ndarray:
    import torchattacks

    image, model, scores = (audio[:, None, None] + 1) / 2, Image(victim).eval(), []
    for eps in grid / 2:
        attack = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm](model, eps=eps, alpha=eps / 10, steps=steps)
        found = attack(image, labels)
        with torch.no_grad():
            scores.append(float((model(found).argmax(1) == labels).double().mean()))
    return np.array(scores)


def main() -> None:
    """Both tables for every victim."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--skip-curves", action="store_true")
    parser.add_argument("--norms", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    options = parser.parse_args()
    torch.manual_seed(0)  # the peers draw from the global state
    print("| victim | our step / bare forward and input gradient |\n|---|---|")
    subjects = {name: subject(name, options) for name in options.victims}
    for name, (victim, audio, labels) in subjects.items():
        ratio = step_ratio(victim, {"audio": audio}, labels, {"audio": Ball("linf", 1e-4)})
        print(f"| {name} | {ratio} |", flush=True)
    for name, (victim, audio, labels) in subjects.items():
        if not options.skip_curves:
            curves(name, victim, audio, labels, options.norms)


if __name__ == "__main__":
    main()
