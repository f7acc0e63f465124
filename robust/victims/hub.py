"""What every loader of Hugging Face checkpoints needs: the raw configuration, labels, task, and words for failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robust.errors import VictimError
from robust.types import Task
from robust.victims.upstream import AUDIOSET_CLASSES

MULTILABEL = "multi_label_classification"


def raw_config(source: str, kind: str) -> dict[str, Any]:
    """The checkpoint's `config.json`, unvalidated.

    Args:
        source: A hub id or a local directory.
        kind: What it was meant to be, for messages: `AST checkpoint`.

    Raises:
        VictimError: If there is none, or it cannot be fetched.
    """
    from transformers import PreTrainedConfig

    raw: dict[str, Any]
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source)
    except Exception as error:  # the hub's client fails in many ways: no such id, no network, not an id at all
        raise VictimError(
            f"No {kind} at {source!r}: {where(source)}. Give a directory with config.json and "
            f"model.safetensors, or a hub id that is reachable or cached. ({first_line(error)})"
        ) from error
    if not raw:
        raise VictimError(f"No {kind} at {source!r}: {where(source)}, and found no config.json.")
    return raw


def labels_of(config: Any) -> tuple[str, ...]:
    """Class names of a transformers configuration, in the order of the logits."""
    return tuple(config.id2label[index] for index in sorted(config.id2label))


def task_of(config: Any) -> Task:
    """The task of a checkpoint: its `problem_type`; without one, multilabel for AudioSet's 527 classes alone."""
    problem = config.problem_type or (MULTILABEL if len(config.id2label) == AUDIOSET_CLASSES else "")
    return "multilabel" if problem == MULTILABEL else "multiclass"


def unfitting(info: Mapping[str, Iterable[Any]], whats: Iterable[str], ignored: tuple[str, ...] = ()) -> str:
    """What of transformers' loading report speaks against a checkpoint, in words; empty where nothing does.

    Args:
        info: The report of `from_pretrained(output_loading_info=True)`.
        whats: Entries of the report that are to be empty: `missing_keys`, ...
        ignored: Beginnings of keys that do not matter.
    """
    problems = []
    for what in whats:
        keys = sorted(_key(entry) for entry in info.get(what) or () if not _key(entry).startswith(ignored or ("\0",)))
        if keys:
            problems.append(f"{len(keys)} {what.replace('_', ' ')}: {', '.join(keys[:3])}")
    return "; ".join(problems)


def _key(entry: Any) -> str:
    """The name in an entry of the report; mismatched ones come with their shapes."""
    return str(entry[0] if isinstance(entry, tuple | list) else entry)


def where(source: str) -> str:
    """What was tried, for messages."""
    return "tried the directory of that name" if Path(source).is_dir() else "no such directory; tried the model hub"


def first_line(error: Exception) -> str:
    """The first line of what another library had to say."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
