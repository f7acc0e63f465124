"""Shoebox rooms: drawn from named sets, simulated at a given RT60, aligned to the direct path.

Walls are alike and air absorbs nothing. A response begins with the direct path, at sample 0 by geometry (later ones may
be louder), and is cut where it has decayed by 60 dB. The absorption is not Sabine's, which errs by up to a factor of
two in such rooms: it is solved for from the energies of the images, then corrected by what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attacks.errors import ThreatModelError, unknown
from robust.channels.acoustics import Acoustics, Normalisation, acoustics_of, check_normalisation, of_unit_energy
from robust.channels.hybrid import hybrid_rendered
from robust.channels.images import (
    SPEED_OF_SOUND,
    Images,
    decay_law,
    image_count,
    list_images,
    rendered,
    without_swell,
)

Method: TypeAlias = Literal["image", "hybrid"]

SHORTEST_DECAY = 4
"""Mean times between walls that an RT60 takes at least: walls that let it be shorter swallow 97 % of all (Eyring)."""

METHODS: dict[str, str] = {
    "image": "image sources alone: deterministic",
    "hybrid": "image sources first, then traced rays: seeded, with the diffuse tail of real rooms",
}

WITHIN, TRIES, REFUSED = 0.05, 4, 0.2
"""Absorption is corrected until the measured RT60 is this near, so often at most; refused where it is no nearer."""

MOST_IMAGES = 15_000_000
LEAST_REFLECTION, MOST_REFLECTION = 0.002, 0.9999

Place: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """A shoebox room with a source and a microphone in it, in metres.

    Raises:
        ThreatModelError: If a side is not above 0, or source or microphone are not inside, or are at one place.
    """

    size: Place
    source: Place
    microphone: Place

    def __post_init__(self) -> None:
        if len(self.size) != 3 or not all(math.isfinite(side) and side > 0 for side in self.size):
            raise ThreatModelError(f"The sides of a room must be three lengths above 0 m; given {_by(self.size)} m.")
        for name, place in (("source", self.source), ("microphone", self.microphone)):
            if len(place) != 3 or not all(0 < at < side for at, side in zip(place, self.size, strict=True)):
                raise ThreatModelError(
                    f"The {name} must be inside the room, between 0 and {_by(self.size)} m; given {tuple(place)} m."
                )
        if not self.distance > 0:
            raise ThreatModelError(f"Source and microphone are both at {tuple(self.source)} m; move one.")

    @property
    def distance(self) -> float:
        """Length of the direct path."""
        return float(np.linalg.norm(np.subtract(self.source, self.microphone)))

    @property
    def free_path(self) -> float:
        """Mean length in metres between two reflections, 4 V / S."""
        x, y, z = self.size
        return 2 * x * y * z / (x * y + x * z + y * z)


@dataclass(frozen=True)
class Simulated:
    """A simulated response.

    Attributes:
        samples: (L,) float32, direct path at sample 0.
        acoustics: What was measured of it.
        absorption: Of the walls, share of energy.
    """

    samples: NDArray[np.float32]
    acoustics: Acoustics
    absorption: float


def simulate(
    geometry: Geometry,
    sample_rate: int,
    *,
    rt60_s: float | None = None,
    absorption: float | None = None,
    method: Method = "image",
    normalise: Normalisation = "direct",
    seed: int = 0,
) -> Simulated:
    """The response of a room, either of a given RT60 or with walls of a given absorption.

    Args:
        geometry: The room.
        sample_rate: Hz.
        rt60_s: What is to be measured (T30), to 5 % where that can be, to 20 % at least.
        absorption: Share of energy, above 0 and below 1.
        method: As in `METHODS`.
        normalise: As in `NORMALISATIONS`.
        seed: Of the rays; image sources need none.

    Raises:
        ThreatModelError: If the room cannot have that RT60, or an argument is out of range.
    """
    check_settings(sample_rate, method, normalise)
    if (rt60_s is None) == (absorption is None):
        raise ThreatModelError("Give a room either an RT60 or an absorption.")
    if absorption is not None:
        _check_absorption(absorption)
        found = _with_walls(geometry, sample_rate, math.sqrt(1 - absorption), method, seed)
    else:
        found = _with_rt60(geometry, sample_rate, float(rt60_s or 0), method, seed)
    samples, reflection = found
    acoustics = acoustics_of(samples, sample_rate)
    samples = of_unit_energy(samples) if normalise == "energy" else samples
    return Simulated(samples.astype(np.float32), acoustics, 1 - reflection**2)


def check_settings(sample_rate: int, method: str, normalise: str) -> None:
    """Raises `ThreatModelError` for a rate, method or normalisation that cannot be."""
    if sample_rate < 1000:
        raise ThreatModelError(f"Rooms are simulated at 1000 Hz and more; given {sample_rate}.")
    if method not in METHODS:
        raise ThreatModelError(unknown("method of simulation", method, METHODS))
    check_normalisation(normalise)


def _check_absorption(absorption: float) -> None:
    if not 1 - MOST_REFLECTION**2 <= absorption <= 1 - LEAST_REFLECTION**2:
        raise ThreatModelError(f"The absorption of walls must be above 0 and below 1; given {absorption}.")


def _by(size: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in size)


def _check_reach(geometry: Geometry, seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ThreatModelError(f"The RT60 must be a number of seconds above 0; given {seconds}.")
    count = image_count(geometry.size, seconds + geometry.distance / SPEED_OF_SOUND)
    if count > MOST_IMAGES:
        longest = (MOST_IMAGES / count) ** (1 / 3) * seconds
        raise ThreatModelError(
            f"A room of {_by(geometry.size)} m has {count / 1e6:.0f} million images within {seconds:g} s; "
            f"{MOST_IMAGES / 1e6:.0f} million is the most. Ask for up to {longest:.2g} s there, or for a larger room."
        )


def _listed(geometry: Geometry, seconds: float) -> Images:
    _check_reach(geometry, seconds)
    return list_images(geometry.size, geometry.source, geometry.microphone, seconds)


def _with_walls(
    geometry: Geometry, sample_rate: int, reflection: float, method: Method, seed: int
) -> tuple[NDArray[np.float64], float]:
    """The response at a given reflection factor, until it has decayed by 60 dB."""
    seconds = 2 * geometry.free_path / SPEED_OF_SOUND * math.log(1e-3) / math.log(reflection)  # over Eyring's by far
    images = _listed(geometry, seconds)
    seconds = min(seconds, max(decay_law(images, seconds)(reflection), 0.02))
    render = _renderer(geometry, images, seconds, sample_rate, method, seed)
    return render(reflection), reflection


def _with_rt60(
    geometry: Geometry, sample_rate: int, rt60_s: float, method: Method, seed: int
) -> tuple[NDArray[np.float64], float]:
    """The response whose measured RT60 is nearest, and the reflection factor of its walls."""
    if 0 < rt60_s < SHORTEST_DECAY * geometry.free_path / SPEED_OF_SOUND:  # its end would be mistaken for a decay
        raise ThreatModelError(_unreachable(geometry, rt60_s, np.zeros(0), sample_rate))
    images = _listed(geometry, rt60_s)
    law = decay_law(images, rt60_s)
    render = _renderer(geometry, images, rt60_s, sample_rate, method, seed)
    best, best_off, best_reflection, goal = np.zeros(0), math.inf, 0.0, rt60_s
    for _ in range(TRIES):
        reflection = _solved(law, goal)
        samples = render(reflection)
        ratio = acoustics_of(samples, sample_rate).rt60_s / rt60_s
        off = abs(ratio - 1) if math.isfinite(ratio) else math.inf
        if off < best_off:
            best, best_off, best_reflection = samples, off, reflection
        if off <= WITHIN or not (math.isfinite(ratio) and ratio > 0):
            break
        goal /= ratio
    if best_off > REFUSED:
        raise ThreatModelError(_unreachable(geometry, rt60_s, best, sample_rate))
    return best, best_reflection


def _unreachable(geometry: Geometry, rt60_s: float, best: NDArray[np.float64], sample_rate: int) -> str:
    between = geometry.free_path / SPEED_OF_SOUND
    nearest = f"; the nearest found is {acoustics_of(best, sample_rate).rt60_s:.2g} s" if len(best) else ""
    return (
        f"A room of {_by(geometry.size)} m cannot have an RT60 of {rt60_s:g} s: sound meets a wall every "
        f"{between * 1000:.0f} ms, so that a decay takes some {10 * between:.1g} s and more to be one{nearest}. "
        "Ask for a longer one, or for a smaller room."
    )


def _solved(law: Callable[[float], float], goal: float) -> float:
    """The reflection factor at which `law` gives `goal`, by bisection; the nearest end where none does."""
    dead, live = -math.log(LEAST_REFLECTION), -math.log(MOST_REFLECTION)
    for _ in range(24):
        middle = math.sqrt(dead * live)
        if law(math.exp(-middle)) < goal:
            dead = middle
        else:
            live = middle  # also where the response ends before it has decayed
    return math.exp(-math.sqrt(dead * live))


def _renderer(
    geometry: Geometry, images: Images, seconds: float, sample_rate: int, method: Method, seed: int
) -> Callable[[float], NDArray[np.float64]]:
    """Reflection factor -> response, without what lies below 20 Hz."""
    length = max(round(seconds * sample_rate), 1)
    if method == "hybrid":
        places = geometry.size, geometry.source, geometry.microphone
        return lambda reflection: without_swell(
            hybrid_rendered(*places, reflection, length, sample_rate, seed), sample_rate
        )
    return lambda reflection: without_swell(rendered(images, reflection, length, sample_rate), sample_rate)
