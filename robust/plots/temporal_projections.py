"""What a gated MLP mixes over time: the matrix of each block, in one scale of colours.

After figure 5 of Morshed et al., "Learning Audio Representations with MLPs", PMLR 166, 2022: where a matrix is the same
along its diagonals (Toeplitz), the block does not care when a sound comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.plots.style import COLUMN_INCHES, MAP, PAGE_INCHES, blank, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = NDArray[np.floating[Any]]
"""(frames, frames): row `t` is what the gate at frame `t` takes from every frame."""
COLUMNS = 4
REACH_PERCENTILE = 99.5
"""Of the absolute weights of all matrices: where the scale of colours ends, on both sides of 0."""


def draw_temporal_projections(matrices: Mapping[int, Matrix], seconds: float) -> Figure:
    """A square for each block; above it, how much of its variance is the same along diagonals.

    The scale is symmetric about 0, and its lightness grows from one end to the other, so that signs stay apart in grey.

    Args:
        matrices: Number of the block, from 1, to its matrix.
        seconds: Time that the frames span.

    Raises:
        StoreError: If there is no matrix, or one is not square.
    """
    odd = [f"block {number}: {matrix.shape}" for number, matrix in matrices.items() if not _square(matrix)]
    if odd or not matrices:
        raise StoreError(f"Temporal projections are square matrices; given {', '.join(odd) or 'none'}.")
    weights = np.concatenate([np.abs(matrix).ravel() for matrix in matrices.values()])
    reach = float(np.percentile(weights, REACH_PERCENTILE)) or 1.0
    columns = min(COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    with styled():
        width = COLUMN_INCHES if columns <= 2 else PAGE_INCHES
        figure = blank(width, rows * width / columns + 0.75)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (number, matrix) in zip(grid.flat, matrices.items(), strict=False):
            picture = axes.imshow(
                matrix,
                interpolation="nearest",
                cmap=MAP,
                vmin=-reach,
                vmax=reach,
                extent=(0.0, seconds, seconds, 0.0),
            )
            axes.set_title(f"block {number}: {100 * toeplitz_share(matrix):.0f} % Toeplitz")
        for axes in grid.flat[len(matrices) :]:
            axes.set_visible(False)
        for place, axes in enumerate(grid.flat[: len(matrices)]):
            if place % columns == 0:
                axes.set_ylabel("gate at (s)")
            if place + columns >= len(matrices):
                axes.set_xlabel("takes from (s)")
                axes.tick_params(labelbottom=True)
        bar = figure.colorbar(picture, ax=grid, location="bottom", aspect=50, pad=0.02, extend="both")
        bar.set_label("weight")
    return figure


def toeplitz_share(matrix: Matrix) -> float:
    """Share of the variance of a square matrix that lies between the means of its diagonals, 0 to 1.

    1 is a Toeplitz matrix; one of independent entries has about 2 over its size. 0 where all entries are equal.
    """
    size = len(matrix)
    exact = matrix.astype(np.float64)
    diagonals = [np.diagonal(exact, offset) for offset in range(1 - size, size)]
    whole = float(np.square(exact - exact.mean()).sum())
    within = sum(float(np.square(diagonal - diagonal.mean()).sum()) for diagonal in diagonals)
    return 1 - within / whole if whole > 0 else 0.0


def _square(matrix: Matrix) -> bool:
    return matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 0


__all__ = ["draw_temporal_projections", "toeplitz_share"]
