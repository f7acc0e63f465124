"""Victims by name: `@register("name")` on a function `(labels, task, **config) -> Victim`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from robust.errors import VictimError, unknown
from robust.types import Task
from robust.victims.base import Victim

VictimBuilder: TypeAlias = Callable[..., Victim]
"""Builds an untrained victim, `(*, labels, task="multiclass", **config)`; `config` holds JSON values."""


@dataclass(frozen=True)
class VictimEntry:
    """One registered victim.

    Attributes:
        name: Registry name.
        build: Builds it untrained.
        summary: One line: what it is, which source, how parity was checked.
        small: Configuration of the embedded weights, passed to `build`.
        pretrained: Loads upstream weights (a hub id, directory or file), or None where there are none.
    """

    name: str
    build: VictimBuilder
    summary: str
    small: dict[str, Any]
    pretrained: Callable[[str], Victim] | None = None


_ENTRIES: dict[str, VictimEntry] = {}


def register(
    name: str,
    *,
    summary: str,
    small: dict[str, Any] | None = None,
    pretrained: Callable[[str], Victim] | None = None,
) -> Callable[[VictimBuilder], VictimBuilder]:
    """Registers a victim under `name`; a second registration of the same name is an error."""

    def decorate(build: VictimBuilder) -> VictimBuilder:
        if name in _ENTRIES:
            raise ValueError(f"victim {name!r} is registered twice")
        _ENTRIES[name] = VictimEntry(name, build, summary, small or {}, pretrained)
        return build

    return decorate


def list_victims() -> list[VictimEntry]:
    """All registered victims, by name."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def victim_entry(name: str) -> VictimEntry:
    """The entry called `name`, or a `VictimError` that offers the nearest."""
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
