"""The transformer of PaSST: its configuration, its tokens and positions, patchout; upstream's names.

Source: Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.victims.patch_masking import chosen


@dataclass(frozen=True)
class PasstSettings:
    """Configuration; the defaults are PaSST-S for AudioSet (`passt_s_swa_p16_128_ap476`, 86 M parameters).

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_fft: Samples in the DFT.
        win_length: Samples in the window.
        hop_length: Samples between frames.
        n_mels: Mel bands.
        fmin, fmax: Range of the mel filters, Hz.
        patch_size: Height and width of a patch, in mel bands and frames.
        stride: Mel bands, and frames, between patches.
        time_positions: Patches along time that have a learnt position; those of longer clips are interpolated.
        width: Of the transformer, a multiple of `heads`.
        layers: Transformer layers.
        heads: Attention heads.
        mlp_ratio: Width of the feed-forward layers over `width`.
        patchout_time: Columns of patches that are left out, in training.
        patchout_frequency: Rows of patches that are left out, in training.
        time_mask, freq_mask: Greatest widths of a SpecAugment block in frames and in mel bands, in training.
    """

    sample_rate: int = 32_000
    clip_seconds: float = 10.0
    n_fft: int = 1024
    win_length: int = 800
    hop_length: int = 320
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 15_000.0
    patch_size: int = 16
    stride: int = 10
    time_positions: int = 99
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patchout_time: int = 40
    patchout_frequency: int = 4
    time_mask: int = 192
    freq_mask: int = 48

    @property
    def bands(self) -> int:
        """Patches along frequency."""
        return (self.n_mels - self.patch_size) // self.stride + 1

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        if self.width % self.heads:
            raise VictimError(f"width={self.width} cannot be shared among heads={self.heads}; give a multiple of it.")
        if self.n_mels < self.patch_size:
            raise VictimError(f"n_mels={self.n_mels} must hold a patch of patch_size={self.patch_size}.")
        for name, dropped, count in (
            ("patchout_time", self.patchout_time, self.time_positions),
            ("patchout_frequency", self.patchout_frequency, self.bands),
        ):
            if not 0 <= dropped < count:
                raise VictimError(f"{name}={dropped} must be from 0 to below {count}, the patches along that axis.")


class PatchEmbedding(nn.Module):
    """Overlapping patches by a convolution; of a class of its own for the name of its parameters."""

    def __init__(self, width: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, patch_size, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width, bands, times) of features (B, mels, frames)."""
        patches: Tensor = self.proj(features[:, None])
        return patches


class PasstNet(nn.Module):
    """Two summary tokens and patches with positions in time and in frequency apart; upstream's names.

    Args:
        settings: Sizes.
        classes: Outputs.
        seed: Of patchout.

    Attributes:
        generator: Source of patchout, on the CPU; may be replaced.
    """

    def __init__(self, settings: PasstSettings, classes: int, *, seed: int = 0) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        settings.check()
        width, norm = settings.width, partial(nn.LayerNorm, eps=1e-6)
        self.patchout = (settings.patchout_frequency, settings.patchout_time)
        self.generator = torch.Generator().manual_seed(seed)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, settings.bands, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, settings.time_positions))
        self.patch_embed = PatchEmbedding(width, settings.patch_size, settings.stride)
        layer: dict[str, Any] = {"mlp_ratio": settings.mlp_ratio, "qkv_bias": True, "norm_layer": norm}
        self.blocks = nn.Sequential(*(Block(width, settings.heads, **layer) for _ in range(settings.layers)))
        self.norm = norm(width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        # Published files have it, the published forward pass does not ask it; so it is kept and never learns.
        self.head_dist = nn.Linear(width, classes).requires_grad_(False)
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal of deviation 0.02 for tokens, positions and linear layers, zero biases (as in DeiT)."""
        tokens = (self.cls_token, self.dist_token)
        for value in (*tokens, self.new_pos_embed, self.freq_new_pos_embed, self.time_new_pos_embed):
            nn.init.trunc_normal_(value, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Latents (B, width), the mean of both summary tokens, of features (B, frames, mels)."""
        patches = self.patch_embed(features.transpose(1, 2))  # (B, width, bands, times)
        patches = patches + self._times(patches.shape[3]) + self.freq_new_pos_embed
        if self.training:
            for axis, dropped in zip((2, 3), self.patchout, strict=True):
                patches = self._fewer(patches, axis, dropped)
        summaries = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        steps = torch.cat([summaries.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        latent: Tensor = self.norm(self.blocks(steps))[:, :2].mean(dim=1)
        return latent

    def _times(self, count: int) -> Tensor:
        """Positions of so many times: the first ones of shorter clips as upstream; of longer ones in between."""
        known = self.time_new_pos_embed
        if count <= known.shape[3]:
            return known[..., :count]
        return functional.interpolate(known, size=(1, count), mode="bilinear", align_corners=False)

    def _fewer(self, patches: Tensor, axis: int, dropped: int) -> Tensor:
        """The patches without so many rows or columns, the same for the whole batch as upstream; one stays."""
        count = patches.shape[axis]
        if not dropped:
            return patches
        kept = chosen(1, count, max(count - dropped, 1), self.generator)[0]
        return patches.index_select(axis, kept.to(patches.device))


__all__ = ["PasstNet", "PasstSettings"]
