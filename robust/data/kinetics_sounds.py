"""Kinetics-Sounds: the classes of Kinetics that are heard as well as seen, ten-second video clips.

Source: R. Arandjelovic and A. Zisserman, Look, Listen and Learn, ICCV 2017, appendix A.1, which names 34 classes of an
early Kinetics; W. Kay et al., The Kinetics Human Action Video Dataset, 2017. Of the 34, 31 are in Kinetics-400, four of
them renamed (blowing out -> blowing out candles, dribbling ball -> dribbling basketball, mowing the lawn by pushing
lawnmower -> mowing lawn, stomping -> stomping grapes); typing, fingerpicking and patting are not. R. Panda et al.,
AdaMML, ICCV 2021, and most work since use these 31; Y. Tian and C. Xu, CVPR 2021, attack the 27 that kept their names.
"""

from __future__ import annotations

from pathlib import Path

from robust.data.annotations import Table, check_request, read_table
from robust.data.registry import register_data
from robust.data.videos import Row, Videos, open_videos, split_of
from robust.errors import DataError

CLASSES_27 = (
    "blowing nose",
    "bowling",
    "chopping wood",
    "laughing",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)
"""The classes of the original list that Kinetics-400 has under the same name."""

CLASSES_31 = tuple(
    sorted((*CLASSES_27, "blowing out candles", "dribbling basketball", "mowing lawn", "stomping grapes"))
)
"""With those it has under another name."""

CLASSES = {27: CLASSES_27, 31: CLASSES_31}

PATTERN = "{YouTube id}_{start}_{end}.mp4 (seconds, six digits each), in a folder per class or not"

_TABLES = {"train": ("train.csv",), "validation": ("validate.csv", "val.csv"), "test": ("test.csv",)}
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_EXPECTED = (
    "Expected the tables of Kinetics in ROOT or ROOT/annotations: train.csv with validate.csv, test.csv or both (with "
    f"columns {', '.join(_COLUMNS)}), and below ROOT files named {PATTERN}."
)


@register_data("kinetics-sounds", summary="Kinetics-Sounds: 31 actions heard and seen, 10 s of video", needs_root=True)
def kinetics_sounds(*, split: str, root: Path | None, classes: int = 31) -> Videos:
    """Opens one split of Kinetics-Sounds.

    Clips that could not be downloaded are left out and counted. The splits are those of Kinetics. Where `test.csv` is
    missing, `validate.csv` is the test split, as in most work on this set, and a tenth of the training clips of every
    class is held out for validation, chosen by a hash of the video's id; likewise where `validate.csv` is missing.

    Args:
        split: `train`, `validation`, `test` or `all`.
        root: The folder with the tables of Kinetics-400, 600 or 700; the clips lie in it or in any folder below.
        classes: 31, or 27 for the classes whose names never changed.

    Raises:
        DataError: If the split is unknown, `classes` is another number, a table missing or of other columns, or no clip
            is there.
    """
    if classes not in CLASSES or isinstance(classes, bool):
        raise DataError(f"classes={classes!r} of kinetics-sounds must be 27 or 31.")
    root = check_request("kinetics-sounds", split, root)
    labels = CLASSES[classes]
    tables = {part: _rows(table, labels) for part, table in _tables(root).items()}
    rows = split_of(split, tables)
    return open_videos("kinetics-sounds", split, root, rows, labels, pattern=PATTERN)


def _tables(root: Path) -> dict[str, Table]:
    """The tables there are; training and at least one other."""
    paths: dict[str, Path] = {}
    for part, names in _TABLES.items():
        there = [path for folder in (root, root / "annotations") for name in names if (path := folder / name).is_file()]
        if there:
            paths[part] = there[0]
    if "train" not in paths or len(paths) == 1:
        absent = "train.csv" if "train" not in paths else "validate.csv or test.csv"
        raise DataError(f"{root} lacks {absent}. {_EXPECTED}")
    if "test" not in paths:
        paths["test"] = paths.pop("validation")
    return {part: read_table(path, _COLUMNS, expected=_EXPECTED) for part, path in paths.items()}


def _rows(table: Table, labels: tuple[str, ...]) -> list[Row]:
    """The rows of the classes wanted."""
    kept = set(labels)
    columns = (
        table.texts("label"),
        table.texts("youtube_id"),
        table.integers("time_start"),
        table.integers("time_end"),
    )
    rows = [
        Row(f"{source}_{start:06d}_{end:06d}", source, label)
        for label, source, start, end in zip(*columns, strict=True)
        if label in kept
    ]
    if not rows:
        raise DataError(f"{table.path} names no clip of a class of Kinetics-Sounds; is it a table of Kinetics?")
    return rows
