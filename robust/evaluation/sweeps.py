"""What a curve may run against besides an attack: one condition at many levels, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from attacks.errors import ThreatModelError, unknown
from robust.channels.noise import AdditiveNoise
from robust.channels.rooms import Room
from robust.evaluation.conditions import Condition


@dataclass(frozen=True)
class Sweep:
    """A condition at levels from easy to hard.

    Attributes:
        name: As in `SWEEPS`.
        axis: `name`; `unit` and `label` for pictures; `log`, whether levels are spaced by their logarithm; `harder`,
            `up` or `down`: which way the victim suffers more.
        usual: Levels, from easy to hard.
        condition: From a level and the modality it concerns to the condition.
    """

    name: str
    axis: Mapping[str, Any]
    usual: tuple[float, ...]
    condition: Callable[[float, str], Condition]

    def __post_init__(self) -> None:
        lacking = {"name", "unit", "label", "log", "harder"} - self.axis.keys()
        if lacking or self.axis["harder"] not in ("up", "down"):
            raise ValueError(f"the axis of sweep {self.name!r} lacks {sorted(lacking)} or says no way that is harder")

    def ordered(self, levels: tuple[float, ...] | list[float] | None = None) -> tuple[float, ...]:
        """`levels` (the usual ones when None) from easy to hard, each once."""
        chosen = self.usual if levels is None else levels
        return tuple(sorted(set(chosen), reverse=self.axis["harder"] == "down"))


_SWEEPS: dict[str, Sweep] = {}
SWEEPS: Mapping[str, Sweep] = MappingProxyType(_SWEEPS)
"""All sweeps by name; more come by `register_sweep`."""


def register_sweep(sweep: Sweep) -> Sweep:
    """Adds a sweep to `SWEEPS`; a second one of the same name is an error."""
    if sweep.name in _SWEEPS:
        raise ValueError(f"sweep {sweep.name!r} is registered twice")
    _SWEEPS[sweep.name] = sweep
    return sweep


def find_sweep(name: str) -> Sweep:
    """The sweep called `name`.

    Raises:
        ThreatModelError: If there is none; the nearest is offered.
    """
    if name not in SWEEPS:
        raise ThreatModelError(unknown("sweep", name, SWEEPS))
    return SWEEPS[name]


def _noise(level: float, modality: str) -> Condition:
    return AdditiveNoise(level, modality=modality)


def _room(level: float, modality: str) -> Condition:
    return Room(level, modality=modality)


register_sweep(
    Sweep(
        "noise",
        {"name": "noise", "unit": "dB", "label": "SNR of white noise (dB)", "log": False, "harder": "down"},
        (40.0, 30.0, 20.0, 10.0, 0.0, -10.0),
        _noise,
    )
)
register_sweep(
    Sweep(
        "rt60",
        {"name": "rt60", "unit": "s", "label": "Reverberation time RT60 (s)", "log": False, "harder": "up"},
        (0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        _room,
    )
)
