"""Original, adversarial and difference recordings to listen to."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robust.atomic import Folder, write_atomically
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Again:
    """Clips attacked once more, to be kept in full.

    Attributes:
        ids: (B) clips, broken ones first.
        before, after: Modality -> (B, ...) inputs without and with the attack; a joint budget is taken apart.
    """

    ids: Sequence[str]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


def attack_again(
    victim: Victim, data: AlignedData, attack: Attack, records: pd.DataFrame, seed: int, count: int, modality: str
) -> Again | None:
    """Attacks `count` clips again, broken ones first, for what was done to `modality`.

    Results depend on nothing but clip, condition and seed, and the size found is held against the record: None where
    they differ (another processor), where the attack leaves the modality alone, or where no clip was attacked.
    """
    attacked = kept_clips(records, count)
    touched = attack.threat if attack.packing is None else attack.packing.shapes
    if len(attacked) == 0 or modality not in touched:
        return None
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(attacked["index"].tolist()).to(device)
    unlabelled = torch.as_tensor(np.stack(attacked["label"].tolist()), device=device)
    batch = type(batch)(batch.ids, batch.inputs, unlabelled.to(batch.labels.dtype), batch.valid)
    after = attack.run(victim, batch, torch.arange(len(batch), device=device), seed).inputs
    before = batch.inputs
    if attack.packing is not None:
        before, after = attack.packing.split(before), attack.packing.split(after)
    size = (after[modality].double() - before[modality].double()).flatten(1).norm(dim=1).cpu()
    recorded = torch.tensor(attacked[f"l2_{modality}"].tolist(), dtype=torch.float64)
    if device.type == "cpu" and not torch.allclose(size, recorded, rtol=1e-3, atol=1e-9):
        return None
    return Again(batch.ids, before, after)


def kept_clips(records: pd.DataFrame, count: int) -> pd.DataFrame:
    """Records of the clips of which examples are kept, in their order: attacked ones, broken ones first."""
    return records[records["attacked"]].sort_values("correct", kind="stable").head(count)


def clip_stem(place: int, clip: str) -> str:
    """How the names of the files of the clip at `place` begin."""
    return f"{place}-{re.sub(r'[^A-Za-z0-9]+', '-', clip).strip('-')[-60:]}"


def save_triples(
    folder: Folder, victim: Victim, data: AlignedData, attack: Attack, records: pd.DataFrame, seed: int, count: int = 8
) -> list[Folder]:
    """Writes WAV triples of `count` clips, broken ones first, as 32-bit float so that nothing is rounded away.

    The clips are attacked again, see `attack_again`; nothing is written where that gives None.

    Raises:
        StoreError: If the folder cannot be written.
    """
    again = attack_again(victim, data, attack, records, seed, count, "audio")
    if again is None:
        return []
    written = []
    for place, clip in enumerate(again.ids):
        original, changed = again.before["audio"][place].cpu(), again.after["audio"][place].cpu()
        for kind, sound in (("original", original), ("adversarial", changed), ("difference", changed - original)):
            path = folder / "audio" / f"{clip_stem(place, clip)}-{kind}.wav"
            written.append(save_sound(path, sound, data.spec.sample_rate))
    return written


def save_sound(path: Folder, sound: Tensor, sample_rate: int) -> Folder:
    """Writes a waveform (T,) as 32-bit float WAV, so that nothing is rounded away; the same path.

    Raises:
        StoreError: If it cannot be written.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, sound.detach().cpu().numpy(), sample_rate, format="WAV", subtype="FLOAT")
    write_atomically(path, buffer.getvalue())
    return path
