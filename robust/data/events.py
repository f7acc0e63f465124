"""`events`: a synthetic audio-visual set, generated from a seed by small physical models; nothing to download.

Sixteen kinds of event, 1 s of mono sound at 16 kHz and eight frames of 32x32 RGB. Some kinds sound alike and differ
in sight, some the other way round (`events_settings`), so that neither sense has all the answers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from robust.data.audio_io import fit_length
from robust.data.events_clip import SPLIT_KEYS, labels_of
from robust.data.events_settings import FRAMES, LABELS, SAMPLE_RATE, SIDE, VERSION
from robust.data.events_shards import SHARD_CLIPS, load_shards
from robust.data.registry import register_data
from robust.errors import DataError, unknown
from robust.types import Clip, Dataset, Inputs, VictimSpec

DEFAULT_CLIPS = {"train": 4000, "validation": 400, "test": 400}


class Events(Dataset):
    """One split of `events`, generated when made and cached on disk; clips are read from there.

    Attributes:
        seed: Of the whole set; another seed is another set of the same kind.
    """

    name = "events"
    labels = LABELS
    modalities = ("audio", "video")

    def __init__(self, split: str, clips: int, seed: int) -> None:
        self.split = split
        self.seed = seed
        self._classes = labels_of(seed, split, clips)
        self._shards = load_shards(seed, split, clips)

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def targets(self) -> list[int]:
        """Class index of every clip."""
        return [int(label) for label in self._classes]

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        """Reads clip `index` for `spec`; see `Dataset`.

        Raises:
            DataError: If `spec` asks for a modality or a video shape that the set does not have.
            IndexError: If there is no such clip.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"events has clips 0 to {len(self) - 1} in its split {self.split!r}, not {index}")
        audio, video = self._shards[index // SHARD_CLIPS]
        row = index % SHARD_CLIPS
        inputs: Inputs = {}
        valid = {}
        for modality in spec.modalities:
            if modality == "audio":
                samples, mask = _fit_audio(audio[row], spec)
                inputs["audio"], valid["audio"] = torch.from_numpy(samples), torch.from_numpy(mask)
            elif modality == "video":
                inputs["video"] = torch.from_numpy(_fit_video(video[row], spec))
            else:
                raise DataError(unknown("modality of events", modality, self.modalities))
        name = f"events-{self.seed}-{self.split}-{index:06d}"
        return Clip(name, inputs, torch.tensor(int(self._classes[index])), valid)

    def fingerprint(self) -> str:
        """A hash of what the clips are generated from: version, seed, split, count."""
        content = f"events {VERSION} {self.seed} {self.split} {len(self)}"
        return hashlib.sha256(content.encode()).hexdigest()


def _fit_audio(samples: NDArray[np.int16], spec: VictimSpec) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    audio = samples.astype(np.float32) / np.float32(32768)
    if spec.sample_rate != SAMPLE_RATE:
        audio = np.clip(soxr.resample(audio, SAMPLE_RATE, spec.sample_rate), -1, 1)
    return fit_length(audio, spec.clip_samples)


def _fit_video(frames: NDArray[np.uint8], spec: VictimSpec) -> NDArray[np.float32]:
    shape = (FRAMES, 3, SIDE, SIDE)
    if tuple(spec.shapes.get("video", shape)) != shape:
        raise DataError(
            f"The victim {spec.name!r} takes video of shape {tuple(spec.shapes['video'])}; events has {shape} "
            "(frames, channels, height, width). Use a victim of that shape."
        )
    return frames.astype(np.float32) / np.float32(255)


@register_data("events", summary="synthetic: 16 audio-visual events, generated from a seed, 1 s", needs_root=False)
def events(*, split: str, root: Path | None = None, clips: int | None = None, seed: int = 0) -> Events:
    """Opens one split of the generated set; the first time this takes a minute, later ones nothing.

    Args:
        split: `train` (4,000 clips), `validation` (400) or `test` (400), drawn independently.
        root: Not used: there is nothing on disk but the cache, see `robust.data.cache.cache_dir`.
        clips: Another number of clips. Clip i is the same whatever the number.
        seed: Of the whole set, not negative.

    Raises:
        DataError: If the split is unknown, `clips` not positive, or `seed` negative.
    """
    if split not in SPLIT_KEYS:
        raise DataError(unknown("split of events", split, SPLIT_KEYS))
    count = DEFAULT_CLIPS[split] if clips is None else clips
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise DataError(f"clips={clips!r} of events must be a whole number of at least 1.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise DataError(f"seed={seed!r} of events must be a whole number of at least 0.")
    return Events(split, count, seed)
