"""The encoder of Audio-MAE: its configuration, its fixed positions, the transformer, and what published files hold.

Sources: Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022; thesis chapter 7. The transformer is timm's, and
so are the names of its parameters, which are those of the published checkpoints.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robust.errors import CheckpointError, VictimError
from robust.frontends.kaldi import KaldiFbank
from robust.victims.checkpoints import read_safetensors
from robust.victims.upstream import read_state

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

UPSTREAM_MELS = 128
HEAD_WIDTH = 64
"""Of a head of attention, in every published size (ViT-S, ViT-B, ViT-L)."""
UPSTREAM_STATISTICS = {1024: (-4.2677393, 4.5689974), 512: (-6.6268077, 5.358466), 128: (-6.845978, 5.5654526)}
"""Frames of a published model -> mean and deviation of its data: AudioSet, ESC-50, Speech Commands."""


@dataclass(frozen=True)
class AudioMaeSettings:
    """Configuration; the defaults are the ViT-B of AudioSet (86 M parameters).

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_mels: Mel bands, a multiple of `patch_size`.
        max_frames: Frames to which the filterbank is cut or padded, a multiple of `patch_size`; 100 a second.
        mean: Mean of the log-mel energies of the training set.
        std: Their standard deviation.
        patch_size: Height and width of a patch, in mel bands and frames; patches do not overlap (thesis 7.4.2).
        width: Of the transformer, a multiple of `heads` and of 4.
        layers: Transformer layers.
        heads: Attention heads.
        mlp_ratio: Width of the feed-forward layers over `width`.
        drop_path: Highest rate at which a layer is skipped, in training; 0.1 upstream.
        time_ratio: Share of the times whose patches are left out, in training (fine-tuning; thesis 7.4.2).
        frequency_ratio: Share of the bands whose patches are left out, in training.
        swapped_positions: Upstream numbers positions as if the patches came band by band, though they come time by
            time; its checkpoints bring their own positions, and this is what a new model has.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 10.0
    n_mels: int = 128
    max_frames: int = 1024
    mean: float = -4.2677393
    std: float = 4.5689974
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    time_ratio: float = 0.3
    frequency_ratio: float = 0.3
    swapped_positions: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along time and along frequency."""
        return self.max_frames // self.patch_size, self.n_mels // self.patch_size

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        if self.width % self.heads or self.width % 4:
            raise VictimError(f"width={self.width} must be a multiple of heads={self.heads} and of 4.")
        if min(self.grid) < 1 or self.max_frames % self.patch_size or self.n_mels % self.patch_size:
            raise VictimError(
                f"max_frames={self.max_frames} and n_mels={self.n_mels} must be multiples of "
                f"patch_size={self.patch_size}: patches do not overlap."
            )
        if self.std <= 0:
            raise VictimError(f"std={self.std} must be positive.")

    def fbank(self) -> KaldiFbank:
        """The front end: features (B, max_frames, n_mels)."""
        return KaldiFbank(
            sample_rate=self.sample_rate,
            n_mels=self.n_mels,
            max_frames=self.max_frames,
            mean=self.mean,
            std=self.std,
        )


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed positions (1 + rows * columns, width) of a grid read row by row, float32; the first one, of no patch, is 0.

    The first half of the width tells the column, the second the row; of each half the first half is sines and the
    second cosines, at `width` / 4 rates from 1 down to near 1e-4 (He et al. 2022, MAE).
    """
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def waves(places: Tensor) -> Tensor:
        angles = places[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    column = torch.arange(columns, dtype=torch.float64).repeat(rows)
    grid = torch.cat([waves(column), waves(row)], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), grid]).float()


