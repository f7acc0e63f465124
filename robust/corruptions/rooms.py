"""Rooms by their reverberation time, and a single echo. The direct sound keeps its level and its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robust.channels.convolution import convolve
from robust.channels.rooms import room_response
from robust.channels.simulation import Geometry
from robust.corruptions.base import Corruption, Floats, Transform, on_clips, register_corruption
from robust.seeds import derived_seed
from robust.types import Inputs

ROOMS = 16
"""Of each kind; always the same ones, and each clip is in the one that its draw says, at all severities."""

FROM_WALL_M = 0.5


@dataclass(frozen=True)
class Kind:
    """Rooms of a kind.

    Attributes:
        smallest, largest: Sides in metres.
        apart_m: Least and greatest distance of source and microphone.
    """

    name: str
    smallest: tuple[float, float, float]
    largest: tuple[float, float, float]
    apart_m: tuple[float, float]

    def geometry(self, number: int) -> Geometry:
        """Room `number`: uniform in size; source and microphone uniform in it, 0.5 m from walls."""
        generator = np.random.default_rng(derived_seed("corruptions", self.name, number))
        size = generator.uniform(self.smallest, self.largest)
        while True:
            source, microphone = generator.uniform(FROM_WALL_M, size - FROM_WALL_M, (2, 3))
            if self.apart_m[0] <= np.linalg.norm(source - microphone) <= self.apart_m[1]:
                return Geometry(*(tuple(place.round(2).tolist()) for place in (size, source, microphone)))


def in_rooms(kind: Kind) -> Callable[[float, int], Transform]:
    """A maker of transforms that put clips into rooms of an RT60 in seconds."""

    def make(rt60_s: float, sample_rate: int) -> Transform:
        def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
            heard = []
            # Clip by clip: an FFT rounds a batch otherwise than its rows.
            for clip, real, generator in zip(inputs["audio"], valid["audio"], generators, strict=True):
                number = int(torch.randint(ROOMS, (), generator=generator))
                response = room_response(kind.geometry(number), rt60_s, sample_rate).samples[: len(clip)]
                reverberant = convolve((clip * real)[None], response[None].to(clip))[0]
                heard.append(torch.where(real, reverberant, clip))
            return {"audio": torch.stack(heard)}

        return transform

    return make


def with_echo(level_db: float, sample_rate: int) -> Transform:
    """One echo, 0.1 to 0.3 s late, or a tenth to three tenths of a shorter clip."""

    def add(clip: Floats, generator: np.random.Generator) -> Floats:
        late = round(generator.uniform(0.1, 0.3) * min(sample_rate, len(clip)))
        return clip + 10 ** (level_db / 20) * np.concatenate([np.zeros(late), clip])[: len(clip)]

    return on_clips(add)


_SMALL = Kind("room-small", (3.0, 3.5, 2.4), (4.0, 5.0, 2.8), (0.5, 1.0))
_LARGE = Kind("room-large", (8.0, 10.0, 4.0), (11.0, 14.0, 5.5), (1.5, 3.0))

register_corruption(
    Corruption(
        "room-small",
        "room",
        "audio",
        "RT60 (s)",
        (0.2, 0.3, 0.4, 0.5, 0.6),
        in_rooms(_SMALL),
        summary="3-4 x 3.5-5 x 2.4-2.8 m, source 0.5-1 m away",
    )
)
register_corruption(
    Corruption(
        "room-large",
        "room",
        "audio",
        "RT60 (s)",
        (0.5, 0.8, 1.1, 1.5, 2.0),
        in_rooms(_LARGE),
        summary="8-11 x 10-14 x 4-5.5 m, source 1.5-3 m away",
    )
)
register_corruption(
    Corruption(
        "echo",
        "room",
        "audio",
        "level of the echo (dB)",
        (-18.0, -12.0, -8.0, -4.0, 0.0),
        with_echo,
        summary="one echo after 0.1 to 0.3 s",
    )
)
