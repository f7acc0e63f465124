"""`robust.generate`: clips of classes out of a diffusion model, as a folder that `--data folder` reads.

    OUT/LABEL/000.wav    32-bit float
    OUT/manifest.json    what was asked of what model, and every file

The folder appears whole or not at all.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from attacks.errors import unknown
from defenses.diffusion import DiffusionModel
from robust.atomic import clear
from robust.diffusion_models import load_diffusion
from robust.errors import DataError, StoreError
from robust.evaluation.listening import save_sound
from robust.evaluation.progress import track
from robust.evaluation.store import git_revision, versions
from robust.seeds import generators_for
from robust.victims.loading import find_device

BATCH = 32
WITHOUT_LABEL = "unconditional"
"""Folder of clips of a model that knows no classes."""


@dataclass(frozen=True)
class Sampling:
    """How clips are drawn; see `defenses.generation.generate`.

    Attributes:
        guidance: Of the class over no class: 1 for none.
        steps: How many of the model's steps are walked.
        eta: 0 for DDIM, 1 for DDPM.
    """

    guidance: float = 2.0
    steps: int = 50
    eta: float = 0.0


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
        clips: Class -> (N, T) float32 in [-1, 1], on the CPU.
        sample_rate: Hz.
        folder: Where they lie, if anywhere.
        manifest: What stands there in `manifest.json`.
    """

    clips: dict[str, Tensor]
    sample_rate: int
    folder: Path | None
    manifest: dict[str, Any]


def generate(
    source: str | Path | DiffusionModel = "mel",
    labels: Sequence[str] | None = None,
    *,
    count: int = 8,
    guidance: float = 2.0,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
) -> Generated:
    """Generates `count` clips of each class.

    Clip i of a class follows from the model, the settings and `seed`, whatever else is generated with it.

    Args:
        source: `mel` or `waveform` for the embedded models (trained on `events`; classes are heard in what `mel`
            makes, hardly in what `waveform` does), the path of a checkpoint of `robust train --diffusion`, or a model.
        labels: Classes to ask for; all that the model knows when None.
        count: Clips of each class.
        guidance: How far a class is exaggerated: 1 not at all, 0 asks for no class.
        steps: How many of the model's steps are walked; fewer are faster and coarser.
        eta: 0 draws no noise on the way (DDIM), 1 as much as DDPM.
        seed: All randomness is derived from it.
        out: Folder to write them to, new or empty; they are only returned when None.
        device: `auto` takes CUDA where there is one.

    Raises:
        CheckpointError: If the model cannot be read.
        DataError: If it knows no such class, or no clip is asked for.
        ThreatModelError: If a number is out of range.
        StoreError: If the folder cannot be written, or holds something.
    """
    folder = None if out is None else _new_folder(Path(out))
    model = source if isinstance(source, DiffusionModel) else load_diffusion(source)
    model = model.to(find_device(device)).eval()
    asked = asked_labels(model, labels)
    sampling = Sampling(guidance, steps, eta)
    clips = dict(zip(asked, sample(model, asked, count, sampling, seed), strict=True))
    manifest = {
        "source": str(source) if isinstance(source, str | Path) else type(source).__name__,
        "model": model.describe(),
        "labels": list(asked),
        "count": count,
        **asdict(sampling),
        "seed": seed,
        "sample_rate": model.sample_rate,
        "samples": model.samples,
        "files": [_file(label, place, count) for label in asked for place in range(count)],
        "command": shlex.join(sys.argv),
        "git_revision": git_revision(),
        "versions": versions(),
    }
    done = Generated(clips, model.sample_rate, folder, manifest)
    if folder is not None:
        _write(done, folder)
    return done


def asked_labels(model: DiffusionModel, labels: Sequence[str] | None) -> tuple[str, ...]:
    """The classes asked for, each once.

    Raises:
        DataError: If the model knows no such class, or none was named.
    """
    if labels is None:
        return model.labels or (WITHOUT_LABEL,)
    if not labels:
        raise DataError("No class is asked for; name one or more, or leave labels out for all.")
    if not model.labels:
        raise DataError("This diffusion model was trained without classes and cannot be asked for one.")
    for label in labels:
        if label not in model.labels:
            raise DataError(unknown("class of this diffusion model", label, model.labels))
    return tuple(dict.fromkeys(labels))


def sample(
    model: DiffusionModel, labels: Sequence[str], count: int, sampling: Sampling, seed: int
) -> tuple[Tensor, ...]:
    """For each class (count, T) float32 clips on the CPU, under a progress bar.

    Raises:
        DataError: If no clip is asked for.
        ThreatModelError: If a number is out of range.
    """
    from defenses import generation

    if count < 1:
        raise DataError(f"count={count} asks for no clip; give 1 or more, of each class.")
    wanted = [(label, place) for label in labels for place in range(count)]
    names = [f"{label}/{place}" for label, place in wanted]
    made = []
    for first in track(range(0, len(wanted), BATCH), "Generating"):
        part = wanted[first : first + BATCH]
        made.append(
            generation.generate(
                model,
                len(part),
                _weights(model, [label for label, _ in part]),
                guidance=sampling.guidance,
                steps=sampling.steps,
                eta=sampling.eta,
                generators=generators_for(seed, names[first : first + BATCH], "generate"),
            ).cpu()
        )
    return torch.unbind(torch.cat(made).float().reshape(len(labels), count, -1))


def _weights(model: DiffusionModel, labels: Sequence[str]) -> Tensor | None:
    """(N, K) one class each; None for a model that knows none."""
    if not model.labels:
        return None
    places = torch.tensor([model.labels.index(label) for label in labels], dtype=torch.int64)
    return torch.nn.functional.one_hot(places, len(model.labels)).float()


def _file(label: str, place: int, count: int) -> dict[str, str]:
    """Name and class of a file; whatever a class is called is fit for a folder, and no two are alike."""
    folder = quote(label, safe=" ,;()'&+!@=[]{}")
    folder = f"%2E{folder[1:]}" if folder.startswith(".") else folder
    return {"file": f"{folder}/{place:0{max(3, len(str(count - 1)))}d}.wav", "label": label}


def _new_folder(out: Path) -> Path:
    """Where clips may go.

    Raises:
        StoreError: If something is there already.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is a file; choose a folder for --out.")
    if out.is_dir() and any(out.iterdir()):
        raise StoreError(f"{out} holds something already; choose another --out, or remove it.")
    return out


def _write(done: Generated, folder: Path) -> None:
    """Everything into a folder beside, which then takes the name."""
    beside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        files = iter(done.manifest["files"])
        for clips in done.clips.values():
            for clip in clips:
                save_sound(beside / next(files)["file"], clip, done.sample_rate)
        (beside / "manifest.json").write_text(json.dumps(done.manifest, indent=2) + "\n")
        beside.chmod(0o755)
        beside.replace(folder)
    except OSError as error:
        raise StoreError(f"Cannot write {folder}: {error.strerror or error}. Choose another --out.") from error
    finally:
        if beside is not None and beside.exists():
            clear(beside)


__all__ = ["Generated", "Sampling", "asked_labels", "generate", "sample"]
