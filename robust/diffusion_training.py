"""`robust.train_diffusion`: a domain, a data set, a recipe -> a diffusion model with its card."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.errors import unknown
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from defenses.mel import REACH, MelDomain
from robust.data.reading import read_clips
from robust.diffusion_models import DOMAINS, load_diffusion, save_diffusion
from robust.errors import CheckpointError, DataError
from robust.evaluation.store import git_revision
from robust.training_setup import PRECISIONS, checkpoint_path, load_splits, loader, quiet_lightning, take_fitting
from robust.types import Dataset, VictimSpec
from robust.victims.checkpoints import round_to_half
from robust.victims.loading import find_device

if TYPE_CHECKING:
    from defenses.training import Recipe

CHANNELS = {"waveform": (96, 128, 128), "mel": (16, 32, 32)}
"""Widths that a processor can bear: 3.5 and 2.5 ms for a second of sound on one core."""
MEASURED_CLIPS = 512
LEVEL = 0.2
"""Root mean square that training clips are brought to, all by one gain: the noise of the first step is 26 dB below."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TrainedDiffusion:
    """A finished training.

    Attributes:
        model: With its best averaged weights, in evaluation mode.
        path: Where the checkpoint lies.
        card: What stands on the card.
    """

    model: UNetDiffusion
    path: Path
    card: dict[str, Any]


def diffusion_recipe() -> Recipe:
    """The recipe unless told."""
    from defenses.training import Recipe

    return Recipe(epochs=60, learning_rate=3e-3, weight_decay=0.01, mixup_alpha=0.0, ema_decay=0.995, patience=15)


