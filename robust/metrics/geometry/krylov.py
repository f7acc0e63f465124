"""Top eigenvectors of a symmetric operator known by its products alone: Lanczos, and power iteration.

Sources: Lanczos with full reorthogonalisation and its residual bounds - Parlett 1998; power iteration with deflation as
in PyHessian (Yao et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.metrics.geometry.weights import Floats

Map: TypeAlias = Callable[[Tensor], Tensor]
Which = Literal["magnitude", "largest"]
NOTHING = 1e-5
"""A new direction this much shorter than the operator is long is rounding: the Krylov space is exhausted."""
NEGLIGIBLE = 1e-3
"""Eigenvalues this much smaller than the largest are known to a share of that, and not of themselves."""


class Lanczos:
    """A symmetric operator seen in the Krylov space of a vector, one product at a time.

    Every new direction is made orthogonal to all before, twice: with products in single precision, those of the plain
    three-term recurrence lose that within a dozen steps, and eigenvalues then appear more than once.

    Args:
        product: The operator.
        start: (P,) any vector but zero.
    """

    def __init__(self, product: Map, start: Tensor) -> None:
        self._product = product
        self._basis = [start / start.norm()]
        self._next: Tensor | None = self._basis[0]
        self.diagonal: list[float] = []
        self.beside: list[float] = []

    def __len__(self) -> int:
        return len(self.diagonal)

    @property
    def exhausted(self) -> bool:
        """Whether the space holds all directions that the operator reaches from the start."""
        return self._next is None

    def advance(self) -> None:
        """One more product."""
        if self._next is None:
            raise ValueError("The Krylov space is exhausted; restart with another vector.")
        image = self._product(self._next)
        length = float(image.norm())
        self.diagonal.append(dot(self._next, image))
        rest = self._orthogonal(image)
        size = float(rest.norm())
        self.beside.append(size)
        scale = max([length, *map(abs, self.diagonal), *self.beside[:-1]])
        self._next = None
        if size > NOTHING * scale and len(self) < len(image):
            self._next = self._orthogonal(rest / size)
            self._next = self._next / self._next.norm()
            self._basis.append(self._next)

    def restart(self, vector: Tensor) -> None:
        """Goes on from a new vector once the space is exhausted; the two spaces do not mix."""
        rest = self._orthogonal(self._orthogonal(vector / vector.norm()))
        self.beside[-1] = 0.0
        self._next = rest / rest.norm()
        self._basis.append(self._next)

    def ritz(self) -> tuple[Floats, Floats]:
        """(M,) eigenvalues in ascending order and (M, M) eigenvectors (columns) of the operator within the space."""
        from scipy.linalg import eigh_tridiagonal

        values, vectors = eigh_tridiagonal(np.array(self.diagonal), np.array(self.beside[:-1]))
        return values, vectors

    def basis(self) -> Tensor:
        """(M, P) orthonormal directions that have a product."""
        return torch.stack(self._basis[: len(self)])

    def vectors(self, coordinates: Floats) -> Tensor:
        """(k, P) of unit length, from (M, k) coordinates in the space."""
        mixed: Tensor = self._basis[0].new_zeros(coordinates.shape[1], len(self._basis[0]))
        for direction, share in zip(self._basis, coordinates, strict=False):  # the last direction has no product yet
            mixed += torch.as_tensor(share, dtype=mixed.dtype, device=mixed.device)[:, None] * direction
        return mixed.div_(torch.linalg.vector_norm(mixed, dim=1, keepdim=True))

    def _orthogonal(self, vector: Tensor) -> Tensor:
        for direction in self._basis:
            vector = vector - torch.dot(direction, vector) * direction
        return vector


@dataclass(frozen=True)
class Search:
    """How many eigenvalues, which, and when to stop."""

    count: int
    which: Which
    tolerance: float
    most: int
    seed: int


@dataclass(frozen=True)
class Found:
    """Eigenvectors, nearly.

    Attributes:
        vectors: (k, P) orthonormal.
        values: v^T H v of each.
        residuals: ||H v - value v|| of each.
    """

    vectors: Tensor
    values: list[float]
    residuals: list[float]

    def error(self) -> float:
        """Relative error to be feared of the values, if the next eigenvalue is a tenth of each away or more."""
        sizes = [abs(value) for value in self.values]
        floor = max(NEGLIGIBLE * max(sizes), 1e-300)
        return max(10 * (r / max(size, floor)) ** 2 for r, size in zip(self.residuals, sizes, strict=True))


def by_lanczos(product: Map, start: Tensor, search: Search) -> Found:
    """Ends when the bounds on all errors are a third of what is tolerated."""
    lanczos = Lanczos(product, start)
    size = len(start)
    while True:
        if lanczos.exhausted:
            lanczos.restart(normal(start, search.seed + len(lanczos)))
        lanczos.advance()
        if len(lanczos) < min(search.count + 2, size):
            continue
        values, coordinates = lanczos.ritz()
        order = np.argsort(-(np.abs(values) if search.which == "magnitude" else values), kind="stable")[: search.count]
        settled = _settled(values, coordinates, order, lanczos.beside[-1], search.tolerance / 3)
        if settled or len(lanczos) >= min(search.most, size):
            residuals = np.abs(lanczos.beside[-1] * coordinates[-1])
            return Found(lanczos.vectors(coordinates[:, order]), values[order].tolist(), residuals[order].tolist())


def _settled(values: Floats, coordinates: Floats, order: NDArray[np.intp], beside: float, tolerance: float) -> bool:
    """Whether the error bounds of the chosen Ritz values are below `tolerance`, relative to each."""
    residuals = np.abs(beside * coordinates[-1])
    floor = NEGLIGIBLE * np.abs(values).max()
    for place in order:
        gap = np.abs(np.delete(values, place) - values[place]).min(initial=np.inf)
        bound = min(residuals[place], residuals[place] ** 2 / max(gap, 1e-300))
        if bound > tolerance * max(abs(values[place]), floor):
            return False
    return True


def by_power(product: Map, start: Tensor, search: Search) -> Found:
    """One after the other, each kept orthogonal to those found; ends when residuals bear it."""
    found = start.new_zeros(0, len(start))
    values: list[float] = []
    residuals: list[float] = []
    for number in range(search.count):
        vector, previous = start if number == 0 else normal(start, search.seed + number), math.inf
        for _ in range(search.most):
            vector = _beside_twice(vector, found)
            vector = vector / vector.norm()
            image = beside_all(product(vector), found)
            value = dot(vector, image)
            # The square of what is left of the image beside the vector shrinks as the error of the value does.
            residual = float((image - value * vector).norm())
            still = abs(value - previous) <= search.tolerance / 100 * abs(value)
            if still and residual <= math.sqrt(search.tolerance) * abs(value):
                break
            if not float(image.norm()) > NOTHING * max(map(abs, values), default=0.0):
                break
            vector, previous = image, value
        vector = _beside_twice(vector, found)
        found = torch.cat([found, (vector / vector.norm())[None]])
        values.append(value)
        residuals.append(residual)
    return Found(found, values, residuals)


def beside_all(vector: Tensor, directions: Tensor) -> Tensor:
    """`vector` without its parts along orthonormal `directions` (k, P)."""
    return vector - directions.T @ (directions @ vector)


def _beside_twice(vector: Tensor, directions: Tensor) -> Tensor:
    return beside_all(beside_all(vector, directions), directions)


def dot(left: Tensor, right: Tensor) -> float:
    """Inner product of two vectors (P,)."""
    return float(torch.dot(left, right))


def normal(like: Tensor, seed: int) -> Tensor:
    """A standard normal vector, drawn on the CPU and moved to where `like` is."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


__all__ = ["Found", "Lanczos", "Map", "Search", "Which", "beside_all", "by_lanczos", "by_power", "dot", "normal"]
