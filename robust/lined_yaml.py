"""A YAML file that knows on which line each of its entries stands, so that a mistake can be told by line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from robust.errors import RobustError

Place = tuple[str, ...]


class LinedYaml:
    """The text of a file that holds a mapping; kinds of file are subclasses.

    Attributes:
        name: How the file is called in messages.
        text: As written.
        content: What it says, as plain Python values.
    """

    what: ClassVar[str] = "file"
    """What it is, in messages."""

    shape: ClassVar[str] = "a mapping"
    """What its mapping holds, in messages."""

    mistake: ClassVar[type[RobustError]] = RobustError
    """What is raised."""

    def __init__(self, name: str, text: str) -> None:
        """Reads the text.

        Raises:
            RobustError: Of the kind of `mistake`, if it is not YAML, not a mapping, or has a key twice.
        """
        self.name, self.text = name, text
        self._lines: dict[Place, int] = {}
        try:
            node = yaml.compose(text, Loader=_Loader)
            self.content: Any = _Loader(text).get_single_data()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = "" if mark is None else f":{mark.line + 1}"
            raise self.mistake(f"{name}{where}: this is not YAML: {error.problem}.") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self.mistake(f"{name}: this is not YAML: {error}.") from error
        if not isinstance(node, yaml.MappingNode):
            raise self.mistake(f"{name}: a {self.what} is {self.shape}.")
        self._note(node, ())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file at `path`.

        Raises:
            RobustError: Of the kind of `mistake`, if it cannot be read, too.
        """
        try:
            return cls(str(path), path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise cls.mistake(f"The {cls.what} file {path} cannot be read: {reason}.") from error

    def line(self, place: Sequence[str | int]) -> int:
        """Line (from 1) of the entry at a path of keys, or of the nearest one around it."""
        path = tuple(str(part) for part in place)
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def error(self, place: Sequence[str | int], message: str) -> RobustError:
        """A mistake at a place: `FILE:LINE: message`."""
        return self.mistake(f"{self.name}:{self.line(place)}: {message}")

    def _note(self, node: yaml.Node, path: Place, around: tuple[yaml.Node, ...] = ()) -> None:
        """Writes down the line of every entry under `node`, which lies in the nodes `around` it."""
        if any(node is one for one in around):
            raise self.mistake(f"{self.name}:{node.start_mark.line + 1}: this entry holds itself, by an alias (*).")
        around = (*around, node)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inside = (*path, _Loader("").construct_scalar(key) if isinstance(key, yaml.ScalarNode) else "?")
                if inside in self._lines:
                    first = self._lines[inside]
                    line = key.start_mark.line + 1
                    raise self.mistake(f"{self.name}:{line}: the key {inside[-1]!r} is there already, on line {first}.")
                self._lines[inside] = key.start_mark.line + 1
                self._note(value, inside, around)
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                self._lines[(*path, str(place))] = value.start_mark.line + 1
                self._note(value, (*path, str(place)), around)


class _Loader(yaml.SafeLoader):
    """YAML without code, in which numbers are what they look like.

    YAML 1.1 wants `1.0e-4` for `1e-4`, takes `60:0:7` for a number to the base of 60, `010` for 8, and days for dates.
    """


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [known for known in resolvers if known[0] not in (*_NUMBERS, "tag:yaml.org,2002:timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_NUMBERS[0], re.compile(r"^[-+]?(0|[1-9][\d_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _NUMBERS[1],
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?|\.inf|\.nan)$"),
    list("-+0123456789."),
)
