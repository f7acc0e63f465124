"""The reference of mCE: a small model's errors under every corruption, clip by clip.

Pinned is the embedded `m5` on the test split of `events`: `robust/corruptions/reference-m5-events.json`, made by
`experiments/benchmarks/corruption_reference.py`, which also holds the hash of its weights. Clip by clip, so that any
part of the split has its own figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.corruptions.base import CORRUPTIONS
from robust.corruptions.rendering import VERSION
from robust.metrics.multilabel import bootstrap_weights

Floats = NDArray[np.float64]
PINNED = "reference-m5-events.json"


@dataclass(frozen=True)
class Reference:
    """Errors of a reference model on the clips of a run.

    Attributes:
        cells: (corruption, severity) -> (1 + D,) error, and under bootstrap draws of the clips.
        told: For summaries: model, hash of its weights, where its errors are from.
    """

    cells: Mapping[tuple[str, int], Floats]
    told: Mapping[str, Any]

    def errors(self, corruption: str, severities: Sequence[int], draws: int) -> Floats | None:
        """(1 + S, 1 + D) errors on clean clips and at each severity; None where one is not known."""
        keys = [("clean", 0), *((corruption, severity) for severity in severities)]
        if any(key not in self.cells or len(self.cells[key]) != 1 + draws for key in keys):
            return None
        return np.stack([self.cells[key] for key in keys])


def pinned_reference(ids: Sequence[str], resamples: int, seed: int = 0) -> tuple[Reference | None, str | None]:
    """The pinned reference on these clips, or why there is none.

    Args:
        ids: Of the clips, in the order of the data.
        resamples: Bootstrap draws, those of `Scored`.
        seed: Of the draws.
    """
    table = pinned_table()
    if table is None:
        return None, "the pinned reference is not installed; give --reference MODEL"
    if table["version"] != VERSION:
        return None, "the pinned reference is of an earlier version of the corruptions; give --reference MODEL"
    places = {name: place for place, name in enumerate(_ids(table))}
    if any(one not in places for one in ids):
        return None, f"the pinned reference knows {table['data']} alone; give --reference MODEL"
    chosen = np.array([places[one] for one in ids])
    weights = np.concatenate(bootstrap_weights(len(ids), resamples, seed))
    cells = {}
    for name, told in table["cells"].items():
        if name != "clean" and (name not in CORRUPTIONS or list(CORRUPTIONS[name].values) != told["values"]):
            continue
        severities = (0,) if name == "clean" else CORRUPTIONS[name].severities
        for severity, text in zip(severities, told["right"], strict=True):
            wrong = 1.0 - from_hex(text, len(places))[chosen]
            cells[name, severity] = np.concatenate([[wrong.mean()], weights @ wrong / len(wrong)])
    return Reference(cells, {name: table[name] for name in ("model", "weights", "data", "seed")}), None


@cache
def pinned_table() -> dict[str, Any] | None:
    """The content of the file, or None where there is none."""
    file = resources.files("robust.corruptions") / PINNED
    return json.loads(file.read_text()) if file.is_file() else None


def to_hex(right: NDArray[np.bool_]) -> str:
    """(N,) bool as hexadecimal digits, the first clip first."""
    return np.packbits(right).tobytes().hex()


def from_hex(text: str, count: int) -> NDArray[np.bool_]:
    """The inverse of `to_hex`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=count).astype(bool)


def _ids(table: Mapping[str, Any]) -> list[str]:
    first, last = table["ids"]
    stem, width = first[:-6], 6
    return [f"{stem}{number:0{width}d}" for number in range(int(first[-6:]), int(last[-6:]) + 1)]
