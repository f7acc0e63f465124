"""Top eigenvalues of a loss's Hessian in weight space, with what they would be on other clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from robust.errors import VictimError, unknown
from robust.metrics.geometry.curvature import make_product
from robust.metrics.geometry.estimate import Estimate, bootstrapped
from robust.metrics.geometry.hessian_products import DoubleBackward, Product
from robust.metrics.geometry.krylov import Found, Search, Which, by_lanczos, by_power, dot, normal
from robust.metrics.geometry.weights import Floats, WeightLoss

Method = Literal["lanczos", "power"]
CLOSE = 0.01
"""How near the curvatures of single clips must come to that of their mean, to be taken for right."""


@dataclass(frozen=True)
class Eigenpairs:
    """The top eigenvalues of a Hessian.

    Attributes:
        values: One for each, from the top down: v^T H v by the exact product where there is one. Intervals are over
            clips (groups of them, `batches`, where a module has no forward-mode derivatives) with v as it is: to first
            order, what the eigenvalue of another sample of clips would be.
        vectors: (k, P) orthonormal.
        residuals: ||H v - value v|| of each; an eigenvalue lies within it, and usually much nearer.
        products: Hessian-vector products over all clips, without those for the intervals.
        product: How they were computed.
    """

    values: tuple[Estimate, ...]
    vectors: Tensor
    residuals: tuple[float, ...]
    products: int
    product: str


def top_eigenvalues(
    loss: WeightLoss,
    count: int = 1,
    *,
    which: Which = "magnitude",
    method: Method = "lanczos",
    product: str | Product = "fastest",
    tolerance: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
) -> Eigenpairs:
    """The top eigenvalues of the Hessian of the mean loss over clips.

    What a difference of gradients found is checked with an exact product, and where it does not hold to `tolerance`,
    found again with that.

    Args:
        loss: Whose Hessian.
        count: How many.
        which: The `largest`, or the largest in `magnitude` (those of power iteration); at a minimum they are the same.
        method: `lanczos` needs the fewest products and holds one vector for each; `power` iteration with deflation
            holds `count`, and finds eigenvalues that are exactly equal (Lanczos sees one of them). It knows
            magnitudes alone.
        product: A product, or the name of one (`make_product`).
        tolerance: Relative error of each eigenvalue that ends the search.
        max_products: Of each search.
        seed: Of the first vector.

    Raises:
        VictimError: If a setting is out of range.
    """
    _check_top(loss, count, which, method)
    find = by_power if method == "power" else by_lanczos
    chosen = make_product(loss, product) if isinstance(product, str) else product
    before = chosen.calls
    search = Search(count, which, tolerance, max_products, seed)
    found = find(chosen, _first(chosen, seed), search)
    exact, spent = _exact_like(chosen), 0
    if exact is not chosen:
        spent = chosen.calls - before
        before, found = 0, _measured(exact, found.vectors)
        if found.error() > tolerance:
            chosen, found = exact, find(exact, found.vectors.sum(dim=0), search)
    spent += exact.calls - before
    values = [_with_interval(loss, exact, v, value) for v, value in zip(found.vectors, found.values, strict=True)]
    falling = sorted(range(count), key=lambda place: -_rank(found.values[place], which))
    residuals = tuple(found.residuals[place] for place in falling)
    return Eigenpairs(tuple(values[place] for place in falling), found.vectors[falling], residuals, spent, chosen.name)


def _first(product: Product, seed: int) -> Tensor:
    """A random vector and the gradient, which leans towards the top eigenvectors, in equal parts."""
    random, slope = normal(product.loss.weights, seed), product.gradient()
    size = float(slope.norm())
    first: Tensor = random / random.norm()
    return first + slope / size if size > 0 else first


def _rank(value: float, which: Which) -> float:
    return abs(value) if which == "magnitude" else value


def _measured(product: Product, vectors: Tensor) -> Found:
    images = [product(vector) for vector in vectors]
    values = [dot(vector, image) for vector, image in zip(vectors, images, strict=True)]
    triples = zip(values, vectors, images, strict=True)
    return Found(vectors, values, [float((image - value * vector).norm()) for value, vector, image in triples])


def _with_interval(loss: WeightLoss, product: Product, vector: Tensor, value: float) -> Estimate:
    """v^T H v with an interval over clips, or over groups of them where clips cannot be had one by one."""
    try:
        forms = loss.curvatures(vector)
    except (RuntimeError, NotImplementedError, TypeError):
        forms = np.full(1, np.nan)
    if abs(forms.mean() - value) <= CLOSE * abs(value):
        rows, over = np.stack([np.ones_like(forms), forms], axis=1), "clips"
    else:
        groups = loss.grouped()
        sizes = np.array([group.clips for group in groups], dtype=np.float64)
        sums = sizes * [dot(vector, product.on(group)(vector)) for group in groups]
        rows, over = np.stack([sizes, sums], axis=1), "batches"
    found = bootstrapped(rows, over=over, statistic=_per_clip)
    shift = value - found.value  # rounding
    return Estimate(value, found.low + shift, found.high + shift, over, found.count)


def _per_clip(rows: Floats) -> float:
    """From (G, 2) clips in each group, and their sum."""
    clips, total = rows.sum(axis=0)
    return float(total / clips)


def _exact_like(product: Product) -> Product:
    """What checks the product: itself if exact, else double backward; itself again where that fails."""
    if product.exact:
        return product
    exact = DoubleBackward(product.loss)
    try:
        DoubleBackward(product.loss.grouped()[0])(product.loss.weights)
    except (RuntimeError, NotImplementedError):
        return product
    return exact


def _check_top(loss: WeightLoss, count: int, which: str, method: str) -> None:
    if which not in get_args(Which):
        raise VictimError(unknown("end of the spectrum", which, get_args(Which)))
    if method not in get_args(Method):
        raise VictimError(unknown("eigenvalue method", method, get_args(Method)))
    if method == "power" and which != "magnitude":
        raise VictimError("Power iteration finds the largest magnitudes; use method='lanczos' for the largest values.")
    if not 1 <= count <= len(loss.weights):
        raise VictimError(f"There are {len(loss.weights)} eigenvalues; {count} cannot be found.")


__all__ = ["Eigenpairs", "top_eigenvalues"]
