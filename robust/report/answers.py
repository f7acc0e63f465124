"""What a victim said of a clip, from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robust.report.formats import percent

MOST_LABELS = 5


def answer(row: Mapping[str, Any], side: str, labels: Sequence[str], task: str) -> str:
    """What the victim said of a clip, and how sure it was."""
    logits = np.asarray(row[f"{side}logits"], dtype=np.float64)
    if task == "multilabel":
        chances = 1 / (1 + np.exp(-logits))
        told = [place for place in np.argsort(-logits, kind="stable").tolist() if logits[place] > 0]
        some = ", ".join(f"{labels[place]} {percent(chances[place])}" for place in told[:MOST_LABELS])
        more = f" and {len(told) - MOST_LABELS} more" if len(told) > MOST_LABELS else ""
        return some + more if told else f"no label (nearest: {labels[int(logits.argmax())]} {percent(chances.max())})"
    shares = np.exp(logits - logits.max())
    answer = int(row[f"{side}prediction"])
    return f"{labels[answer]} {percent(float(shares[answer] / shares.sum()))}"
