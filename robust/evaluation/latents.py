"""Where clips lie in a victim's latent spaces before and after an attack, in two dimensions.

The map is fitted on the clean latents alone; adversarial ones go through the same map, so that what moves on the
picture has moved in the latent space.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, frozen, pad_to_lanes
from attacks.losses import Goal
from robust.errors import DataError
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import aligned_to, checked_batch, fitting_batch
from robust.evaluation.landscape import label_name
from robust.evaluation.progress import track
from robust.threats import posed
from robust.types import Batch, Dataset, Inputs
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("pca", "lda")
CLEAN, ADVERSARIAL = "clean", "adversarial"
Array = NDArray[np.float64]


@dataclass
class _Gathered:
    """What is known of all clips in one state, part by part."""

    latents: dict[str, list[Tensor]]
    correct: list[bool]

    def add(self, victim: Victim, inputs: Inputs, labels: Tensor) -> None:
        padded, count = pad_to_lanes(inputs)
        with torch.no_grad():
            for name, latent in victim.embed(padded).items():
                over_time = latent.mean(dim=tuple(range(1, latent.ndim - 1))) if latent.ndim > 2 else latent
                self.latents.setdefault(name, []).append(over_time[:count].double().cpu())
        logits = Oracle(victim, count, labels.device).logits(inputs, torch.arange(count, device=labels.device))
        self.correct += (~Goal(labels).broken(logits)).tolist()

    def array(self, name: str) -> Array:
        found: Array = torch.cat(self.latents[name]).numpy()
        return found


def latent_table(
    victim: Victim,
    data: Dataset,
    *,
    attack: Attack | None = None,
    method: str = "pca",
    clips: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Latents of `victim.embed`, each projected to two dimensions.

    Latents with a time axis are averaged over it. Clips that are not attacked (wrong at first) stay where they were.

    Args:
        victim: One that gives embeddings.
        data: From `load_data`.
        attack: What makes the adversarial clips; clean ones alone when None. Of features (`logmel`) too.
        method: `pca`, the two directions of largest variance; or `lda`, those that part the classes best (Fisher).
        clips: How many, from the first; all when None.
        batch_size: Clips at once; fitted to their length when None. Changes no result.
        seed: From which all randomness is derived.

    Returns:
        One row per clip, latent and state: `clip` (id), `label_name`, `correct`, `latent` (a modality or `fused`),
        `state` (`clean` or `adversarial`), `x`, `y`. And a summary: `victim`, `method`, `clips`; `explained`, latent ->
        two shares of the variance (of that between classes for LDA); `silhouette`, latent -> state -> mean silhouette
        of the classes in the whole latent space (Rousseeuw 1987; -1 to 1, Euclidean), None where it is undefined.

    Raises:
        VictimError: If the victim gives no embeddings.
        ThreatModelError: If the method is unknown or cannot be had of these labels.
        DataError: If there are fewer than two clips.
    """
    _check_method(method, data, clips)
    for name in attack.threat if attack is not None else ():
        victim, data = posed(victim, data, name)
    packing = attack.packing if attack is not None else None
    attacked, aligned = aligned_to(victim, data, packing)
    size = fitting_batch(victim, aligned) if batch_size is None else checked_batch(batch_size)
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    count = len(aligned) if clips is None else min(clips, len(aligned))
    states = {state: _Gathered({}, []) for state in ((CLEAN,) if attack is None else (CLEAN, ADVERSARIAL))}
    ids: list[str] = []
    names: list[str] = []
    groups = [range(first, min(first + size, count)) for first in range(0, count, size)]
    with frozen(victim), closing(aligned.batches(groups)) as batches:
        for _ in track(groups, f"Latents of {data.name}", by=len):
            _, batch = next(batches)
            ids += batch.ids
            names += [label_name(label, victim.spec) for label in batch.labels]
            batch = batch.to(device)
            found = {CLEAN: batch.inputs}
            if attack is not None:
                found[ADVERSARIAL] = _adversarial(attack, attacked, batch, seed)
            for state, inputs in found.items():
                states[state].add(victim, inputs if packing is None else packing.split(inputs), batch.labels)
    frame, told = _tables(states, ids, names, method)
    return frame, {"kind": "latents", "victim": victim.spec.name, "method": method, "clips": count, **told}


def _check_method(method: str, data: Dataset, clips: int | None) -> None:
    if method not in METHODS:
        raise ThreatModelError(unknown("projection", method, METHODS))
    if method == "lda" and data.task == "multilabel":
        raise ThreatModelError("LDA parts classes, and these clips have many labels each; use method 'pca'.")
    count = len(data) if clips is None else min(clips, len(data))
    if count < 2:
        raise DataError(f"A projection needs two clips or more; there are {count}.")


def _adversarial(attack: Attack, victim: Victim, batch: Batch, seed: int) -> Inputs:
    oracle = Oracle(victim, len(batch), batch.labels.device)
    clean = oracle.logits(batch.inputs, torch.arange(len(batch), device=batch.labels.device))
    return attack.apply(victim, batch, clean, seed).inputs


def _tables(
    states: Mapping[str, _Gathered], ids: list[str], names: list[str], method: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and summary of all latents and states."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    explained: dict[str, list[float]] = {}
    silhouette: dict[str, dict[str, float | None]] = {}
    for latent in states[CLEAN].latents:
        arrays = {state: gathered.array(latent) for state, gathered in states.items()}
        projection = _Projection(arrays[CLEAN], names, method)
        explained[latent] = projection.explained
        silhouette[latent] = {state: _silhouette(array, names) for state, array in arrays.items()}
        for state, array in arrays.items():
            x, y = projection(array).T
            columns = {"clip": ids, "label_name": names, "correct": states[state].correct}
            parts.append(pd.DataFrame({**columns, "latent": latent, "state": state, "x": x, "y": y}))
    return pd.concat(parts, ignore_index=True), {"explained": explained, "silhouette": silhouette}


class _Projection:
    """A linear map to two dimensions; the second is 0 where the data have but one."""

    def __init__(self, clean: Array, names: list[str], method: str) -> None:
        from sklearn.decomposition import PCA
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        classes = len(set(names))
        if method == "lda" and not 1 < classes < len(clean):
            raise ThreatModelError(
                f"LDA needs two classes or more, and more clips than classes; there are {classes} classes in "
                f"{len(clean)} clips. Take more clips, or method 'pca'."
            )
        if method == "lda":
            self.model: Any = LinearDiscriminantAnalysis(n_components=min(2, classes - 1, clean.shape[1]))
            self.model.fit(clean, names)
        else:
            self.model = PCA(n_components=min(2, *clean.shape), svd_solver="full").fit(clean)
        shares = np.nan_to_num(self.model.explained_variance_ratio_).tolist()  # of clips all alike there is no share
        self.explained = [float(share) for share in (*shares, 0.0)][:2]

    def __call__(self, latents: Array) -> Array:
        """(N, 2) of (N, D)."""
        found: Array = self.model.transform(latents)
        return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def _silhouette(latents: Array, names: list[str]) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 1 < len(set(names)) < len(names):
        return None
    return float(silhouette_score(latents, names))
