"""Top eigenvalue and trace of the Hessian by weights: ours beside PyHessian, one process, turns taken.

    python experiments/benchmarks/curvature.py --clips 16 --rounds 3

Victims have their embedded weights, clips are of `events`; one batch, so that PyHessian may keep its graph as we do.
PyHessian (pip install pyhessian==0.1 --no-deps) runs at its defaults; attention is computed plainly on both sides,
since the fused kernels have no second derivatives. Traces are compared at equal probes, and at equal standard error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # a script beside its module of peers

import numpy as np
import torch
from peers import AudioModule
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import robust
from robust.evaluation.engine import AlignedData
from robust.metrics.geometry.curvature import fastest_product
from robust.metrics.geometry.spectrum import hessian_trace, top_eigenvalues
from robust.metrics.geometry.weights import WeightLoss
from robust.victims import Victim


class Peer:
    """PyHessian on one batch, its gradients cleared before each use: it leaves its graph in them."""

    def __init__(self, victim: Victim, audio: Tensor, labels: Tensor) -> None:
        self.module, self.data = AudioModule(victim.requires_grad_(True)), (audio, labels)

    def _fresh(self):
        import pyhessian

        self.module.zero_grad(set_to_none=True)
        return pyhessian.hessian(self.module, nn.CrossEntropyLoss(), data=self.data, cuda=False)

    def top(self, count: int, *, tolerance: float = 1e-3, most: int = 100) -> list[float]:
        """Top eigenvalues, for each so many products at most, until the relative change is below the tolerance."""
        with sdpa_kernel(SDPBackend.MATH):
            return self._fresh().eigenvalues(top_n=count, tol=tolerance, maxIter=most)[0]

    def trace(self, probes: int) -> np.ndarray:
        """One estimate of the trace by each probe."""
        with sdpa_kernel(SDPBackend.MATH):
            return np.array(self._fresh().trace(maxIter=probes, tol=-np.inf))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def row(*cells: object) -> None:
    print(
        "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def summary(name: str, ours: list[float], peer: list[float]) -> str:
    """Median and range of the ratios of single rounds."""
    each = np.array(ours) / np.array(peer)
    return f"{name}: {np.median(each):.2f} of PyHessian's time [{each.min():.2f}, {each.max():.2f}]"


def eigenvalues(loss: WeightLoss, peer: Peer, count: int, rounds: int) -> list[str]:
    """Prints the top eigenvalues of both; ours with and without the time in which the product is chosen."""
    name = f"top {count}"
    theirs, ours, whole = [], [], []
    for number in range(rounds):
        expected, first = timed(partial(peer.top, count))
        choice, choosing = timed(partial(fastest_product, loss))
        found, second = timed(partial(top_eigenvalues, loss, count, product=choice.product, seed=number))
        values = np.array([estimate.value for estimate in found.values])
        apart = np.abs(np.array(expected) / values - 1).max()
        how = f"{found.product}, {found.products} products, largest residual {max(found.residuals):.2g}"
        row(name, expected[-1], str(found.values[-1]), f"{apart:.1e}", first, second, second / first, how)
        theirs.append(first)
        ours.append(second)
        whole.append(second + choosing)
    converged = np.array(peer.top(count, tolerance=1e-6, most=300))
    apart = np.abs(converged / values - 1).max()
    row(f"{name}, PyHessian to 1e-6", float(converged[-1]), str(found.values[-1]), f"{apart:.1e}", *[""] * 4)
    return [summary(name, ours, theirs), summary(f"{name}, choice of the product included", whole, theirs)]


def traces(loss: WeightLoss, peer: Peer, probes: int, directions: int, rounds: int) -> list[str]:
    """Prints the trace of both at equal probes, and ours with as many as the peer's standard error needs."""
    product = fastest_product(loss).product
    theirs: list[float] = []
    spent: dict[str, list[float]] = {"trace, equal probes": [], "trace, equal error": []}
    for number in range(rounds):
        samples, first = timed(partial(peer.trace, probes))
        theirs.append(first)
        mean, error = float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples)))
        for name, seconds in spent.items():
            more = {"directions": directions, "relative_error": error / abs(mean)} if "error" in name else {}
            run = partial(hessian_trace, loss, probes=probes, product=product.on(loss), seed=number, **more)
            found, second = timed(run)
            seconds.append(second)
            gap = abs(found.value.value - mean) / np.hypot(error, found.standard_error)
            ours = f"{found.value.value:.4g} ± {found.standard_error:.2g}"
            how = f"{product.name}, {len(found.samples)} probes"
            row(name, f"{mean:.4g} ± {error:.2g}", ours, f"{gap:.1f} SE", first, second, second / first, how)
    return [summary(name, seconds, theirs) for name, seconds in spent.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", nargs="+", default=["ast", "m5", "cnn14"])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 5], help="eigenvalues")
    parser.add_argument("--probes", type=int, default=100, help="of the trace; PyHessian's most at its defaults")
    parser.add_argument("--directions", type=int, default=20, help="Lanczos steps before probes, at equal error")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)  # PyHessian draws from the global state
    for name in options.victims:
        victim = robust.load_victim(name)
        data = AlignedData(robust.load_data("events", split="test", limit=options.clips), victim.spec)
        batch = data.batch(range(len(data)))
        peer = Peer(victim, batch.inputs["audio"], batch.labels)
        loss = WeightLoss(victim, [(batch.inputs, batch.labels)])
        print(f"\n{name}: {len(loss.weights)} weights, {loss.clips} clips\n\n{fastest_product(loss)}\n")
        row("measure", "PyHessian", "ours", "apart", "PyHessian s", "ours s", "ratio", "how")
        row(*["---"] * 8)
        lines = [line for count in options.counts for line in eigenvalues(loss, peer, count, options.rounds)]
        if options.probes:
            lines += traces(loss, peer, options.probes, options.directions, options.rounds)
        print("\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
