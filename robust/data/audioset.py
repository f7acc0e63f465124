"""AudioSet: segments of 10 s from videos, any number of 527 classes each, read from whatever part could be downloaded.

Source: Gemmeke et al., Audio Set: An Ontology and Human-Labeled Dataset for Audio Events, ICASSP 2017. Segments stand
in CSV files with three comment lines, then `YTID, start, end, "mid,mid"`; classes in `class_labels_indices.csv`.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robust.data.annotations import check_request, listed, read_table
from robust.data.audio_io import AUDIO_SUFFIXES
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.data.splits import hash_fold
from robust.errors import DataError, unknown

CLASSES = "class_labels_indices.csv"
TRAIN: Mapping[str, tuple[str, ...]] = {
    "balanced": ("balanced_train",),
    "unbalanced": ("unbalanced_train",),
    "full": ("balanced_train", "unbalanced_train"),
}
"""What `train` may be, and the segment files it takes."""
VALIDATION_FOLDS = 10  # one of them validates

_EXPECTED = (
    f"Expected ROOT/{CLASSES}, ROOT/{{balanced_train,unbalanced_train,eval}}_segments.csv, and below ROOT/audio files "
    "named after their video: YTID.wav, YYTID.wav or YTID_START.wav, of any suffix libsndfile reads."
)
# The name may begin with a Y, which keeps a leading dash from looking like an option; an id has 11 characters and may
# hold underscores itself. START, in seconds or milliseconds, and END are optional.
_STEM = re.compile(r"Y?(?P<video>[\w-]{11})(?:_(?P<start>\d+(?:\.\d+)?)(?:_\d+(?:\.\d+)?)?)?", re.ASCII)


class MissingClipsWarning(UserWarning):
    """Some segments of a list have no recording; the message counts them."""


class Segment(NamedTuple):
    """One line of a segment list."""

    video: str
    start: float
    heard: tuple[int, ...]

    @property
    def id(self) -> str:
        """Video and start in seconds, e.g. `--4gqARaEJE_0`."""
        return f"{self.video}_{self.start:g}"


@register_data(
    "audioset", summary="AudioSet from its segment lists and a folder of recordings, multilabel", needs_root=True
)
def audioset(*, split: str, root: Path | None, train: str = "balanced", audio: str = "audio") -> Recordings:
    """Opens one split of AudioSet; what could not be downloaded is left out with a warning that counts it.

    Labels are the display names in the order of the class list. A recording is the segment itself, already cut.

    Args:
        split: `test` (the evaluation list), `train`, `validation` (a tenth of the training list by a hash of the
            video's id, since AudioSet has none; the same videos whatever is missing) or `all`.
        root: The folder of the lists.
        train: The training list: `balanced`, `unbalanced` or `full` (both).
        audio: The folder of the recordings below `root`, searched with all its sub-folders.

    Raises:
        DataError: If an option is unknown, a list is missing or damaged, one segment has two files, or none has one.

    Warns:
        MissingClipsWarning: If some segments of the split have no recording.
    """
    root = check_request("audioset", split, root)
    if train not in TRAIN:
        raise DataError(unknown("training list of audioset", train, TRAIN))
    labels, index_of = read_classes(root)
    segments = [
        segment
        for name in _lists(split, train)
        for segment in _read_segments(root / f"{name}_segments.csv", index_of)
        if name == "eval" or split == "all" or _validates(segment) == (split == "validation")
    ]
    _check_once(root, segments)
    files = _find(root / audio, {segment.video for segment in segments})
    recordings = [
        Recording(segment.id, path, heard=segment.heard)
        for segment in segments
        if (path := _choose(segment, files.get(segment.video, ()))) is not None
    ]
    _report_missing(root / audio, split, segments, recordings)
    return Recordings(recordings, name="audioset", split=split, labels=labels, task="multilabel")


def read_classes(root: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """AudioSet's display names in the order of their indices, and mid -> index.

    Raises:
        DataError: If `class_labels_indices.csv` is not in `root`, or its indices, mids or names are not one to one.
    """
    table = read_table(root / CLASSES, ("index", "mid", "display_name"), expected=_EXPECTED)
    mids = table.class_list("index", "mid")
    return table.class_list("index", "display_name"), {mid: index for index, mid in enumerate(mids)}


def _lists(split: str, train: str) -> tuple[str, ...]:
    """Names of the segment lists that a split takes from."""
    return {"test": ("eval",), "all": (*TRAIN[train], "eval")}.get(split, TRAIN[train])


def _validates(segment: Segment) -> bool:
    return hash_fold(segment.video, folds=VALIDATION_FOLDS, seed=0) == 1


def _read_segments(path: Path, index_of: Mapping[str, int]) -> Iterator[Segment]:
    """The segments of a list."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, row in enumerate(csv.reader(file, skipinitialspace=True), start=1):
                if row and not row[0].startswith("#"):
                    yield _segment(f"{path}, line {line}", row, index_of)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {_EXPECTED}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}). Copy or download it again.") from error


