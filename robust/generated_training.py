"""`robust train --augment diffusion[:SOURCE][:SHARE]`: generated clips among the training clips (chapter 13).

SOURCE is `mel` (if absent), `waveform`, or the path of a checkpoint of `robust train --diffusion`; SHARE the number of
generated clips for each real one, a quarter if absent. They are generated once and kept as int16 in the cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.diffusion import DiffusionModel
from robust.atomic import write_atomically
from robust.data.cache import cache_dir
from robust.data.generated import GeneratedClips, Joined
from robust.diffusion_models import load_diffusion
from robust.errors import DataError, StoreError
from robust.generation import Sampling, asked_labels, sample
from robust.types import Dataset
from robust.victims.loading import find_device

KEYWORD = "diffusion"
VERSION = 1
"""Of the clips; counts up when the same settings give others."""


@dataclass(frozen=True)
class GeneratedShare:
    """What `--augment diffusion...` asks for.

    Attributes:
        source: As for `robust.generate`.
        share: Generated clips for each real one.
        sampling: How they are drawn.
    """

    source: str = "mel"
    share: float = 0.25
    # On events, 25 steps and 50 are recognised alike, and 25 cost half.
    sampling: Sampling = field(default_factory=lambda: Sampling(steps=25))

    def __post_init__(self) -> None:
        if not 0 < self.share <= 10:
            raise DataError(
                f"The share of generated clips must be above 0 and at most 10 for each real one; given {self.share}."
            )


def generated_share(text: str) -> GeneratedShare | None:
    """What a text asks for; None where it is no `diffusion...`.

    Raises:
        DataError: If the share is out of range.
    """
    name, *words = text.split(":")
    if name != KEYWORD:
        return None
    try:
        share = float(words[-1]) if words else math.nan
    except ValueError:
        share = math.nan
    else:
        words = words[:-1]
    source = ":".join(words) or GeneratedShare.source
    return GeneratedShare(source) if math.isnan(share) else GeneratedShare(source, share)


def with_generated(
    data: Dataset, texts: Sequence[str], *, seed: int = 0, device: str = "auto"
) -> tuple[Dataset, list[str], list[dict[str, Any]]]:
    """The training clips with generated ones behind them.

    Args:
        data: The real ones; every class of theirs gets equally many.
        texts: Of `--augment`, as often as it was given.
        seed: Of the generated clips.
        device: Where they are generated.

    Returns:
        The clips; the texts that ask for something else; for each text that asked for clips what came of it, for the
        card.

    Raises:
        CheckpointError: If a diffusion model cannot be read.
        DataError: If it does not know the classes of `data`, or a share is out of range.
    """
    others, parts, told = [], [data], []
    for text in texts:
        asked = generated_share(text)
        if asked is None:
            others.append(text)
            continue
        generated, facts = _generated(data, asked, seed, device)
        parts.append(generated)
        told.append({"augment": text, **facts})
    return (Joined(parts) if told else data), others, told


def _generated(data: Dataset, asked: GeneratedShare, seed: int, device: str) -> tuple[GeneratedClips, dict[str, Any]]:
    model = load_diffusion(asked.source).to(find_device(device))
    labels = _known(model, data, asked.source)
    count = max(1, round(asked.share * len(data) / len(labels)))
    clips = cached_clips(model, labels, count, asked.sampling, seed)
    targets = np.repeat(np.arange(len(labels)), count).tolist()
    facts = {
        "source": asked.source,
        "weights": model.describe()["weights"],
        "clips": len(clips),
        "per_class": count,
        "real_clips": len(data),
        **asdict(asked.sampling),
    }
    name = f"generated-{asked.source if asked.source in ('waveform', 'mel') else Path(asked.source).stem}"
    return GeneratedClips(clips, targets, model.sample_rate, labels, name=name, task=data.task), facts


def _known(model: DiffusionModel, data: Dataset, source: str) -> tuple[str, ...]:
    try:
        return asked_labels(model, data.labels)
    except DataError as error:
        raise DataError(
            f"The diffusion model {source!r} cannot generate clips for {data.name!r}: {error} Train one on it: robust "
            f"train --diffusion waveform --data {data.name}, and give --augment diffusion:PATH."
        ) from error


def cached_clips(
    model: DiffusionModel, labels: tuple[str, ...], count: int, sampling: Sampling, seed: int
) -> NDArray[np.int16]:
    """(K * count, T) clips, class after class, from the cache where they lie, else generated and kept there.

    A cache that cannot be written is a warning; the clips then live in memory.
    """
    key = [VERSION, model.describe(), model.labels, labels, count, asdict(sampling), seed]
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
    path, shape = cache_dir() / "generated" / f"{digest}.npy", (len(labels) * count, model.samples)
    held = _held(path, shape)
    if held is not None:
        return held
    made = torch.cat(sample(model.eval(), labels, count, sampling, seed))
    clips = (made * 32767).round().to(torch.int16).numpy()
    content = io.BytesIO()
    np.save(content, clips, allow_pickle=False)
    try:
        write_atomically(path, content.getvalue())
    except StoreError as error:
        warnings.warn(
            f"Generated clips cannot be cached ({error}); they are kept in memory for this run. Set ROBUST_CACHE to a "
            "folder that can be written.",
            stacklevel=2,
        )
    return clips


def _held(path: Path, shape: tuple[int, int]) -> NDArray[np.int16] | None:
    """The cached clips, or nothing where the file is not what it should be."""
    try:
        clips: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return clips if clips.shape == shape and clips.dtype == np.int16 else None


__all__ = ["GeneratedShare", "cached_clips", "generated_share", "with_generated"]
