"""Kinds of run that modules of their own tell of: in a few words, in sentences and in scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from robust.report import defended, geometry, physical
from robust.report.formats import Shown
from robust.report.reading import Run


class Teller(Protocol):
    """What such a module holds."""

    def condition_words(self, run: Run) -> str:
        """What was done, in a few words."""

    def scores(self, run: Run) -> list[Shown]:
        """The score before and the one that the run is about, then others."""

    def told_of(self, run: Run) -> list[str]:
        """Sentences: what was done and what came of it."""


_PHYSICAL: Teller = physical
_DEFENDED: Teller = defended
_GEOMETRY: Teller = geometry
TELLERS: Mapping[str, Teller] = {
    **dict.fromkeys(physical.KINDS, _PHYSICAL),
    **dict.fromkeys(defended.KINDS, _DEFENDED),
    **dict.fromkeys(geometry.KINDS, _GEOMETRY),
}
"""Kind -> its module; of other kinds `robust.report.words` tells."""
