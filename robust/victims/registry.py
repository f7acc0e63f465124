"""Victims by name: `@register("name")` on a function `(labels, task, **config) -> Victim`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from robust.errors import VictimError, unknown
from robust.types import Task
from robust.victims.base import Victim

VictimBuilder: TypeAlias = Callable[..., Victim]
"""Builds an untrained victim, `(*, labels, task="multiclass", **config)`; `config` holds JSON values."""

FAMILIES = (
    "convolution",
    "raw-waveform",
    "recurrent",
    "convolution-transformer",
    "transformer",
    "mlp",
    "joined",
    "video",
    "audio-visual",
    "foreign",
)
"""Kinds of architecture; `foreign` ones are whatever their source says, `joined` ones are made of others."""


@dataclass(frozen=True)
class VictimEntry:
    """One registered victim.

    Attributes:
        name: Registry name; `PREFIX:ARGUMENT` of an open entry.
        build: Builds it untrained.
        summary: One line: what it is, which source.
        family: One of `FAMILIES`.
        parity: How it was held against its source, in a few words; empty where there is none.
        small: Configuration of the embedded weights, passed to `build`.
        recipe: What differs from the default recipe of `robust train`, by field of `defenses.training.Recipe`.
        pretrained: Loads upstream weights (a hub id, directory or file), or None where there are none.
        itself: Loads what the name alone says (`hf:DIR`), where no weights are given and none are embedded.
    """

    name: str
    build: VictimBuilder
    summary: str
    family: str = "foreign"
    parity: str = ""
    small: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Callable[[str], Victim] | None = None
    itself: Callable[[], Victim] | None = None


@dataclass(frozen=True)
class OpenEntry:
    """A prefix under which there are any number of victims, such as every model of a library.

    Attributes:
        prefix: What stands before the colon.
        argument: What stands after it, for listings: `NAME`, `ID-OR-DIR`.
        open: The entry of one argument; raises `VictimError` for one that there is not.
        summary: One line.
        family: One of `FAMILIES`.
        parity: As of `VictimEntry`.
    """

    prefix: str
    argument: str
    open: Callable[[str], VictimEntry]
    summary: str
    family: str
    parity: str


_ENTRIES: dict[str, VictimEntry] = {}
_OPEN: dict[str, OpenEntry] = {}


def register(
    name: str,
    *,
    summary: str,
    family: str = "foreign",
    parity: str = "",
    small: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    pretrained: Callable[[str], Victim] | None = None,
) -> Callable[[VictimBuilder], VictimBuilder]:
    """Registers a victim under `name`, see `VictimEntry`; a second registration of the same name is an error.

    The same function of the same module may come again: a file read twice, a cell of a notebook run again.
    """

    def decorate(build: VictimBuilder) -> VictimBuilder:
        known = _ENTRIES.get(name)
        if known is None or _source(known.build) != _source(build):
            _check_new(name, family)
        _ENTRIES[name] = VictimEntry(name, build, summary, family, parity, small or {}, recipe or {}, pretrained)
        return build

    return decorate


def register_open(
    prefix: str, *, argument: str, summary: str, family: str = "foreign", parity: str = ""
) -> Callable[[Callable[[str], VictimEntry]], Callable[[str], VictimEntry]]:
    """Registers all victims `PREFIX:ARGUMENT`; the decorated function gives the entry of an argument."""

    def decorate(opened: Callable[[str], VictimEntry]) -> Callable[[str], VictimEntry]:
        _check_new(prefix, family)
        _OPEN[prefix] = OpenEntry(prefix, argument, opened, summary, family, parity)
        return opened

    return decorate


def _source(build: VictimBuilder) -> tuple[str, str]:
    """Where a builder was written."""
    return build.__module__, getattr(build, "__qualname__", repr(build))


def _check_new(name: str, family: str) -> None:
    if name in _ENTRIES or name in _OPEN:
        raise ValueError(f"victim {name!r} is registered twice")
    if family not in FAMILIES:
        raise ValueError(f"{unknown('family', family, FAMILIES)} Families are listed in robust.victims.registry.")


def list_victims() -> list[VictimEntry]:
    """All victims with a name of their own, by name."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def list_open() -> list[OpenEntry]:
    """All prefixes, by name."""
    return [_OPEN[prefix] for prefix in sorted(_OPEN)]


def is_registered(name: str) -> bool:
    """Whether `name` is of the registry, rather than of a user's file."""
    return name in _ENTRIES or name.partition(":")[0] in _OPEN


def victim_entry(name: str) -> VictimEntry:
    """The entry called `name`, or a `VictimError` that offers the nearest."""
    prefix, colon, argument = name.partition(":")
    if colon and prefix in _OPEN:
        if not argument:
            raise VictimError(f"{name} names no model: give {prefix}:{_OPEN[prefix].argument}.")
        return _OPEN[prefix].open(argument)
    if name not in _ENTRIES:
        raise VictimError(unknown("model", name, _ENTRIES))
    return _ENTRIES[name]


def build_victim(name: str, *, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds a registered victim, untrained, and notes the configuration on it so that a card can tell it again."""
    entry = victim_entry(name)
    try:
        victim = entry.build(labels=labels, task=task, **config)
    except TypeError as error:
        raise VictimError(f"The configuration {config} does not fit the model {name!r}: {error}.") from error
    victim.config = victim.config or dict(config)
    return victim
