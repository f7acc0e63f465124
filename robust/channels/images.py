"""The image source method in a shoebox of like walls (Allen & Berkley 1979), rendered by pyroomacoustics.

Images within the length of the response are listed once and serve every absorption that is tried: pyroomacoustics' own
list holds all images up to an order, of which most arrive too late, and depends on the absorption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.channels.acoustics import rt60_of_energy

SPEED_OF_SOUND = 343.0  # m/s, dry air of 20 degrees Celsius
BIN_SECONDS = 0.001
LOWEST_HZ = 20.0
"""All images having one sign, pressure swells below what is heard; Allen & Berkley's high-pass filter mends it too."""


@dataclass(frozen=True)
class Images:
    """The images of a source, as a microphone hears them.

    Attributes:
        delays_s: (N,) float32 arrival after the direct path, from 0.
        gains: (N,) float32 amplitude without absorption, the direct path's being 1.
        orders: (N,) int32 number of reflections.
    """

    delays_s: NDArray[np.float32]
    gains: NDArray[np.float32]
    orders: NDArray[np.int32]


def image_count(size: Sequence[float], seconds: float) -> float:
    """About how many images are no further than sound travels in so many seconds."""
    return float(4 / 3 * np.pi * (SPEED_OF_SOUND * seconds) ** 3 / np.prod(size))


def list_images(size: Sequence[float], source: Sequence[float], microphone: Sequence[float], seconds: float) -> Images:
    """All images that arrive up to `seconds` after the direct path; coordinates in metres."""
    direct = float(np.linalg.norm(np.subtract(source, microphone)))
    reach = direct + SPEED_OF_SOUND * seconds
    axes = [_along(*line, reach) for line in zip(size, source, microphone, strict=True)]
    axes.sort(key=lambda axis: len(axis[0]))
    (few, few_orders), *others = axes
    plane = np.add.outer(others[0][0], others[1][0]).ravel()
    order = np.argsort(plane)
    plane, plane_orders = plane[order], np.add.outer(others[0][1], others[1][1]).ravel()[order]
    ends = np.searchsorted(plane, reach**2 - few, side="right")
    # A row of the plane at a time in double precision; what is kept is within a thousandth of a sample.
    rows = [_heard(plane[:end] + square, direct) for end, square in zip(ends, few, strict=True)]
    return Images(
        delays_s=np.concatenate([delays for delays, _ in rows]),
        gains=np.concatenate([gains for _, gains in rows]),
        orders=np.concatenate([plane_orders[:end] + more for end, more in zip(ends, few_orders, strict=True)]),
    )


def _heard(squares: NDArray[np.float64], direct: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Delays after the direct path and gains, from squared distances."""
    distances = np.sqrt(squares)
    delays = np.maximum((distances - direct) / SPEED_OF_SOUND, 0)
    return delays.astype(np.float32), (direct / distances).astype(np.float32)


def _along(side: float, source: float, microphone: float, reach: float) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Squared distances along one axis, and numbers of reflections, of all images within reach."""
    last = int(reach / side) + 2
    numbers = np.arange(-last, last + 1, dtype=np.int32)
    offsets = numbers * side + np.where(numbers % 2 == 0, source, side - source) - microphone
    near = np.abs(offsets) <= reach
    return np.square(offsets[near]), np.abs(numbers[near])


def decay_law(images: Images, seconds: float) -> Callable[[float], float]:
    """RT60 in seconds as a function of the reflection factor of the walls, from energies alone.

    Energies of images are added in bins of 1 ms, by order, once; phases would need a rendering for each factor.
    """
    bins, orders = int(seconds / BIN_SECONDS) + 1, int(images.orders.max()) + 1
    places = (images.delays_s * np.float32(1 / BIN_SECONDS)).astype(np.int32) * orders + images.orders
    energy = np.bincount(places, np.square(images.gains), bins * orders)[: bins * orders].reshape(bins, orders)
    powers = np.arange(orders)
    return lambda reflection: rt60_of_energy(energy @ (reflection ** (2.0 * powers)), BIN_SECONDS)


def rendered(images: Images, reflection: float, samples: int, sample_rate: int) -> NDArray[np.float64]:
    """The response (samples,) float64 from the direct path on, which is 1 at sample 0, before any filter.

    Args:
        images: Of `list_images`.
        reflection: Share of amplitude that a wall returns, 0 to 1; absorption is one less its square.
        samples: Length; images that arrive later are left out.
        sample_rate: Hz.
    """
    from pyroomacoustics import libroom
    from pyroomacoustics.parameters import constants

    taps = int(constants.get("frac_delay_length"))
    ahead = taps // 2
    powers = (reflection ** np.arange(int(images.orders.max()) + 1, dtype=np.float64)).astype(np.float32)
    latest = float(images.delays_s.max()) * sample_rate
    response = np.zeros(max(samples, int(latest) + 2) + taps + 1, dtype=np.float32)
    # One thread: each number of them rounds the sum of images its own way.
    libroom.rir_builder(
        response,
        images.delays_s + np.float32(ahead / sample_rate),
        images.gains * powers[images.orders],
        sample_rate,
        taps,
        int(constants.get("sinc_lut_granularity")),
        1,
    )
    return response[ahead : ahead + samples].astype(np.float64)


def without_swell(response: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """The response (L,) without what lies below 20 Hz; causal, so that nothing comes before the direct path."""
    from scipy.signal import butter, sosfilt

    filtered: NDArray[np.float64] = sosfilt(butter(2, LOWEST_HZ, "highpass", fs=sample_rate, output="sos"), response)
    return filtered
