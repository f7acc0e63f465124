"""Original, adversarial and difference recordings to listen to."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from robust.atomic import write_atomically
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd


def save_triples(
    folder: Path, victim: Victim, data: AlignedData, attack: Attack, records: pd.DataFrame, seed: int, count: int = 8
) -> list[Path]:
    """Writes WAV triples of `count` clips, broken ones first, as 32-bit float so that nothing is rounded away.

    The clips are attacked again: results depend on nothing but clip, condition and seed, and the size found is held
    against the record.

    Raises:
        StoreError: If the folder cannot be written, or the attack did not repeat itself.
    """
    import soundfile

    attacked = records[records["attacked"]].sort_values("correct", kind="stable").head(count)
    heard = attack.threat if attack.packing is None else attack.packing.shapes
    if len(attacked) == 0 or "audio" not in heard:
        return []
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(attacked["index"].tolist()).to(device)
    unlabelled = torch.as_tensor(np.stack(attacked["label"].tolist()), device=device)
    batch = type(batch)(batch.ids, batch.inputs, unlabelled.to(batch.labels.dtype), batch.valid)
    after = attack.run(victim, batch, torch.arange(len(batch), device=device), seed).inputs
    before = batch.inputs
    if attack.packing is not None:
        before, after = attack.packing.split(before), attack.packing.split(after)
    found = after["audio"]
    size = (found.double() - before["audio"].double()).norm(dim=1).cpu()
    recorded = torch.tensor(attacked["l2_audio"].tolist(), dtype=torch.float64)
    if device.type == "cpu" and not torch.allclose(size, recorded, rtol=1e-3, atol=1e-9):
        return []
    written = []
    for place, clip in enumerate(batch.ids):
        name = f"{place}-{re.sub(r'[^A-Za-z0-9]+', '-', clip).strip('-')[-60:]}"
        original, changed = before["audio"][place].cpu(), found[place].cpu()
        for kind, sound in (("original", original), ("adversarial", changed), ("difference", changed - original)):
            buffer = io.BytesIO()
            soundfile.write(buffer, sound.numpy(), data.spec.sample_rate, format="WAV", subtype="FLOAT")
            path = folder / "audio" / f"{name}-{kind}.wav"
            write_atomically(path, buffer.getvalue())
            written.append(path)
    return written
