"""What an attack is to an ear: perceptual figures as columns of records, and their medians."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from attacks.gradients import Victim
from robust.metrics.perceptual import COLUMNS, perceptual_table
from robust.metrics.perceptual_extra import EXTRAS, available
from robust.types import Batch, VictimSpec

if TYPE_CHECKING:
    import pandas as pd

AUDIO = "audio"


def heard(
    victim: Victim, batch: Batch, changed: dict[str, Tensor], prefix: str = "", *, speech: bool = False
) -> dict[str, list[float]]:
    """Figures of every clip whose sound was changed, by `robust.metrics.perceptual`; NaN for the others.

    With `speech`, PESQ and STOI too, as far as their libraries are installed; they take 20 to 100 ms a clip. Nothing
    where no waveform is attacked, or the victim does not say at what rate it hears.
    """
    spec, after = getattr(victim, "spec", None), changed.get(AUDIO)
    before = batch.inputs.get(AUDIO)
    if not isinstance(spec, VictimSpec) or before is None or after is None or before.ndim != 2:
        return {}
    moved = (before != after).any(dim=1)
    rows = moved.nonzero()[:, 0]
    extras = available(spec.sample_rate) if speech else ()
    names = (*COLUMNS, *extras)
    columns = {prefix + name: [math.nan] * len(before) for name in names}
    if len(rows) == 0:
        return columns
    valid = batch.valid[AUDIO].expand_as(before)
    found = perceptual_table(before[rows], after[rows], valid[rows], spec.sample_rate, extras=extras)
    for name in names:
        for row, value in zip(rows.tolist(), found[name], strict=True):
            columns[prefix + name][row] = math.nan if value is None else value
    return columns


def perceptual_medians(records: pd.DataFrame, prefix: str = "") -> dict[str, float | None]:
    """The median of each figure over the clips that have it; empty where records have none."""
    found: dict[str, float | None] = {}
    for name in (*COLUMNS, *EXTRAS):
        if prefix + name in records:
            middle = float(records[prefix + name].astype(float).median())
            found[name] = middle if math.isfinite(middle) else None
    return found
