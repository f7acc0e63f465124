"""What a gallery holds: recordings, frames, and the clips they are of."""

from __future__ import annotations

from dataclasses import dataclass, field

from robust.report.budgets import Budget
from robust.report.sound import Picture


@dataclass(frozen=True)
class Player:
    """One recording: its kind, its words, its FLAC and its spectrogram; `outcome` is what came of it, or empty.

    `bad` says whether that outcome is the attacker's.
    """

    kind: str
    caption: str
    source: str
    picture: Picture
    outcome: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Group:
    """Recordings side by side under one heading, which may be empty."""

    title: str
    players: list[Player]


@dataclass(frozen=True)
class Frame:
    """One picture of a video; `words` is what it shows."""

    words: str
    source: str


@dataclass(frozen=True)
class Strip:
    """The frames of one kind."""

    caption: str
    frames: list[Frame]


@dataclass(frozen=True)
class Clip:
    """One clip: facts about it (names and words), what came of it, what was allowed and used, and what there is of it.

    `outcome` is empty where there is none; `broken` says whether it is the attacker's.
    """

    id: str
    facts: list[tuple[str, str]]
    outcome: str = ""
    broken: bool = False
    budgets: list[Budget] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes that it takes in the page, nearly."""
        players = [player for group in self.groups for player in group.players]
        sounds = [source for player in players for source in (player.source, player.picture.source)]
        frames = [frame.source for strip in self.strips for frame in strip.frames]
        return sum(len(source) for source in (*sounds, *frames))


@dataclass
class Gallery:
    """The clips of one run.

    Attributes:
        clips: Those that found room, broken ones first.
        left_out: How many more the store has, for want of room or because fewer were asked for.
        gain_db: By how much the differences were made louder.
        tiny: A perturbation was below one step of 16-bit sound.
        words: Sentences above, of the kinds whose clips are not told of by original, adversarial and difference.
        missing: Sentences about what the store lacks.
    """

    clips: list[Clip] = field(default_factory=list)
    left_out: int = 0
    gain_db: int = 0
    tiny: bool = False
    words: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def bits(self) -> int:
        """Of the recordings in the page."""
        return 24 if self.tiny else 16
