"""Which patches of a spectrogram a transformer sees while it trains: scattered ones, or those of some rows and columns.

Sources: Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022, section 3 (thesis 7.3); Koutini et al.,
"Efficient Training of Audio Transformers with Patchout", Interspeech 2022, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.errors import VictimError


def number_kept(count: int, ratio: float) -> int:
    """How many of `count` stay when the share `ratio` is hidden: the nearest whole number, one at least."""
    return max(1, round(count * (1 - ratio)))


def chosen(batch: int, count: int, keep: int, generator: torch.Generator) -> Tensor:
    """(batch, keep) int64: for each row another `keep` of the numbers below `count`, rising; drawn on the CPU."""
    order = torch.rand(batch, count, generator=generator).argsort(dim=1)
    return order[:, :keep].sort(dim=1).values


def scattered(batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """(batch, n) places of the patches that stay visible, time first, with the share `ratio` hidden anywhere."""
    count = grid[0] * grid[1]
    return chosen(batch, count, number_kept(count, ratio), generator)


def structured(
    batch: int, grid: tuple[int, int], time_ratio: float, frequency_ratio: float, generator: torch.Generator
) -> Tensor:
    """(batch, n) places of the patches that stay visible, time first, with whole columns and rows hidden.

    Args:
        batch: Rows.
        grid: Patches along time and along frequency.
        time_ratio: Share of the places in time that are hidden, with all their bands.
        frequency_ratio: Share of the bands that are hidden, at all times.
        generator: On the CPU.
    """
    times, bands = grid
    kept_times = chosen(batch, times, number_kept(times, time_ratio), generator)
    kept_bands = chosen(batch, bands, number_kept(bands, frequency_ratio), generator)
    return (kept_times[:, :, None] * bands + kept_bands[:, None, :]).flatten(1)


def take(patches: Tensor, visible: Tensor) -> Tensor:
    """(B, n, D): of the patches (B, L, D) those at the places `visible` (B, n)."""
    return patches.gather(1, visible.to(patches.device)[:, :, None].expand(-1, -1, patches.shape[2]))


def hidden(visible: Tensor, count: int) -> Tensor:
    """(B, count) bool: true where a patch is not among the places `visible` (B, n)."""
    return torch.ones(len(visible), count, dtype=torch.bool, device=visible.device).scatter(1, visible, False)


class StructuredMask(nn.Module):
    """Leaves out whole times and bands of each clip's patches, others for each clip; training mode only.

    Masks come from the module's own generator, so training can be repeated and no global seed is touched.

    Args:
        grid: Patches along time and along frequency.
        time_ratio, frequency_ratio: Shares that are hidden, from 0 (nothing) to below 1.
        seed: Seed of the generator.

    Attributes:
        generator: Source of the masks, on the CPU; may be replaced.
    """

    def __init__(self, grid: tuple[int, int], *, time_ratio: float, frequency_ratio: float, seed: int = 0) -> None:
        super().__init__()
        for ratio in (time_ratio, frequency_ratio):
            if not 0 <= ratio < 1:
                raise VictimError(f"The share of patches that is masked must be from 0 to below 1; given {ratio}.")
        self.grid, self.time_ratio, self.frequency_ratio = grid, time_ratio, frequency_ratio
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, n, D): of the patches (B, L, D), time first, those that stay; all of them in evaluation."""
        if not self.training or self.time_ratio == self.frequency_ratio == 0:
            return patches
        return take(patches, structured(len(patches), self.grid, self.time_ratio, self.frequency_ratio, self.generator))


__all__ = ["StructuredMask", "chosen", "hidden", "number_kept", "scattered", "structured", "take"]
