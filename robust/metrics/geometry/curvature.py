"""Which Hessian-vector product to use: the cheapest that is right, measured on the module itself.

The ways are those of `hessian_products`: differences of gradients cost least, but are no use where rounding, truncation
or the kinks of ReLU make another matrix of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust.errors import VictimError, unknown
from robust.metrics.geometry.hessian_products import (
    DIFFERENCES,
    EXACT,
    DoubleBackward,
    Product,
)
from robust.metrics.geometry.weights import WeightLoss

TOLERANCE = 1e-3
KINKS = 0.3
"""A difference with a fitting step that is this far off sees another matrix; no other step will mend it."""


@dataclass(frozen=True)
class Trial:
    """One way of computing the product, tried on one batch.

    Attributes:
        name: Of the way.
        seconds: One product; infinite where it failed.
        disagreement: ||found - exact|| / ||exact||, the larger of that on a random vector and on its image under H.
        change: How far the difference moves the gradient, over its length; None of exact products.
        failure: What the module could not do; empty otherwise.
    """

    name: str
    seconds: float
    disagreement: float
    change: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Choice:
    """A product and why it was taken.

    Attributes:
        product: The fastest way that agrees.
        trials: All that were tried.
    """

    product: Product
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        lines = [f"{self.product.name}: the fastest that agrees with the exact product"]
        for trial in self.trials:
            outcome = trial.failure or f"{trial.seconds:.3g} s, disagreement {trial.disagreement:.1e}"
            lines.append(f"  {trial.name}: {outcome}")
        return "\n".join(lines)


def make_product(loss: WeightLoss, name: str = "fastest", *, change: float | None = None) -> Product:
    """The product called `name`: one of `EXACT`, of `DIFFERENCES`, or `fastest`.

    Args:
        loss: Whose Hessian.
        name: Of the way.
        change: How far a difference moves the gradient, over its length; what suits the precision when None.

    Raises:
        VictimError: If there is no such way.
    """
    if name == "fastest":
        return fastest_product(loss).product
    if name in EXACT:
        return EXACT[name](loss)
    if name in DIFFERENCES:
        make, power, factors = DIFFERENCES[name]
        return make(loss, change or factors[0] * torch.finfo(loss.weights.dtype).eps ** power)
    raise VictimError(unknown("Hessian-vector product", name, ["fastest", *EXACT, *DIFFERENCES]))


def fastest_product(loss: WeightLoss, *, tolerance: float = TOLERANCE, seed: int = 0) -> Choice:
    """The fastest product that agrees with the exact one, measured on the first batch.

    Differences are compared on a random vector and on its image under the Hessian, which leans towards the directions
    that matter and wants a far shorter step. Central ones cost twice one-sided ones and are tried where those fail.

    Args:
        loss: Whose Hessian.
        tolerance: Largest relative disagreement.
        seed: Of the random vector.

    Raises:
        VictimError: If the module supports no exact product, so that nothing can be checked: choose a difference by
            name then, with `make_product`.
    """
    sample = loss.over(loss.batches[:1])
    exact, trials, reference = _exact_trials(sample, _random(loss.weights, seed), keep=len(loss.batches) == 1)
    if not exact:
        raise VictimError(
            f"{type(loss.module).__name__} supports no second derivatives ({trials[0].failure}); choose "
            "make_product(loss, 'central-difference') and check that it suits."
        )
    vectors = [_random(loss.weights, seed), reference]
    images = [reference, exact[0](reference)]
    for name in DIFFERENCES:
        trial = _difference_trial(sample, name, vectors, images, tolerance)
        trials.append(trial)
        if trial.disagreement <= tolerance or trial.disagreement > KINKS:
            break
    best = min((trial for trial in trials if trial.disagreement <= tolerance), key=lambda trial: trial.seconds)
    return Choice(make_product(loss, best.name, change=best.change), tuple(trials))


def _exact_trials(sample: WeightLoss, vector: Tensor, *, keep: bool) -> tuple[list[Product], list[Trial], Tensor]:
    """Those that work, all that were tried, and H v by the first that works, to which the others are held."""
    working: list[Product] = []
    trials: list[Trial] = []
    reference = torch.zeros_like(vector)
    for name, make in EXACT.items():
        product = DoubleBackward(sample, keep) if make is DoubleBackward else make(sample)
        try:
            found, seconds = _timed(product, vector)
            if not trials or seconds < 2 * trials[0].seconds:  # the first product builds; other work may disturb one
                seconds = min(_timed(product, vector)[1] for _ in range(2))
        except (RuntimeError, NotImplementedError, TypeError) as error:
            trials.append(Trial(name, float("inf"), float("inf"), failure=str(error).strip().split("\n")[0]))
            continue
        reference = reference if working else found
        working.append(product)
        trials.append(Trial(name, seconds, _disagreement([found], [reference])))
    return working, trials, reference


def _difference_trial(
    sample: WeightLoss, name: str, vectors: Sequence[Tensor], images: Sequence[Tensor], tolerance: float
) -> Trial:
    """The one that agrees best; more are tried until one does clearly."""
    make, power, factors = DIFFERENCES[name]
    best = Trial(name, float("inf"), float("inf"))
    sample.gradient()  # the first pass of a process is slow
    for factor in factors:
        change = factor * torch.finfo(sample.weights.dtype).eps ** power
        product = make(sample, change)
        first, second = product(vectors[0]), product(vectors[1])
        _, seconds = _timed(product, vectors[1])  # with its step known, as along most vectors of a search
        wrong = max(_disagreement([first], images[:1]), _disagreement([second], images[1:]))
        if wrong < best.disagreement:
            best = Trial(name, seconds, wrong, change)
        if best.disagreement <= tolerance / 3 or wrong > KINKS:
            break
    return best


def _timed(product: Product, vector: Tensor) -> tuple[Tensor, float]:
    started = time.perf_counter()
    found = product(vector)
    float(found.sum())  # waits for devices that work in the background
    return found, time.perf_counter() - started


def _disagreement(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative distance; 0 where both are zero."""
    worst = 0.0
    for here, there in zip(found, expected, strict=True):
        distance, length = float((here - there).norm()), float(there.norm())
        worst = max(worst, distance / length if length > 0 else (0.0 if distance == 0 else float("inf")))
    return worst


def _random(weights: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(weights.shape, generator=generator, dtype=weights.dtype).to(weights.device)


__all__ = ["TOLERANCE", "Choice", "Trial", "fastest_product", "make_product"]
