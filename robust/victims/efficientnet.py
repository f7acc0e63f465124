"""`efficientnet-b2`: EfficientNet-B2 on a log-mel spectrogram, decided frame by frame; efficient_latent of HEAR 2021.

Sources: Dinkel's submission to HEAR 2021 (RedRice, efficient_latent), whose checkpoint loads strictly; Tan & Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, table 1. The network is timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.frontends.logmel import decibels
from robust.frontends.mel import MelSpectrogram
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import read_safetensors
from robust.victims.pooling import FrameHead
from robust.victims.registry import register
from robust.victims.upstream import check_entries, read_state

if TYPE_CHECKING:
    from timm.models.efficientnet import EfficientNet

# Table 1 of the paper, a stage a line: kind of block, repeats, kernel, stride, expansion, channels, squeeze.
STAGES = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e6_c24_se0.25",
    "ir_r2_k5_s2_e6_c40_se0.25",
    "ir_r3_k3_s2_e6_c80_se0.25",
    "ir_r3_k5_s1_e6_c112_se0.25",
    "ir_r4_k5_s2_e6_c192_se0.25",
    "ir_r1_k3_s1_e6_c320_se0.25",
)
STEM, LATENT = 32, 1280  # channels before the width multiplier
REDUCTION = 32  # frames and bands are halved five times
TOP_DB = 120.0
NORM_EPS = 1e-3
UNTRAINED = ("untrained",)
"""The only label of a victim whose checkpoint has no classifier."""


@dataclass(frozen=True)
class EfficientNetSettings:
    """Configuration; the defaults are efficient_latent's network of 7.7 M parameters and 1408 features a frame.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_fft: Samples in the window of the spectrogram.
        hop_length: Samples between its frames; a step of the output is 32 of them.
        n_mels: Mel bands, 32 or more.
        width: Multiplier of channels (B0: 1, B2: 1.1).
        depth: Multiplier of blocks (B0: 1, B2: 1.2).
        norm_momentum: Share of a batch in the running statistics, in training.
        dropout: Dropout before the classifier, in training.
        drop_path: Largest probability that a block is skipped, in training.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 10.0
    n_fft: int = 512
    hop_length: int = 160
    n_mels: int = 64
    width: float = 1.1
    depth: float = 1.2
    norm_momentum: float = 0.01
    dropout: float = 0.3
    drop_path: float = 0.2

    def check(self) -> None:
        """Raises `VictimError` for sizes of which nothing is left."""
        if self.width <= 0 or self.depth <= 0 or self.n_mels < REDUCTION:
            raise VictimError(
                f"efficientnet-b2 needs width > 0, depth > 0 and {REDUCTION} mel bands or more, for it halves them "
                f"five times; given width={self.width}, depth={self.depth}, n_mels={self.n_mels}."
            )


SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "width": 0.35,
    "depth": 0.7,
    "norm_momentum": 0.1,
    "dropout": 0.1,
    "drop_path": 0.0,
}


