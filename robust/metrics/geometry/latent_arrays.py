"""Latents and labels as arrays, and which clips lie nearest to which."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from robust.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]
CELLS = 2**22
"""Distances held at once (32 MB)."""


def points(latents: Tensor | ArrayLike) -> Floats:
    """(N, D) float64 from latents (N, D), or (N, S, D) of which the mean over S steps is taken.

    Raises:
        DataError: For another number of dimensions, no dimension, or values that are not finite.
    """
    given = np.asarray(latents.detach().cpu().double() if isinstance(latents, Tensor) else latents, dtype=np.float64)
    if given.ndim not in (2, 3) or 0 in given.shape[1:]:
        raise DataError(f"Latents must be (clips, size) or (clips, steps, size); given shape {given.shape}.")
    flat = given.mean(axis=1) if given.ndim == 3 else given
    bad = int((~np.isfinite(flat)).any(axis=1).sum())
    if bad:
        raise DataError(f"The latents of {bad} of {len(flat)} clips are not finite; look for the cause in the victim.")
    return flat


def membership(labels: Tensor | ArrayLike, classes: int | None = None) -> Bools:
    """(N, K) which clip has which label.

    Args:
        labels: (N,) int64 class indices, or (N, K) multi-hot.
        classes: K; of class indices the highest and one more when None.

    Raises:
        DataError: For other shapes, indices below 0 or of K and above, or another number of columns than `classes`.
    """
    given = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if given.ndim == 2:
        if classes not in (None, given.shape[1]):
            raise DataError(f"Multi-hot labels with {given.shape[1]} columns, but {classes} classes.")
        return given > 0
    if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise DataError(
            "Labels must be class indices (clips,) of an integer type, or multi-hot (clips, classes); given "
            f"{given.dtype} of shape {given.shape}."
        )
    count = classes if classes is not None else int(given.max(initial=-1)) + 1
    if given.size and not (given.min() >= 0 and given.max() < count):
        raise DataError(f"Class indices must be from 0 to {count - 1}; given {given.min()} to {given.max()}.")
    members: Bools = np.arange(count) == given[:, None]
    return members


def nearest(cloud: Floats, count: int) -> tuple[Floats, Places]:
    """Distances (N, count) from each of N > count points to the nearest others, ascending, and which those are.

    Equally near ones come in the order of their places.
    """
    distances, found = np.empty((len(cloud), count)), np.empty((len(cloud), count), dtype=np.intp)
    for rows, block in _distances(cloud):
        block[np.arange(len(rows)), rows] = np.inf
        # Partitioned first and sorted after: a full sort of every row is many times as dear.
        furthest = np.partition(block, count - 1, axis=1)[:, count - 1]
        for row, values, limit in zip(rows, block, furthest, strict=True):
            near = np.flatnonzero(values <= limit)
            found[row] = near[np.argsort(values[near], kind="stable")][:count]
            distances[row] = values[found[row]]
    return distances, found


def within(cloud: Floats, radius: float) -> Floats:
    """(N,) how many of N points lie within `radius` of each, itself among them."""
    inside = np.empty(len(cloud))
    for rows, block in _distances(cloud):
        inside[rows] = (block <= radius).sum(axis=1)
    return inside


def _distances(cloud: Floats) -> Iterator[tuple[Places, Floats]]:
    """The matrix of Euclidean distances, some rows at a time, and which rows they are."""
    from scipy.spatial.distance import cdist

    step = max(1, CELLS // max(len(cloud), 1))
    for at in range(0, len(cloud), step):
        rows = np.arange(at, min(at + step, len(cloud)))
        yield rows, cdist(cloud[rows], cloud)


__all__ = ["membership", "nearest", "points", "within"]
