"""`robust.pretrain`: audio without labels -> an encoder of `audio-mae` that has learnt to fill in what is hidden.

Sources: Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022; thesis 7.3 and 7.4.3.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.atomic import write_atomically
from robust.data.reading import read_clips
from robust.errors import CheckpointError, DataError, unknown
from robust.evaluation.store import git_revision
from robust.training_setup import PRECISIONS, checkpoint_path, load_splits, loader, quiet_lightning, take_fitting
from robust.types import Dataset, VictimSpec
from robust.victims.audio_mae import SMALL
from robust.victims.audio_mae_decoder import (
    SMALL_DECODER,
    MaskedAutoencoder,
    load_published_autoencoder,
    split_settings,
)
from robust.victims.checkpoints import (
    CARD_KEYS,
    card_path,
    load_strictly,
    read_json_card,
    read_safetensors,
    round_to_half,
    storable_state,
)
from robust.victims.loading import find_device
from robust.victims.patch_masking import hidden, scattered, structured

if TYPE_CHECKING:
    from defenses.training import Recipe

MODEL = "audio-mae-pretraining"
"""What the card calls it: an encoder and a decoder, which answer no question about classes."""
SPLITS = ("train", "validation")
PICTURED = 4
"""Clips whose reconstructions are kept for the figure."""


@dataclass(frozen=True)
class Pretrained:
    """A finished pre-training.

    Attributes:
        model: With its best averaged weights, in evaluation mode.
        path: Where the checkpoint lies; `robust train --model audio-mae --init` takes it up.
        card: What stands on the card.
    """

    model: MaskedAutoencoder
    path: Path
    card: dict[str, Any]


def pretraining_recipe() -> Recipe:
    """The recipe unless told."""
    from defenses.training import Recipe

    return Recipe(epochs=32, learning_rate=1e-3, weight_decay=0.05, mixup_alpha=0.0, patience=32)


def pretrain(
    data: str,
    *,
    root: str | Path | None = None,
    out: str | Path,
    recipe: Recipe | None = None,
    mask_ratio: float = 0.8,
    config: Mapping[str, Any] | None = None,
    init: str | None = None,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "fp32",
    half: bool = False,
    clips: int | None = None,
    **data_options: Any,
) -> Pretrained:
    """Pre-trains the encoder of `audio-mae`; writes `OUT.safetensors`, its card `OUT.json`, and `OUT.pictures.npz`.

    The pictures are some validation clips with what was hidden of them and what the model made of it, for
    `figures/reconstructions.py`.

    Args:
        data: Registered data set with sound; its labels are not looked at.
        root: Folder of a data set on disk.
        out: Path of the checkpoint; `.safetensors` is added where it lacks.
        recipe: How to train; `pretraining_recipe()` when None.
        mask_ratio: Share of the patches that is hidden, above 0 and below 1.
        config: Settings of `AudioMaeSettings` and `DecoderSettings`; those of the embedded weights when None, updated
            by what is given.
        init: Where to start: None for random weights, a checkpoint of `robust pretrain` (weights of equal name and
            shape are taken), or a published pre-trained `.pth`, which brings its own configuration.
        batch_size: Clips in a training step.
        device: As for `load_victim`.
        precision: `fp32`, or `bf16`: mixed precision.
        half: Store matrices as float16.
        clips: Number of training clips of a generated set; its usual number when None.
        **data_options: What the data set takes, e.g. `fold=2`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    from defenses.training import fit
    from robust.pretraining_learner import MaskedLearner

    if precision not in PRECISIONS:
        raise DataError(unknown("precision", precision, PRECISIONS))
    if not 0 < mask_ratio < 1:
        raise DataError(f"The share of patches to hide must be above 0 and below 1; given {mask_ratio}.")
    recipe, path = recipe or pretraining_recipe(), checkpoint_path(out)
    splits = load_splits(data, root, clips, data_options, SPLITS)
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(recipe.seed)  # torch initialises weights and drops out from its global state alone
        model = _begun(config or {}, init).to(find_device(device))
        spec = _spec(model, splits["train"])
        loaders = {
            name: loader(splits[name], spec, batch_size, shuffled=name == "train", seed=recipe.seed) for name in SPLITS
        }
        learner = MaskedLearner(model, recipe, recipe.epochs * len(loaders["train"]), mask_ratio)
        quiet_lightning()
        with tempfile.TemporaryDirectory() as scratch:
            told = fit(
                learner,
                loaders["train"],
                loaders["validation"],
                Path(scratch),
                progress=sys.stderr.isatty(),
                accelerator="gpu" if next(model.parameters()).is_cuda else "cpu",
                precision=PRECISIONS[precision],
            )
    model = model.to(find_device(device)).eval()
    if half:
        round_to_half(model)
    card = {
        "data": {"name": data, "splits": {name: len(part) for name, part in splits.items()}, **data_options},
        "mask_ratio": mask_ratio,
        "masked_error": -told["score"],
        "training": {key: round(told[key], 2) for key in ("epochs", "steps", "minutes")},
        "recipe": asdict(recipe),
        "batch_size": batch_size,
        "init": init,
        "seed": recipe.seed,
        "command": " ".join(["robust", *sys.argv[1:]]),
        "git_revision": git_revision(),
        "torch": torch.__version__,
    }
    save_pretrained(model, path, {"labels": [], "task": spec.task, **card}, half=half)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **pictures(model, splits["validation"], spec, mask_ratio))
    write_atomically(pictures_path(path), buffer.getvalue())
    return Pretrained(model, path, card)


