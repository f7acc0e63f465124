"""`robust.train`: a registered victim, a data set, a recipe -> a checkpoint with its card."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attacks.gradients import Oracle, frozen
from robust.data import load_data
from robust.errors import CheckpointError, DataError
from robust.evaluation.engine import AlignedData
from robust.evaluation.progress import track
from robust.evaluation.store import git_revision
from robust.metrics.classification import Score, accuracy, mean_average_precision
from robust.training_setup import checkpoint_path, loader, quiet_lightning
from robust.types import Dataset
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
    path = checkpoint_path(out)
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
        loaders = {
            name: loader(splits[name], victim.spec, batch_size, shuffled=name == "train", seed=recipe.seed)
            for name in splits
        }
        classifier = Classifier(
            victim,
            multilabel=task == "multilabel",
            recipe=recipe,
            total_steps=recipe.epochs * len(loaders["train"]),
            augmentations={"audio": WaveformAugmentation()},
        )
        quiet_lightning()
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
