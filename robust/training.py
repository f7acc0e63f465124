"""`robust.train`: a registered victim, a data set, a recipe -> a checkpoint with its card."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.gradients import Oracle, frozen
from robust.data import load_data
from robust.data.reading import read_clips
from robust.errors import CheckpointError, DataError, StoreError
from robust.evaluation.engine import AlignedData
from robust.evaluation.progress import track
from robust.evaluation.store import git_revision
from robust.metrics.classification import Score, accuracy, mean_average_precision
from robust.types import Clip, Dataset
from robust.victims.base import Victim
from robust.victims.checkpoints import read_card, read_safetensors, round_to_half, save_checkpoint
from robust.victims.fusion import MEETINGS
from robust.victims.loading import embedded_weights, find_device
from robust.victims.registry import VictimEntry, build_victim, victim_entry

if TYPE_CHECKING:
    from defenses.training import Recipe

FRAME_LEVEL = ("cnn-transformer", *(f"av-{meeting}" for meeting in MEETINGS))
FRAME_LEVEL_RECIPE: Mapping[str, Any] = {
    "epochs": 8,
    "learning_rate": 1e-3,  # av-audio on avdigits, validation: 83 %, against 73 % at 2e-3 and 34 % at 4e-3
    "weight_decay": 0.01,
    "mixup_alpha": 0.0,
}
"""One recipe for all that are compared with one another."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "ast": {"learning_rate": 1e-3, "mixup_alpha": 0.0},
    "cnn14": {"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.2},
    "frames": {"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.1},
    "wakeword": {"epochs": 18, "learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.0},
    **dict.fromkeys(FRAME_LEVEL, FRAME_LEVEL_RECIPE),
}
"""What differs from the default recipe, by model; raw-waveform networks share `WAVEFORM_RECIPE`."""
WAVEFORM_RECIPE: Mapping[str, Any] = {"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.2}


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        victim: With its best weights, in evaluation mode.
        path: Where the checkpoint lies.
        test: Score on the test split.
        card: What stands on the card.
    """

    victim: Victim
    path: Path
    test: Score
    card: dict[str, Any]


def default_recipe(model: str) -> Recipe:
    """The recipe of a registered victim."""
    from defenses.training import Recipe

    return Recipe(**RECIPES.get(model, WAVEFORM_RECIPE))


def train(
    model: str,
    data: str,
    *,
    root: str | Path | None = None,
    out: str | Path,
    recipe: Recipe | None = None,
    config: Mapping[str, Any] | None = None,
    init: str | None = None,
    batch_size: int = 32,
    device: str = "auto",
    half: bool = False,
    clips: int | None = None,
    **data_options: Any,
) -> Trained:
    """Trains a registered victim and writes `OUT.safetensors` with its card `OUT.json`.

    Training sees the train split; the validation split stops it and chooses the weights; the test split is scored once.

    Args:
        model: Registered name.
        data: Registered data set.
        root: Folder of a data set on disk.
        out: Path of the checkpoint; `.safetensors` is added where it lacks.
        recipe: How to train; the model's own when None.
        config: Configuration of the model; that of its embedded weights when None, updated by what is given.
        init: Where to start: None for random weights, `embedded`, or the path of a checkpoint; all weights of equal
            name and shape are taken, the rest stay random, and the card says so.
        batch_size: Clips in a training step.
        device: As for `load_victim`.
        half: Store matrices as float16.
        clips: Number of training clips of a generated set; its usual number when None.
        **data_options: What the data set takes, e.g. `fold=2`.
    """
    from defenses.augmentation import WaveformAugmentation
    from defenses.training import Classifier, fit

    recipe = recipe or default_recipe(model)
    path = _checkpoint_path(out)
    entry = victim_entry(model)
    generated = {} if clips is None else {"clips": clips}
    splits = {
        split: load_data(data, split=split, root=root, **data_options, **(generated if split == "train" else {}))
        for split in ("train", "validation", "test")
    }
    labels, task = splits["train"].labels, splits["train"].task
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(recipe.seed)  # torch initialises weights and drops out from its global state alone
        victim = build_victim(model, labels=labels, task=task, **{**entry.small, **(config or {})})
        taken = start_from(victim, init, entry)
        victim = victim.to(find_device(device))
        loaders = {name: _loader(splits[name], victim, batch_size, name == "train", recipe.seed) for name in splits}
        classifier = Classifier(
            victim,
            multilabel=task == "multilabel",
            recipe=recipe,
            total_steps=recipe.epochs * len(loaders["train"]),
            augmentations={"audio": WaveformAugmentation()},
        )
        _quiet_lightning()
        with tempfile.TemporaryDirectory() as scratch:
            told = fit(
                classifier,
                loaders["train"],
                loaders["validation"],
                Path(scratch),
                progress=sys.stderr.isatty(),
                accelerator="gpu" if victim_device(victim).type == "cuda" else "cpu",
            )
    victim = victim.to(find_device(device)).eval()
    if half:
        round_to_half(victim)
    test = score(victim, splits["test"])
    card = {
        "data": {"name": data, "splits": {name: len(part) for name, part in splits.items()}, **data_options},
        "clean": asdict(test),
        "validation": told["score"],
        "training": {key: round(told[key], 2) for key in ("epochs", "steps", "minutes")},
        "recipe": asdict(recipe),
        "batch_size": batch_size,
        "init": taken,
        "seed": recipe.seed,
        "command": " ".join(["robust", *sys.argv[1:]]),
        "git_revision": git_revision(),
        "torch": torch.__version__,
    }
    save_checkpoint(victim, path, card, half=half)
    return Trained(victim, path, test, card)


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


def start_from(victim: Victim, init: str | None, entry: VictimEntry) -> dict[str, Any] | None:
    """Copies weights of equal name and shape from a checkpoint; says which, for the card."""
    if init is None:
        return None
    path = embedded_weights(entry.name) if init == "embedded" else Path(init)
    source = read_safetensors(path)
    card = read_card(path)
    own = victim.state_dict()
    fitting = {name: value for name, value in source.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"No weight of {path} fits the model {entry.name!r}; drop --init or name another.")
    victim.load_state_dict({**own, **fitting})
    return {"from": init, "trained_on": card.get("data", {}), "random": sorted(own.keys() - fitting.keys())}


def with_limits(recipe: Recipe, **limits: Any) -> Recipe:
    """The recipe with every value of `limits` that is not None."""
    given = {name: value for name, value in limits.items() if value is not None}
    for name, value in given.items():
        if name in ("epochs", "max_minutes", "learning_rate", "max_steps") and not value > 0:
            raise DataError(f"{name} must be above 0; given {value}.")
    return replace(recipe, **given)


def victim_device(victim: Victim) -> torch.device:
    """Where the victim's parameters lie."""
    return next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))


def _loader(data: Dataset, victim: Victim, batch_size: int, shuffled: bool, seed: int) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(
        _Clips(data, victim),
        batch_size=batch_size,
        shuffle=shuffled,
        drop_last=shuffled and len(data) >= batch_size,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=_Clips.collate,
    )


class _Clips(torch.utils.data.Dataset[tuple[dict[str, Tensor], Tensor]]):
    """A data set as training wants it: inputs and label weights."""

    def __init__(self, data: Dataset, victim: Victim) -> None:
        self.data, self.spec = data, victim.spec

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


def _checkpoint_path(out: str | Path) -> Path:
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


def _quiet_lightning() -> None:
    """Lightning's hints are for its own users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