def _segment(where: str, row: Sequence[str], index_of: Mapping[str, int]) -> Segment:
    """One line of a list, which must name a video, its seconds and known classes."""
    try:
        video, start, _, mids = row
        seconds = float(start)
    except ValueError:
        raise DataError(f'{where}: {", ".join(row)[:80]!r} is not of the form YTID, start, end, "mid,mid".') from None
    names = mids.split(",")
    if strangers := [mid for mid in names if mid not in index_of]:
        raise DataError(f"{where}: the class {strangers[0]!r} is not in {CLASSES}; take both from one release.")
    return Segment(video, seconds, tuple(sorted({index_of[mid] for mid in names})))


def _check_once(root: Path, segments: Sequence[Segment]) -> None:
    """Refuses lists without a segment, or with one twice."""
    if not segments:
        raise DataError(f"The segment lists in {root} name no segment of this split. Copy or download them again.")
    seen: set[str] = set()
    for segment in segments:
        if segment.id in seen:
            raise DataError(f"The segment lists in {root} name {segment.id} twice. Copy or download them again.")
        seen.add(segment.id)


def _find(folder: Path, videos: set[str]) -> dict[str, list[tuple[float | None, Path]]]:
    """Video -> start told by the file's name, if any, and file, of all recordings of `videos` below `folder`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing. {_EXPECTED}")
    found: dict[str, list[tuple[float | None, Path]]] = {}
    for top, _, names in os.walk(folder, followlinks=True):
        for name in names:
            stem, suffix = os.path.splitext(name)
            match = _STEM.fullmatch(stem) if suffix.lower() in AUDIO_SUFFIXES else None
            if match and match["video"] in videos:
                start = None if match["start"] is None else float(match["start"])
                found.setdefault(match["video"], []).append((start, Path(top, name)))
    return found


def _choose(segment: Segment, files: Sequence[tuple[float | None, Path]]) -> Path | None:
    """The recording of a segment; a start in a file's name, in seconds or milliseconds, must be the segment's."""
    fitting = [path for start, path in files if start in (None, segment.start, 1000 * segment.start)]
    if len(fitting) > 1:
        raise DataError(
            f"The segment {segment.id} has {len(fitting)} recordings: {listed(sorted(map(str, fitting)))}. Keep one, "
            "or name the folder to read with audio=FOLDER."
        )
    return fitting[0] if fitting else None


def _report_missing(folder: Path, split: str, segments: Sequence[Segment], recordings: Sequence[Recording]) -> None:
    """Warns of segments without a recording; refuses when there is none at all."""
    there = {recording.id for recording in recordings}
    missing = [segment.video for segment in segments if segment.id not in there]
    if not recordings:
        raise DataError(
            f"None of the {len(segments)} segments of the split {split!r} has a recording below {folder} "
            f"({listed(missing)}). {_EXPECTED}"
        )
    if missing:
        warnings.warn(
            f"{len(missing)} of the {len(segments)} segments of the split {split!r} of audioset have no recording "
            f"below {folder} and were left out ({listed(missing)}); scores are of the other {len(recordings)}.",
            MissingClipsWarning,
            stacklevel=4,
        )
