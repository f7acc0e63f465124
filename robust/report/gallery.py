"""Clips to hear and see: original, adversarial and amplified difference, as far as a page has room."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.atomic import Folder
from robust.evaluation.listening import clip_stem, kept_clips
from robust.report.budgets import Budget, clip_budgets
from robust.report.formats import percent
from robust.report.reading import Run
from robust.report.sound import (
    KINDS,
    LSB_16,
    Picture,
    Triple,
    amplified,
    data_address,
    flac,
    gain_db,
    pictures,
    read_triple,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_LABELS = 5
OUTCOMES = {False: {True: "broken", False: "stands"}, True: {True: "target reached", False: "target not reached"}}
"""Whether there was a target -> whether the attack succeeded -> in words."""
_ENDING = re.compile(r"-(?:original|adversarial|difference)(?:\.wav|(?:-x\d+)?-\d+\.png)$")
"""How the name of a file goes on after its stem; ids may hold such words too."""
_FRAME = re.compile(r"(original|adversarial|difference-x(\d+))-(\d+)\.png$")


@dataclass(frozen=True)
class Player:
    """One recording: its kind, its words, its FLAC and its spectrogram."""

    kind: str
    caption: str
    source: str
    picture: Picture


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
    """One clip: what the victim said before and after, what was allowed and used, and what there is of it."""

    id: str
    label: str
    before: str
    after: str
    broken: bool
    outcome: str
    budgets: list[Budget]
    players: list[Player]
    strips: list[Strip]

    @property
    def size(self) -> int:
        """Bytes that it takes in the page, nearly."""
        sounds = [source for player in self.players for source in (player.source, player.picture.source)]
        frames = [frame.source for strip in self.strips for frame in strip.frames]
        return sum(len(source) for source in (*sounds, *frames))


@dataclass
class Gallery:
    """The clips of one run.

    Attributes:
        clips: Those that found room, broken ones first.
        left_out: How many more the store has, for want of room or because fewer were asked for.
        gain_db: By how much the differences were made louder.
        bits: Of the recordings in the page.
        tiny: A perturbation was below one step of 16-bit sound.
    """

    clips: list[Clip] = field(default_factory=list)
    left_out: int = 0
    gain_db: int = 0
    bits: int = 16
    tiny: bool = False


def galleries(runs: Sequence[Run], most_clips: int, most_bytes: int) -> list[Gallery]:
    """A gallery for each run; room is given clip by clip, in turn, until none is left.

    Args:
        runs: Of any kind; without recordings or frames a gallery stays empty.
        most_clips: Of each run.
        most_bytes: Of all together.
    """
    shelves = [_Shelf(run) for run in runs]
    room = most_bytes
    for place in range(max((len(shelf.rows) for shelf in shelves), default=0)):
        for shelf in shelves:
            if place >= len(shelf.rows):
                continue
            clip = shelf.clip(place) if place < most_clips and room > 0 else None
            if clip is None or clip.size > room:
                shelf.gallery.left_out += 1
                continue
            room -= clip.size
            shelf.gallery.clips.append(clip)
    return [shelf.gallery for shelf in shelves]


class _Shelf:
    """The clips that a run keeps examples of."""

    def __init__(self, run: Run) -> None:
        self.run, self.gallery = run, Gallery()
        self.sounds, self.frames = _stems(run.cell.folder / "audio"), _stems(run.cell.folder / "video")
        self.rows: list[tuple[str, pd.Series]] = self._rows() if self.sounds or self.frames else []
        if self.sounds and self.rows:
            self._measure()

    def _rows(self) -> list[tuple[str, pd.Series]]:
        """Of each clip kept: how its files begin, and its record."""
        records = self.run.records
        if records is None or "attacked" not in records:
            return []
        kept = kept_clips(records, len(records))
        stems = [clip_stem(place, str(row["id"])) for place, (_, row) in enumerate(kept.iterrows())]
        rows = zip(stems, (row for _, row in kept.iterrows()), strict=True)
        return [(stem, row) for stem, row in rows if stem in self.sounds or stem in self.frames]

    def _measure(self) -> None:
        """One gain and one depth for all clips, so that they can be compared by ear."""
        triples = (read_triple(self.run.cell.folder / "audio", stem) for stem, _ in self.rows)
        peaks = [float(np.abs(triple.difference).max(initial=0.0)) for triple in triples if triple is not None]
        changed = [peak for peak in peaks if peak > 0]
        self.gallery.gain_db = gain_db(max(changed, default=0.0))
        self.gallery.tiny = bool(changed) and min(changed) < LSB_16
        self.gallery.bits = 24 if self.gallery.tiny else 16

    def clip(self, place: int) -> Clip:
        stem, row = self.rows[place]
        triple = read_triple(self.run.cell.folder / "audio", stem)
        threat = self.run.summary.get("threat", {})
        broken = bool(row["success"]) if "success" in row else not bool(row["correct"])
        return Clip(
            id=str(row["id"]),
            label=str(row["label_name"]),
            before=_answer(row, "clean_", self.run.labels, self.run.task),
            after=_answer(row, "", self.run.labels, self.run.task),
            broken=broken,
            outcome=OUTCOMES[self.run.manifest.get("target") is not None][broken],
            budgets=clip_budgets(row.to_dict(), threat),
            players=[] if triple is None else self._players(triple),
            strips=_strips(self.run.cell.folder / "video", self.frames.get(stem, [])),
        )

    def _players(self, triple: Triple) -> list[Player]:
        gain, bits, seen = self.gallery.gain_db, self.gallery.bits, pictures(triple)
        sounds = (triple.original, triple.adversarial, amplified(triple.difference, gain))
        captions = ("Original", "Adversarial", f"Difference, {gain:+d} dB")
        return [
            Player(kind, caption, flac(sound, triple.sample_rate, bits), seen[kind])
            for kind, caption, sound in zip(KINDS, captions, sounds, strict=True)
        ]


def _stems(folder: Folder) -> dict[str, list[str]]:
    """How the names of files in a folder begin, up to their kind, and the names."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []:
        stem = _ENDING.sub("", path.name)
        found.setdefault(stem, []).append(path.name)
    return found


