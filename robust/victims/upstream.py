"""Reading other projects' PyTorch checkpoints: without running code from them, and strictly."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust.errors import CheckpointError

AUDIOSET_CLASSES = 527
STATE_KEYS = ("model", "model_state_dict")
"""Behind which checkpoints keep their state dict, where optimisers and counts stand beside it."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, read without executing anything in it."""
    try:
        with torch.serialization.safe_globals(_inert_numpy()):
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n\n")[-1].strip() or "not a checkpoint"
        raise CheckpointError(
            f"{path} was refused: it is no PyTorch checkpoint, or holds more than weights and could run code when "
            f"read. Save its state dict alone. ({reason.splitlines()[0]})"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in the unpickler, with any error
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: {error}") from error
    state = payload
    if isinstance(payload, Mapping):
        state = next((payload[key] for key in STATE_KEYS if key in payload), payload)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = " or ".join(map(repr, STATE_KEYS))
        raise CheckpointError(f"{path} holds no state dict: expected names to tensors, at the top or behind {keys}.")
    return dict(state)


def _inert_numpy() -> list[Any]:
    """NumPy's array parts: upstream's 16 kHz file keeps its sampler's indices; they hold data and run nothing."""
    reconstruct = np.empty(0).__reduce__()[0]  # NumPy gives it no public name, and moved it in version 2
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Int64DType,
    ]


def check_entries(path: str, model: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Every expected entry must be there in its shape, and no other."""
    problems = []
    for what, keys in (("missing", expected.keys() - given.keys()), ("unexpected", given.keys() - expected.keys())):
        if keys:
            problems.append(f"{len(keys)} {what}: {_few(keys)}")
    other = [
        f"{key} {tuple(given[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & given.keys()
        if given[key].shape != expected[key].shape
    ]
    if other:
        problems.append(f"{len(other)} of another shape: {_few(other)}")
    if problems:
        raise CheckpointError(f"The entries of {path} are not those of {model}: {'; '.join(problems)}.")


def _few(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def labels_beside(path: Path, count: int) -> tuple[str, ...]:
    """Names from `class_labels_indices.csv` (index, mid, display_name) beside the checkpoint, or placeholders."""
    table = path.with_name("class_labels_indices.csv")
    if not table.is_file():
        return tuple(f"class {index}" for index in range(count))
    try:
        with table.open(newline="", encoding="utf-8") as file:
            names = {int(row["index"]): row["display_name"] for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{table} cannot be read as a table with columns index and display_name.") from error
    if sorted(names) != list(range(count)):
        raise CheckpointError(f"{table} names {len(names)} classes; the checkpoint has {count}. Remove or mend it.")
    return tuple(names[index] for index in range(count))
