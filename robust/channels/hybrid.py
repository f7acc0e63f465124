"""Rooms by pyroomacoustics' hybrid simulation: image sources for what comes first, traced rays for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_ORDER = 3
RAYS = 10_000


def hybrid_rendered(
    size: Sequence[float],
    source: Sequence[float],
    microphone: Sequence[float],
    reflection: float,
    samples: int,
    sample_rate: int,
    seed: int,
) -> NDArray[np.float64]:
    """The response (samples,) float64, its direct path 1 at sample 0, before any filter.

    Args:
        size: Metres, as the two places.
        source: Where it sounds.
        microphone: Where it is heard.
        reflection: Share of amplitude that a wall returns.
        samples: Length.
        sample_rate: Hz.
        seed: Of the rays and the noise that fills their histogram. pyroomacoustics keeps one generator for itself,
            which is set to it; NumPy's and Python's are left alone.
    """
    import pyroomacoustics as pra

    material = pra.Material(energy_absorption=1 - reflection**2)
    with own_settings(num_threads=1, rir_hpf_enable=False) as constants:
        pra.random.seed(seed)
        room = pra.ShoeBox(
            size, fs=sample_rate, materials=material, max_order=FIRST_ORDER, ray_tracing=True, air_absorption=False
        )
        room.set_ray_tracing(n_rays=RAYS, time_thres=samples / sample_rate, hist_bin_size=0.004)
        room.add_source(source)
        room.add_microphone(microphone)
        room.compute_rir()
        distance = float(np.linalg.norm(np.subtract(source, microphone)))
        # The filters that place images between samples delay all of them by half their length.
        delay = constants.get("frac_delay_length") // 2 + distance / constants.get("c") * sample_rate
    full = np.asarray(room.rir[0][0], dtype=np.float64)
    turns = np.fft.rfftfreq(2 * len(full)) * delay  # an exact shift, between samples too
    shifted = np.fft.irfft(np.fft.rfft(full, 2 * len(full)) * np.exp(2j * np.pi * turns))[:samples]
    return np.pad(shifted * distance, (0, max(samples - len(shifted), 0)))


@contextmanager
def own_settings(**values: object) -> Iterator[Any]:
    """Settings of pyroomacoustics within it, and what they were after."""
    from pyroomacoustics.parameters import constants

    before = {name: constants.get(name) for name in values}
    try:
        for name, value in values.items():
            constants.set(name, value)
        yield constants
    finally:
        for name, value in before.items():
            constants.set(name, value)
