"""`events-wake`: a generated set for wake-word detection; a phrase that wakes, and speech and sounds that do not.

Clips of 1.6 s at 16 kHz, one in three with the phrase (`wake_phonemes.WAKE`), spoken by a formant synthesiser with
varied speakers, places, levels, background noise and a small room. No speaker is in two splits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soxr
import torch

from robust.data.audio_io import fit_length
from robust.data.registry import register_data
from robust.data.wake_cache import load_clips
from robust.data.wake_clip import LABELS, SPLIT_KEYS, VERSION, labels_of
from robust.data.wake_espeak import espeak_version
from robust.data.wake_voice import SAMPLE_RATE
from robust.errors import DataError, unknown
from robust.types import Clip, Dataset, VictimSpec

DEFAULT_CLIPS = {"train": 3600, "validation": 600, "test": 600}


class EventsWake(Dataset):
    """One split of `events-wake`, generated when made and cached on disk.

    Attributes:
        seed: Of the whole set.
        espeak: Version of espeak-ng if it spoke, else None.
    """

    name = "events-wake"
    labels = LABELS
    modalities = ("audio",)

    def __init__(self, split: str, clips: int, seed: int, espeak: str | None = None) -> None:
        self.split, self.seed, self.espeak = split, seed, espeak
        self._classes = labels_of(seed, split, clips)
        self._audio = load_clips(seed, split, clips, espeak)

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def targets(self) -> list[int]:
        """Class index of every clip."""
        return [int(label) for label in self._classes]

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        """Reads clip `index` for `spec`; see `Dataset`.

        Raises:
            DataError: If `spec` asks for more than audio.
            IndexError: If there is no such clip.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"events-wake has clips 0 to {len(self) - 1} in its split {self.split!r}, not {index}")
        for modality in spec.modalities:
            if modality != "audio":
                raise DataError(unknown("modality of events-wake", modality, self.modalities))
        audio = self._audio[index].astype(np.float32) / np.float32(32768)
        if spec.sample_rate != SAMPLE_RATE:
            audio = np.clip(soxr.resample(audio, SAMPLE_RATE, spec.sample_rate), -1, 1)
        samples, valid = fit_length(audio, spec.clip_samples)
        label = torch.tensor(int(self._classes[index]))
        return Clip(
            self.clip_id(index, spec), {"audio": torch.from_numpy(samples)}, label, {"audio": torch.from_numpy(valid)}
        )

    def clip_id(self, index: int, spec: VictimSpec) -> str:
        """Known without reading."""
        voice = "" if self.espeak is None else "-espeak"
        return f"events-wake{voice}-{self.seed}-{self.split}-{index:06d}"

    def fingerprint(self) -> str:
        """A hash of what the clips are generated from."""
        content = f"events-wake {VERSION} {self.seed} {self.split} {len(self)} {self.espeak}"
        return hashlib.sha256(content.encode()).hexdigest()


@register_data("events-wake", summary="synthetic: a wake word among other speech, generated, 1.6 s", needs_root=False)
def events_wake(
    *, split: str, root: Path | None = None, clips: int | None = None, seed: int = 0, espeak: bool = False
) -> EventsWake:
    """Opens one split of the generated set; the first time this takes half a minute, later ones nothing.

    Args:
        split: `train` (3,600 clips), `validation` (600) or `test` (600), with different speakers.
        root: Not used: there is nothing on disk but the cache, see `robust.data.cache.cache_dir`.
        clips: Another number of clips. Clip i is the same whatever the number.
        seed: Of the whole set, not negative.
        espeak: Let espeak-ng speak instead of the suite's own synthesiser.

    Raises:
        DataError: If the split is unknown, `clips` not positive, `seed` negative, or espeak-ng is asked for and absent.
    """
    if split not in SPLIT_KEYS:
        raise DataError(unknown("split of events-wake", split, SPLIT_KEYS))
    count = DEFAULT_CLIPS[split] if clips is None else clips
    for name, value, least in (("clips", count, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"{name}={value!r} of events-wake must be a whole number of at least {least}.")
    if not isinstance(espeak, bool):
        raise DataError(f"espeak={espeak!r} of events-wake must be true or false.")
    return EventsWake(split, count, seed, espeak_version() if espeak else None)
