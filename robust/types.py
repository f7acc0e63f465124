"""The types that every room shares: what a victim takes, what a data set gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = dict[str, Tensor]
"""Modality name -> tensor; `audio` (B, T) float32 in [-1, 1], `video` (B, F, C, H, W) float32 in [0, 1]."""

Task: TypeAlias = Literal["multiclass", "multilabel"]

DEFAULT_BOUNDS: Mapping[str, tuple[float, float]] = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


@dataclass(frozen=True)
class VictimSpec:
    """What a victim is and what it must be fed.

    Attributes:
        name: Registry name, or the name a user gave to a wrapped module.
        labels: Class names, in the order of the logits.
        task: `multiclass` (one label a clip) or `multilabel` (any number).
        modalities: Names of the inputs, e.g. `("audio",)` or `("audio", "video")`.
        sample_rate: Hz; audio is resampled to it before it reaches the victim.
        clip_seconds: Length to which clips are cut or padded.
        shapes: Shape of one example of each modality other than audio, e.g. `{"video": (8, 3, 32, 32)}`.
        bounds: Valid range of each modality, in the units of the input tensor.
    """

    name: str
    labels: tuple[str, ...]
    task: Task = "multiclass"
    modalities: tuple[str, ...] = ("audio",)
    sample_rate: int = 16_000
    clip_seconds: float = 1.0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(DEFAULT_BOUNDS))

    @property
    def clip_samples(self) -> int:
        """Number of audio samples in one clip."""
        return round(self.sample_rate * self.clip_seconds)

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one example of `modality`, without the batch dimension."""
        return (self.clip_samples,) if modality == "audio" else tuple(self.shapes[modality])


@dataclass(frozen=True)
class Clip:
    """One example, already at a victim's rate and length.

    Attributes:
        id: Stable and unique within its data set; seeds are derived from it.
        inputs: Modality -> tensor without batch dimension.
        valid: Modality -> bool tensor, true where the input is real and not padding; absent means all valid.
        label: () int64 class index, or (K,) float32 multi-hot.
    """

    id: str
    inputs: Inputs
    label: Tensor
    valid: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Clips stacked along a first dimension.

    Attributes:
        ids: B identifiers.
        inputs: Modality -> (B, ...) tensor.
        labels: (B,) int64, or (B, K) float32 multi-hot.
        valid: Modality -> bool tensor broadcastable to the input, for every modality.
    """

    ids: tuple[str, ...]
    inputs: Inputs
    labels: Tensor
    valid: Inputs

    @classmethod
    def collate(cls, clips: Sequence[Clip]) -> Batch:
        """Stacks clips of equal shapes; a modality without a mask is wholly valid."""
        names = clips[0].inputs.keys()
        inputs = {name: torch.stack([clip.inputs[name] for clip in clips]) for name in names}
        valid = {
            name: torch.stack(
                [clip.valid.get(name, torch.ones(clip.inputs[name].shape, dtype=torch.bool)) for clip in clips]
            )
            for name in names
        }
        labels = torch.stack([clip.label for clip in clips])
        return cls(tuple(clip.id for clip in clips), inputs, labels, valid)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        move = {name: value.to(device) for name, value in self.inputs.items()}
        valid = {name: value.to(device) for name, value in self.valid.items()}
        return Batch(self.ids, move, self.labels.to(device), valid)

    def __len__(self) -> int:
        return len(self.ids)


class Dataset(ABC):
    """A finite, ordered set of labelled clips that can be read for any victim.

    Attributes:
        name: Registry name, e.g. `events`.
        split: `train`, `validation` or `test`.
        labels: Class names; clip labels index into them.
        task: As in `VictimSpec`.
    """

    name: str
    split: str
    labels: tuple[str, ...]
    task: Task = "multiclass"
    modalities: tuple[str, ...] = ("audio",)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def clip(self, index: int, spec: VictimSpec) -> Clip:
        """Reads clip `index` at the sample rate, length and modalities of `spec`; its label indexes `self.labels`."""

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        """The id of clip `index`; sets that know it without reading the clip say so here."""
        return self.clip(index, spec).id

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that changes whenever any clip or label does; stored in every manifest."""


@dataclass(frozen=True)
class Outcome:
    """What a condition made of a batch.

    Attributes:
        inputs: Modality -> (B, ...) what the victim is to be tested on.
        columns: Column name -> B values for the records.
    """

    inputs: Inputs
    columns: Mapping[str, Sequence[object]]