class EfficientNetVictim(Victim):
    """Log-mel, timm's EfficientNet, mean over frequency; the clip's probability is the mean of its frames'.

    The latent is (B, frames, D); its mean over frames is upstream's scene embedding.
    """

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: EfficientNetSettings) -> None:
        settings.check()
        super().__init__(
            VictimSpec(
                name="efficientnet-b2",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.front_end = MelSpectrogram(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            norm=None,
            mel_scale="htk",
        )
        self.network = efficientnet(settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = FrameHead(self.network.num_features, len(labels), "average")
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        features = decibels(self.front_end(inputs["audio"]))  # (B, frames, mels)
        # Upstream takes the peak of the whole batch: there a clip's embedding changes with its neighbours.
        features = torch.maximum(features, features.amax(dim=(1, 2), keepdim=True) - TOP_DB)
        maps = self.network.forward_features(features.transpose(1, 2).unsqueeze(1))  # (B, D, mels / 32, frames / 32)
        latent = maps.mean(dim=2).transpose(1, 2)
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits


class EndPadded(nn.Conv2d):
    """A convolution of stride 2 that pads by one at the end of each axis alone."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(functional.pad(maps, (0, 1, 0, 1)))


def efficientnet(settings: EfficientNetSettings) -> EfficientNet:
    """EfficientNet of timm with upstream's padding, which was fixed for pictures of 260 x 260 whatever it is fed.

    On such pictures "same" padding is lopsided where an even size meets a kernel of 3 and a stride of 2: in the stem
    and in the first block of the second stage. Everywhere else it is half a kernel on both sides.
    """
    from timm.layers.norm_act import BatchNormAct2d
    from timm.models import EfficientNet, _efficientnet_builder

    builder: Any = _efficientnet_builder  # has no types
    network: Any = EfficientNet(
        builder.decode_arch_def([[stage] for stage in STAGES], settings.depth),
        num_classes=0,
        num_features=builder.round_channels(LATENT, settings.width),
        in_chans=1,
        stem_size=STEM,
        round_chs_fn=partial(builder.round_channels, multiplier=settings.width),
        act_layer=nn.SiLU,
        norm_layer=partial(BatchNormAct2d, eps=NORM_EPS, momentum=settings.norm_momentum),
        drop_path_rate=settings.drop_path,
    )
    network.conv_stem = _end_padded(network.conv_stem)
    network.blocks[1][0].conv_dw = _end_padded(network.blocks[1][0].conv_dw)
    # Channels last is eight times as fast forward and back: what is left of it is depthwise convolutions.
    channels_last: EfficientNet = network.to(memory_format=torch.channels_last)
    return channels_last


def _end_padded(convolution: nn.Conv2d) -> EndPadded:
    """The same convolution, with its weights, padded at the end."""
    padded = EndPadded(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size[0],
        stride=2,
        groups=convolution.groups,
        bias=False,
    )
    padded.weight = convolution.weight
    return padded


def load_efficient_latent(path: str) -> Victim:
    """Loads the checkpoint of efficient_latent (`effb2.pt`), strictly and without running code from it.

    It holds no classifier: the victim gives upstream's embeddings, and one logit of a random head that means nothing.
    To train a head on them, give the file as `weights` in the configuration of `robust train`.

    Args:
        path: A `.pt` or `.pth` file holding a state dict, or the same as `.safetensors`.

    Raises:
        CheckpointError: If the file cannot be read safely, is of another architecture, or has another front end.
    """
    return build_efficientnet_b2(labels=UNTRAINED, weights=path).eval()


def _load_upstream(victim: EfficientNetVictim, path: str) -> None:
    """Puts upstream's weights into the network, after all that is in the file has been checked."""
    state = read_safetensors(Path(path)) if path.endswith(".safetensors") else read_state(Path(path))
    names = upstream_names(victim.network)
    own = victim.network.state_dict()
    front_end = {
        "front_end.0.spectrogram.window": victim.front_end.window,
        "front_end.0.mel_scale.fb": victim.front_end.mel,
    }
    check_entries(path, "efficientnet-b2", {**{name: own[key] for key, name in names.items()}, **front_end}, state)
    for name, ours in front_end.items():
        if not torch.allclose(state[name].float(), ours, rtol=0.0, atol=1e-4):  # both are of order one
            raise CheckpointError(
                f"The front end of {path} differs from that of efficientnet-b2 in {name!r}: it was trained on other "
                "spectrograms and cannot be loaded."
            )
    victim.network.load_state_dict({key: state[name] for key, name in names.items()})


def upstream_names(network: Any) -> dict[str, str]:
    """Name of each entry of timm's state dict in upstream's: blocks counted through, parts by their place."""
    numbers = {
        (stage, block): number
        for number, (stage, block) in enumerate(
            (stage, block) for stage, blocks in enumerate(network.blocks) for block in range(len(blocks))
        )
    }
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    renamed = {}
    for key in network.state_dict():
        parts = key.split(".")
        if parts[0] == "blocks":
            place = numbers[int(parts[1]), int(parts[2])]
            renamed[key] = ".".join([f"_blocks.{place}", *_inner_name(parts[3:], expands=parts[1] != "0")])
        else:
            renamed[key] = ".".join([outer[parts[0]], *parts[1:]])
    return renamed


INNER: Mapping[bool, Mapping[str, str]] = {
    False: {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"},
    True: {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    },
}
"""Parts of a block in timm's words and in upstream's: only blocks that expand begin with a convolution 1 wide."""


def _inner_name(parts: list[str], *, expands: bool) -> list[str]:
    if parts[0] == "se":
        return [{"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}[parts[1]], *parts[2:]]
    return [INNER[expands][parts[0]], *parts[1:]]


@register(
    "efficientnet-b2",
    summary="EfficientNet-B2 on log-mel, decision-level mean (Dinkel, HEAR 2021); efficient_latent's weights load",
    family="convolution",
    parity="upstream keys and outputs (fixture); timm's network",
    small=SMALL,
    recipe={"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.1},
    pretrained=load_efficient_latent,
)
def build_efficientnet_b2(
    *, labels: tuple[str, ...], task: Task = "multiclass", weights: str | None = None, **config: Any
) -> Victim:
    """Builds an EfficientNet; `config` is that of `EfficientNetSettings`.

    With `weights`, upstream's file, the network starts from it and has its size, front end and statistics; the
    classifier is random, and clips have the length asked for.
    """
    settings = EfficientNetSettings(**config)
    if weights is not None:
        settings = replace(EfficientNetSettings(), clip_seconds=settings.clip_seconds, dropout=settings.dropout)
    victim = EfficientNetVictim(labels=labels, task=task, settings=settings)
    if weights is not None:
        _load_upstream(victim, weights)
    return victim
