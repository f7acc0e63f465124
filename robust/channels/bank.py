"""Banks of room responses: some to train in, others held out, kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from robust.channels.acoustics import Normalisation
from robust.channels.response_cache import cached
from robust.channels.room_sets import SPLITS, RoomSet, find_rooms, simulated_room
from robust.channels.simulation import Method, check_settings
from robust.parallel import in_parallel


@dataclass(frozen=True, eq=False)
class RoomBank:
    """Impulse responses, direct path at sample 0, zeros after their ends.

    Attributes:
        train: (N, L) float32.
        held_out: (M, L) float32; no room is in both.
        sample_rate: Hz.
        table: A row for each response, training ones first: `split`, `room` (its index in the split), `rt60_s`
            (nominal, None where there is none), `rt60_s_measured`, `drr_db`, `c50_db`, and of simulated rooms `size_m`,
            `source_m`, `microphone_m`, `distance_m`, `absorption`, `seed`; of measured ones `file`.
        settings: From what it was made, as JSON.
    """

    train: Tensor
    held_out: Tensor
    sample_rate: int
    table: Sequence[dict[str, Any]] = field(repr=False)
    settings: dict[str, Any]

    def split(self, name: str) -> Tensor:
        """(N, L) float32 of `train` or `held-out`.

        Raises:
            ThreatModelError: If it is neither, or has no rooms.
        """
        if name not in SPLITS:
            raise ThreatModelError(unknown("split of rooms", name, SPLITS))
        responses = self.train if name == "train" else self.held_out
        if not len(responses):
            raise ThreatModelError(f"The bank has no {name} rooms; make one with some: {name.replace('-', '_')}=...")
        return responses

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of the table for a split, in the order of its responses."""
        return [row for row in self.table if row["split"] == name]

    def describe(self) -> dict[str, Any]:
        """All settings and the numbers of rooms, as JSON."""
        return {**self.settings, "train": len(self.train), "held_out": len(self.held_out)}


def load_bank(
    rooms: str | RoomSet = "generic",
    *,
    train: int = 500,
    held_out: int = 100,
    sample_rate: int = 16_000,
    seed: int = 0,
    method: Method = "image",
    normalise: Normalisation = "direct",
    workers: int | None = None,
) -> RoomBank:
    """Simulated rooms, from the cache where they were simulated before.

    Room i of a split is the same whatever the numbers of rooms and of workers. No size of room is in both splits, of
    this bank or any other.

    Args:
        rooms: `generic`, `adapted`, `qin` (see `robust.channels.room_sets`) or a set of one's own.
        train: Rooms to train in.
        held_out: Rooms to test in.
        sample_rate: Hz.
        seed: Of all rooms.
        method: `image` (deterministic) or `hybrid` (with traced rays).
        normalise: `direct` (unit direct path) or `energy` (unit energy of the whole response).
        workers: Processes that simulate; one for each core when None.

    Raises:
        ThreatModelError: If a setting cannot be.
    """
    chosen = find_rooms(rooms)
    check_settings(sample_rate, method, normalise)
    if min(train, held_out) < 0 or train + held_out < 1:
        raise ThreatModelError(f"A bank has 1 room or more; given train={train} and held_out={held_out}.")
    if chosen.one_size and train and held_out:
        raise ThreatModelError(
            f"All rooms of {chosen.name!r} have one size, so that held-out rooms would be training rooms; give x_m, "
            "y_m or z_m a range, or make a bank with held_out=0."
        )
    settings = {
        "rooms": chosen.describe(),
        "sample_rate": sample_rate,
        "seed": seed,
        "method": method,
        "normalise": normalise,
    }
    wanted = [(split, index) for split, count in zip(SPLITS, (train, held_out), strict=True) for index in range(count)]

    def make() -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
        calls = [(chosen, split, index, seed, sample_rate, method, normalise) for split, index in wanted]
        found = in_parallel(simulated_room, calls, title=f"simulating {chosen.name} rooms", workers=workers)
        responses = np.zeros((len(found), max(len(samples) for samples, _ in found)), dtype=np.float32)
        for row, (samples, _) in zip(responses, found, strict=True):
            row[: len(samples)] = samples
        return responses, [row for _, row in found]

    key: dict[str, Any] = {"bank": settings, "train": train, "held_out": held_out}
    if chosen.size_step_m:
        key["split_by"] = "sorted sides"  # once it was the sides as they stand
    responses, table = cached(key, make)
    check_apart(table)
    both = torch.from_numpy(responses)
    return RoomBank(both[:train], both[train:], sample_rate, tuple(table), settings)


def check_apart(table: Sequence[dict[str, Any]]) -> None:
    """Raises `AssertionError` if a size, turned or not, or a seed is in both splits; drawn so that none can be."""
    for key in ("size_m", "seed"):
        told = [(row["split"], sorted(row[key]) if key == "size_m" else row[key]) for row in table]
        sides = [{str(value) for split, value in told if split == side} for side in SPLITS]
        if sides[0] & sides[1]:
            raise AssertionError(f"training and held-out rooms share {key}: {sorted(sides[0] & sides[1])[:3]}")


__all__ = ["RoomBank", "RoomSet", "check_apart", "load_bank"]
