"""SpecAugment: blocks of time and of frequency are blanked while training (Park et al., Interspeech 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.specaugment import outside_stripes


class SpecAugment(nn.Module):
    """Blanks `stripes` random blocks along time and as many along frequency, for each example; training mode only.

    Widths are uniform in 0..width and so may be nothing. Masks come from the module's own generator, so training can
    be repeated and no global seed is touched.

    Args:
        time_width: Greatest width of a block in frames; 0 masks no time.
        freq_width: Greatest width of a block in mel bands; 0 masks no band.
        stripes: Blocks along each axis.
        seed: Seed of the generator.

    Attributes:
        generator: Source of the masks, on the CPU; may be replaced.
    """

    def __init__(self, *, time_width: int, freq_width: int, stripes: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.time_width = time_width
        self.freq_width = freq_width
        self.stripes = stripes
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, features: Tensor) -> Tensor:
        """`features` (B, frames, mels) with blocks set to zero, the mean of normalised features."""
        if not self.training:
            return features
        batch, frames, mels = features.shape
        time = outside_stripes(batch, frames, self.time_width, self.stripes, self.generator).unsqueeze(2)
        freq = outside_stripes(batch, mels, self.freq_width, self.stripes, self.generator).unsqueeze(1)
        return features * (time & freq).to(features)
