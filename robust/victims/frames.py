"""`frames`: a small video-only victim, the visual counterpart of the audio ones on `events`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust.errors import VictimError
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.registry import register
from robust.victims.sight import REDUCTION, picture_block


@dataclass(frozen=True)
class FramesSettings:
    """Configuration.

    Attributes:
        frames: Frames in a clip.
        size: Height and width of a frame, a multiple of 8.
        width: Filters of the first layer; the latent has four times as many.
        dropout: Dropout before the head, in training.
        sample_rate: Hz of the audio that belongs to the clip; this victim does not hear it.
        clip_seconds: Length of a clip.
    """

    frames: int = 8
    size: int = 32
    width: int = 16
    dropout: float = 0.2
    sample_rate: int = 16_000
    clip_seconds: float = 1.0

    def check(self) -> None:
        """Raises `VictimError` for a shape that the network cannot take."""
        if self.frames < 1 or self.width < 1 or self.size < REDUCTION or self.size % REDUCTION:
            raise VictimError(
                f"frames needs at least one frame and filter and a size that is a multiple of {REDUCTION}; given "
                f"frames={self.frames}, width={self.width}, size={self.size}."
            )


class Frames(Victim):
    """A convolutional network on every frame, then convolutions over time.

    The latent of a frame keeps where in the picture things are, so that the layers over time can see them move.
    """

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: FramesSettings) -> None:
        settings.check()
        super().__init__(
            VictimSpec(
                name="frames",
                labels=labels,
                task=task,
                modalities=("video",),
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                shapes={"video": (settings.frames, 3, settings.size, settings.size)},
                bounds={"video": DEFAULT_BOUNDS["video"]},
            )
        )
        width = settings.width
        latent = 4 * width
        self.picture = nn.Sequential(
            *picture_block(3, width),
            *picture_block(width, 2 * width),
            *picture_block(2 * width, 4 * width),
            nn.Flatten(),
            nn.Linear(latent * (settings.size // REDUCTION) ** 2, latent, bias=False),
            nn.BatchNorm1d(latent),
            nn.ReLU(),
        )
        self.motion = nn.Sequential(
            nn.Conv1d(latent, latent, 3, padding=1, bias=False),
            nn.BatchNorm1d(latent),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(latent, len(labels))
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        video = inputs["video"]  # (B, F, 3, H, W)
        batch, frames = video.shape[:2]
        # Channels last is a quarter faster forward and back.
        frames_last = video.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        pictures = self.picture((frames_last - 0.5) / 0.25)  # (B F, D)
        over_time = self.motion(pictures.unflatten(0, (batch, frames)).transpose(1, 2))  # (B, D, F)
        # The maximum tells what happened at any time, the mean how long it lasted.
        latent = over_time.amax(dim=2) + over_time.mean(dim=2)
        return {"video": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits


@register(
    "frames",
    summary="small CNN on 8 frames of 32 x 32, frame by frame and then over time; ours",
    family="video",
    recipe={"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.1},
)
def build_frames(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained frame network; `config` is that of `FramesSettings`."""
    return Frames(labels=labels, task=task, settings=FramesSettings(**config))
