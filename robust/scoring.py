"""The score of a victim on a data set, nothing done to it."""

from __future__ import annotations

import torch

from attacks.gradients import Oracle, frozen
from robust.evaluation.engine import AlignedData
from robust.evaluation.progress import track
from robust.metrics.classification import Score, accuracy, mean_average_precision
from robust.types import Dataset
from robust.victims.base import Victim


def score(victim: Victim, data: Dataset, batch_size: int = 64) -> Score:
    """The score of a victim on a data set, nothing done to it."""
    aligned = AlignedData(data, victim.spec)
    device = victim_device(victim)
    found, truth = [], []
    with frozen(victim):
        for first in track(range(0, len(aligned), batch_size), "Scoring"):
            batch = aligned.batch(range(first, min(first + batch_size, len(aligned)))).to(device)
            rows = torch.arange(len(batch), device=device)
            found.append(Oracle(victim, len(batch), device).logits(batch.inputs, rows).cpu())
            truth.append(batch.labels.cpu())
    logits, labels = torch.cat(found), torch.cat(truth)
    if labels.ndim == 1:
        return accuracy((logits.argmax(dim=1) == labels).numpy())
    return mean_average_precision(logits.numpy(), labels.numpy())


def victim_device(victim: Victim) -> torch.device:
    """Where the victim's parameters lie."""
    return next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))


__all__ = ["score", "victim_device"]
