"""`psla`: EfficientNet-B2 on Kaldi's filterbank with four-headed attention over time.

Source: Gong, Chung & Glass, "PSLA: Improving Audio Tagging with Pretraining, Sampling, Labeling, and Aggregation",
TASLP 2021 (13.6 M parameters), whose checkpoints load strictly. The network is timm's, as in `efficientnet-b2`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.frontends.kaldi import KaldiFbank
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.efficientnet import REDUCTION, EfficientNetSettings, efficientnet, upstream_names
from robust.victims.pooling import mix_logits, pool
from robust.victims.registry import register
from robust.victims.spectrogram import load_renamed, read_upstream
from robust.victims.upstream import labels_beside

NAME = "psla"
LEAST = 1e-6
"""Floor of what is left for a class's absence, and of a head's weight."""


@dataclass(frozen=True)
class PslaSettings:
    """Configuration; the defaults are the published network of 13.6 M parameters.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_mels: Mel bands, 32 or more.
        max_frames: Frames to which the filterbank is cut or padded, 100 a second at 16 kHz; None keeps what there is.
        mean: Mean of the log-mel energies of the training set.
        std: Their standard deviation; features are (x - mean) / std here, not over twice it.
        width: Multiplier of channels (B0: 1, B2: 1.1).
        depth: Multiplier of blocks (B0: 1, B2: 1.2).
        heads: Attention heads.
        norm_momentum: Share of a batch in the running statistics, in training.
        drop_path: Largest probability that a block is skipped, in training.
        dropout: Before the attention, in training.
        time_mask: Greatest width of a SpecAugment block in frames, in training.
        freq_mask: Greatest width of a SpecAugment block in bands, in training.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 10.0
    n_mels: int = 128
    max_frames: int | None = 1056
    mean: float = -4.6476
    std: float = 4.5699
    width: float = 1.1
    depth: float = 1.2
    heads: int = 4
    norm_momentum: float = 0.01
    drop_path: float = 0.2
    dropout: float = 0.0
    time_mask: int = 192
    freq_mask: int = 48

    def check(self) -> None:
        """Raises `VictimError` for sizes of which nothing is left."""
        if self.width <= 0 or self.depth <= 0 or self.n_mels < REDUCTION:
            raise VictimError(
                f"{NAME} needs width > 0, depth > 0 and {REDUCTION} mel bands or more, for it halves them five times; "
                f"given width={self.width}, depth={self.depth}, n_mels={self.n_mels}."
            )
        if self.heads < 1 or self.std <= 0:
            raise VictimError(f"{NAME} needs a head or more and std > 0; given heads={self.heads}, std={self.std}.")


SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "n_mels": 64,
    "max_frames": None,
    "width": 0.3,
    "depth": 0.7,
    "norm_momentum": 0.1,
    "drop_path": 0.0,
    "dropout": 0.1,
    "time_mask": 12,
    "freq_mask": 8,
}


class MultiHeadPooling(nn.Module):
    """Attention over time by several heads, whose probabilities are added up by learned weights; upstream's names."""

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.att = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in range(heads))
        self.cla = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in range(heads))
        self.head_weight = nn.Parameter(torch.full((heads,), 1 / heads))

    def forward(self, frames: Tensor) -> Tensor:
        """Clip logits (B, K) from frame latents (B, S, D), without upstream's clamps of attention at 1e-7."""
        maps = frames.transpose(1, 2).unsqueeze(3)  # (B, D, S, 1)
        logits = torch.stack([self._head(att, cla, maps) for att, cla in zip(self.att, self.cla, strict=True)])
        weights = self.head_weight.clamp(min=LEAST)
        total = weights.sum()
        mixed = mix_logits(logits, (weights / total).log()[:, None, None], dim=0)
        return scaled_logits(mixed, total)

    @staticmethod
    def _head(att: nn.Module, cla: nn.Module, maps: Tensor) -> Tensor:
        """Clip logits (B, K) of one head: frames weighed by sigmoids that are divided by their sum."""
        weights = functional.logsigmoid(att(maps)).squeeze(3).transpose(1, 2)
        return pool(cla(maps).squeeze(3).transpose(1, 2), "attention", weights)


