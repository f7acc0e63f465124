"""UrbanSound8K: 8,732 city sounds of up to 4 s in 10 classes and 10 folds.

Source: Salamon, Jacoby and Bello, A Dataset and Taxonomy for Urban Sound Research, ACM Multimedia 2014. Slices of one
Freesound recording lie in one fold; its authors ask that folds never be mixed, since slices of one recording in both
training and test make scores too high. No option here divides a fold.
"""

from __future__ import annotations

from pathlib import Path

from robust.data.annotations import check_classes, check_files, check_request, folds_of, read_table
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data

FOLDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)

_TABLE = "metadata/UrbanSound8K.csv"
_COLUMNS = ("slice_file_name", "fold", "classID", "class")
_EXPECTED = f"Expected ROOT/{_TABLE} with the columns {', '.join(_COLUMNS)}, and ROOT/audio/fold1 to fold10."


@register_data("urbansound8k", summary="UrbanSound8K: city sounds in 10 folds, 10 classes", needs_root=True)
def urbansound8k(*, split: str, root: Path | None, fold: int | None = None) -> Recordings:
    """Opens one split of UrbanSound8K.

    The field tests on every fold in turn and averages; one fold is opened at a time here. Labels stand in the order of
    `classID`.

    Args:
        split: `test` (the fold), `validation` (the fold after it, 1 after 10), `train` (the other eight) or `all`.
        root: The folder that holds `audio/` and `metadata/`.
        fold: The fold to test on, 1 to 10; 1 unless told.

    Raises:
        DataError: If the split or fold is unknown, or the tree is not UrbanSound8K's or a part of it.
    """
    root = check_request("urbansound8k", split, root)
    chosen = folds_of(split, fold, FOLDS, name="urbansound8k")
    table = read_table(root / _TABLE, _COLUMNS, expected=_EXPECTED)
    names = table.classes("classID", "class")
    numbers, labels = list(names), list(names.values())
    folds, targets = table.integers("fold", FOLDS), table.integers("classID")
    ids = [f"audio/fold{its_fold}/{name}" for its_fold, name in zip(folds, table.texts("slice_file_name"), strict=True)]
    check_files([root / id for id in ids], root=root, name="urbansound8k", source=_TABLE)
    recordings = [
        Recording(id, root / id, numbers.index(target))
        for id, its_fold, target in zip(ids, folds, targets, strict=True)
        if its_fold in chosen
    ]
    check_classes(recordings, labels, name="urbansound8k", split=split)
    return Recordings(recordings, name="urbansound8k", split=split, labels=labels)
