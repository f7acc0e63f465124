"""Anybody's recordings: a sub-folder per class, any file libsndfile reads.

Two layouts are understood. `root/{class}/...` is divided into folds; `root/{train,test}/{class}/...`, with `validation`
or `val` beside them or not, is taken as it stands. A leading `NNN - ` of a class folder is left out of its name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from robust.data.audio_io import AUDIO_SUFFIXES
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.data.splits import hash_fold, hold_out
from robust.errors import DataError, unknown

SPLITS = ("train", "validation", "test", "all")
VALIDATION_SHARE = 0.1

_LAYOUT = (
    "Expected ROOT/{class}/{file} with two classes or more, or ROOT/train/{class}/{file} and ROOT/test/{class}/{file}."
)
_NUMBERED = re.compile(r"\d+ - (?=\S)")
# ESC-50 and ESC-10 (Piczak 2015): {fold}-{Freesound id}-{take}, with -{target} in ESC-50.
_ESC = re.compile(r"(?P<fold>\d)-(?P<source>\d+)-[A-Z](-\d+)?")

_log = logging.getLogger(__name__)


@register_data("folder", summary="your recordings, a sub-folder per class; any file libsndfile reads", needs_root=True)
def folder(
    *, split: str, root: Path | None, fold: int | None = None, folds: int | None = None, seed: int = 0
) -> Recordings:
    """Opens one split of a folder of recordings.

    Without `train` and `test` folders, the test split is one fold. The fold of a file is the leading digit of its name
    where every file is named as in ESC (`{fold}-{source}-{take}`), otherwise a hash of `seed` and its name without
    suffix; neither changes when files are added. The validation split, unless it has a folder, is a tenth of every
    class of what is left, chosen by hash; files of one ESC source, or of one name, stay together throughout.

    Args:
        split: `train`, `validation`, `test` or `all` (every file, for a victim that was not trained on any).
        root: The folder.
        fold: The fold to test on; the first unless told.
        folds: How many; 5 unless told. ESC names bring their own.
        seed: Chooses the hashed folds and the validation split.

    Raises:
        DataError: If the split or fold is unknown, the layout is none of the two, fewer than two classes are there, or
            a class or the split would be empty.
    """
    if split not in SPLITS:
        raise DataError(unknown("split of folder", split, SPLITS))
    if root is None:
        raise DataError("Your recordings lie on disk; pass --root DIR, the folder that holds a sub-folder per class.")
    tops = _split_folders(root)
    if tops and (fold is not None or folds is not None):
        raise DataError(f"{root} has train and test folders, so there are no folds; leave out fold and folds.")
    files, labels = _read_tree(root, tops or {"all": root})
    if tops:
        files["all"] = [recording for part in tops for recording in files[part]]
    else:
        files |= _divide(root, files["all"], fold, folds, seed)
    if "validation" not in files:
        group_of = _esc_source if _named_as_esc(files["all"]) else _stem
        files["train"], files["validation"] = hold_out(files["train"], group_of, share=VALIDATION_SHARE, seed=seed)
    _check_split(root, split, files[split], labels)
    return Recordings(files[split], name="folder", split=split, labels=labels)


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder, where there are `train` and `test` and they hold folders; else nothing."""
    names = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    tops = {names[top.name.lower()]: top for top in _folders(root) if top.name.lower() in names}
    if not {"train", "test"} <= tops.keys() or not all(_folders(top) for top in tops.values()):
        return {}  # classes may well be called train and test
    return {part: tops[part] for part in ("train", "validation", "test") if part in tops}


def _read_tree(root: Path, tops: dict[str, Path]) -> tuple[dict[str, list[Recording]], tuple[str, ...]]:
    """The recordings below each of `tops`, and the class names in the order of their folders.

    A class must be in the first of `tops`, which is the training split or the only tree.
    """
    found = {part: _classes(top) for part, top in tops.items()}
    first = next(iter(found))
    labels = tuple(found[first])
    if len(labels) < 2:
        raise DataError(f"{tops[first]} holds {len(labels)} class folders; two or more are needed. {_LAYOUT}")
    for part, classes in found.items():
        if strangers := [label for label in classes if label not in labels]:
            raise DataError(
                f"{tops[part]} has a class that {tops[first]} has not. {unknown('class', strangers[0], labels)}"
            )
    recordings = {
        part: [
            Recording(path.relative_to(root).as_posix(), path, labels.index(label))
            for label, paths in classes.items()
            for path in paths
        ]
        for part, classes in found.items()
    }
    return recordings, labels


