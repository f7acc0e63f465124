"""Modality dominance: which sense a victim believes when they contradict each other.

The pairs come from `robust.evaluation.deletions.Swap`: the sound of one clip with the sight of another. Only pairs that
contradict each other count: the victim has both clips right as they are, and they share no label. Clips serve as
partners more than once; the intervals take the pairs for independent all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robust.errors import StoreError
from robust.evaluation.deletions import label_set
from robust.metrics.classification import Score, accuracy

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("swapped", "label", "clean_prediction", "prediction", "partner_label", "partner_prediction")


@dataclass(frozen=True)
class Dominance:
    """Whose label the victim gives to contradicting pairs; the three shares add up to 1.

    Attributes:
        audio: Share of pairs decided for the label of the sound, with Wilson's 95 % interval.
        video: Share decided for the label of the sight.
        neither: Share decided for a label of neither.
        pairs: How many pairs contradict each other.
        asked: How many were tried.
    """

    audio: Score
    video: Score
    neither: Score
    pairs: int
    asked: int

    def __str__(self) -> str:
        return f"audio {self.audio}, video {self.video}, neither {self.neither} of {self.pairs} pairs"


def dominance(records: pd.DataFrame) -> Dominance:
    """Who decides, from the records of one or several swaps; which modality was swapped may differ between rows.

    With many labels a clip, the victim's highest logit decides, and "right" means that it is a true label.

    Args:
        records: As the engine writes them under `Swap`.

    Raises:
        StoreError: If they are not the records of a swap.
    """
    lacking = [name for name in COLUMNS if name not in records]
    if lacking:
        raise StoreError(f"Dominance is read from the records of a swap; these lack {', '.join(lacking)}.")
    own = [label_set(label) for label in records["label"]]
    other = [label_set(label) for label in records["partner_label"]]
    disjoint = np.array([not one & two for one, two in zip(own, other, strict=True)], dtype=bool)
    right = _among(records["clean_prediction"], own) & _among(records["partner_prediction"], other)
    contradict = disjoint & right
    kept, swapped = (_among(records["prediction"], labels)[contradict] for labels in (own, other))
    sight = records["swapped"].str.startswith("video").to_numpy(dtype=bool)[contradict]
    by_video = np.where(sight, swapped, kept)
    by_audio = np.where(sight, kept, swapped)
    shares = {"audio": by_audio, "video": by_video, "neither": ~(by_audio | by_video)}
    scores = {name: replace(accuracy(hits), metric=f"decided by {name}") for name, hits in shares.items()}
    return Dominance(**scores, pairs=int(contradict.sum()), asked=len(records))


def _among(predictions: Sequence[int], labels: Sequence[frozenset[int]]) -> NDArray[np.bool_]:
    """(N,) whether each prediction is one of the clip's labels."""
    pairs = zip(predictions, labels, strict=True)
    return np.array([int(prediction) in allowed for prediction, allowed in pairs], dtype=bool)
