"""What a victim says with a modality taken away, or with another clip's in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim
from attacks.projections import per_example
from robust.errors import DataError
from robust.evaluation.engine import UNLABELLED, AlignedData
from robust.seeds import generators_for
from robust.types import Batch, Outcome

Fill: TypeAlias = Literal["zeros", "mean", "silence"]
RAW = ("audio", "video")
"""Modalities whose zero is silence and darkness; all others are features."""


@dataclass(frozen=True)
class Missing:
    """One modality carries nothing of the clip any more, not even how much of it was padding.

    Attributes:
        modality: Which one.
        fill: What stands in its place: `zeros`; `mean`, the mean input over some clips (`mean_input`); or `silence`,
            what nothing looks like: 0 for audio, black for video, the clip's own minimum for features (digital silence
            in a log-mel spectrogram).
        mean: One example's mean input, for `mean` alone.

    Raises:
        ThreatModelError: If the fill is unknown, `mean` lacks its tensor or another fill has one; when applied, if the
            victim has no such modality or the mean another shape.
    """

    modality: str
    fill: Fill = "zeros"
    mean: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.fill not in get_args(Fill):
            raise ThreatModelError(unknown("fill", self.fill, get_args(Fill)))
        if (self.fill == "mean") != (self.mean is not None):
            raise ThreatModelError(
                f"The fill 'mean' needs a mean input (mean_input(data, {self.modality!r}, limit)), and no other fill "
                "takes one."
            )

    @property
    def name(self) -> str:
        """E.g. `missing-audio-zeros`."""
        return f"missing-{self.modality}-{self.fill}"

    def describe(self) -> dict[str, Any]:
        """Modality and fill; of a mean input its hash."""
        mean = None
        if self.mean is not None:
            mean = hashlib.blake2b(self.mean.cpu().float().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        return {"condition": self.name, "modality": self.modality, "fill": self.fill, "mean": mean}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The batch without the modality; columns `missing` and `fill`."""
        check_modality(self.modality, batch.inputs)
        value = batch.inputs[self.modality]
        if self.mean is not None and self.mean.shape != value.shape[1:]:
            raise ThreatModelError(
                f"The mean input of {self.modality!r} has shape {tuple(self.mean.shape)}, the clips have "
                f"{tuple(value.shape[1:])}; compute it from data aligned to this victim."
            )
        if self.fill == "mean":
            filled = torch.as_tensor(self.mean).to(value).expand_as(value).clone()
        elif self.fill == "silence":
            filled = torch.zeros_like(value) + silence(self.modality, value, batch.valid.get(self.modality))
        else:
            filled = torch.zeros_like(value)
        columns: dict[str, Sequence[object]] = {
            "missing": [self.modality] * len(batch),
            "fill": [self.fill] * len(batch),
        }
        return Outcome({**batch.inputs, self.modality: filled}, columns)


