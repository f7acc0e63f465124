"""The masking threshold of methods.md 6.1 once more, in plain loops over frames and bins."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def bark(f: float) -> float:
    return 13 * math.atan(0.00076 * f) + 3.5 * math.atan((f / 7500) ** 2)


def quiet_db(f: float) -> float:
    if bark(f) <= 1:
        return -math.inf
    k = f / 1000
    return 3.64 * k**-0.8 - 6.5 * math.exp(-0.6 * (k - 3.3) ** 2) + 0.001 * k**4 - 12


def frames(clip: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
    """Power 8/3 |STFT / size|^2 of each frame; hops of a quarter, zeros about the clip."""
    hop = size // 4
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    found, start = [], hop - size
    while start < len(clip):
        piece = np.zeros(size)
        for place in range(size):
            if 0 <= start + place < len(clip):
                piece[place] = clip[start + place]
        found.append(8 / 3 * np.abs(np.fft.rfft(window * piece) / size) ** 2)
        start += hop
    return found


def maskers(level_db: list[float], frequency: list[float]) -> list[tuple[float, float]]:
    """(Bark, dB) of what is left, lowest first."""
    left: list[tuple[float, float]] = []
    for k in range(1, len(level_db) - 1):
        if not (level_db[k] > level_db[k - 1] and level_db[k] > level_db[k + 1]):
            continue
        power = 10 * math.log10(sum(10 ** (level_db[n] / 10) for n in (k - 1, k, k + 1)))
        if power <= quiet_db(frequency[k]):
            continue
        here = (bark(frequency[k]), power)
        if left and here[0] - left[-1][0] < 0.5:
            if power > left[-1][1]:
                left[-1] = here
        else:
            left.append(here)
    return left


def threshold(clip: NDArray[np.float64], sample_rate: int, size: int) -> tuple[NDArray[np.float64], float]:
    """(frames, bins) threshold as power, and the power of the loudest bin."""
    powers = frames(clip, size)
    most = max(float(power.max()) for power in powers)
    frequency = [k * sample_rate / size for k in range(size // 2 + 1)]
    rows = []
    for power in powers:
        level_db = [96 + 10 * math.log10(max(p, 1e-300) / most) for p in power]
        row = []
        left = maskers(level_db, frequency)
        for f in frequency:
            total = 10 ** (quiet_db(f) / 10)
            for z, p in left:
                dz = bark(f) - z
                spread = 27 * dz if dz < 0 else (-27 + 0.37 * max(p - 40, 0)) * dz
                total += 10 ** ((p - 6.025 - 0.275 * z + spread) / 10)
            row.append(total)
        rows.append(row)
    return np.array(rows), most
