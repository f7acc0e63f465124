"""Google Speech Commands v0.01 (30 words) and v0.02 (35 words): spoken words of 1 s, 16 kHz.

Source: Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, arXiv 1804.03209. The official
split stands in two lists beside the word folders; no speaker is in two of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robust.data.annotations import check_classes, check_files, check_request, listed
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.errors import DataError, unknown

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""The ten words of the paper's keyword task, for `words`."""

_EXPECTED = f"Expected ROOT/{{word}}/*.wav beside ROOT/{LISTS['validation']} and ROOT/{LISTS['test']}."


@register_data(
    "speechcommands", summary="Google Speech Commands: 30 or 35 spoken words, official split", needs_root=True
)
def speechcommands(*, split: str, root: Path | None, words: str | Sequence[str] | None = None) -> Recordings:
    """Opens one split of Google Speech Commands.

    The classes are the words themselves; folders that begin with an underscore (`_background_noise_`) are none. The
    twelve-class task with made-up `_silence_` and `_unknown_` classes is not offered.

    Args:
        split: `test` (testing_list.txt), `validation` (validation_list.txt), `train` (all the others) or `all`.
        root: The folder that holds the word folders and the lists.
        words: Takes these words alone, in this order of labels: a sequence, or one string with commas; None takes all
            in the order of the alphabet. `COMMANDS` are the ten of the keyword task.

    Raises:
        DataError: If the split or a word is unknown, or the tree is not Speech Commands' or a part of it.
    """
    root = check_request("speechcommands", split, root)
    members = {part: _read_list(root / name) for part, name in LISTS.items()}
    if both := sorted(members["test"] & members["validation"]):
        raise DataError(f"{root}: both lists name {listed(both)}; a clip is in one split. Download the lists again.")
    labels = _labels(root, {id.split("/")[0] for part in members.values() for id in part}, words)
    recordings: list[Recording] = []
    for label, word in enumerate(labels):
        named = {part: {id for id in ids if id.startswith(f"{word}/")} for part, ids in members.items()}
        for part, ids in named.items():
            check_files([root / id for id in sorted(ids)], root=root, name="speechcommands", source=LISTS[part])
        there = {f"{word}/{path.name}" for path in (root / word).glob("*.wav")}
        chosen = {"all": there, "train": there - named["test"] - named["validation"], **named}[split]
        recordings += [Recording(id, root / id, label) for id in sorted(chosen)]
    check_classes(recordings, labels, name="speechcommands", split=split)
    return Recordings(recordings, name="speechcommands", split=split, labels=labels)


def _read_list(path: Path) -> set[str]:
    """The clips, `word/file.wav`, that a list names."""
    try:
        lines = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {_EXPECTED}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). {_EXPECTED}") from error
    if odd := sorted(line for line in lines if line.count("/") != 1):
        raise DataError(f"{path} names {listed(odd)}; every line must be of the form word/file.wav.")
    if not lines:
        raise DataError(f"{path} is empty. Copy or download it again.")
    return lines


def _labels(root: Path, listed_words: set[str], words: str | Sequence[str] | None) -> tuple[str, ...]:
    """The words asked for, or all; each must be in the lists and have a folder."""
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    if words is None:
        chosen = tuple(sorted(folders | listed_words))
    else:
        chosen = tuple(word.strip() for word in (words.split(",") if isinstance(words, str) else words))
    for word in chosen:
        if word not in folders | listed_words:
            raise DataError(unknown("word of speechcommands", word, folders | listed_words))
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise DataError(f"words={', '.join(chosen)}: give two different words or more, each once.")
    if absent := [word for word in chosen if word not in folders]:
        raise DataError(
            f"{root} holds a part of speechcommands only: {len(absent)} of the {len(chosen)} word folders are missing "
            f"({listed(absent)}). {_EXPECTED}"
        )
    return chosen
