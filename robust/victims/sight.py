"""Visual branches: video to one embedding per step of time.

A branch has `modality`, the `shape` of one example, its `bounds`, and maps (B, *shape) to (B, S, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError, unknown
from robust.types import DEFAULT_BOUNDS

REDUCTION = 8
"""Three pools of 2."""
FEATURE_BOUNDS = (0.0, 23.27987)
"""Range of R(2+1)D features over AudioSet as its authors clip them (methods.md 1.1)."""


class VisualBranch(Protocol):
    """What every visual branch offers."""

    modality: str
    shape: tuple[int, ...]
    bounds: tuple[float, float]

    def __call__(self, video: Tensor) -> Tensor:
        """(B, S, D) from (B, *shape)."""


def normalised(video: Tensor) -> Tensor:
    """Video in [0, 1] as the small networks take it: about zero mean and unit variance."""
    return (video - 0.5) / 0.25


class FrameBranch(nn.Module):
    """A small convolutional network on every frame, then a convolution over time; S is the number of frames."""

    modality = "video"
    bounds = DEFAULT_BOUNDS["video"]

    def __init__(self, embedding: int, *, frames: int, size: int, width: int, channels: int = 3) -> None:
        super().__init__()
        if size < REDUCTION or size % REDUCTION:
            raise VictimError(f"The frame size must be a multiple of {REDUCTION}; given {size}.")
        self.shape = (frames, 3, size, size)
        self.picture = nn.Sequential(
            # A stride in place of the first pool: half of the time goes into full-size maps otherwise.
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *picture_block(width, 2 * width),
            *picture_block(2 * width, 4 * width),
            nn.Flatten(),
            nn.Linear(4 * width * (size // REDUCTION) ** 2, embedding, bias=False),
            nn.BatchNorm1d(embedding),
            nn.ReLU(),
        )
        self.motion = nn.Sequential(
            nn.Conv1d(embedding, embedding, 3, padding=1, bias=False), nn.BatchNorm1d(embedding), nn.ReLU()
        )

    def forward(self, video: Tensor) -> Tensor:
        """(B, F, D) from video (B, F, 3, H, W) in [0, 1]."""
        return self.steps(normalised(video))

    def steps(self, pictures: Tensor) -> Tensor:
        """(B, F, D) from normalised pictures (B, F, channels, H, W)."""
        # Channels last is a quarter faster forward and back.
        flat = pictures.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        latents = self.picture(flat).reshape(*pictures.shape[:2], -1)
        moved: Tensor = self.motion(latents.transpose(1, 2)).transpose(1, 2)
        return moved


class FeatureBranch(nn.Module):
    """Features computed beforehand, as AudioSet's video is often passed on: a linear layer on each step."""

    modality = "video_features"
    bounds = FEATURE_BOUNDS

    def __init__(self, embedding: int, *, steps: int, size: int) -> None:
        super().__init__()
        self.shape = (steps, size)
        self.linear = nn.Linear(size, embedding)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, D) from features (B, S, size)."""
        return functional.relu(self.linear(features))


class R2Plus1DBranch(nn.Module):
    """torchvision's r2plus1d_18 (Tran et al. 2018) on real video, then a linear layer on each step."""

    modality = "video"
    bounds = DEFAULT_BOUNDS["video"]

    def __init__(self, embedding: int, *, frames: int, size: int, weights: str | None) -> None:
        super().__init__()
        from robust.victims.sight_r2plus1d import R2Plus1D

        self.shape = (frames, 3, size, size)
        self.network = R2Plus1D(weights=None if weights is None else Path(weights))
        self.linear = nn.Linear(512, embedding)

    def forward(self, video: Tensor) -> Tensor:
        """(B, S, D) from video (B, F, 3, H, W) in [0, 1]; S is F / 8, at least 1."""
        return functional.relu(self.linear(self.network(video)))


BRANCHES: Mapping[str, str] = {
    "frames": "a small network on every frame",
    "r2plus1d_18": "torchvision's R(2+1)D-18",
    "features": "features computed beforehand",
}


def visual_branch(
    kind: str, embedding: int, *, frames: int, size: int, width: int, weights: str | None, channels: int = 3
) -> FrameBranch | FeatureBranch | R2Plus1DBranch:
    """A visual branch by its name in `BRANCHES`.

    Args:
        kind: Its name.
        embedding: Size of a step's latent.
        frames: Frames in a clip; steps for `features`.
        size: Height and width of a frame; length of a vector for `features`.
        width: Filters of the first layer of `frames`.
        weights: State dict for `r2plus1d_18`.
        channels: Colours of a picture, for `frames`.
    """
    if kind == "frames":
        return FrameBranch(embedding, frames=frames, size=size, width=width, channels=channels)
    if kind == "features":
        return FeatureBranch(embedding, steps=frames, size=size)
    if kind == "r2plus1d_18":
        return R2Plus1DBranch(embedding, frames=frames, size=size, weights=weights)
    raise VictimError(unknown("visual branch", kind, BRANCHES))


def picture_block(channels_in: int, channels: int) -> list[nn.Module]:
    """A 3 x 3 convolution, batch normalisation, ReLU and a max-pool of 2."""
    return [
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
