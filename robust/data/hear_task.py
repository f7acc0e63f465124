"""Any scene task of the HEAR benchmark as its preprocessing leaves it on disk.

Source: Turian et al., HEAR: Holistic Evaluation of Audio Representations, PMLR 176, 2022. A task folder
`{task}-{version}-{mode}` holds `task_metadata.json`, `labelvocabulary.csv` (idx, label), for every split `{split}.json`
({file: [labels]}) and the audio as `{sample_rate}/{split}/{file}`, the same clips at one rate or several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust.data.annotations import check_files, check_request, folds_of, listed, read_table
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.errors import DataError, unknown
from robust.types import Task

_EXPECTED = (
    "Expected the folder of one HEAR task: task_metadata.json, labelvocabulary.csv, {split}.json and "
    "{sample_rate}/{split}/*.wav."
)
_TASKS: Mapping[str, Task] = {"multiclass": "multiclass", "multilabel": "multilabel"}
_FIXED = {"train": "train", "validation": "valid", "test": "test"}


class HearTask(Recordings):
    """Recordings that lie there at several rates; a victim's own is read where it is, else the highest is resampled.

    Attributes:
        rates: Sample rate in Hz -> its folder.
    """

    def __init__(self, recordings: Sequence[Recording], *, rates: Mapping[int, Path], **described: Any) -> None:
        super().__init__(recordings, **described)
        self.rates = dict(sorted(rates.items()))

    def path_for(self, index: int, sample_rate: int) -> Path:
        return self.rates.get(sample_rate, self.rates[max(self.rates)]) / self.recordings[index].id

    def paths(self, index: int) -> tuple[Path, ...]:
        return tuple(self.rates[rate] / self.recordings[index].id for rate in sorted(self.rates))


@register_data("hear-task", summary="a scene task of the HEAR benchmark, one or many labels a clip", needs_root=True)
def hear_task(*, split: str, root: Path | None, fold: int | None = None) -> HearTask:
    """Opens one split of a HEAR task.

    Event tasks are refused: they are scored by what is heard when, and a clip labelled with all its events would claim
    some that lie beyond the seconds a victim hears.

    Args:
        split: `train`, `validation` (`valid` on disk), `test` or `all`. A task in folds is rotated as HEAR does: one
            fold tests, the next one (round) validates, the others train.
        root: The task's folder.
        fold: The fold to test on, by the number in its name (0 for `fold00`); the first unless told.

    Raises:
        DataError: If the split or fold is unknown, the task is an event task, or the tree is no HEAR task's or a part
            of one.
    """
    root = check_request("hear-task", split, root)
    metadata = _read_json(root / "task_metadata.json")
    task = _task(root, metadata)
    parts = _parts(root, metadata, split, fold)
    labels = read_table(root / "labelvocabulary.csv", ("idx", "label"), expected=_EXPECTED).class_list("idx", "label")
    rates = {int(path.name): path for path in root.iterdir() if path.is_dir() and path.name.isdecimal()}
    if not rates:
        raise DataError(f"{root} has no folder named after a sample rate, such as 16000. {_EXPECTED}")
    recordings = []
    for part in parts:
        names = _read_json(root / f"{part}.json")
        for folder in rates.values():
            check_files([folder / part / name for name in names], root=root, name="the task", source=f"{part}.json")
        for name, heard in sorted(names.items()):
            found = _indices(root / f"{part}.json", name, heard, labels, task)
            id, path = f"{part}/{name}", rates[max(rates)] / part / name
            one_label = task == "multiclass"
            recordings.append(Recording(id, path, label=found[0]) if one_label else Recording(id, path, heard=found))
    return HearTask(recordings, rates=rates, name="hear-task", split=split, labels=labels, task=task)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; it must hold something."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {_EXPECTED}") from error
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
        raise DataError(f"{path} cannot be read as JSON ({error}). Copy or unpack the task again.") from error
    if not isinstance(found, dict) or not found:
        raise DataError(f"{path} must hold a JSON object with something in it. Copy or unpack the task again.")
    return found


def _setting(root: Path, metadata: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    """A value of `task_metadata.json` that must be one of a few."""
    if key not in metadata:
        raise DataError(f"{root / 'task_metadata.json'} lacks {key!r}, which is one of {', '.join(allowed)}.")
    value = metadata[key]
    if value not in allowed:
        raise DataError(f"{root / 'task_metadata.json'}: {unknown(key, value, allowed)}")
    return str(value)


def _task(root: Path, metadata: Mapping[str, Any]) -> Task:
    """The kind of prediction; refuses event tasks."""
    if _setting(root, metadata, "embedding_type", ("scene", "event")) == "event":
        raise DataError(
            f"{root} is an event task, scored by what is heard when; clips with labels for their whole length are read "
            "here. Take a scene task."
        )
    return _TASKS[_setting(root, metadata, "prediction_type", tuple(_TASKS))]


def _parts(root: Path, metadata: Mapping[str, Any], split: str, fold: int | None) -> list[str]:
    """Names on disk of what makes up a split."""
    mode = _setting(root, metadata, "split_mode", ("trainvaltest", "presplit_kfold", "new_split_kfold"))
    if mode == "trainvaltest":
        if fold is not None:
            raise DataError(f"{root} is divided into train, valid and test, so there are no folds; leave out fold.")
        return list(_FIXED.values()) if split == "all" else [_FIXED[split]]
    names = metadata.get("splits") or [f"fold{number:02d}" for number in range(_fold_count(root, metadata))]
    numbers = {int(name[4:]): name for name in map(str, names) if name[:4] == "fold" and name[4:].isdecimal()}
    if len(numbers) < max(3, len(names)):
        raise DataError(
            f"{root / 'task_metadata.json'} has the splits {listed(list(map(str, names)))}; a task in folds needs "
            "three or more, named fold00, fold01, ..."
        )
    return [numbers[number] for number in sorted(folds_of(split, fold, sorted(numbers), name=root.name))]


def _fold_count(root: Path, metadata: Mapping[str, Any]) -> int:
    count = metadata.get("nfolds")
    if not isinstance(count, int):
        raise DataError(f"{root / 'task_metadata.json'} has neither 'splits' nor a number 'nfolds' for its folds.")
    return count


def _indices(path: Path, name: str, heard: Any, labels: Sequence[str], task: Task) -> tuple[int, ...]:
    """The indices of a clip's labels; one where the task is multiclass."""
    if not isinstance(heard, list) or any(isinstance(label, dict | list) for label in heard):
        raise DataError(f"{path}: {name!r} must have a list of labels, not {str(heard)[:60]!r}.")
    found = sorted({str(label) for label in heard})
    if strangers := [label for label in found if label not in labels]:
        raise DataError(f"{path}, {name!r}: {unknown('label', strangers[0], labels)}")
    if task == "multiclass" and len(found) != 1:
        raise DataError(f"{path}: {name!r} has {len(found)} labels; a multiclass task has one label a clip.")
    return tuple(sorted(labels.index(label) for label in found))
