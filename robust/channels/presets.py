"""Situations by name, and chains that anybody writes down.

A file is YAML:

    name: my-kitchen
    channels:
      - {kind: measured-room, folder: responses}
      - {kind: noise, sound: folder, folder: kettle, snr_db: [5, 20]}
      - {kind: band, low_hz: [100, 200]}

The kinds and their keys are those of `robust.channels.entries`; two numbers in brackets are a range from which each
clip draws. Relative folders begin where the file lies.
"""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attacks.channel import Channel
from attacks.errors import RobustError, ThreatModelError, unknown
from robust.channels.chain import Chain

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from robust.channels.entries import ChannelFile, Entry, Setting
    from robust.lined_yaml import LinedYaml

PRESETS = ("car", "living-room", "meeting", "outdoors", "phone-call", "room")
"""Our own; what of their bands a sample rate does not carry is left out."""

SPLITS = ("train", "held-out")


def load_channel(name_or_path: str | os.PathLike[str], *, sample_rate: int, split: str = "train") -> Channel:
    """A chain by name or from a file.

    Args:
        name_or_path: A name from `PRESETS`, or a YAML file.
        sample_rate: Hz of the clips.
        split: `train` or `held-out`: which rooms, and which files of folders of noise.

    Returns:
        A `Chain` with the name of the preset or file.

    Raises:
        ThreatModelError: If there is no such preset, or the file says what cannot be; told by line.
        DataError: If recordings that a file names cannot be read.
    """
    from robust.channels.entries import Setting

    if split not in SPLITS:
        raise ThreatModelError(unknown("split", split, SPLITS))
    if sample_rate < 1:
        raise ThreatModelError(f"The sample rate must be a number of Hz from 1; given {sample_rate}.")
    source, ours = _source(name_or_path)
    asked = _checked(source)
    setting = Setting(sample_rate, split, Path(source.name).parent)
    parts = []
    for place, entry in enumerate(asked.channels):
        fitted = entry.fitted(sample_rate) if ours else entry
        if fitted is not None:
            parts.append(_built(fitted, setting, source, place))
    return Chain(parts, sample_rate=sample_rate, name=asked.name or Path(source.name).stem)


def read_channel(name_or_path: str | os.PathLike[str]) -> str:
    """The text of a preset or file, its words checked; recordings and rooms that it names are not opened.

    Raises:
        ThreatModelError: As `load_channel`.
    """
    source, _ = _source(name_or_path)
    _checked(source)
    return source.text


def _source(name_or_path: str | os.PathLike[str]) -> tuple[LinedYaml, bool]:
    """The text of a file, and whether it is ours."""
    from robust.lined_yaml import LinedYaml

    class ChannelSource(LinedYaml):
        what = "channel"
        shape = "a mapping with the key channels, a list"
        mistake = ThreatModelError

    name = os.fspath(name_or_path)
    if name in PRESETS:
        text = files("robust.channels").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
        return ChannelSource(f"{name}.yaml", text), True
    if not name.endswith((".yaml", ".yml")):
        raise ThreatModelError(f"{unknown('channel', name, PRESETS)} Or give a YAML file.")
    return ChannelSource.read(Path(name)), False


def _built(entry: Entry, setting: Setting, source: LinedYaml, place: int) -> Channel:
    """The channel of an entry; its complaints come with the line."""
    try:
        return entry.build(setting)
    except RobustError as error:
        told = f"{source.name}:{source.line(('channels', place))}: {error}"
        raise type(error)(told) from error


def _checked(source: LinedYaml) -> ChannelFile:
    """What a file says, or its first mistake."""
    from pydantic import ValidationError

    from robust.channels.entries import ChannelFile

    try:
        return ChannelFile.model_validate(source.content)
    except ValidationError as error:
        raise _first_mistake(error, source) from None


def _first_mistake(error: ValidationError, source: LinedYaml) -> RobustError:
    """Pydantic's first complaint in our words, with line and suggestion."""
    from robust.channels.entries import ENTRIES, ChannelFile, RoomSizes

    found = _worst(error, source)
    place, said, given = _place(found, source.content), found["msg"], found["input"]
    kind = source.content["channels"][place[1]].get("kind") if len(place) > 2 else None
    model = RoomSizes if len(place) > 3 else ENTRIES[kind] if kind else ChannelFile
    where = f"in channels.{place[1]} ({kind})" if kind else "in the file"
    if found["type"] == "extra_forbidden":
        return source.error(place, f"{where}: " + unknown("key", place[-1], model.model_fields))
    if found["type"] == "union_tag_not_found":
        return source.error(place, f"this channel has no kind. Allowed: {', '.join(sorted(ENTRIES))}.")
    if found["type"] == "union_tag_invalid":
        return source.error((*place, "kind"), unknown("kind of channel", given.get("kind"), ENTRIES))
    if found["type"] == "missing" and isinstance(place[-1], int):
        return source.error(place[:-1], f"{'.'.join(map(str, place[:-1]))}: two numbers make a range; given {given!r}.")
    if found["type"] == "missing":
        return source.error(place[:-1], f"{where} the key {place[-1]!r} is missing.")
    if found["type"] == "literal_error" and isinstance(given, str):
        words = re.findall(r"'([^']*)'", said)
        return source.error(place, f"{where}: " + unknown(str(place[-1]), given, words))
    return source.error(place, f"{'.'.join(map(str, place))}: {said}; given {given!r}.")


def _worst(error: ValidationError, source: LinedYaml) -> ErrorDetails:
    """The first complaint by line; of those about one value, the one about what it looks like."""
    errors = error.errors()
    first = min(errors, key=lambda one: source.line(_place(one, source.content)))
    field = first["loc"][:4]
    return [one for one in errors if one["loc"][:4] == field][-1 if isinstance(first["input"], list | dict) else 0]


def _place(found: ErrorDetails, content: Any) -> tuple[str | int, ...]:
    """Keys on the way to a value, without pydantic's own tags: the kind of an entry, the branches of a union."""
    place: list[str | int] = []
    for part in found["loc"]:
        here = dict(enumerate(content)) if isinstance(content, list) else content
        if isinstance(here, dict) and part in here:
            place.append(part)
            content = here[part]
    return (*place, found["loc"][-1]) if found["type"] == "missing" else tuple(place)