def _answer(row: Mapping[str, Any], side: str, labels: Sequence[str], task: str) -> str:
    """What the victim said of a clip, and how sure it was."""
    logits = np.asarray(row[f"{side}logits"], dtype=np.float64)
    if task == "multilabel":
        chances = 1 / (1 + np.exp(-logits))
        told = [place for place in np.argsort(-logits, kind="stable").tolist() if logits[place] > 0]
        some = ", ".join(f"{labels[place]} {percent(chances[place])}" for place in told[:MOST_LABELS])
        more = f" and {len(told) - MOST_LABELS} more" if len(told) > MOST_LABELS else ""
        return some + more if told else f"no label (nearest: {labels[int(logits.argmax())]} {percent(chances.max())})"
    shares = np.exp(logits - logits.max())
    answer = int(row[f"{side}prediction"])
    return f"{labels[answer]} {percent(float(shares[answer] / shares.sum()))}"


def _strips(folder: Folder, names: Sequence[str]) -> list[Strip]:
    """Frames by kind: originals, adversarial ones, differences."""
    found: dict[str, list[Frame]] = {kind: [] for kind in KINDS}
    captions = {kind: kind.capitalize() for kind in KINDS}
    for name in names:
        told = _FRAME.search(name)
        if told is None:
            continue
        kind, gain, place = told[1].split("-")[0], told[2], int(told[3])
        if gain:
            captions[kind] = f"Difference × {gain}"
        words = f"Frame {place}, {kind}{f' times {gain}, grey where nothing changed' if gain else ''}"
        found[kind].append(Frame(words, data_address("image/png", (folder / name).read_bytes())))
    return [Strip(captions[kind], frames) for kind, frames in found.items() if frames]
