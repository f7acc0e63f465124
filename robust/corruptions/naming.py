"""From what users write to corruptions: names, categories, `all`, and transforms of audiomentations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from attacks.errors import ThreatModelError
from robust.corruptions.augmenting import PREFIX, augmentation_corruption
from robust.corruptions.base import CATEGORIES, CORRUPTIONS, SEVERITIES, Corruption, find_corruption, suited

ALL = "all"


def chosen_corruptions(given: str | Iterable[str | Corruption], modalities: Sequence[str]) -> list[Corruption]:
    """The corruptions that are meant, each once.

    Args:
        given: `all`, names, categories and `audiomentations:NAME`, each also several with commas between; after the
            latter `PARAMETER=VALUE`, with commas too. `all` and categories are of what the victim can meet.
        modalities: Of the victim.

    Raises:
        ThreatModelError: For an unknown name, a corruption of what the victim does not take or with the name of a
            registered one, or none at all.
    """
    found: dict[str, Corruption] = {}
    for word in _words([given] if isinstance(given, str) else given):
        if isinstance(word, Corruption) and CORRUPTIONS.get(word.name, word) is not word:
            raise ThreatModelError(f"There is another corruption called {word.name!r}; give yours a name of its own.")
        for corruption in [word] if isinstance(word, Corruption) else _meant(word, modalities):
            found.setdefault(corruption.name, corruption)
    if not found:
        raise ThreatModelError(f"No corruption is given; name some of {', '.join([*CORRUPTIONS, *CATEGORIES, ALL])}.")
    for corruption in found.values():
        missing = [name for name in corruption.modalities if name not in modalities]
        if missing:
            raise ThreatModelError(
                f"The corruption {corruption.name!r} damages {' and '.join(corruption.modalities)}; the victim takes "
                f"{', '.join(modalities)}. Leave it out, or use a victim that takes {' and '.join(missing)}."
            )
    return list(found.values())


def checked_severities(given: Iterable[int]) -> tuple[int, ...]:
    """Severities in ascending order, each once.

    Raises:
        ThreatModelError: If one is not 1 to 5, or there is none.
    """
    wanted = list(given)
    if not wanted or any(type(one) is not int or one not in SEVERITIES for one in wanted):
        raise ThreatModelError(f"Severities are whole numbers from 1 to 5; given {wanted}.")
    return tuple(sorted(set(wanted)))


def _words(given: Iterable[str | Corruption]) -> list[str | Corruption]:
    """One word for each, parameters of a transform still behind its name."""
    words: list[str | Corruption] = []
    for text in given:
        if isinstance(text, Corruption):
            words.append(text)
            continue
        for part in (piece.strip() for piece in text.split(",")):
            before = words[-1] if words else ""
            if "=" in part and isinstance(before, str) and before.startswith(PREFIX):
                words[-1] = f"{before},{part}"
            elif part:
                words.append(part)
    return words


def _meant(word: str, modalities: Sequence[str]) -> list[Corruption]:
    if word.startswith(PREFIX):
        name, *pairs = word.split(",")
        return [augmentation_corruption(name, dict(_pair(pair, name) for pair in pairs))]
    if word != ALL and word not in CATEGORIES:
        return [find_corruption(word)]
    there = [one for one in suited(modalities) if word in (ALL, one.category)]
    if not there:
        raise ThreatModelError(
            f"No corruption of {word!r} is for a victim that takes {', '.join(modalities)}; they damage audio (a "
            "waveform), video, or both."
        )
    return there


def _pair(text: str, name: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ThreatModelError(f"Parameters of {name} are NAME=VALUE; given {text!r}.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


__all__ = ["ALL", "checked_severities", "chosen_corruptions"]
