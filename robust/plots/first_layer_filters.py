"""What the first layer of a raw-waveform network hears: its filters in frequency, sorted.

After figure 3.2 of the thesis (Dai et al., ICASSP 2017): a bank of bandpass filters, whose bands are wide where filters
are short, and crowd at low frequencies where they are long.
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

Filters = NDArray[np.floating[Any]]
"""(filters, samples)."""
POINTS = 1024
FLOOR_DB = -30.0


def draw_first_layer_filters(banks: Mapping[str, tuple[Filters, int]]) -> Figure:
    """A panel for each network: a column for each filter, its magnitude in dB below its own peak.

    Args:
        banks: Title to filters and sample rate (Hz); long filters must have at most `POINTS` samples.

    Raises:
        StoreError: If there is no bank, or one holds no filters.
    """
    odd = [f"{title}: {filters.shape}" for title, (filters, _) in banks.items() if not _whole(filters)]
    if odd or not banks:
        raise StoreError(f"Filters are (filters, 2 to {POINTS} samples); given {', '.join(odd) or 'none'}.")
    with styled():
        figure = blank(COLUMN_INCHES if len(banks) == 1 else PAGE_INCHES, 2.6)
        grid = figure.subplots(1, len(banks), squeeze=False)[0]
        for axes, (title, (filters, sample_rate)) in zip(grid, banks.items(), strict=True):
            response, _ = sorted_responses(filters, sample_rate)
            picture = axes.imshow(
                response.T,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                cmap=MAP,
                vmin=FLOOR_DB,
                vmax=0.0,
                extent=(0.0, float(len(filters)), 0.0, sample_rate / 2000),
            )
            axes.set_title(f"{title}: {len(filters)} filters of {filters.shape[1]} samples")
            axes.set_xlabel("filter, by its peak")
        grid[0].set_ylabel("frequency (kHz)")
        figure.colorbar(picture, ax=grid, aspect=30, extend="min").set_label("magnitude (dB below the peak)")
    return figure


def sorted_responses(filters: Filters, sample_rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitudes of filters in frequency, in the order of their peaks.

    Args:
        filters: (filters, samples).
        sample_rate: Hz.

    Returns:
        (filters, POINTS // 2 + 1) dB, 0 at each filter's peak; and (filters,) the peaks in Hz, rising. A filter of
        zeros is 0 dB everywhere.
    """
    magnitude = np.abs(np.fft.rfft(filters.astype(np.float64), POINTS, axis=1))
    peaks = magnitude.argmax(axis=1)
    order = np.argsort(peaks, kind="stable")
    highest = magnitude.max(axis=1, keepdims=True)
    relative = np.where(highest > 0, magnitude / np.where(highest > 0, highest, 1.0), 1.0)
    decibels = 20 * np.log10(np.maximum(relative, 1e-6))
    return decibels[order], peaks[order] * sample_rate / POINTS


def _whole(filters: Filters) -> bool:
    return filters.ndim == 2 and len(filters) > 0 and 2 <= filters.shape[1] <= POINTS


__all__ = ["POINTS", "draw_first_layer_filters", "sorted_responses"]
