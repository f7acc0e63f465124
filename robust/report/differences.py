"""What two manifests differ in, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = object()
SKIPPED = ("command", "created", "cell")
"""Entries that say who ran it when, and nothing of what was run."""
HEADINGS = {
    "victim": "Model",
    "weights": "Weights",
    "data": "Data",
    "condition": "What was done",
    "threat": "Budget",
    "config": "Attack setting",
    "target": "Class wanted",
    "versions": "Version of",
    "git_revision": "Code revision",
    "batch_size": "Batch size (changes no record)",
    "device": "Device",
    "seed": "Seed",
}
LONGEST = 48


@dataclass(frozen=True)
class Difference:
    """One entry: its dotted name, a heading in words, and both values as text."""

    entry: str
    heading: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.heading}: {self.a} in A, {self.b} in B"


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Every entry in which two manifests differ, what was run first, the machine last.

    The configurations of two different models are told of by their number, as they have little in common.
    """
    one, other = _flat(a), _flat(b)
    keys = [key for key in {**one, **other} if one.get(key, ABSENT) != other.get(key, ABSENT)]
    found = [_difference(key, one.get(key, ABSENT), other.get(key, ABSENT)) for key in keys]
    inner = [told for told in found if told.entry.startswith("victim.config.")]
    if len(inner) > 1 and one.get("victim.name") != other.get("victim.name"):
        found = [told for told in found if told not in inner]
        sizes = [sum(key.startswith("victim.config.") for key in side) for side in (one, other)]
        settings = [f"{size} settings" for size in sizes]
        found.append(Difference("victim.config", f"Model configuration ({len(inner)} entries differ)", *settings))
    order = list(HEADINGS)
    return sorted(found, key=lambda told: _rank(told.entry, order))


def _rank(entry: str, order: list[str]) -> int:
    first = entry.split(".")[0]
    machine = ("versions", "git_revision", "batch_size", "device")
    return order.index(first) + (100 if first in machine else 0) if first in order else 50


def _flat(told: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in told.items():
        if prefix or key not in SKIPPED:
            name = f"{prefix}{key}"
            flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _difference(entry: str, a: Any, b: Any) -> Difference:
    first, _, rest = entry.partition(".")
    heading = HEADINGS.get(first, first.replace("_", " "))
    if entry == "victim.name":
        heading, rest = "Model", ""
    elif entry == "data.fingerprint":
        heading, rest = "Data hash", ""
    elif rest.startswith("config."):
        heading, rest = "Model setting", rest.removeprefix("config.")
    return Difference(entry, f"{heading} {rest.replace('.', ' ')}".strip(), _told(a), _told(b))


def _told(value: Any) -> str:
    if value is ABSENT:
        return "not there"
    if value in (None, "None"):
        return "automatic"
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} values, {', '.join(str(item) for item in value[:3])}..."
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
