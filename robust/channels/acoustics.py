"""What is measured of a room's impulse response, and how it is scaled. All take the direct path to be at sample 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attacks.errors import ThreatModelError, unknown

Normalisation: TypeAlias = Literal["direct", "energy"]

NORMALISATIONS: dict[str, str] = {
    "direct": "the direct path has unit amplitude: a clip keeps its level and gains its reflections",
    "energy": "the whole response has unit energy: a white clip is heard as loud as it was",
}
"""How responses are scaled -> what that means."""

DIRECT_SECONDS = 0.0025
"""What arrives so soon after the direct path counts as direct in the DRR."""

EARLY_SECONDS = 0.05
"""Of C50 (ISO 3382-1)."""

DECAY_DB = (-5.0, -35.0)
"""Stretch of the decay from which RT60 is told: T30 of ISO 3382-1."""


@dataclass(frozen=True)
class Acoustics:
    """What an impulse response is like.

    Attributes:
        rt60_s: Seconds in which sound decays by 60 dB; 0 where there is no reverberation to decay, NaN where the
            response ends before 15 dB of decay could be seen.
        drr_db: Energy of the direct path over that of all later; infinite without reverberation.
        c50_db: Energy of the first 50 ms over that of all later; likewise.
    """

    rt60_s: float
    drr_db: float
    c50_db: float


def acoustics_of(samples: NDArray[np.floating], sample_rate: int) -> Acoustics:
    """RT60, DRR and C50 of a response (L,) whose direct path is at sample 0."""
    energy = np.square(samples, dtype=np.float64)
    return Acoustics(
        rt60_of_energy(energy, 1 / sample_rate),
        ratio_db(energy, round(DIRECT_SECONDS * sample_rate) + 1),
        ratio_db(energy, round(EARLY_SECONDS * sample_rate) + 1),
    )


def ratio_db(energy: NDArray[np.float64], soon: int) -> float:
    """Energy of the first `soon` samples over that of the others, in dB."""
    first, rest = float(energy[:soon].sum()), float(energy[soon:].sum())
    return float(10 * np.log10(first / rest)) if first > 0 and rest > 0 else float("inf" if first > 0 else "nan")


def rt60_of_energy(energy: NDArray[np.float64], step_s: float) -> float:
    """RT60 in seconds from energies (L,) `step_s` apart: a line through the backward integral (Schroeder 1965)."""
    left = energy[::-1].cumsum()[::-1]
    if not left[0] > 0:
        return float("nan")
    with np.errstate(divide="ignore"):
        decay_db = 10 * np.log10(left / left[0])
    begin, end = (int(np.argmax(decay_db < level)) if decay_db[-1] < level else len(left) for level in DECAY_DB)
    if end - begin < 2:
        return 0.0 if end < len(left) else float("nan")
    seen = decay_db[begin:end]
    if seen[0] - seen[-1] < 15 and end == len(left):
        return float("nan")
    place = np.arange(len(seen)) - (len(seen) - 1) / 2
    slope = float((place * seen).sum() / np.square(place).sum())
    return -60 * step_s / slope if slope < 0 else float("nan")


def check_normalisation(normalise: str) -> None:
    """Raises `ThreatModelError` for a normalisation that is not in `NORMALISATIONS`."""
    if normalise not in NORMALISATIONS:
        raise ThreatModelError(unknown("normalisation of rooms", normalise, NORMALISATIONS))


def of_unit_energy(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """A response (L,), not all zeros, scaled to unit energy."""
    scaled: NDArray[np.float64] = samples / np.sqrt(np.square(samples).sum())
    return scaled
