"""What the thesis's spectrogram networks share: front end, bounds, and the reading of their authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from robust.errors import CheckpointError, VictimError, unknown
from robust.frontends.specaugment import SpecAugment
from robust.frontends.thesis import QUIRK, ThesisMel
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import read_safetensors
from robust.victims.hearing import INPUTS, LOGMEL_BOUNDS
from robust.victims.upstream import check_entries, read_state


@dataclass(frozen=True)
class SpectrogramSettings:
    """Configuration of the front end; the defaults are the thesis's (6.4, and procedure A4 of table 6.1).

    Attributes:
        hears: `audio` (waveform; the spectrogram is inside) or `logmel` (normalised features, (frames, n_mels)).
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_fft: Samples in the DFT.
        win_length: Samples in the window.
        hop_length: Samples between frames.
        n_mels: Mel filters.
        decibel_multiplier: Of log10 of the mel power: 20, with which upstream trained, or 10 for decibels.
        mean: Of the decibels over the training set; AudioSet's when None.
        std: Their standard deviation; AudioSet's when None.
        time_mask: Greatest width of a SpecAugment block in frames, in training.
        freq_mask: Greatest width of a SpecAugment block in bands, in training.
    """

    hears: str = "audio"
    sample_rate: int = 16_000
    clip_seconds: float = 10.0
    n_fft: int = 4096
    win_length: int = 1024
    hop_length: int = 400
    n_mels: int = 64
    decibel_multiplier: float = QUIRK
    mean: float | None = None
    std: float | None = None
    time_mask: int = 75
    freq_mask: int = 12

    @property
    def frames(self) -> int:
        """Frames in a clip."""
        return round(self.sample_rate * self.clip_seconds) // self.hop_length


SMALL_FRONT_END: Mapping[str, Any] = {
    "clip_seconds": 1.0,
    "n_fft": 512,
    "win_length": 512,
    "hop_length": 250,
    "time_mask": 8,
    "freq_mask": 8,
}
"""Of the embedded weights: 64 frames of 64 bands a second."""


class SpectrogramVictim(Victim):
    """A victim that begins with `ThesisMel`, or is given what comes out of it."""

    def __init__(self, name: str, *, labels: tuple[str, ...], task: Task, settings: SpectrogramSettings) -> None:
        if settings.hears not in INPUTS:
            raise VictimError(unknown("input", settings.hears, INPUTS))
        hears_audio = settings.hears == "audio"
        super().__init__(
            VictimSpec(
                name=name,
                labels=labels,
                task=task,
                modalities=(settings.hears,),
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                shapes={} if hears_audio else {settings.hears: (settings.frames, settings.n_mels)},
                bounds={settings.hears: DEFAULT_BOUNDS["audio"] if hears_audio else LOGMEL_BOUNDS},
            )
        )
        if hears_audio:
            self.log_mel = ThesisMel(
                sample_rate=settings.sample_rate,
                n_fft=settings.n_fft,
                win_length=settings.win_length,
                hop_length=settings.hop_length,
                n_mels=settings.n_mels,
                decibel_multiplier=settings.decibel_multiplier,
                mean=settings.mean,
                std=settings.std,
            )
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask, stripes=1)
        self.config = asdict(settings)

    def features(self, inputs: Inputs) -> Tensor:
        """Normalised features (B, frames, n_mels), with SpecAugment in training."""
        (modality,) = self.spec.modalities
        heard = inputs[modality]
        augmented: Tensor = self.spec_augment(self.log_mel(heard) if modality == "audio" else heard)
        return augmented


AnyVictim = TypeVar("AnyVictim", bound=Victim)


def read_upstream(path: str, model: str, *, needed: tuple[str, ...]) -> dict[str, Tensor]:
    """The state dict of a `.pt`, `.pth` or `.safetensors` file, without DataParallel's `module.`.

    Raises:
        CheckpointError: If the file cannot be read safely, or lacks one of the `needed` entries of `model`.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    state = read_safetensors(file) if file.suffix == ".safetensors" else read_state(file)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    for key in needed:
        if key not in state:
            raise CheckpointError(f"{path} is no {model} checkpoint: it has no {key!r} among its {len(state)} entries.")
    return state


def load_renamed(victim: AnyVictim, given: Mapping[str, Tensor], path: str, model: str) -> AnyVictim:
    """Fills `victim` with upstream's weights under its own names: every entry, and no other."""
    check_entries(path, model, victim.state_dict(), given)
    victim.load_state_dict(dict(given))
    return victim.eval()


def check_bins(path: str, bins: int) -> None:
    """Refuses checkpoints of another number of mel bands, whose authors computed them by another front end."""
    if bins != SpectrogramSettings.n_mels:
        raise CheckpointError(
            f"{path} takes {bins} mel bands. Only networks on {SpectrogramSettings.n_mels} bands load: those on more "
            "were trained on Kaldi's filterbank, which is not this model's front end."
        )


def without_doubles(state: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Convolutions that are stored as `convN` and as `conv.N-1` kept once, under the first name.

    Raises:
        CheckpointError: If the two differ.
    """
    kept = {}
    for name, value in state.items():
        found = re.match(r"conv\.(\d+)\.(.*)$", name)
        twin = f"conv{int(found[1]) + 1}.{found[2]}" if found else name
        if found and twin in state and not torch.equal(value, state[twin]):
            raise CheckpointError(f"{path} stores a convolution twice, and {name} differs from {twin}.")
        kept[twin] = value
    return kept
