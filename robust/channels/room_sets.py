"""Sets of rooms by name, and rooms drawn from them.

Which split a room may be in is decided by its size alone (to the millimetre), for all sets and seeds: a training room
and a held-out room never have the same one. Of sets on a grid, where that may happen, it is decided by the sides in
ascending order, so that a room turned on its side is not held out from itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.errors import ThreatModelError, unknown
from robust.channels.acoustics import Normalisation
from robust.channels.simulation import Geometry, Method, Place, Simulated, simulate
from robust.seeds import derived_seed

SPLITS = ("train", "held-out")
HELD_OUT_ONE_IN = 4
DRAWS, REDRAWS = 2000, 60
LEAST_APART_M = 1e-3

Range = tuple[float, float]


@dataclass(frozen=True)
class RoomSet:
    """From what rooms are drawn, all uniformly.

    Attributes:
        name: Short; part of derived seeds.
        x_m, y_m, z_m: Sides, (lowest, highest) in metres.
        rt60_s: Range of RT60 in seconds; a size that cannot have the one drawn is drawn anew.
        absorption: Of the walls, instead of an RT60, which is then what comes of it.
        size_step_m: Grid of the sides; 0 is none (they are rounded to millimetres).
        place_step_m: Grid of the places; likewise.
        from_wall_m: Least distance of source and microphone from walls.
        apart_m: Least distance between the two.

    Raises:
        ThreatModelError: If no room can be drawn from it.
    """

    name: str
    x_m: Range
    y_m: Range
    z_m: Range
    rt60_s: Range | None = None
    absorption: float | None = None
    size_step_m: float = 0.0
    place_step_m: float = 0.0
    from_wall_m: float = 0.5
    apart_m: float = 1.0

    def __post_init__(self) -> None:
        for side, ends in (("x_m", self.x_m), ("y_m", self.y_m), ("z_m", self.z_m)):
            _check_range(f"{side} of the rooms {self.name!r}", ends, "metres")
        if (self.rt60_s is None) == (self.absorption is None):
            raise ThreatModelError(f"The rooms {self.name!r} need either a range of RT60 or an absorption.")
        if self.rt60_s is not None:
            _check_range(f"The RT60 of the rooms {self.name!r}", self.rt60_s, "seconds")
        self._check_grids()
        inner = [ends[1] - 2 * self.from_wall_m for ends in (self.x_m, self.y_m, self.z_m)]
        if min(inner) < 0 or math.hypot(*inner) <= self.apart_m:
            raise ThreatModelError(
                f"No room of {self.name!r} holds two places {self.apart_m:g} m apart and {self.from_wall_m:g} m from "
                "all walls; make rooms larger, or from_wall_m or apart_m smaller."
            )

    def _check_grids(self) -> None:
        for name in ("size_step_m", "place_step_m", "from_wall_m", "apart_m"):
            length = getattr(self, name)
            if math.isnan(length) or length < 0:
                raise ThreatModelError(f"{name} of the rooms {self.name!r} must be metres from 0; given {length}.")
        for side, (low, high) in (("x_m", self.x_m), ("y_m", self.y_m), ("z_m", self.z_m)):
            first, last = _steps(low, high, self.size_step_m) if self.size_step_m else (0, 0)
            if first > last:
                raise ThreatModelError(
                    f"{side} of the rooms {self.name!r} has no multiple of {self.size_step_m:g} m in it; given "
                    f"{(low, high)}. Widen it, or make size_step_m smaller."
                )

    @property
    def one_size(self) -> bool:
        """Whether all its rooms have the same size."""
        return all(low == high for low, high in (self.x_m, self.y_m, self.z_m))

    def describe(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _check_range(what: str, ends: Range, unit: str) -> None:
    if len(ends) != 2 or not all(math.isfinite(end) for end in ends) or not 0 < ends[0] <= ends[1]:
        raise ThreatModelError(f"{what} must be (lowest, highest) in {unit}, above 0; given {ends}.")


def _steps(low: Any, high: Any, step: float) -> tuple[Any, Any]:
    """The first and the last multiple of `step` from `low` to `high`, in steps; none where the last is below."""
    return np.ceil(np.divide(low, step) - 1e-9).astype(int), np.floor(np.divide(high, step) + 1e-9).astype(int)


SHORTEST_RT60_S = 0.2
"""Imperio draws from 0 on; below this a large room is a few separate echoes, with no decay to measure."""

ROOM_SETS: Mapping[str, RoomSet] = MappingProxyType(
    {
        "generic": RoomSet("generic", (2, 15), (2, 15), (2, 5), rt60_s=(SHORTEST_RT60_S, 1.0)),
        "adapted": RoomSet("adapted", (6, 10), (5, 9), (3, 5), rt60_s=(SHORTEST_RT60_S, 0.6)),
        "qin": RoomSet(
            *("qin", (3, 5), (4, 6), (2, 4)),
            absorption=0.2,
            size_step_m=1.0,
            place_step_m=0.1,
            from_wall_m=0.1,
            apart_m=0.5,
        ),
    }
)
"""`generic` and `adapted`: Schoenherr et al. 2019 (Imperio); `qin`: Qin et al. 2019, of whole metres, absorption .2."""


def find_rooms(rooms: str | RoomSet) -> RoomSet:
    """A set by name, or as it was given.

    Raises:
        ThreatModelError: If there is none of that name.
    """
    if isinstance(rooms, RoomSet):
        return rooms
    if rooms not in ROOM_SETS:
        raise ThreatModelError(unknown("set of rooms", rooms, ROOM_SETS))
    return ROOM_SETS[rooms]


def split_of(size: Place, *, turned: bool = False) -> str:
    """The split that rooms of this size may be in; one size in four is held out.

    Args:
        size: Metres.
        turned: Take the sides in ascending order, as for sets on a grid.
    """
    millimetres = ",".join(str(round(1000 * side)) for side in (sorted(size) if turned else size))
    return SPLITS[1] if derived_seed("split of rooms", millimetres) % HELD_OUT_ONE_IN == 0 else SPLITS[0]


def draw_geometry(rooms: RoomSet, generator: np.random.Generator, split: str | None = None) -> Geometry:
    """A room of the set, with places for source and microphone.

    Args:
        rooms: From what to draw.
        generator: Whose next numbers are used.
        split: Draws again until the size belongs to it; None takes any size.

    Raises:
        ThreatModelError: If the set has no size for that split, or none in which the two places fit.
    """
    low, high = np.transpose([rooms.x_m, rooms.y_m, rooms.z_m])
    for _ in range(DRAWS):
        size = _uniform(generator, low, high, rooms.size_step_m)
        if split is not None and not rooms.one_size and split_of(_place(size), turned=rooms.size_step_m > 0) != split:
            continue
        inner = size - 2 * rooms.from_wall_m
        if (inner < 0).any():
            continue
        source, microphone = (
            _uniform(generator, rooms.from_wall_m * np.ones(3), size - rooms.from_wall_m, rooms.place_step_m)
            for _ in range(2)
        )
        inside = all(((place > 0) & (place < size)).all() for place in (source, microphone))
        if inside and np.linalg.norm(source - microphone) >= max(rooms.apart_m, LEAST_APART_M):
            return Geometry(_place(size), _place(source), _place(microphone))
    raise ThreatModelError(
        f"The rooms {rooms.name!r} have no size for the split {split!r} in which source and microphone fit; a size is "
        "in one split only. Widen x_m, y_m or z_m, or ask for rooms of the other split alone."
    )


def _uniform(
    generator: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64], step: float
) -> NDArray[np.float64]:
    if step == 0:
        return np.asarray(generator.uniform(low, high).round(3))
    first, last = _steps(low, high, step)
    return np.asarray(generator.integers(first, np.maximum(last, first), endpoint=True) * step).round(3)


def _place(values: NDArray[np.float64]) -> Place:
    x, y, z = values.tolist()
    return x, y, z


def room_seed(rooms: RoomSet, split: str, index: int, seed: int) -> int:
    """From which everything about one room follows, whatever others there are."""
    return derived_seed(seed, rooms.name, split, index, "room")


def simulated_room(
    rooms: RoomSet, split: str, index: int, seed: int, sample_rate: int, method: Method, normalise: Normalisation
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Room `index` of a split: its response (L,) and its row of the table.

    Raises:
        ThreatModelError: If many rooms in turn could not have their RT60.
    """
    own = room_seed(rooms, split, index, seed)
    generator = np.random.default_rng(own)
    rt60_s = None if rooms.rt60_s is None else round(float(generator.uniform(*rooms.rt60_s)), 4)
    for _ in range(REDRAWS):
        geometry = draw_geometry(rooms, generator, split)
        try:
            found = simulate(
                *(geometry, sample_rate),
                rt60_s=rt60_s,
                absorption=rooms.absorption,
                method=method,
                normalise=normalise,
                seed=own,
            )
        except ThreatModelError as error:
            refusal = error
        else:
            return found.samples, {
                "split": split,
                "room": index,
                "seed": own,
                **_row(geometry, found),
                "rt60_s": rt60_s,
            }
    raise ThreatModelError(f"None of {REDRAWS} rooms of {rooms.name!r} could be simulated. The last: {refusal}")


def _row(geometry: Geometry, found: Simulated) -> dict[str, Any]:
    """What a table says of a simulated room."""
    return {
        "size_m": list(geometry.size),
        "source_m": list(geometry.source),
        "microphone_m": list(geometry.microphone),
        "distance_m": geometry.distance,
        "absorption": found.absorption,
        "samples": len(found.samples),
        "rt60_s_measured": found.acoustics.rt60_s,
        "drr_db": found.acoustics.drr_db,
        "c50_db": found.acoustics.c50_db,
    }