def scaled_logits(logits: Tensor, scale: Tensor) -> Tensor:
    """The logit of `scale` sigmoid(logits): nothing keeps upstream's learned weights of the heads at a sum of 1.

    At a sum of more than 1 a class can be surer than sure, and what is left for its absence is floored.
    """
    present, absent = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    if scale > 1 + LEAST:
        rest = (absent.exp() - (scale - 1) * present.exp()).clamp(min=LEAST).log()
    else:
        # Not log1p of the whole: where a probability is 1 in float32, its gradient would be gone.
        rest = torch.logaddexp(absent, present + (1 - scale).clamp(min=torch.finfo(scale.dtype).tiny).log())
    return present + scale.log() - rest


class Psla(Victim):
    """Filterbank, timm's EfficientNet, mean over frequency, attention over time; the latent is (B, S, D)."""

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: PslaSettings) -> None:
        settings.check()
        super().__init__(
            VictimSpec(
                name=NAME,
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.front_end = KaldiFbank(
            sample_rate=settings.sample_rate,
            n_mels=settings.n_mels,
            max_frames=settings.max_frames,
            mean=settings.mean,
            std=settings.std / 2,  # the filterbank divides by twice it
        )
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask, stripes=1)
        self.network = efficientnet(
            EfficientNetSettings(
                width=settings.width,
                depth=settings.depth,
                norm_momentum=settings.norm_momentum,
                drop_path=settings.drop_path,
            )
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.attention = MultiHeadPooling(self.network.num_features, len(labels), settings.heads)
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, S, D), one latent for every 32 frames."""
        latent = self.frames(self.spec_augment(self.front_end(inputs["audio"])))
        return {"audio": latent, "fused": latent}

    def frames(self, features: Tensor) -> Tensor:
        """Frame latents (B, S, D) of normalised features (B, frames, n_mels)."""
        maps = self.network.forward_features(features.transpose(1, 2).unsqueeze(1))  # (B, D, bands / 32, frames / 32)
        return maps.mean(dim=2).transpose(1, 2)

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.attention(self.dropout(fused))
        return logits


def load_psla(path: str) -> Victim:
    """Loads a checkpoint of PSLA's EfficientNet-B2 with any number of attention heads above one.

    Labels come from a `class_labels_indices.csv` in the same folder, or are `class 0`, `class 1`, ...

    Args:
        path: A `.pth` or `.pt` file with `{"model": state_dict}` or a state dict, or the same as `.safetensors`.

    Raises:
        CheckpointError: If the file cannot be read safely or is not such a network, whole.
    """
    first = "attention.cla.0.weight"
    state = read_upstream(path, NAME, needed=("effnet._conv_stem.weight", first, "attention.head_weight"))
    settings = PslaSettings(heads=state["attention.head_weight"].numel())
    victim = Psla(labels=labels_beside(Path(path), len(state[first])), task="multilabel", settings=settings)
    ours = {f"effnet.{theirs}": f"network.{key}" for key, theirs in upstream_names(victim.network).items()}
    return load_renamed(victim, {ours.get(name, name): value for name, value in state.items()}, path, NAME)


@register(
    NAME,
    summary="PSLA (Gong 2021): EfficientNet-B2 on Kaldi fbank, 4-headed attention; upstream checkpoints load",
    family="convolution",
    parity="upstream keys and outputs (fixture); timm's network",
    small=SMALL,
    recipe={"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.1},
    pretrained=load_psla,
)
def build_psla(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `PslaSettings`."""
    return Psla(labels=labels, task=task, settings=PslaSettings(**config))
