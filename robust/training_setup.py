"""What every training needs besides its model: batches, a place for the checkpoint, and quiet."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from robust.data import load_data
from robust.data.reading import read_clips
from robust.errors import CheckpointError, StoreError
from robust.types import Clip, Dataset, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import read_card, read_safetensors
from robust.victims.loading import embedded_weights
from robust.victims.registry import VictimEntry

PRECISIONS: Mapping[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""Ours -> Lightning's."""
KEPT_BYTES = 2**30
"""Clips that a training keeps in memory, decoded: an epoch of a small network costs less than decoding anew."""


def loader(
    data: Dataset,
    spec: VictimSpec,
    batch_size: int,
    *,
    shuffled: bool,
    seed: int,
    weights: Tensor | None = None,
    replays: int = 1,
) -> Any:
    """Batches of inputs and label weights.

    Args:
        data: What is read.
        spec: Whose rate, length and modalities the clips get.
        batch_size: Clips in a batch.
        shuffled: In an order that depends on the seed and the epoch alone; a smaller last batch is then left out.
        seed: Of the order.
        weights: (N,) how often clips come, relative to each other; each once an epoch when None.
        replays: How often each batch comes, one time after the other.
    """
    from torch.utils.data import DataLoader

    batches = DataLoader(
        _Clips(data, spec),
        batch_size=batch_size,
        sampler=EpochOrder(len(data), seed, weights) if shuffled else None,
        drop_last=shuffled and len(data) >= batch_size,
        collate_fn=_Clips.collate,
    )
    return batches if replays == 1 else Replayed(batches, replays)


def load_splits(
    data: str,
    root: str | Path | None,
    clips: int | None,
    options: Mapping[str, Any],
    names: Sequence[str] = ("train", "validation", "test"),
) -> dict[str, Dataset]:
    """Splits by name; of a generated set as many training clips as asked."""
    more = {} if clips is None else {"clips": clips}
    return {
        split: load_data(data, split=split, root=root, **options, **(more if split == "train" else {}))
        for split in names
    }


def forget(batches: Any) -> None:
    """Lets go of the clips that a loader keeps.

    Lightning's trainer refers to itself, so what it holds lives until Python next looks for cycles: some trainings on.
    """
    (batches.batches if isinstance(batches, Replayed) else batches).dataset.forget()


def targets_of(data: Dataset, spec: VictimSpec) -> Tensor:
    """(N, K) label weights of all clips, for sampling by them."""
    labels = (clip.label for clip in read_clips(data, spec, range(len(data))))
    return torch.stack([_weights(label, len(spec.labels)) for label in labels])


class EpochOrder(torch.utils.data.Sampler[int]):
    """The order of clips in an epoch, by seed and number of the epoch: a training taken up again goes on in it.

    Args:
        count: Clips.
        seed: Of all orders.
        weights: (N,) drawn with replacement by these; each clip once when None.
    """

    def __init__(self, count: int, seed: int, weights: Tensor | None = None) -> None:
        self.count, self.seed, self.weights, self.epoch = count, seed, weights, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) & (2**63 - 1))
        if self.weights is None:
            order = torch.randperm(self.count, generator=generator)
        else:
            order = torch.multinomial(self.weights.double(), self.count, replacement=True, generator=generator)
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.count


class Replayed:
    """Each batch of a loader several times, one time after the other, read once.

    Args:
        batches: A loader.
        times: How often.
    """

    def __init__(self, batches: Any, times: int) -> None:
        self.batches, self.times, self.sampler = batches, times, batches.sampler

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            for _ in range(self.times):
                yield batch

    def __len__(self) -> int:
        return self.times * len(self.batches)


_Item = tuple[dict[str, Tensor], Tensor]


class _Clips(torch.utils.data.Dataset[_Item]):
    """A data set as training wants it: inputs and label weights, each clip decoded once while there is room to keep it.

    Batches are copies (`collate`), so that what is done to one leaves the kept clips alone.
    """

    def __init__(self, data: Dataset, spec: VictimSpec) -> None:
        self.data, self.spec = data, spec
        self._kept: dict[int, _Item] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> _Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[_Item]:
        """A whole batch; what is not kept is decoded on all cores."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        read = {}
        for index, clip in zip(missing, read_clips(self.data, self.spec, missing), strict=True):
            read[index] = self._item(clip)
            self._keep(index, read[index])
        return [read[index] if index in read else self._kept[index] for index in indices]

    def forget(self) -> None:
        self._kept.clear()
        self._room = KEPT_BYTES

    def _keep(self, index: int, item: _Item) -> None:
        size = sum(tensor.nbytes for tensor in (*item[0].values(), item[1]))
        if size <= self._room:
            self._kept[index] = item
            self._room -= size

    def _item(self, clip: Clip) -> _Item:
        return clip.inputs, _weights(clip.label, len(self.spec.labels))

    @staticmethod
    def collate(items: list[_Item]) -> _Item:
        names = items[0][0].keys()
        inputs = {name: torch.stack([item[0][name] for item in items]) for name in names}
        return inputs, torch.stack([item[1] for item in items])


def _weights(label: Tensor, classes: int) -> Tensor:
    """(K,) label weights of one clip."""
    return functional.one_hot(label, classes).float() if label.ndim == 0 else label.float()


def checkpoint_path(out: str | Path) -> Path:
    """Where the checkpoint goes; found out now, not after an hour of training."""
    path = Path(out)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise StoreError(f"Cannot write to {path.parent}: {error.strerror or error}. Choose another --out.") from error
    if free < 64 * 2**20:
        raise StoreError(f"Only {free // 2**20} MiB are free in {path.parent}; a checkpoint may not fit.")
    return path


def start_from(victim: Victim, init: str | None, entry: VictimEntry) -> dict[str, Any] | None:
    """Copies weights of equal name and shape from a checkpoint; says which, for the card."""
    if init is None:
        return None
    path = embedded_weights(entry.name) if init == "embedded" else Path(init)
    source = read_safetensors(path)
    card = read_card(path)
    fitting = take_fitting(victim, source)
    if not fitting:
        raise CheckpointError(f"No weight of {path} fits the model {entry.name!r}; drop --init or name another.")
    random = sorted(victim.state_dict().keys() - fitting)
    return {"from": init, "trained_on": card.get("data", {}), "random": random}


def take_fitting(module: nn.Module, source: Mapping[str, Tensor]) -> set[str]:
    """Copies weights of equal name and shape; gives the names of those."""
    own = module.state_dict()
    fitting = {name: value for name, value in source.items() if name in own and own[name].shape == value.shape}
    module.load_state_dict({**own, **fitting})
    return set(fitting)


def quiet_lightning() -> None:
    """Lightning's hints are for its own users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
