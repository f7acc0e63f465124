"""Clips to hear and see of the physical world: over the air, under music, through stickers.

What a store lacks is said and left out: recordings are often thinned out to save room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.atomic import Folder
from robust.evaluation.listening import clip_stem
from robust.report.answers import answer
from robust.report.clips import Clip, Frame, Gallery, Group, Player, Strip
from robust.report.formats import count
from robust.report.physical import MASKERS, loudest_ratio, ratio_words
from robust.report.reading import Run
from robust.report.sound import LSB_16, Floats, alike, data_address, flac, read_sound

if TYPE_CHECKING:
    import pandas as pd

VERSIONS = {"unperturbed": "Unperturbed", "random": "Random noise", "plain": "Plain PGD", "eot": "PGD with EOT"}
PLACES = {"train_rooms": "training rooms", "held_out_rooms": "held-out rooms"}
ROOM = "-in-room"
NAMED = 4
"""How many missing files are named."""


class AirShelf:
    """Every version of a clip without a channel and in one held-out room."""

    def __init__(self, run: Run) -> None:
        self.run, self.gallery = run, Gallery()
        self.rows = self._rows()
        if self.rows:
            self.gallery.tiny = any(self._tiny(stem) for stem, _ in self.rows)
            self.gallery.words = [
                "Each clip in four versions, as the attack made them and as the first of the held-out rooms returns "
                "them. The spectrograms of a row share their colours; true levels, 0 dB being a full-scale sine."
            ]
        self.gallery.missing = [*lacking_sounds(run)]

    @property
    def count(self) -> int:
        """How many clips there are recordings of."""
        return len(self.rows)

    def _rows(self) -> list[tuple[str, pd.Series]]:
        """Of each clip kept: how its files begin, and its record; those that EOT breaks first."""
        records = self.run.records
        names = _names(self.run.cell.folder / "audio")
        if records is None or not names or "eot_no_channel" not in records:
            return []
        ordered = records.sort_values("eot_no_channel", kind="stable").head(len(names))
        stems = [(clip_stem(place, str(row["id"])), row) for place, (_, row) in enumerate(ordered.iterrows())]
        endings = [f"-{version}{where}.wav" for version in VERSIONS for where in ("", ROOM)]
        return [(stem, row) for stem, row in stems if any(stem + ending in names for ending in endings)]

    def _path(self, stem: str, version: str, where: str = "") -> Folder:
        return self.run.cell.folder / "audio" / f"{stem}-{version}{where}.wav"

    def _tiny(self, stem: str) -> bool:
        """Whether a perturbation is below one step of 16-bit sound."""
        sounds = [read_sound(self._path(stem, version)) for version in ("unperturbed", "eot")]
        if sounds[0] is None or sounds[1] is None or sounds[0][0].shape != sounds[1][0].shape:
            return False
        return 0 < float(np.abs(sounds[0][0] - sounds[1][0]).max()) < LSB_16

    def clip(self, place: int) -> Clip:
        """The clip at `place`."""
        stem, row = self.rows[place]
        broken = not bool(row["eot_no_channel"])
        groups = [
            self._group(stem, row, "", "Without a channel", "no_channel"),
            self._group(stem, row, ROOM, "In a held-out room", "held_out_rooms"),
        ]
        facts = [("True", str(row.get("label_name", "")) or "no label")]
        facts += [(f"Stands in {PLACES[place]}", _standing(row, place)) for place in PLACES]
        return Clip(str(row["id"]), facts, broken=broken, groups=[group for group in groups if group.players])

    def _group(self, stem: str, row: Mapping[str, Any], where: str, title: str, place: str) -> Group:
        sounds = {version: read_sound(self._path(stem, version, where)) for version in VERSIONS}
        outcomes = {}
        for version in VERSIONS:
            stands = np.atleast_1d(row[f"{version}_{place}"])
            if len(stands):
                outcomes[version] = ("stands", False) if stands[0] else self._fallen(version)
        return Group(title, players(sounds, VERSIONS, self.gallery.bits, outcomes))

    def _fallen(self, version: str) -> tuple[str, bool]:
        """What is said of a version that does not stand."""
        if version == "unperturbed":
            return "wrong by itself", True
        return ("broken" if self.run.manifest.get("target") is None else "target reached"), True


def _standing(row: Mapping[str, Any], place: str) -> str:
    """In how many situations of a place each version stands."""
    stands = {words: np.atleast_1d(row[f"{version}_{place}"]) for version, words in VERSIONS.items()}
    counts = [
        f"{words[:1].lower() + words[1:] if words[1:2].islower() else words} {int(found.sum())}"
        for words, found in stands.items()
    ]
    return f"{', '.join(counts)} of {max(len(found) for found in stands.values())}"


class MusicShelf:
    """The maskers by themselves, then clips of the word as they are heard with each at the loudest."""

    def __init__(self, run: Run) -> None:
        self.run, self.gallery = run, Gallery()
        self.ratio = loudest_ratio(run.summary)
        self.maskers = {name: run.cell.folder / f"music-{name}.wav" for name in MASKERS}
        self.alone = [name for name, path in self.maskers.items() if path.is_file()]
        self.rows = self._rows()
        if self.count:
            self.gallery.words = [
                "What plays, all of one loudness, two turns of each; then clips of the word as the detector hears them "
                f"at a speech-to-music ratio of {ratio_words(self.ratio) or 'nothing'}. Spectrograms of a row share "
                "their colours."
            ]
        self.gallery.missing = [*lacking_sounds(run)]

    @property
    def count(self) -> int:
        """The maskers, and the clips there are recordings of."""
        return len(self.rows) + bool(self.alone)

    @cached_property
    def parts(self) -> dict[str, pd.DataFrame]:
        """Masker -> its records at the loudest."""
        folders = {name: f"jam-{name}" + ("" if name == "silence" else f"-{self.ratio or 0:g}dB") for name in MASKERS}
        found = {name: self.run.part(folder) for name, folder in folders.items()}
        return {name: part for name, part in found.items() if part is not None}

    def _rows(self) -> list[tuple[str, str]]:
        """Of each clip kept: how its files begin, and its id; clips of the word in their order."""
        names, wake = _names(self.run.cell.folder / "audio"), self.run.summary.get("wake")
        if not names or not self.parts:
            return []
        records = next(iter(self.parts.values()))
        ids = records[records["label_name"] == wake].sort_values("index")["id"].tolist()[: len(names)]
        stems = [(clip_stem(place, str(clip)), str(clip)) for place, clip in enumerate(ids)]
        return [(stem, clip) for stem, clip in stems if any(f"{stem}-{name}.wav" in names for name in MASKERS)]

    def clip(self, place: int) -> Clip:
        """The maskers at 0, clips from there on."""
        if self.alone and place == 0:
            sounds = {name: read_sound(self.maskers[name]) for name in self.alone}
            return Clip("What plays", [], groups=[Group("", players(sounds, MASKERS, 16))])
        stem, clip = self.rows[place - bool(self.alone)]
        sounds = {name: read_sound(self.run.cell.folder / "audio" / f"{stem}-{name}.wav") for name in MASKERS}
        facts, outcomes = [("True", str(self.run.summary.get("wake")))], {}
        for name, part in self.parts.items():
            for _, row in part[part["id"] == clip].iterrows():
                facts.append((f"Said, {MASKERS[name]}", answer(row, "", self.run.labels, self.run.task)))
                outcomes[name] = ("heard", False) if row["correct"] else ("missed", True)
        return Clip(clip, facts, groups=[Group("", players(sounds, MASKERS, 16, outcomes))])


class StickerShelf:
    """Frames before and after, of clips that the stickers deceive first."""

    PICTURE = re.compile(r"-(original|stickers)-(\d+)\.png$")
    CAPTIONS: Mapping[str, str] = {"original": "As it is", "stickers": "Through the stickers"}

    def __init__(self, run: Run) -> None:
        self.run, self.gallery = run, Gallery()
        self.frames = _names(run.cell.folder / "video")
        self.rows = self._rows()
        if self.rows:
            self.gallery.words = ["Frames of clips as they are and through the stickers, with a still camera."]
        if not self.frames:
            self.gallery.missing = ["The run's frames before and after (folder video/) are missing."]
        elif not self.rows:
            self.gallery.missing = ["The records of the stickers (folder stickers/) are missing: no clip is shown."]

    @property
    def count(self) -> int:
        """How many clips there are frames of."""
        return len(self.rows)

    def _rows(self) -> list[tuple[str, pd.Series]]:
        records = self.run.part("stickers")
        if records is None or not self.frames:
            return []
        stems = {self.PICTURE.sub("", name) for name in self.frames}
        few = records.sort_values("correct", kind="stable").head(len(self.frames))
        rows = [(clip_stem(place, str(row["id"])), row) for place, (_, row) in enumerate(few.iterrows())]
        return [(stem, row) for stem, row in rows if stem in stems]

    def clip(self, place: int) -> Clip:
        """The clip at `place`."""
        stem, row = self.rows[place]
        labels, target = self.run.labels, self.run.summary.get("target")
        said = int(row["prediction"])
        reached = labels[said] == target if target and said < len(labels) else not bool(row["correct"])
        outcome = "target reached" if target and reached else "deceived" if reached else "stands"
        if not reached and not bool(row["correct"]):
            outcome = "wrong, but not the target"
        facts = [
            ("True", str(row["label_name"])),
            ("Said before", answer(row, "clean_", labels, self.run.task)),
            ("Said after", answer(row, "", labels, self.run.task)),
        ]
        return Clip(str(row["id"]), facts, outcome, reached, strips=self._strips(stem))

    def _strips(self, stem: str) -> list[Strip]:
        found: dict[str, list[Frame]] = {kind: [] for kind in self.CAPTIONS}
        for name in self.frames:
            told = self.PICTURE.search(name)
            if told and self.PICTURE.sub("", name) == stem:
                content = (self.run.cell.folder / "video" / name).read_bytes()
                words = f"Frame {int(told[2])}, {self.CAPTIONS[told[1]].lower()}"
                found[told[1]].append(Frame(words, data_address("image/png", content)))
        return [Strip(self.CAPTIONS[kind], frames) for kind, frames in found.items() if frames]


def players(
    sounds: Mapping[str, tuple[Floats, int] | None],
    captions: Mapping[str, str],
    bits: int,
    outcomes: Mapping[str, tuple[str, bool]] | None = None,
) -> list[Player]:
    """Players of what there is, their spectrograms in the same colours."""
    there = {name: found for name, found in sounds.items() if found is not None}
    if not there:
        return []
    rate = next(iter(there.values()))[1]
    seen = alike({name: sound for name, (sound, _) in there.items()}, rate)
    told = outcomes or {}
    return [
        Player(
            name,
            captions[name][:1].upper() + captions[name][1:],
            flac(sound, rate, bits),
            seen[name],
            *told.get(name, ("", False)),
        )
        for name, (sound, _) in there.items()
    ]


def lacking_sounds(run: Run) -> list[str]:
    """What is missing of the recordings that a run says it wrote."""
    written = [re.split(r"[/\\]", str(path))[-1] for path in run.summary.get("audio") or []]
    if not written:
        return ["The run kept no recordings to listen to."]
    there = {*_names(run.cell.folder / "audio"), *_names(run.cell.folder)}
    missing = [name for name in written if name not in there]
    damaged = [name for name in written if name in there and _unreadable(run.cell.folder, name)]
    told = [_lacking(missing, len(written), "missing")] if missing else []
    return told + ([_lacking(damaged, len(written), "damaged")] if damaged else [])


def _lacking(names: Sequence[str], of: int, how: str) -> str:
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names):,} of the {count(of, 'recording')} that the run wrote {verb} {how}: {shown}."


def _unreadable(folder: Folder, name: str) -> bool:
    inside = folder / "audio" / name
    return read_sound(inside if inside.is_file() else folder / name) is None


def _names(folder: Folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
