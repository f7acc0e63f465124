"""Free Spoken Digit Dataset: ten digits, six speakers, 8 kHz mono, `{digit}_{speaker}_{index}.wav`.

Source: Zohar Jackson et al., Free Spoken Digit Dataset, CC BY-SA 4.0. The official test split is index 0 to 4 of every
speaker and digit, training 5 to 49.
"""

from __future__ import annotations

import re
from pathlib import Path

from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.errors import DataError, unknown

DIGITS = tuple("0123456789")

SPLITS = {
    "train": range(8, 50),
    "validation": range(5, 8),  # carved from training for early stopping, so that the test split decides nothing
    "test": range(5),
    "all": range(50),
}
"""Recording indices of each split; train and validation together are the official training split."""

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")


@register_data("fsdd", summary="Free Spoken Digit Dataset: 3,000 real recordings of ten digits, 8 kHz", needs_root=True)
def fsdd(*, split: str, root: Path | None) -> Recordings:
    """Opens one split of the Free Spoken Digit Dataset.

    Args:
        split: `train` (index 8-49), `validation` (5-7), `test` (0-4, the official one) or `all`.
        root: The repository's folder, which holds `recordings/`, or that folder itself.

    Raises:
        DataError: If the split is unknown, or the tree is not the data set's or lacks a digit.
    """
    if split not in SPLITS:
        raise DataError(unknown("split of fsdd", split, SPLITS))
    if root is None:
        raise DataError("fsdd lies on disk; pass --root DIR, the folder that holds recordings/.")
    folder = root / "recordings" if (root / "recordings").is_dir() else root
    found = [(match, path) for path in sorted(folder.glob("*.wav")) if (match := _NAME.fullmatch(path.name))]
    _check_complete(root, "the data set", {match["digit"] for match, _ in found})
    chosen = [
        Recording(path.name, path, int(match["digit"])) for match, path in found if int(match["index"]) in SPLITS[split]
    ]
    _check_complete(root, f"the split {split!r}", {DIGITS[recording.label] for recording in chosen})
    return Recordings(chosen, name="fsdd", split=split, labels=DIGITS)


def _check_complete(root: Path, what: str, digits: set[str]) -> None:
    """Refuses a tree without every digit."""
    expected = "Expected recordings/{digit}_{speaker}_{index}.wav with digits 0-9 and indices 0-49."
    if not digits:
        raise DataError(f"{root} holds no recording of {what} of fsdd, in itself or in recordings/. {expected}")
    if missing := [digit for digit in DIGITS if digit not in digits]:
        raise DataError(f"{root} holds a part of fsdd only: {what} lacks the digits {', '.join(missing)}. {expected}")
