"""`cnn14`: the 14-layer convolutional network of PANNs, and its upstream checkpoints.

Reference: Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.frontends.logmel import LogMel
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.registry import register
from robust.victims.upstream import check_entries, labels_beside, read_state

BLOCKS = 6
HALVINGS = 5  # the pool of the last block is 1 x 1
FRONT_END_TOLERANCE = 1e-3  # of the largest entry


@dataclass(frozen=True)
class Cnn14Settings:
    """Configuration; the defaults are the published 32 kHz network of 81 M parameters.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_fft: Samples in the window of the spectrogram.
        hop_length: Samples between frames.
        n_mels: Mel filters.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz.
        width: Channels of the first block; each block doubles them, and the latent has 32 times as many.
        block_dropout: Dropout after each block, in training.
        head_dropout: Dropout before the latent's layer, in training.
        time_mask: Greatest width of a SpecAugment block in frames, in training.
        freq_mask: Greatest width of a SpecAugment block in mel bands, in training.
    """

    sample_rate: int = 32_000
    clip_seconds: float = 10.0
    n_fft: int = 1024
    hop_length: int = 320
    n_mels: int = 64
    fmin: float = 50.0
    fmax: float = 14_000.0
    width: int = 64
    block_dropout: float = 0.2
    head_dropout: float = 0.5
    time_mask: int = 64
    freq_mask: int = 8

    def check(self) -> None:
        """Raises `VictimError` if a clip would vanish in the pools."""
        frames = 1 + round(self.sample_rate * self.clip_seconds) // self.hop_length
        least = 2**HALVINGS
        if self.width < 1 or frames < least or self.n_mels < least:
            raise VictimError(
                f"cnn14 cannot have width {self.width} with {frames} frames of {self.n_mels} mel bands: the width must "
                f"be at least 1, and {least} frames and bands are needed because {HALVINGS} pools halve both. "
                "Raise width, clip_seconds or n_mels, or lower hop_length."
            )


SMALL: dict[str, Any] = {
    "sample_rate": 16_000,
    "clip_seconds": 1.0,
    "n_fft": 512,
    "hop_length": 160,
    "fmax": 8_000.0,
    "width": 6,
    "time_mask": 16,
}

# The front ends with which upstream published this network; the window's length tells which one a checkpoint has.
UPSTREAM_FRONT_ENDS: Mapping[int, Mapping[str, Any]] = {
    1024: {"sample_rate": 32_000, "n_fft": 1024, "hop_length": 320, "fmin": 50.0, "fmax": 14_000.0},
    512: {"sample_rate": 16_000, "n_fft": 512, "hop_length": 160, "fmin": 50.0, "fmax": 8_000.0},
    256: {"sample_rate": 8_000, "n_fft": 256, "hop_length": 80, "fmin": 50.0, "fmax": 4_000.0},
}


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU, then an average pool."""

    def __init__(self, channels_in: int, channels: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.pool = pool
        nn.init.xavier_uniform_(self.conv1.weight)
        nn.init.xavier_uniform_(self.conv2.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, frames / pool, mels / pool) from (B, C', frames, mels)."""
        maps = functional.relu(self.bn1(self.conv1(maps)))
        maps = functional.relu(self.bn2(self.conv2(maps)))
        return functional.avg_pool2d(maps, self.pool) if self.pool > 1 else maps


class Cnn14(Victim):
    """Six convolutional blocks on a log-mel spectrogram, pooled by max plus mean over time.

    Parameters are named as upstream names them. The logits come before upstream's sigmoid.
    """

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: Cnn14Settings) -> None:
        settings.check()
        super().__init__(
            VictimSpec(
                name="cnn14",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.log_mel = LogMel(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            fmin=settings.fmin,
            fmax=settings.fmax,
        )
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask)
        self.bn0 = nn.BatchNorm2d(settings.n_mels)
        channels = [1, *(settings.width * 2**block for block in range(BLOCKS))]
        for block in range(BLOCKS):
            pool = 2 if block < HALVINGS else 1
            self.add_module(f"conv_block{block + 1}", ConvBlock(channels[block], channels[block + 1], pool))
        self.fc1 = nn.Linear(channels[-1], channels[-1])
        self.fc_audioset = nn.Linear(channels[-1], len(labels))
        for layer in (self.fc1, self.fc_audioset):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.block_dropout = nn.Dropout(settings.block_dropout)
        self.head_dropout = nn.Dropout(settings.head_dropout)
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        features = self.log_mel(inputs["audio"])  # (B, frames, mels)
        # Normalisation is per mel band, so the bands stand where BatchNorm2d has its channels.
        features = self.bn0(features.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
        maps = self.spec_augment(features).unsqueeze(1)  # (B, 1, frames, mels)
        for block in range(BLOCKS):
            maps = self.block_dropout(self.get_submodule(f"conv_block{block + 1}")(maps))
        over_time = maps.mean(dim=3)  # (B, C, frames / 32)
        pooled = over_time.amax(dim=2) + over_time.mean(dim=2)
        latent = functional.relu(self.fc1(self.head_dropout(pooled)))
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.fc_audioset(fused)
        return logits


def load_cnn14(path: str) -> Victim:
    """Loads an upstream PANNs checkpoint of Cnn14 (32, 16 or 8 kHz; any width), without running code from it.

    Labels come from a `class_labels_indices.csv` in the same folder, or are `class 0`, `class 1`, ...

    Args:
        path: A `.pth` file holding `{"model": state_dict}` or a state dict.

    Raises:
        CheckpointError: If the file cannot be read safely, is of another architecture, or has another front end.
    """
    state = read_state(Path(path))
    for key in ("spectrogram_extractor.stft.conv_real.weight", "conv_block1.conv1.weight", "fc_audioset.weight"):
        if key not in state:
            raise CheckpointError(f"{path} is no Cnn14 checkpoint: it has no {key!r} among its {len(state)} entries.")
    n_fft = state["spectrogram_extractor.stft.conv_real.weight"].shape[-1]
    if n_fft not in UPSTREAM_FRONT_ENDS:
        raise CheckpointError(
            f"The front end of {path} has a window of {n_fft} samples; Cnn14 has one of "
            f"{', '.join(str(known) for known in UPSTREAM_FRONT_ENDS)}."
        )
    width = state["conv_block1.conv1.weight"].shape[0]
    settings = Cnn14Settings(width=width, **UPSTREAM_FRONT_ENDS[n_fft])
    labels = labels_beside(Path(path), state["fc_audioset.weight"].shape[0])
    victim = Cnn14(labels=labels, task="multilabel", settings=settings)
    expected = victim.log_mel.upstream_buffers()
    check_entries(path, "Cnn14", {**victim.state_dict(), **expected}, state)
    _check_front_end(path, expected, state)
    victim.load_state_dict({key: value for key, value in state.items() if key not in expected})
    return victim.eval()


def _check_front_end(path: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """The stored front end must be the one that is computed here, or the logits would be others than upstream's."""
    for key, ours in expected.items():
        error = float((state[key].float() - ours).abs().max() / ours.abs().max())
        if not error <= FRONT_END_TOLERANCE:  # so that NaN fails too
            raise CheckpointError(
                f"The front end of {path} differs from that of Cnn14: {key!r} is off by {error:.2g} of its largest "
                f"entry, more than {FRONT_END_TOLERANCE:g}. It was trained on other spectrograms and cannot be loaded."
            )


@register(
    "cnn14",
    summary="PANNs Cnn14 (Kong 2020) on log-mel; upstream checkpoints load strictly, front end included",
    family="convolution",
    parity="upstream keys; front end and forward pass written anew (test)",
    small=SMALL,
    recipe={"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.2},
    pretrained=load_cnn14,
)
def build_cnn14(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained Cnn14; `config` is that of `Cnn14Settings`."""
    return Cnn14(labels=labels, task=task, settings=Cnn14Settings(**config))