def _classes(top: Path) -> dict[str, list[Path]]:
    """Class name -> its audio files, sorted; refuses a class folder without any."""
    folders = _folders(top)
    shortened = [_NUMBERED.sub("", folder.name, count=1) for folder in folders]
    names = shortened if len(set(shortened)) == len(folders) else [folder.name for folder in folders]
    classes, skipped = {}, 0
    for name, class_folder in zip(names, folders, strict=True):
        everything = sorted(_files(class_folder))
        classes[name] = [path for path in everything if path.suffix.lower() in AUDIO_SUFFIXES]
        skipped += len(everything) - len(classes[name])
        if not classes[name]:
            others = f"{len(everything)} other files" if everything else "nothing"
            raise DataError(
                f"The class folder {class_folder} holds no audio file, but {others}. Put recordings in it or "
                f"remove it; read are {', '.join(sorted(AUDIO_SUFFIXES))}."
            )
    if skipped:
        _log.info("%s: %d files that are not audio by their suffix were skipped", top, skipped)
    return classes


def _folders(top: Path) -> list[Path]:
    """Sub-folders by name, without hidden ones."""
    try:
        return sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{top} cannot be listed: {error.strerror}. Check that you may read it.") from error


def _files(top: Path) -> Iterator[Path]:
    """All files below `top`, without hidden files and folders."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}. Check that you may read it.") from error

    for here, folders, names in os.walk(top, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if not name.startswith("."))


def _stem(recording: Recording) -> str:
    return recording.path.stem


def _esc_source(recording: Recording) -> str:
    match = _ESC.fullmatch(recording.path.stem)
    return match["source"] if match else recording.path.stem


def _named_as_esc(recordings: Sequence[Recording]) -> bool:
    """Whether every file carries its fold and source in its name."""
    return all(_ESC.fullmatch(recording.path.stem) for recording in recordings)


def _divide(
    root: Path, recordings: Sequence[Recording], fold: int | None, folds: int | None, seed: int
) -> dict[str, list[Recording]]:
    """One fold for the test split, the others for training."""
    if folds is not None and folds < 2:
        raise DataError(f"folds={folds}; two or more are needed, so that something is left to train on.")
    if _named_as_esc(recordings):
        fold_of = {recording.id: int(recording.path.stem[0]) for recording in recordings}
        there = sorted(set(fold_of.values()))
        if folds not in (None, len(there)):
            raise DataError(f"folds={folds}, but the file names in {root} carry {len(there)} folds; leave folds out.")
        _log.info("%s: the folds %s are those in the file names", root, there)
    else:
        there = list(range(1, (folds or 5) + 1))
        fold_of = {recording.id: hash_fold(_stem(recording), folds=len(there), seed=seed) for recording in recordings}
    chosen = there[0] if fold is None else fold
    if chosen not in there:
        raise DataError(unknown("fold", chosen, map(str, there)))
    return {
        "test": [recording for recording in recordings if fold_of[recording.id] == chosen],
        "train": [recording for recording in recordings if fold_of[recording.id] != chosen],
    }


def _check_split(root: Path, split: str, recordings: Sequence[Recording], labels: tuple[str, ...]) -> None:
    """Refuses a split without a file, and a training split without some class."""
    advice = "Add recordings, take another fold, or read every file with the split 'all'."
    if not recordings:
        raise DataError(f"The split {split!r} of {root} is empty: too few files to divide. {advice}")
    there = {recording.label for recording in recordings}
    if split == "train" and len(there) < len(labels):
        absent = [label for index, label in enumerate(labels) if index not in there]
        raise DataError(f"No file of {', '.join(absent)} is left to train on in {root}. {advice}")
