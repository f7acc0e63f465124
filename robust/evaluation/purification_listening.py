"""Recordings of a run against a purifier: clean, adversarial, and what the purifier makes of the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.gradients import frozen
from robust.atomic import Folder
from robust.evaluation.engine import AlignedData
from robust.evaluation.listening import clip_stem, save_sound
from robust.evaluation.purification import Purification
from robust.evaluation.purification_masking import clips_of
from robust.evaluation.purification_summary import shares
from robust.evaluation.purifier_versions import SCORING, UNPERTURBED
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

LISTENED = 4


def save_purified(
    folder: Folder, victim: Victim, data: AlignedData, condition: Purification, records: pd.DataFrame, seed: int
) -> list[Folder]:
    """Writes WAVs of a few attacked clips, those that stand least often first.

    Each is attacked again by the attack that did worst to it. Where the size found is not that of the record (another
    processor), nothing is written.

    Raises:
        StoreError: If the folder cannot be written.
    """
    attacked = records[records["attacked"] & (records["worst"] != UNPERTURBED)]
    few = attacked.assign(share=shares(attacked, "worst")).sort_values("share", kind="stable").head(LISTENED)
    places = {clip: place for place, clip in enumerate(few["id"])}
    written = []
    for name, rows in few.groupby("worst", sort=False):
        batch, clean = clips_of(victim, data, rows)
        goal = condition.attack.goal(batch.labels, clean)
        with frozen(victim):
            _, changed = condition.run(str(name), victim, batch, goal, seed)
        before, after = (one.inputs[condition.modality] for one in (batch, changed))
        recorded = torch.tensor(rows[f"l2_{condition.modality}"].tolist(), dtype=torch.float64)
        size = (after.double() - before.double()).norm(dim=1).cpu()
        if not torch.allclose(size, recorded, rtol=1e-3, atol=1e-9):
            continue
        cleaned = condition.purified(changed, condition.draw(SCORING, 0, changed, seed))
        kinds = {"clean": before, "adversarial": after, "purified-adversarial": cleaned}
        for row, clip in enumerate(batch.ids):
            for kind, sounds in kinds.items():
                path = folder / "audio" / f"{clip_stem(places[clip], clip)}-{kind}.wav"
                written.append(save_sound(path, sounds[row], victim.spec.sample_rate))
    return written