@dataclass(frozen=True)
class Swap:
    """One modality comes from another clip with another label, so that the modalities contradict each other.

    The partner follows from the seed and the clip's id alone: the same whatever the batch, the shard, the victim and
    the modality swapped, so that all are asked about the same contradictions.

    Attributes:
        modality: Which one is replaced.
        data: Where partners come from, aligned to the victim.
        seed: From which partners are drawn; the run's seed when None.

    Raises:
        ThreatModelError: If the victim of `data` has no such modality.
        DataError: When applied, if no clip has another label.
    """

    modality: str
    data: AlignedData = field(compare=False, repr=False)
    seed: int | None = None
    _labels: dict[int, frozenset[int]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_modality(self.modality, self.data.spec.modalities)

    @property
    def name(self) -> str:
        """E.g. `swap-video`."""
        return f"swap-{self.modality}"

    def describe(self) -> dict[str, Any]:
        """Modality, where partners come from, and the seed."""
        source = self.data.data
        return {
            "condition": self.name,
            "modality": self.modality,
            "partners": {"name": source.name, "split": source.split, "fingerprint": source.fingerprint()},
            "partner_seed": self.seed,
        }

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The batch with partners' inputs in one modality.

        Columns: `swapped` (the modality), `partner` (id), `partner_label` (as `label`), `partner_prediction` (the
        victim's, on the unchanged partner), `shared_labels` (how many labels both clips have; 0 unless clips have many
        labels and no disjoint partner exists).
        """
        check_modality(self.modality, batch.inputs)
        own = [label_set(label) for label in batch.labels.cpu()]
        indices = self.partners(batch.ids, own, seed)
        device = batch.labels.device
        partner = self.data.batch(indices).to(device)
        swapped = partner.inputs[self.modality]
        if swapped.shape != batch.inputs[self.modality].shape:
            raise DataError(
                f"The partners' {self.modality!r} has shape {tuple(swapped.shape[1:])}, the clips' "
                f"{tuple(batch.inputs[self.modality].shape[1:])}; align both to the same victim."
            )
        oracle = Oracle(victim, len(batch), device)
        plain = oracle.logits(partner.inputs, torch.arange(len(batch), device=device))
        shared = [len(mine & self._labels_of(index)) for mine, index in zip(own, indices, strict=True)]
        columns = {
            "swapped": [self.modality] * len(batch),
            "partner": list(partner.ids),
            "partner_label": partner.labels.cpu().tolist(),
            "partner_prediction": plain.argmax(dim=1).tolist(),
            "shared_labels": shared,
        }
        return Outcome({**batch.inputs, self.modality: swapped}, columns)

    def partners(self, ids: Sequence[str], labels: Sequence[frozenset[int]], seed: int) -> list[int]:
        """Places in `data` of the partners of clips with these ids and labels."""
        generators = generators_for(seed if self.seed is None else self.seed, ids, "swap")
        return [self._partner(*clip) for clip in zip(ids, labels, generators, strict=True)]

    def _partner(self, clip: str, own: frozenset[int], generator: torch.Generator) -> int:
        """The first clip in a random order that shares no label, or else the fewest (many labels a clip)."""
        best: int | None = None
        fewest = 1 if self.data.spec.task == "multiclass" else len(own) + 1
        order: list[int] = torch.randperm(len(self.data), generator=generator).tolist()
        for index in order:
            theirs = self._labels_of(index)
            shared = len(own & theirs)
            if shared >= fewest or theirs == {UNLABELLED} or self.data.data.clip_id(index, self.data.spec) == clip:
                continue
            best, fewest = index, shared
            if shared == 0:
                break
        if best is None:
            raise DataError(
                f"A swap needs clips of at least two labels; {self.data.data.name!r} has no labelled clip that could "
                f"stand against {clip!r}. Take more clips (a higher limit) or another data set."
            )
        return best

    def _labels_of(self, index: int) -> frozenset[int]:
        """Labels of a clip in the victim's order, asked once: many data sets tell them only with the clip."""
        if index not in self._labels:
            targets = getattr(self.data.data, "targets", None)
            if targets is not None and self.data.spec.task == "multiclass":
                target = int(targets[index])
                found = frozenset([target if target == UNLABELLED else int(self.data.order[target])])
            else:
                found = label_set(self.data.batch([index]).labels[0])
            self._labels[index] = found
        return self._labels[index]


def mean_input(data: AlignedData, modality: str, limit: int | None = None) -> Tensor:
    """Mean input of a modality, clip by clip, so that memory does not grow with the data set.

    Args:
        data: Clips aligned to a victim.
        modality: Which input.
        limit: How many clips, evenly spaced over the data set; all when None.

    Returns:
        One example's shape, float32: at each place the mean over the clips that are not padding there, 0 where all are.

    Raises:
        ThreatModelError: If the victim has no such modality, or `limit` is below 1.
        DataError: If there are no clips.
    """
    check_modality(modality, data.spec.modalities)
    if limit is not None and limit < 1:
        raise ThreatModelError(f"A mean needs at least 1 clip; limit is {limit}.")
    if len(data) == 0:
        raise DataError(f"The data set {data.data.name!r} is empty; there is no mean of it.")
    count = len(data) if limit is None else min(limit, len(data))
    total: Tensor | None = None
    heard: Tensor | None = None
    with closing(data.batches([[place * len(data) // count] for place in range(count)])) as batches:
        for _, batch in batches:
            valid = batch.valid[modality].expand_as(batch.inputs[modality])[0].double()
            value = batch.inputs[modality][0].double() * valid
            total, heard = (value, valid) if total is None or heard is None else (total + value, heard + valid)
    assert total is not None
    assert heard is not None
    return (total / heard.clamp_min(1)).float()


def silence(modality: str, value: Tensor, valid: Tensor | None = None) -> Tensor:
    """What nothing looks like in each clip: 0 for audio and video, the clip's own minimum for features.

    Args:
        modality: `audio`, `video`, or the name of a feature.
        value: (B, ...) inputs.
        valid: bool, broadcastable to `value`; padding does not count towards the minimum.

    Returns:
        (B, 1, ...), broadcastable to `value`.
    """
    if modality in RAW:
        return per_example(value.new_zeros(len(value)), value)
    flat = value.flatten(1)
    if valid is not None:
        real = valid.expand_as(value).flatten(1)
        flat = flat.masked_fill(~real & real.any(dim=1, keepdim=True), torch.inf)
    return per_example(flat.amin(dim=1), value)


def label_set(label: object) -> frozenset[int]:
    """The classes that a label names: a class index, or the places of a multi-hot vector that are above 0."""
    value = torch.as_tensor(label)
    return frozenset([int(value)] if value.ndim == 0 else value.nonzero()[:, 0].tolist())


def check_modality(modality: str, allowed: Iterable[str]) -> None:
    """Raises `ThreatModelError` unless `modality` is among those allowed."""
    names = tuple(allowed)
    if modality not in names:
        raise ThreatModelError(unknown("modality", modality, names))