def build_vit(settings: AudioMaeSettings, *, classes: int) -> VisionTransformer:
    """Timm's transformer with fixed positions; a classifier over the mean patch, or none for pre-training.

    Args:
        settings: Sizes.
        classes: Outputs; with 0 there is no classifier, and every patch is normalised instead of their mean.
    """
    from timm.models.vision_transformer import VisionTransformer

    settings.check()
    vit = VisionTransformer(
        img_size=(settings.max_frames, settings.n_mels),
        patch_size=settings.patch_size,
        in_chans=1,
        num_classes=classes,
        global_pool="avg",
        fc_norm=classes > 0,
        embed_dim=settings.width,
        depth=settings.layers,
        num_heads=settings.heads,
        mlp_ratio=settings.mlp_ratio,
        drop_path_rate=settings.drop_path if classes else 0.0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    times, bands = settings.grid
    positions = grid_positions(*((bands, times) if settings.swapped_positions else (times, bands)), settings.width)
    vit.pos_embed = nn.Parameter(positions[None], requires_grad=False)
    # As in MAE: the projection of patches begins as that of a linear layer, the summary token away from zero.
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(settings.width, -1))
    nn.init.normal_(_tokens(vit)[0], std=0.02)
    return vit


def _tokens(vit: VisionTransformer) -> tuple[Tensor, Tensor]:
    """The summary token (1, 1, width), and positions (1, 1 + L, width)."""
    assert vit.cls_token is not None  # timm has transformers without either
    assert vit.pos_embed is not None
    return vit.cls_token, vit.pos_embed


def patches_of(vit: VisionTransformer, features: Tensor) -> Tensor:
    """Embedded patches (B, L, width) with their positions, time first, of features (B, frames, mels)."""
    embedded: Tensor = vit.patch_embed(features[:, None]) + _tokens(vit)[1][:, 1:]
    return embedded


def encoded(vit: VisionTransformer, patches: Tensor) -> Tensor:
    """What the layers make of any of the patches (B, n, width): (B, 1 + n, width), the summary token first."""
    token, positions = _tokens(vit)
    summary = (token + positions[:, :1]).expand(len(patches), -1, -1)
    steps: Tensor = vit.blocks(torch.cat([summary, patches], dim=1))
    return steps


def read_published(source: str) -> dict[str, Tensor]:
    """The entries of a published checkpoint, `.pth` or `.safetensors`, under upstream's names.

    Raises:
        CheckpointError: If there is none, or it cannot be read safely.
    """
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"No Audio-MAE checkpoint at {source!r}: give a .pth or .safetensors file of upstream's.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    # Upstream keeps its command line beside the weights; a namespace is an empty class and runs nothing.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return read_state(path)


def settings_of(state: Mapping[str, Tensor], source: str) -> AudioMaeSettings:
    """The configuration that the shapes of an encoder's entries tell.

    Raises:
        CheckpointError: If they are of no Audio-MAE.
    """
    lacking = [
        name
        for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
        if name not in state
    ]
    if lacking:
        raise CheckpointError(f"{source} is no Audio-MAE checkpoint: it lacks {', '.join(lacking)}.")
    projection, positions = state["patch_embed.proj.weight"], state["pos_embed"]
    if projection.ndim != 4 or projection.shape[1] != 1 or positions.ndim != 3:
        raise CheckpointError(
            f"{source} is no Audio-MAE checkpoint: patch_embed.proj.weight is {tuple(projection.shape)} and pos_embed "
            f"{tuple(positions.shape)}; expected (width, 1, patch, patch) and (1, patches + 1, width)."
        )
    width, patch = projection.shape[0], projection.shape[3]
    frames = (positions.shape[1] - 1) * patch // (UPSTREAM_MELS // patch)
    mean, std = UPSTREAM_STATISTICS.get(frames, UPSTREAM_STATISTICS[1024])
    return AudioMaeSettings(
        clip_seconds=float(max(frames // 100, 1)),
        max_frames=frames,
        mean=mean,
        std=std,
        patch_size=patch,
        width=width,
        layers=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        heads=max(width // HEAD_WIDTH, 1),
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )


__all__ = [
    "AudioMaeSettings",
    "build_vit",
    "encoded",
    "grid_positions",
    "patches_of",
    "read_published",
    "settings_of",
]
