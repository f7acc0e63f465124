"""`resnet50`, `resnet34`: ResNets on a log-mel spectrogram, with attention pooling over time.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1; Ford et al., "A deep residual
network for large-scale acoustic scene analysis", Interspeech 2019; thesis 6.3 and table 6.2. AudioSetDoneRight's
`AudioResNet`, whose checkpoints load strictly, has stride 1 in its first convolution. The blocks are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.types import Inputs, Task
from robust.victims.base import Victim
from robust.victims.pooling import pool
from robust.victims.registry import register
from robust.victims.spectrogram import (
    SMALL_FRONT_END,
    SpectrogramSettings,
    SpectrogramVictim,
    load_renamed,
    read_upstream,
)
from robust.victims.upstream import labels_beside

BOTTLENECK = {"resnet34": False, "resnet50": True}
EXPANSION = {"resnet34": 1, "resnet50": 4}  # channels of a block's output, over its planes
PLANES = (64, 128, 256, 512)
LEAST_FRAMES = 16  # halved four times; odd numbers are rounded up
PUBLISHED = {"resnet34": "22 M", "resnet50": "25.7 M"}


@dataclass(frozen=True)
class ResNetSettings(SpectrogramSettings):
    """Configuration; the defaults are the thesis's.

    Attributes:
        width: Multiplier of channels.
        blocks: Residual blocks of each of the four stages, (3, 4, 6, 3) in both networks.
        dropout: Before the head, in training.
    """

    width: float = 1.0
    blocks: Sequence[int] = (3, 4, 6, 3)
    dropout: float = 0.0

    def check(self, name: str) -> None:
        """Raises `VictimError` for sizes of which nothing is left."""
        if self.width <= 0 or len(self.blocks) != len(PLANES) or min(self.blocks) < 1:
            raise VictimError(
                f"{name} needs width > 0 and {len(PLANES)} stages of one block or more; given width={self.width}, "
                f"blocks={tuple(self.blocks)}."
            )
        if min(self.n_mels, self.frames) < LEAST_FRAMES:
            raise VictimError(
                f"{name} needs {LEAST_FRAMES} frames and mel bands or more, for it halves both four times; given "
                f"n_mels={self.n_mels} and {self.frames} frames in clip_seconds={self.clip_seconds}."
            )


SMALL: dict[str, dict[str, Any]] = {
    "resnet34": {**SMALL_FRONT_END, "width": 0.2, "blocks": (1, 1, 1, 1)},
    "resnet50": {**SMALL_FRONT_END, "width": 0.14, "blocks": (1, 1, 1, 1)},
}


class AttentionHead(nn.Module):
    """Frame probabilities weighed by normalised sigmoids, a set of weights for each class; upstream's names."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.att = nn.Linear(width, classes)
        self.fc = nn.Linear(width, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Clip logits (B, K) from frame latents (B, S, D), without upstream's clamps at 1e-7."""
        return pool(self.fc(frames), "attention", functional.logsigmoid(self.att(frames)))


class AudioResNet(SpectrogramVictim):
    """Residual stages on one channel, mean over frequency, attention over time; the latent is (B, S, D)."""

    def __init__(self, name: str, *, labels: tuple[str, ...], task: Task, settings: ResNetSettings) -> None:
        settings.check(name)
        super().__init__(name, labels=labels, task=task, settings=settings)
        planes = [max(1, round(count * settings.width)) for count in PLANES]
        self.conv1 = nn.Conv2d(1, planes[0], 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        channels = planes[0]
        for stage, (width, blocks) in enumerate(zip(planes, settings.blocks, strict=True), start=1):
            layers = _stage(channels, width, blocks, stride=1 if stage == 1 else 2, bottleneck=BOTTLENECK[name])
            self.add_module(f"layer{stage}", layers)
            channels = width * EXPANSION[name]
        self.dropout = nn.Dropout(settings.dropout)
        self.frame_head = AttentionHead(channels, len(labels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every sixteen frames."""
        maps = functional.relu(self.bn1(self.conv1(self.features(inputs)[:, None])))
        maps = functional.max_pool2d(maps, 3, stride=2, padding=1)
        for stage in range(1, len(PLANES) + 1):
            maps = self.get_submodule(f"layer{stage}")(maps)
        steps = maps.mean(dim=3).transpose(1, 2)
        return {"audio": steps, "fused": steps}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.frame_head(self.dropout(fused))
        return logits


def _stage(channels: int, planes: int, blocks: int, *, stride: int, bottleneck: bool) -> nn.Sequential:
    """Residual blocks of torchvision, the first of which has the stride and projects its skip connection."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block: type[BasicBlock | Bottleneck] = Bottleneck if bottleneck else BasicBlock
    width = planes * block.expansion
    skip = None
    if stride != 1 or channels != width:
        skip = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
    first = block(channels, planes, stride, skip)
    return nn.Sequential(first, *(block(width, planes) for _ in range(blocks - 1)))


def load_resnet(path: str, *, name: str) -> Victim:
    """Loads a checkpoint of AudioSetDoneRight's `AudioResNet`.

    Labels come from a `class_labels_indices.csv` in the same folder, or are `class 0`, `class 1`, ...

    Args:
        path: A `.pt` or `.pth` file with `{"model": state_dict}` or a state dict, or the same as `.safetensors`.
        name: `resnet50` or `resnet34`.

    Raises:
        CheckpointError: If the file cannot be read safely or is not such a network, whole.
    """
    state = read_upstream(path, name, needed=("conv1.weight", "layer1.0.conv1.weight", "att.weight", "fc.weight"))
    if ("layer1.0.conv3.weight" in state) != BOTTLENECK[name]:
        other = next(known for known in BOTTLENECK if known != name)
        raise CheckpointError(f"{path} has the blocks of a {other}, not of a {name}; give --model {other}.")
    labels = labels_beside(Path(path), len(state["fc.weight"]))
    victim = AudioResNet(name, labels=labels, task="multilabel", settings=ResNetSettings())
    given = {f"frame_head.{key}" if key.startswith(("att.", "fc.")) else key: value for key, value in state.items()}
    return load_renamed(victim, given, path, name)


def _register(name: str) -> None:
    def build(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
        return AudioResNet(name, labels=labels, task=task, settings=ResNetSettings(**config))

    register(
        name,
        summary=f"ResNet-{name[-2:]} on log-mel, attention pooling (thesis 6.3, {PUBLISHED[name]}); upstream loads",
        family="convolution",
        parity="upstream keys and outputs (fixture); torchvision's blocks",
        small=SMALL[name],
        recipe={"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.1},
        pretrained=partial(load_resnet, name=name),
    )(build)


for _name in BOTTLENECK:
    _register(_name)
