"""Data sets by name: `@register_data("name")` on a function `(split, root, **options) -> Dataset`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from robust.errors import DataError, unknown
from robust.types import Dataset

DataBuilder: TypeAlias = Callable[..., Dataset]
"""Opens one split, `(*, split, root, **options)`; raises `DataError` where it cannot."""


@dataclass(frozen=True)
class DataEntry:
    """One registered data set."""

    name: str
    build: DataBuilder
    summary: str
    needs_root: bool


_ENTRIES: dict[str, DataEntry] = {}


def register_data(name: str, *, summary: str, needs_root: bool) -> Callable[[DataBuilder], DataBuilder]:
    """Registers a data set under `name`; a second registration of the same name is an error."""

    def decorate(build: DataBuilder) -> DataBuilder:
        if name in _ENTRIES:
            raise ValueError(f"data set {name!r} is registered twice")
        _ENTRIES[name] = DataEntry(name, build, summary, needs_root)
        return build

    return decorate


def list_data() -> list[DataEntry]:
    """All registered data sets, by name."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def data_entry(name: str) -> DataEntry:
    """The entry called `name`, or a `DataError` that offers the nearest."""
    if name not in _ENTRIES:
        raise DataError(unknown("data set", name, _ENTRIES))
    return _ENTRIES[name]
