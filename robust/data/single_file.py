"""One recording from the command line, `--audio FILE`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robust.data.audio_io import check_audio
from robust.data.recordings import UNLABELLED, Recording, Recordings
from robust.errors import DataError, unknown


def single_file(path: str | os.PathLike[str], label: str | None, labels: Sequence[str]) -> Recordings:
    """A data set of one clip: the first `clip_seconds` of a file.

    Args:
        path: Any file libsndfile reads.
        label: Its class, or None where nobody knows. The clip's label is then `UNLABELLED` (-1), which tells the
            attack to take the victim's own clean prediction for the label: it asks how hard that is to change.
        labels: The victim's class names.

    Raises:
        DataError: If the file cannot be read as audio, or the victim has no such class.
    """
    if label is not None and label not in labels:
        raise DataError(unknown("class", label, labels))
    check_audio(path)
    index = UNLABELLED if label is None else tuple(labels).index(label)
    file = Path(path)
    return Recordings([Recording(file.name, file, index)], name="file", split="test", labels=labels)
