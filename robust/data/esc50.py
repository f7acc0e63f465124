"""ESC-50: 2,000 environmental recordings of 5 s in 50 classes and 5 folds, and its part ESC-10.

Source: Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015. Clips of one source recording
lie in one fold, so folds are the only division that tests on sources never trained on.
"""

from __future__ import annotations

from pathlib import Path

from robust.data.annotations import check_classes, check_files, check_request, folds_of, read_table
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.errors import DataError

FOLDS = (1, 2, 3, 4, 5)

_TABLE = "meta/esc50.csv"
_COLUMNS = ("filename", "fold", "target", "category", "esc10")
_EXPECTED = f"Expected ROOT/{_TABLE} with the columns {', '.join(_COLUMNS)}, and ROOT/audio/*.wav."


@register_data("esc50", summary="ESC-50 (or ESC-10): environmental sounds in 5 folds, 50 classes", needs_root=True)
def esc50(*, split: str, root: Path | None, fold: int | None = None, esc10: bool = False) -> Recordings:
    """Opens one split of ESC-50 as its repository lays it out.

    The field tests on every fold in turn and averages; one fold is opened at a time here. Labels stand in the order of
    `target`; those of ESC-10 are renumbered 0 to 9 in that order.

    Args:
        split: `test` (the fold), `validation` (the fold after it, 1 after 5), `train` (the other three) or `all`.
        root: The repository's folder.
        fold: The fold to test on, 1 to 5; 1 unless told.
        esc10: Takes the 10 classes of ESC-10 alone.

    Raises:
        DataError: If the split or fold is unknown, or the tree is not ESC-50's or a part of it.
    """
    root = check_request("esc50", split, root)
    chosen = folds_of(split, fold, FOLDS, name="esc50")
    table = read_table(root / _TABLE, _COLUMNS, expected=_EXPECTED)
    names = table.classes("target", "category")
    columns = table.texts("filename"), table.integers("fold", FOLDS), table.integers("target"), table.texts("esc10")
    rows = [row for row in zip(*columns, strict=True) if row[3].lower() == "true" or not esc10]
    if not rows:
        raise DataError(f"{table.path} has no row with esc10 = True. Copy or download it again.")
    targets = sorted({target for _, _, target, _ in rows})
    labels = [names[target] for target in targets]
    check_files([root / "audio" / name for name, *_ in rows], root=root, name="esc50", source=_TABLE)
    recordings = [
        Recording(f"audio/{name}", root / "audio" / name, targets.index(target))
        for name, its_fold, target, _ in rows
        if its_fold in chosen
    ]
    check_classes(recordings, labels, name="esc50", split=split)
    return Recordings(recordings, name="esc50", split=split, labels=labels)
