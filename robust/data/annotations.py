"""What the makers of a data set wrote beside its recordings: tables, class lists, folds, and the files these name."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robust.data.recordings import Recording
from robust.errors import DataError, unknown

SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Table:
    """A CSV file whose columns were checked; `lines` says where in the file each row stands."""

    path: Path
    rows: tuple[Mapping[str, str], ...]
    lines: tuple[int, ...]

    def texts(self, column: str) -> tuple[str, ...]:
        """The cells of a column without spaces around them; a `DataError` names the line of an empty one."""
        found = tuple(row[column].strip() for row in self.rows)
        if "" in found:
            raise DataError(f"{self.path}, line {self.lines[found.index('')]}: the column {column!r} is empty.")
        return found

    def integers(self, column: str, allowed: Sequence[int] | None = None) -> tuple[int, ...]:
        """The whole numbers of a column; a `DataError` names the line of what is none, or none of `allowed`."""
        found = []
        for text, line in zip(self.texts(column), self.lines, strict=True):
            number = int(text) if re.fullmatch(r"[+-]?\d+", text) else None
            if number is None or (allowed is not None and number not in allowed):
                wanted = "a whole number" if allowed is None else f"one of {', '.join(map(str, allowed))}"
                raise DataError(f"{self.path}, line {line}: the column {column!r} holds {text!r}, not {wanted}.")
            found.append(number)
        return tuple(found)

    def classes(self, index: str, name: str) -> dict[int, str]:
        """Class number -> class name, by number; a `DataError` where one has two of the other."""
        names: dict[int, str] = {}
        numbers: dict[str, int] = {}
        for number, text, line in zip(self.integers(index), self.texts(name), self.lines, strict=True):
            if names.setdefault(number, text) != text or numbers.setdefault(text, number) != number:
                raise DataError(
                    f"{self.path}, line {line}: {index} {number} with {name} {text!r} contradicts an earlier line; "
                    "every class has one number and one name."
                )
        return dict(sorted(names.items()))

    def class_list(self, index: str, name: str) -> tuple[str, ...]:
        """Class names of a table with one row a class, numbered 0, 1, 2, ... in any order."""
        names = self.classes(index, name)
        if sorted(self.integers(index)) != list(range(len(names))):
            raise DataError(
                f"{self.path} must number its classes 0 to {len(self.rows) - 1} in the column {index!r}, each once. "
                "Copy or download it again."
            )
        return tuple(names.values())


def read_table(path: Path, columns: Sequence[str], *, expected: str) -> Table:
    """Reads a CSV file whose first line names its columns.

    Args:
        path: The file, UTF-8.
        columns: Those that must be there; others are left aside.
        expected: How the data set lies on disk, a sentence for the error of a missing file.

    Raises:
        DataError: If the file or a column is missing, it holds no row, or a row has too few cells.
    """
    rows, lines = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            there = reader.fieldnames or ()
            if absent := [column for column in columns if column not in there]:
                raise DataError(
                    f"{path} lacks the columns {', '.join(absent)}; its first line names {', '.join(there) or 'none'}."
                )
            for row in reader:
                rows.append({column: row[column] or "" for column in columns})  # None where a row is short
                lines.append(reader.line_num)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {expected}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}). Copy or download it again.") from error
    if not rows:
        raise DataError(f"{path} names its columns but holds no row. Copy or download it again.")
    return Table(path, tuple(rows), tuple(lines))


def check_request(name: str, split: str, root: Path | None) -> Path:
    """The root of a data set on disk; a `DataError` where it or a known split was not given."""
    if split not in SPLITS:
        raise DataError(unknown(f"split of {name}", split, SPLITS))
    if root is None:
        raise DataError(f"The data set {name!r} lies on disk; pass its folder with --root DIR.")
    return root


def folds_of(split: str, fold: int | None, folds: Sequence[int], *, name: str) -> frozenset[int]:
    """The folds that make up a split: `fold` tests, the one after it (round) validates, the others train.

    That is the rotation of the HEAR benchmark (Turian et al. 2022); no fold is ever divided. The first fold tests
    unless another is asked for.

    Raises:
        DataError: If there is no such fold.
    """
    chosen = folds[0] if fold is None else fold
    if chosen not in folds:
        raise DataError(unknown(f"fold of {name}", fold, map(str, folds)))
    following = folds[(folds.index(chosen) + 1) % len(folds)]
    parts = {"test": {chosen}, "validation": {following}, "all": set(folds)}
    return frozenset(parts.get(split, set(folds) - {chosen, following}))


def check_files(paths: Collection[Path], *, root: Path, name: str, source: str) -> None:
    """Refuses a tree that lacks some of the files that `source` names, and a source that names one twice."""
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise DataError(f"{root / source} names {len(twice)} files twice ({listed([path.name for path in twice])}).")
    missing = missing_files(paths)
    if not missing:
        return
    folders = sorted({str(path.parent.relative_to(root)) for path in missing if not path.parent.is_dir()})
    absent = f" There is no folder {listed(folders)}." if folders else ""
    raise DataError(
        f"{root} holds a part of {name} only: {len(missing)} of the {len(paths)} files that {source} names are not "
        f"there ({listed([str(path.relative_to(root)) for path in missing])}).{absent} Copy or download the rest."
    )


def missing_files(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that are not there; each folder is listed once, which is quick where the disk is far."""
    names: dict[Path, frozenset[str]] = {}
    absent = []
    for path in paths:
        if path.parent not in names:
            names[path.parent] = frozenset(os.listdir(path.parent)) if path.parent.is_dir() else frozenset()
        if path.name not in names[path.parent]:
            absent.append(path)
    return absent


def check_classes(recordings: Sequence[Recording], labels: Sequence[str], *, name: str, split: str) -> None:
    """Refuses a split that lacks a class of its set."""
    there = {recording.label for recording in recordings}
    if absent := [label for index, label in enumerate(labels) if index not in there]:
        raise DataError(
            f"The split {split!r} of {name} lacks {len(absent)} of the {len(labels)} classes ({listed(absent)}): its "
            "table is a part of the set's only. Copy or download it again."
        )


def listed(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