def train_diffusion(
    domain: str,
    data: str,
    *,
    root: str | Path | None = None,
    out: str | Path,
    recipe: Recipe | None = None,
    config: Mapping[str, Any] | None = None,
    init: str | None = None,
    sample_rate: int = 16_000,
    clip_seconds: float = 1.0,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "fp32",
    half: bool = False,
    clips: int | None = None,
    **data_options: Any,
) -> TrainedDiffusion:
    """Trains a diffusion model and writes `OUT.safetensors` with its card `OUT.json`.

    Args:
        domain: `waveform` or `mel`.
        data: Registered data set; its labels become the classes that can be asked for.
        root: Folder of a data set on disk.
        out: Path of the checkpoint; `.safetensors` is added where it lacks.
        recipe: How to train; `diffusion_recipe()` when None.
        config: Settings of `UNetSettings` other than the domain, the clips and what is measured on them.
        init: Where to start: None for random weights, `embedded`, or the path of a checkpoint; all weights of equal
            name and shape are taken.
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        batch_size: Clips in a training step.
        device: As for `load_victim`.
        precision: `fp32`, or `bf16`: mixed precision.
        half: Store matrices as float16.
        clips: Number of training clips of a generated set; its usual number when None.
        **data_options: What the data set takes, e.g. `fold=2`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    from defenses.augmentation import WaveformAugmentation
    from defenses.diffusion_training import DiffusionLearner
    from defenses.training import fit

    if domain not in DOMAINS:
        raise DataError(unknown("domain", domain, DOMAINS))
    if precision not in PRECISIONS:
        raise DataError(unknown("precision", precision, PRECISIONS))
    recipe, path = recipe or diffusion_recipe(), checkpoint_path(out)
    splits = load_splits(data, root, clips, data_options, SPLITS)
    spec = _spec(domain, splits["train"], sample_rate, clip_seconds)
    settings = _settings(domain, splits["train"], spec, config or {})
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(recipe.seed)  # torch initialises weights from its global state alone
        model = UNetDiffusion(settings, spec.labels).to(find_device(device))
        if init is not None:
            _start_from(model, domain if init == "embedded" else init)
        loaders = {
            name: loader(splits[name], spec, batch_size, shuffled=name == "train", seed=recipe.seed) for name in SPLITS
        }
        total = recipe.epochs * len(loaders["train"])
        # Clean clips are what is learnt: they move and change in level, but get no noise.
        quiet = WaveformAugmentation(min_snr_db=120.0, max_snr_db=120.0)
        learner = DiffusionLearner(model, recipe, total, quiet)
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
    model = model.to(find_device(device)).eval().requires_grad_(False)
    if half:
        round_to_half(model)
    card = {
        "data": {"name": data, "splits": {name: len(part) for name, part in splits.items()}, **data_options},
        "validation": told["score"],
        "snr_gain_db": _snr_gains(model, splits["test"], spec),
        "training": {key: round(told[key], 2) for key in ("epochs", "steps", "minutes")},
        "recipe": asdict(recipe),
        "batch_size": batch_size,
        "init": init,
        "seed": recipe.seed,
        "command": " ".join(["robust", *sys.argv[1:]]),
        "git_revision": git_revision(),
        "torch": torch.__version__,
    }
    save_diffusion(model, path, card, half=half)
    return TrainedDiffusion(model, path, card)


def _start_from(model: UNetDiffusion, source: str) -> None:
    """Copies weights of equal name and shape from another model."""
    if not take_fitting(model, load_diffusion(source).state_dict()):
        raise CheckpointError(f"No weight of {source} fits a diffusion model of this domain and these sizes.")


def _spec(domain: str, data: Dataset, sample_rate: int, clip_seconds: float) -> VictimSpec:
    if not (sample_rate >= 1 and clip_seconds > 0):
        raise DataError(
            f"The sample rate must be 1 Hz or more and clips longer than 0 s; given {sample_rate}, {clip_seconds}."
        )
    return VictimSpec(
        f"diffusion-{domain}", data.labels, task=data.task, sample_rate=sample_rate, clip_seconds=clip_seconds
    )


def _settings(domain: str, data: Dataset, spec: VictimSpec, config: Mapping[str, Any]) -> UNetSettings:
    """Sizes, and what is measured on some of the training clips: level, and mean and spread of log-mel energies."""
    usual: dict[str, Any] = {"channels": CHANNELS[domain], **config, "domain": domain}
    usual["channels"] = tuple(usual["channels"])
    try:
        first = UNetSettings(**usual, sample_rate=spec.sample_rate, samples=spec.clip_samples)
    except TypeError as error:
        raise DataError(f"A diffusion model cannot be configured so: {error}. See `UNetSettings`.") from error
    clips = _some_clips(data, spec, MEASURED_CLIPS)
    if domain == "waveform":
        return replace(first, data_std=LEVEL, scale=LEVEL / float(clips.square().mean().sqrt().clamp_min(1e-4)))
    mel = MelDomain(spec.sample_rate, spec.clip_samples, first.bands, mean=first.mel_mean, std=first.mel_std)
    energies = torch.cat([mel.energies(part) for part in torch.split(clips, 64)])
    std = float(energies.std().clamp_min(1e-2))
    return replace(first, mel_mean=float(energies.mean()), mel_std=std, data_std=1 / REACH)


def _some_clips(data: Dataset, spec: VictimSpec, count: int) -> Tensor:
    """(N, T): clips from all over the data set."""
    every = max(1, len(data) // count)
    clips = [clip.inputs["audio"] for clip in read_clips(data, spec, range(0, len(data), every))]
    return torch.stack(clips[:count])


def _snr_gains(model: UNetDiffusion, data: Dataset, spec: VictimSpec) -> dict[str, float]:
    """Noise level -> dB that one-shot denoising of test clips with white noise wins; of waveform models."""
    if model.domain != "waveform":
        return {}
    clips = _some_clips(data, spec, 64).to(next(model.parameters()).device)
    generator = torch.Generator().manual_seed(0)
    gains = {}
    for sigma in (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5):
        if sigma > model.sigma_range[1]:
            break
        noise = sigma * torch.randn(clips.shape, generator=generator).to(clips)
        with torch.no_grad():
            left = model.denoise(clips + noise, sigma) - clips
        gains[f"{sigma:g}"] = round(float(10 * torch.log10(noise.square().mean() / left.square().mean())), 2)
    return gains


__all__ = ["TrainedDiffusion", "diffusion_recipe", "train_diffusion"]
