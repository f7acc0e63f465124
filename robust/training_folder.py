"""Where a training under way lies: its last state, what it was begun with, and its logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robust.atomic import clear, write_atomically
from robust.errors import DataError, StoreError, unknown

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
SETTINGS = "settings.json"


class TrainingFolder:
    """The folder `NAME.training` beside a checkpoint.

    Args:
        checkpoint: Where the weights will go.
        settings: All that the course of the training depends on.
        resume: Go on with what lies there, if it was begun with the same settings.

    Raises:
        StoreError: If there is a training to go on with, but it was begun with others.
    """

    def __init__(self, checkpoint: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = checkpoint.with_suffix(".training")
        told = json.dumps(settings, indent=2, sort_keys=True, default=str)
        kept = self.path / SETTINGS
        if resume and kept.is_file():
            _compare(json.loads(kept.read_text(encoding="utf-8")), json.loads(told), self.path)
            return
        clear(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, told.encode())

    def loggers(self, names: Sequence[str]) -> list[Any]:
        """Lightning's loggers of these names, writing here."""
        return [_logger(name, self.path) for name in names]

    def done(self, *, keep_logs: bool) -> None:
        """The checkpoint is written: what was there to go on with is not needed any more."""
        if not keep_logs:
            clear(self.path)
            return
        for state in self.path.glob("*.ckpt"):
            state.unlink()
        (self.path / SETTINGS).unlink(missing_ok=True)


def check_loggers(names: Sequence[str]) -> None:
    """Found out before an hour of training.

    Raises:
        DataError: If one is unknown, or its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise DataError(unknown("logger", name, LOGGERS))
        if name in ("wandb", "mlflow") and find_spec(name) is None:
            raise DataError(f"The logger {name!r} needs a package of that name: pip install {name}.")


def _logger(name: str, folder: Path) -> Any:
    from lightning.pytorch import loggers

    if name == "csv":
        return loggers.CSVLogger(folder, name="csv")
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="tensorboard")
    if name == "wandb":
        return loggers.WandbLogger(name=folder.stem, save_dir=folder)
    return loggers.MLFlowLogger(experiment_name="robust", run_name=folder.stem)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        raise StoreError(
            f"The training in {folder} was begun with other settings ({', '.join(differing)}). Go on with the same, or "
            "remove that folder to begin anew."
        )


__all__ = ["LOGGERS", "TrainingFolder", "check_loggers"]
