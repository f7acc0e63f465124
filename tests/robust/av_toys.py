"""Small victims that hear and see, and data to match: linear, so that what they say is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.types import Clip, Dataset, VictimSpec
from robust.victims import Victim

LABELS = ("bell", "dog", "horn")
SAMPLE_RATE, SAMPLES, FRAMES = 400, 40, 2
CLIP_SECONDS = SAMPLES / SAMPLE_RATE
PICTURE = (FRAMES, 3, 4, 4)
PIXELS = FRAMES * 3 * 4 * 4


class Linear(nn.Module):
    """Logits `sum over modalities of weight @ x`, of tensors in the order of its weights; video is centred at 0.5."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [
            (value.flatten(1) - (0.5 if value.ndim == 5 else 0.0)) @ weight.T
            for value, weight in zip(inputs, self.weights, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


def prototypes(size: int, classes: int = 3, seed: int = 0) -> Tensor:
    """(classes, size) orthonormal directions."""
    return torch.linalg.qr(torch.randn(size, classes, generator=torch.Generator().manual_seed(seed))).Q.T.contiguous()


SOUND, SIGHT = prototypes(SAMPLES, seed=1), prototypes(PIXELS, seed=2)


def linear(
    sound: Tensor | None = None, sight: Tensor | None = None, task: str = "multiclass", labels: tuple[str, ...] = LABELS
) -> Victim:
    """A victim of what it is given weights for: `sound` (K, SAMPLES), `sight` (K, PIXELS)."""
    given = {name: weight for name, weight in (("audio", sound), ("video", sight)) if weight is not None}
    return Victim.wrap(
        Linear(list(given.values())),
        sample_rate=SAMPLE_RATE,
        clip_seconds=CLIP_SECONDS,
        labels=labels,
        task=task,
        modalities=tuple(given),
        shapes={"video": PICTURE} if sight is not None else {},
        name="-".join(("toy", *given)),
    ).eval()


class AVData(Dataset):
    """Any tensors as a data set: audio (N, SAMPLES), video (N, *PICTURE) and their labels."""

    name, split, labels, modalities = "av-toys", "test", LABELS, ("audio", "video")

    def __init__(self, audio: Tensor, video: Tensor, target: Tensor, labels: tuple[str, ...] = LABELS) -> None:
        self.audio, self.video, self.target, self.labels = audio, video, target, labels
        self.task = "multiclass" if target.ndim == 1 else "multilabel"
        self.reads = 0

    def __len__(self) -> int:
        return len(self.target)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        self.reads += 1
        both = {"audio": self.audio[index], "video": self.video[index]}
        inputs = {name: both[name] for name in spec.modalities}
        return Clip(f"av/{index}", inputs, self.target[index])

    def fingerprint(self) -> str:
        return f"av-toys-{len(self)}"


def clips(count: int, noise: float = 0.02, seed: int = 0) -> AVData:
    """Clips whose sound and sight both show their label along its prototype, in a little noise."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    audio = 0.5 * SOUND[target] + noise * torch.randn(count, SAMPLES, generator=draw)
    video = 0.5 + 0.5 * SIGHT[target] + noise * torch.randn(count, PIXELS, generator=draw)
    return AVData(audio.clamp(-1, 1), video.clamp(0, 1).view(-1, *PICTURE), target)