def save_pretrained(model: MaskedAutoencoder, path: Path, card: Mapping[str, Any], *, half: bool = False) -> None:
    """Writes weights and card, each whole or not at all; matrices as float16 with `half`."""
    from safetensors.torch import save

    facts = {
        "model": MODEL,
        "config": model.config,
        "modalities": ["audio"],
        "sample_rate": model.settings.sample_rate,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **card,
    }
    write_atomically(path, save(storable_state(model, half=half)))
    write_atomically(card_path(path), (json.dumps(facts, indent=2) + "\n").encode())


def load_pretrained(source: str | Path) -> MaskedAutoencoder:
    """The masked autoencoder in a checkpoint of `robust pretrain`, in evaluation mode.

    Raises:
        CheckpointError: If weights or card are missing, unreadable, or of something else.
    """
    path = Path(source)
    card = read_json_card(path, CARD_KEYS, "robust pretrain")
    if card["model"] != MODEL:
        raise CheckpointError(
            f"{path} holds a {card['model']!r}, says its card; wanted is a checkpoint of `robust pretrain`."
        )
    model = MaskedAutoencoder(*split_settings(card["config"]))
    load_strictly(model, read_safetensors(path), path)
    return model.eval()


def pictures_path(weights: Path) -> Path:
    """Where the reconstructions beside the checkpoint `weights` lie."""
    return weights.with_suffix(".pictures.npz")


def pictures(model: MaskedAutoencoder, data: Dataset, spec: VictimSpec, mask_ratio: float) -> dict[str, Any]:
    """Some clips, what was hidden of them, and what the model made of it.

    Patches are hidden anywhere, and as whole times and bands; each hides the share `mask_ratio`, or as near as whole
    rows and columns come.

    Returns:
        `labels` (N,) text; `seconds_per_frame`; `original` (N, frames, mels) in decibels; and for `scattered` and
        `structured` each `hidden_*` (N, times, bands) bool and `told_*` (N, frames, mels) in decibels.
    """
    every = max(1, len(data) // PICTURED)
    clips = list(read_clips(data, spec, range(0, len(data), every)[:PICTURED]))
    device = next(model.parameters()).device
    with torch.no_grad():
        features = model.fbank(torch.stack([clip.inputs["audio"] for clip in clips]).to(device))
    grid, share = model.settings.grid, 1 - (1 - mask_ratio) ** 0.5
    seeded = torch.Generator().manual_seed(0)
    ways = {
        "scattered": scattered(len(clips), grid, mask_ratio, seeded),
        "structured": structured(len(clips), grid, share, share, seeded),
    }
    found: dict[str, Any] = {
        "labels": np.array([_label(data, clip.label) for clip in clips]),
        "seconds_per_frame": np.array(model.fbank.hop_length / model.settings.sample_rate),
        "original": _decibels(model, features),
    }
    for name, visible in ways.items():
        found[f"hidden_{name}"] = hidden(visible, grid[0] * grid[1]).reshape(-1, *grid).numpy()
        found[f"told_{name}"] = _decibels(model, model.reconstruct(features, visible))
    return found


def _decibels(model: MaskedAutoencoder, features: Tensor) -> NDArray[np.float32]:
    """Normalised natural logarithms of power as decibels."""
    settings = model.settings
    return ((features * 2 * settings.std + settings.mean) * (10 / math.log(10))).cpu().numpy()


def _label(data: Dataset, label: Tensor) -> str:
    """The class of a clip, or the first of several."""
    index = int(label) if label.ndim == 0 else int(label.argmax())
    return data.labels[index]


def _begun(config: Mapping[str, Any], init: str | None) -> MaskedAutoencoder:
    """A new model, with the weights that `init` has for it."""
    if init is not None and Path(init).suffix in (".pth", ".pt"):
        if config:
            raise DataError(f"{init} brings its own configuration; leave out the settings {', '.join(sorted(config))}.")
        return load_published_autoencoder(init)
    model = MaskedAutoencoder(*split_settings({**SMALL, **SMALL_DECODER, **config}))
    if init is not None and not take_fitting(model, load_pretrained(init).state_dict()):
        raise CheckpointError(f"No weight of {init} fits a model of these sizes.")
    return model


def _spec(model: MaskedAutoencoder, data: Dataset) -> VictimSpec:
    """How clips are to be read."""
    if "audio" not in data.modalities:
        raise DataError(f"{data.name} has no sound, only {', '.join(data.modalities)}; name a data set with sound.")
    return VictimSpec(
        MODEL,
        data.labels,
        task=data.task,
        sample_rate=model.settings.sample_rate,
        clip_seconds=model.settings.clip_seconds,
    )


__all__ = ["Pretrained", "load_pretrained", "pictures_path", "pretrain", "pretraining_recipe", "save_pretrained"]
