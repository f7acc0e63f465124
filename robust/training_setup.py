"""What every training needs besides its model: batches, a place for the checkpoint, and quiet."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from robust.data.reading import read_clips
from robust.errors import StoreError
from robust.types import Clip, Dataset, VictimSpec


def loader(data: Dataset, spec: VictimSpec, batch_size: int, *, shuffled: bool, seed: int) -> Any:
    """Batches of inputs and label weights, shuffled by an own generator."""
    from torch.utils.data import DataLoader

    return DataLoader(
        _Clips(data, spec),
        batch_size=batch_size,
        shuffle=shuffled,
        drop_last=shuffled and len(data) >= batch_size,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=_Clips.collate,
    )


class _Clips(torch.utils.data.Dataset[tuple[dict[str, Tensor], Tensor]]):
    """A data set as training wants it: inputs and label weights."""

    def __init__(self, data: Dataset, spec: VictimSpec) -> None:
        self.data, self.spec = data, spec

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        return self._item(self.data.clip(index, self.spec))

    def __getitems__(self, indices: list[int]) -> list[tuple[dict[str, Tensor], Tensor]]:
        """A whole batch, decoded on all cores."""
        return [self._item(clip) for clip in read_clips(self.data, self.spec, indices)]

    def _item(self, clip: Clip) -> tuple[dict[str, Tensor], Tensor]:
        label = clip.label
        if label.ndim == 0:
            return clip.inputs, functional.one_hot(label, len(self.spec.labels)).float()
        return clip.inputs, label.float()

    @staticmethod
    def collate(items: list[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
        names = items[0][0].keys()
        inputs = {name: torch.stack([item[0][name] for item in items]) for name in names}
        return inputs, torch.stack([item[1] for item in items])


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


def quiet_lightning() -> None:
    """Lightning's hints are for its own users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
