"""What is played: notes on a guitar, and a short tune of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attacks.errors import ThreatModelError
from attacks.strings import fretted_hz


@dataclass(frozen=True)
class Note:
    """One string plucked once.

    Attributes:
        onset_s: When, from the start of the tune.
        string: 1 (high E) to 6 (low E).
        fret: 0 is the open string.
        seconds: Until the string is damped.
    """

    onset_s: float
    string: int
    fret: int
    seconds: float = 0.8

    @property
    def hz(self) -> float:
        """Its pitch."""
        return fretted_hz(self.string, self.fret)


@dataclass(frozen=True)
class Score:
    """A tune that goes round: what rings beyond its end is heard at its beginning.

    Attributes:
        notes: In any order.
        seconds: Until it begins again.
        name: For records.

    Raises:
        ThreatModelError: If there are no notes, or one begins outside the tune or is never damped in it.
    """

    notes: tuple[Note, ...]
    seconds: float
    name: str = "tune"

    def __post_init__(self) -> None:
        if not self.notes:
            raise ThreatModelError("A score needs a note or more.")
        for note in self.notes:
            fretted_hz(note.string, note.fret)
            if not 0 <= note.onset_s < self.seconds or not 0.02 <= note.seconds <= self.seconds:
                raise ThreatModelError(
                    f"Notes begin within the tune and last from 0.02 s to its {self.seconds:g} s; given one at "
                    f"{note.onset_s:g} s that lasts {note.seconds:g} s."
                )

    def describe(self) -> dict[str, Any]:
        """Every note, as JSON."""
        return {"name": self.name, "seconds": self.seconds, "notes": [asdict(note) for note in self.notes]}


CHORDS: Mapping[str, Mapping[int, int]] = {
    "Am": {5: 0, 4: 2, 3: 2, 2: 1, 1: 0},
    "C": {5: 3, 4: 2, 3: 0, 2: 1, 1: 0},
    "F": {4: 3, 3: 2, 2: 1, 1: 1},
    "G": {6: 3, 5: 2, 4: 0, 3: 0, 2: 0, 1: 3},
    "Dm": {4: 0, 3: 2, 2: 3, 1: 1},
    "E": {6: 0, 5: 2, 4: 2, 3: 1, 2: 0, 1: 0},
}
"""Chord -> string -> fret."""

STRUM_S = 0.012
"""Between the strings of a strummed chord."""


def tune(
    chords: tuple[str, ...] = ("Am", "F", "C", "G"), *, eighth_s: float = 0.25, eighths: int = 4, ring_s: float = 0.8
) -> Score:
    """A strum of each chord, from the low strings up, and its strings picked two by two on the eighths that follow.

    Raises:
        ThreatModelError: If a chord is unknown, or a duration is not positive.
    """
    from attacks.errors import unknown

    if eighth_s <= 0 or eighths < 1 or ring_s <= 0:
        raise ThreatModelError(f"A tune needs durations above 0; given {eighth_s} s x {eighths}, ringing {ring_s} s.")
    notes = []
    for bar, chord in enumerate(chords):
        if chord not in CHORDS:
            raise ThreatModelError(unknown("chord", chord, CHORDS))
        shape, start = CHORDS[chord], bar * eighths * eighth_s
        strings = sorted(shape, reverse=True)
        notes += [Note(start + place * STRUM_S, string, shape[string], ring_s) for place, string in enumerate(strings)]
        for beat in range(1, eighths):
            picked = (strings[(2 * beat) % len(strings)], strings[(2 * beat + 1) % len(strings)])
            notes += [Note(start + beat * eighth_s, string, shape[string], ring_s) for string in picked]
    return Score(tuple(notes), len(chords) * eighths * eighth_s, "-".join(chords))
