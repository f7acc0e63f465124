"""The text of a study file, with the lines of its entries."""

from __future__ import annotations

from collections.abc import Sequence

from robust.errors import RobustError
from robust.lined_yaml import LinedYaml


class StudyError(RobustError):
    """A study file that asks for what cannot be."""


class Source(LinedYaml):
    """A study file."""

    what = "study"
    shape = "a mapping with the keys name, victims, conditions and data"
    mistake = StudyError

    def error(self, place: Sequence[str | int], message: str) -> StudyError:
        """A mistake at a place: `FILE:LINE: message`."""
        return StudyError(f"{self.name}:{self.line(place)}: {message}")
