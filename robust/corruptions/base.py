"""What a corruption is: a named damage in five severities, each a value of one physical parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from robust.corruptions.measures import SNR, Measure
from robust.types import Inputs

Category: TypeAlias = Literal["noise", "room", "device", "codec", "spectral", "temporal", "video", "audio-visual"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
OTHER: Literal["other"] = "other"
"""The category of what has none, as transforms of other libraries by name."""

SEVERITIES = (1, 2, 3, 4, 5)

LOWEST_RATE = 8_000
"""Hz; below, half of the frequencies that the corruptions name do not exist."""

Floats: TypeAlias = NDArray[np.float64]

Transform: TypeAlias = Callable[[Inputs, Inputs, Sequence[torch.Generator]], Inputs]
"""(inputs, valid, one CPU generator a clip) -> the same modalities, damaged; all randomness is the generators'."""

Make: TypeAlias = Callable[[float, int], Transform]
"""From the value of the parameter and the sample rate to what is done."""


@dataclass(frozen=True)
class Corruption:
    """A named damage.

    Attributes:
        name: Short, e.g. `white`; part of derived seeds: a clip meets one draw at all severities.
        category: A name from `CATEGORIES`, or `other`.
        modality: `audio`, `video` or `audio-visual`, which damages both by one draw.
        parameter: What grows or falls with severity, with its unit, e.g. `SNR (dB)`.
        values: Of the parameter at severities 1 to 5; one value, and no severity, for what has none.
        make: From a value and the sample rate to the transform.
        measure: What says how hard a clip was hit, measured anew from what went in and came out.
        summary: One line for tables.
        told_whole: Whether the name says all there is to know, though it is not registered.
    """

    name: str
    category: Category | Literal["other"]
    modality: Literal["audio", "video", "audio-visual"]
    parameter: str
    values: tuple[float, ...]
    make: Make
    measure: Measure = SNR
    summary: str = ""
    told_whole: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        """Inputs that it changes."""
        return ("audio", "video") if self.modality == "audio-visual" else (self.modality,)

    @property
    def lasting(self) -> bool:
        """Whether another with its name, parameter and value does the same, so that clips may be kept under them.

        So of registered ones; those of users may be other code under the name that was there before.
        """
        return self.told_whole or CORRUPTIONS.get(self.name) is self

    @property
    def severities(self) -> tuple[int, ...]:
        """1 to 5; only 0 where there are none."""
        return SEVERITIES if len(self.values) == len(SEVERITIES) else (0,)

    def value(self, severity: int) -> float:
        """The parameter at a severity.

        Raises:
            ThreatModelError: If there is no such severity.
        """
        if severity not in self.severities:
            raise ThreatModelError(
                f"The corruption {self.name!r} has the severities {', '.join(map(str, self.severities))}; "
                f"given {severity}."
            )
        return self.values[max(severity - 1, 0)]

    def transform(self, severity: int, sample_rate: int) -> Transform:
        """What is done at a severity to sound of this rate.

        Raises:
            ThreatModelError: If there is no such severity, or sound of that rate lacks the frequencies it is about.
        """
        value = self.value(severity)
        if "audio" in self.modalities and sample_rate < LOWEST_RATE:
            raise ThreatModelError(
                f"Corruptions of sound need a sample rate of {LOWEST_RATE} Hz or more; the victim hears "
                f"{sample_rate} Hz. Use `robust curve --against noise`, which takes any rate."
            )
        return self.make(value, sample_rate)

    def describe(self, severity: int) -> dict[str, Any]:
        """All that decides the result but the seed, as JSON."""
        return {
            "corruption": self.name,
            "severity": severity,
            "parameter": self.parameter,
            "value": self.value(severity),
        }


_CORRUPTIONS: dict[str, Corruption] = {}
CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(_CORRUPTIONS)
"""All corruptions by name, in the order of their categories."""


def register_corruption(corruption: Corruption) -> Corruption:
    """Adds a corruption to `CORRUPTIONS`; a second one of the same name is an error."""
    if corruption.name in _CORRUPTIONS or corruption.name in (*CATEGORIES, "all", "clean"):
        raise ValueError(f"the name of corruption {corruption.name!r} is taken")
    if len(corruption.values) != len(SEVERITIES) or corruption.category not in CATEGORIES:
        raise ValueError(f"corruption {corruption.name!r} needs five values and a category of {CATEGORIES}")
    _CORRUPTIONS[corruption.name] = corruption
    return corruption


def find_corruption(name: str) -> Corruption:
    """The corruption called `name`.

    Raises:
        ThreatModelError: If there is none; the nearest is offered.
    """
    if name not in CORRUPTIONS:
        raise ThreatModelError(unknown("corruption", name, [*CORRUPTIONS, *CATEGORIES, "all"]))
    return CORRUPTIONS[name]


def suited(modalities: Iterable[str]) -> list[Corruption]:
    """Every corruption that a victim of these modalities can meet."""
    there = set(modalities)
    return [one for one in CORRUPTIONS.values() if there.issuperset(one.modalities)]


def on_clips(function: Callable[[Floats, np.random.Generator], Floats]) -> Transform:
    """A transform of waveforms from what happens to one clip.

    `function` takes the valid span of a clip, (n,) float64, and returns as many samples; padding stays as it is. Clip
    by clip, so that its neighbours cannot change a bit of it.
    """

    def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        heard = inputs["audio"].clone()
        for row, (mask, generator) in enumerate(zip(valid["audio"], generators, strict=True)):
            first, last = span(mask)
            if last > first:
                clip = inputs["audio"][row, first:last].double().numpy()
                changed = torch.from_numpy(np.asarray(function(clip, numpy_generator(generator)), dtype=np.float32))
                heard[row, first:last] = torch.where(mask[first:last], changed, heard[row, first:last])
        return {"audio": heard}

    return transform


def on_frames(function: Callable[[Tensor, np.random.Generator], Tensor]) -> Transform:
    """A transform of videos from what happens to one: (F, C, H, W) float32 in [0, 1] to the same.

    Given are the frames from the first that is real to the last; those before and behind stay as they are.
    """

    def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        seen = inputs["video"].clone()
        real = valid["video"].expand_as(seen)
        for clip, mask, generator in zip(seen, real, generators, strict=True):
            first, last = span(mask.flatten(1).any(dim=1))
            if last > first:
                changed = function(clip[first:last], numpy_generator(generator)).clamp(0, 1)
                clip[first:last] = torch.where(mask[first:last], changed, clip[first:last])
        return {"video": seen}

    return transform


def both(audio: Transform, video: Transform) -> Transform:
    """Sound and sight damaged by one draw."""

    def transform(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        states = [generator.get_state() for generator in generators]
        heard = audio(inputs, valid, generators)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return {**heard, **video(inputs, valid, generators)}

    return transform


def span(valid: Tensor) -> tuple[int, int]:
    """First and one past the last of what is valid in (T,); (0, 0) where nothing is."""
    places = valid.nonzero()
    return (0, 0) if len(places) == 0 else (int(places[0]), int(places[-1]) + 1)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """NumPy's generator seeded by the next draw of torch's."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
