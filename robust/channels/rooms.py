"""Rooms: clips heard through impulse responses.

`Reverberation` is a channel over a bank of rooms; `Room` a condition at one RT60, for curves. Responses begin with the
direct path, of unit amplitude unless the bank says otherwise: a reverberant clip is the dry one and its reflections,
and so it is louder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.channel import Channel, Parameters, where_valid
from attacks.errors import ThreatModelError
from attacks.gradients import Victim
from robust.channels import check_heard, range_of, room_sets, spec_of
from robust.channels.acoustics import Acoustics, Normalisation, acoustics_of
from robust.channels.bank import RoomBank
from robust.channels.convolution import Responses, convolve
from robust.channels.levels import without_padding
from robust.channels.response_cache import cached
from robust.channels.simulation import Geometry, Method, simulate
from robust.seeds import derived_seed
from robust.types import Batch, Outcome

ADAPTED = room_sets.ROOM_SETS["adapted"]
RT60_RANGE_S = (room_sets.SHORTEST_RT60_S, 1.5)
"""Of `Room`: shorter, and the largest room is a few separate echoes; longer is no room of that size."""


class Reverberation(Channel):
    """Each clip in a room drawn from one split of a bank; what rings on into padding is cut off.

    The parameter `room` (B,) int64 is an index into the split; `measure` tells `rt60_s`, `drr_db` and `c50_db` of the
    response used.

    Attributes:
        bank: Where rooms come from.
        split: `train` or `held-out`.

    Raises:
        ThreatModelError: If the bank has no rooms of that split.
    """

    name = "room"

    def __init__(self, bank: RoomBank, *, split: str = "train") -> None:
        super().__init__(bank.sample_rate)
        self.bank, self.split = bank, split
        self.responses = Responses(bank.split(split))
        identity = torch.zeros(self.responses.samples.shape[1])
        identity[0] = 1
        self._unchanged = (self.responses.samples == identity).all(dim=1)
        self._measured: dict[int, Acoustics] = {}

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        count = len(self.responses)
        rooms = [torch.randint(count, (), generator=generator) for generator in generators]
        return {"room": torch.stack(rooms).to(clips.device)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        room = parameters["room"]
        heard = self.responses.one_each(without_padding(clips, valid), room)
        if self._unchanged.any():  # an anechoic room rounds nothing
            heard = torch.where(self._unchanged.to(room.device)[room][:, None], clips, heard)
        return where_valid(heard, clips, valid)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        told = [self._acoustics(room) for room in parameters["room"].tolist()]
        columns = {name: [asdict(one)[name] for one in told] for name in ("rt60_s", "drr_db", "c50_db")}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}

    def _acoustics(self, room: int) -> Acoustics:
        if room not in self._measured:
            self._measured[room] = acoustics_of(self.responses.samples[room].cpu().numpy(), self.sample_rate)
        return self._measured[room]

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "split": self.split, "bank": self.bank.describe()}


@dataclass(frozen=True)
class Response:
    """An impulse response (L,) float32, direct path at sample 0, and what was measured of it."""

    samples: Tensor
    rt60_s: float
    drr_db: float
    c50_db: float


def draw_geometry(generator: np.random.Generator) -> Geometry:
    """A room of uniform size (`adapted`); source and microphone uniform in it, 0.5 m from walls, 1 m apart."""
    return room_sets.draw_geometry(ADAPTED, generator)


@lru_cache(maxsize=1024)
def room_response(
    geometry: Geometry,
    rt60_s: float,
    sample_rate: int,
    *,
    method: Method = "image",
    normalise: Normalisation = "direct",
    seed: int = 0,
) -> Response:
    """The response of a room whose measured RT60 is `rt60_s`; kept in memory and on disk.

    Raises:
        ThreatModelError: If the room cannot be that reverberant, or a setting cannot be.
    """
    settings = {"rt60_s": rt60_s, "sample_rate": sample_rate, "method": method, "normalise": normalise, "seed": seed}

    def make() -> tuple[Any, list[dict[str, Any]]]:
        found = simulate(*(geometry, sample_rate), rt60_s=rt60_s, method=method, normalise=normalise, seed=seed)
        return found.samples[None], [asdict(found.acoustics)]

    responses, (told,) = cached({"room": asdict(geometry), **settings}, make)
    return Response(torch.from_numpy(responses[0]), told["rt60_s"], told["drr_db"], told["c50_db"])


@dataclass(frozen=True)
class Room:
    """Every clip is heard in a room of its own, the same at every RT60; what rings on into padding is cut off.

    A reverberant waveform may leave [-1, 1]; nothing is clipped, and `room_over_range` tells the share.

    Attributes:
        rt60_s: Reverberation time in seconds; 0 is no room at all.
        rooms: How many rooms a seed has; each clip is in the one that its id says.
        modality: A waveform, (B, T).

    Raises:
        ThreatModelError: If no such room can be; when applied, if the victim has no such modality or it is no waveform.
    """

    rt60_s: float
    rooms: int = 16
    modality: str = "audio"

    def __post_init__(self) -> None:
        low, high = RT60_RANGE_S
        if self.rt60_s != 0 and not low <= self.rt60_s <= high:
            sizes = " x ".join(f"{a:g}-{b:g}" for a, b in (ADAPTED.x_m, ADAPTED.y_m, ADAPTED.z_m))
            raise ThreatModelError(
                f"The RT60 must be 0 (no room) or {low:g} to {high:g} s, what rooms of {sizes} m can have; given "
                f"{self.rt60_s} s."
            )
        if self.rooms < 1:
            raise ThreatModelError(f"There must be at least one room; given {self.rooms}.")

    @property
    def name(self) -> str:
        """E.g. `room-audio-0.4s`."""
        return f"room-{self.modality}-{self.rt60_s:g}s"

    def describe(self) -> dict[str, Any]:
        """All settings, and the set that rooms are drawn from."""
        return {
            "condition": self.name,
            "modality": self.modality,
            "rt60_s": self.rt60_s,
            "rooms": self.rooms,
            "set": ADAPTED.describe(),
        }

    def geometry(self, clip: str, seed: int) -> Geometry:
        """The room of the clip with this id."""
        number = derived_seed(seed, clip, "room") % self.rooms
        return draw_geometry(np.random.default_rng(derived_seed(seed, number, "geometry")))

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The clips in their rooms; columns `rt60_s_measured`, `drr_db` (infinite without room), `room_over_range`."""
        check_heard(self.modality, batch)
        spec, clips = spec_of(victim, self.name), batch.inputs[self.modality]
        if clips.ndim != 2:
            raise ThreatModelError(f"A room needs a waveform (B, T); {self.modality!r} is {tuple(clips.shape)}.")
        if self.rt60_s == 0:
            count = len(batch)
            columns = {"rt60_s_measured": [0.0] * count, "drr_db": [float("inf")] * count}
            return Outcome(dict(batch.inputs), {**columns, "room_over_range": [0.0] * count})
        found = [room_response(self.geometry(clip, seed), self.rt60_s, spec.sample_rate) for clip in batch.ids]
        # Clip by clip: an FFT rounds a batch otherwise than its rows. What arrives after a clip's end is not heard.
        valid = batch.valid[self.modality].expand_as(clips)
        sounding = without_padding(clips, valid)
        pairs = zip(sounding, (one.samples[: clips.shape[1]] for one in found), strict=True)
        heard = torch.cat([convolve(clip[None], response[None].to(clips)) for clip, response in pairs])
        heard = torch.where(valid, heard, clips)
        low, high = range_of(spec, self.modality)
        beyond = (((heard < low) | (heard > high)) & valid).double().sum(dim=1) / valid.sum(dim=1).clamp_min(1)
        columns = {
            "rt60_s_measured": [one.rt60_s for one in found],
            "drr_db": [one.drr_db for one in found],
            "room_over_range": beyond.cpu().tolist(),
        }
        return Outcome({**batch.inputs, self.modality: heard}, columns)
