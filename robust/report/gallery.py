"""Clips to hear and see: original, adversarial and amplified difference, as far as a page has room."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from robust.atomic import Folder
from robust.evaluation.listening import clip_stem, kept_clips
from robust.report.answers import answer
from robust.report.budgets import clip_budgets
from robust.report.clips import Clip, Frame, Gallery, Group, Player, Strip
from robust.report.purified_shelf import PurifiedShelf
from robust.report.reading import Run
from robust.report.shelves import AirShelf, MusicShelf, StickerShelf
from robust.report.sound import (
    KINDS,
    LSB_16,
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

OUTCOMES = {False: {True: "broken", False: "stands"}, True: {True: "target reached", False: "target not reached"}}
"""Whether there was a target -> whether the attack succeeded -> in words."""
_ENDING = re.compile(r"-(?:original|adversarial|difference)(?:\.wav|(?:-x\d+)?-\d+\.png)$")
"""How the name of a file goes on after its stem; ids may hold such words too."""
_FRAME = re.compile(r"(original|adversarial|difference-x(\d+))-(\d+)\.png$")


class Shelf(Protocol):
    """The clips that a run keeps examples of: so many, made one by one when there is room."""

    gallery: Gallery

    @property
    def count(self) -> int: ...

    def clip(self, place: int) -> Clip: ...


SHELVES: Mapping[str, type[AirShelf | MusicShelf | StickerShelf | PurifiedShelf]] = {
    "air": AirShelf,
    "music": MusicShelf,
    "stickers": StickerShelf,
    "purification": PurifiedShelf,
}
"""Kind of a run -> its shelf; of others clips are told of by original, adversarial and difference."""


def galleries(runs: Sequence[Run], most_clips: int, most_bytes: int) -> list[Gallery]:
    """A gallery for each run; room is given clip by clip, in turn, until none is left.

    Args:
        runs: Of any kind; without recordings or frames a gallery stays empty.
        most_clips: Of each run.
        most_bytes: Of all together.
    """
    shelves: list[Shelf] = [SHELVES.get(run.kind, AttackShelf)(run) for run in runs]
    room = most_bytes
    for place in range(max((shelf.count for shelf in shelves), default=0)):
        for shelf in shelves:
            if place >= shelf.count:
                continue
            clip = shelf.clip(place) if place < most_clips and room > 0 else None
            if clip is None or clip.size > room:
                shelf.gallery.left_out += 1
                continue
            room -= clip.size
            shelf.gallery.clips.append(clip)
    return [shelf.gallery for shelf in shelves]


class AttackShelf:
    """The clips of an attack, broken ones first."""

    def __init__(self, run: Run) -> None:
        self.run, self.gallery = run, Gallery()
        self.sounds, self.frames = _stems(run.cell.folder / "audio"), _stems(run.cell.folder / "video")
        self.rows: list[tuple[str, pd.Series]] = self._rows() if self.sounds or self.frames else []
        if self.sounds and self.rows:
            self._measure()

    @property
    def count(self) -> int:
        """How many clips there are examples of."""
        return len(self.rows)

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

    def clip(self, place: int) -> Clip:
        stem, row = self.rows[place]
        triple = read_triple(self.run.cell.folder / "audio", stem)
        threat = self.run.summary.get("threat", {})
        broken = bool(row["success"]) if "success" in row else not bool(row["correct"])
        facts = {
            "True": str(row["label_name"]) or "no label",
            "Said before": answer(row, "clean_", self.run.labels, self.run.task),
            "Said after": answer(row, "", self.run.labels, self.run.task),
        }
        return Clip(
            id=str(row["id"]),
            facts=list(facts.items()),
            outcome=OUTCOMES[self.run.manifest.get("target") is not None][broken],
            broken=broken,
            budgets=clip_budgets(row.to_dict(), threat),
            groups=[] if triple is None else [Group("", self._players(triple))],
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
