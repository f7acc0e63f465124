"""Data sets of clips cut from videos: a table names them, and a folder holds those that could still be downloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robust.data.recordings import Recording, Recordings
from robust.data.splits import hold_out
from robust.data.video_io import VIDEO_SUFFIXES, read_video
from robust.errors import DataError, unknown
from robust.types import Clip, Inputs, VictimSpec

VALIDATION_SHARE = 0.1

_log = logging.getLogger(__name__)


class Videos(Recordings):
    """Labelled video files, of which the sound, the frames or both are read, in step, when asked for.

    A clip is the first `clip_seconds` of its file; its frames are spread evenly over that time. Nothing is kept in
    memory: a clip is decoded whenever it is read (`robust.data.reading` reads several at once).
    """

    modalities = ("audio", "video")

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        """Reads clip `index` for `spec`; see `Dataset`.

        Raises:
            DataError: If the file cannot be read (see `read_video`), or `spec` asks for a modality or a video shape
                that no file can give.
        """
        recording = self.recordings[index]
        frames, size = self._sight(spec)
        excerpt = read_video(
            recording.path,
            clip_seconds=spec.clip_samples / spec.sample_rate,
            sample_rate=spec.sample_rate if "audio" in spec.modalities else None,
            frames=frames,
            size=size,
        )
        found: Inputs = {}
        valid: Inputs = {}
        if excerpt.audio is not None and excerpt.audio_valid is not None:
            found["audio"], valid["audio"] = torch.from_numpy(excerpt.audio), torch.from_numpy(excerpt.audio_valid)
        if excerpt.video is not None and excerpt.video_valid is not None:
            found["video"] = torch.from_numpy(excerpt.video)
            valid["video"] = torch.from_numpy(excerpt.video_valid)[:, None, None, None].expand(excerpt.video.shape)
        inputs = {modality: found[modality] for modality in spec.modalities}
        return Clip(recording.id, inputs, torch.tensor(recording.label, dtype=torch.int64), valid)

    def _sight(self, spec: VictimSpec) -> tuple[int | None, tuple[int, int]]:
        """Number and size of the frames a victim takes; None for a victim that sees nothing."""
        for modality in spec.modalities:
            if modality not in self.modalities:
                raise DataError(unknown(f"modality of {self.name}", modality, self.modalities))
        if "video" not in spec.modalities:
            return None, (1, 1)
        shape = tuple(spec.shapes.get("video", ()))
        if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
            raise DataError(
                f"The victim {spec.name!r} takes video of shape {shape}; {self.name} has (frames, 3, height, width), "
                "each at least 1. Use a victim of such a shape."
            )
        return shape[0], (shape[2], shape[3])


@dataclass(frozen=True)
class Row:
    """A clip as a table names it.

    Attributes:
        stem: Name of its file without folder and suffix.
        source: The video it was cut from; clips of one video stay in one split.
        label: Class name.
    """

    stem: str
    source: str
    label: str


def split_of(split: str, tables: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of a split; without a `validation` table, a tenth of every class is held out of `train`, by hash.

    Args:
        split: `train`, `validation`, `test` or `all`.
        tables: The rows of `train`, of `test`, and of `validation` where the set has it. A row that stands twice counts
            once. What is held out depends on these alone, not on which files are there.
    """
    parts = {part: list(dict.fromkeys(rows)) for part, rows in tables.items()}
    if split == "all":
        return list(dict.fromkeys(row for rows in parts.values() for row in rows))
    if "validation" not in parts and split != "test":
        rows = parts["train"]
        classes = {label: place for place, label in enumerate(dict.fromkeys(row.label for row in rows))}
        stand_ins = [Recording(str(place), Path(), classes[row.label]) for place, row in enumerate(rows)]
        halves = hold_out(stand_ins, lambda clip: rows[int(clip.id)].source, share=VALIDATION_SHARE, seed=0)
        parts["train"], parts["validation"] = ([rows[int(clip.id)] for clip in half] for half in halves)
    return parts[split]


def open_videos(
    name: str, split: str, root: Path, rows: Sequence[Row], labels: Sequence[str], *, pattern: str
) -> Videos:
    """The clips of `rows` whose files lie anywhere below `root`; says how many do not.

    Args:
        name: Of the data set.
        split: Of the data set.
        root: The folder.
        rows: What the split should hold.
        labels: Class names.
        pattern: How the files are named, for the error.

    Raises:
        DataError: If none is there.
    """
    files = _video_files(root)
    present = [row for row in rows if row.stem in files]
    if not present:
        raise DataError(
            f"{root} holds none of the {len(rows)} clips of the split {split!r} of {name}, in itself or in any folder "
            f"below. Expected files named {pattern}."
        )
    if missing := len(rows) - len(present):
        _log.warning(
            "%d of the %d clips of the split %s of %s are not in %s (videos are deleted over time); the other %d make "
            "up the split.",
            *(missing, len(rows), split, name, root, len(present)),
        )
    places = {label: place for place, label in enumerate(labels)}
    recordings = [Recording(f"{row.label}/{row.stem}", files[row.stem], places[row.label]) for row in present]
    return Videos(recordings, name=name, split=split, labels=labels)


def _video_files(root: Path) -> dict[str, Path]:
    """Name without suffix -> video file, for all below `root`; of two of one name, the first in sorted order."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):  # the files are often linked from a larger disk
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(folders)
        names = [] if real in seen else sorted(names)
        seen.add(real)
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in VIDEO_SUFFIXES:
                found.setdefault(path.stem, path)
    return found
