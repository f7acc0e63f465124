"""First differences of features over time, as a slope fitted over neighbouring frames."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

REACH = 2


def deltas(features: Tensor, reach: int = REACH) -> Tensor:
    """Slope (B, frames, bands) of `features` (B, frames, bands) a frame; the first and last frame go on unchanged.

    A least-squares line through 2 `reach` + 1 frames (Furui, "Speaker-independent isolated word recognition using
    dynamic features of speech spectrum", TASSP 1986, equation 5).
    """
    offsets = torch.arange(-reach, reach + 1, dtype=features.dtype, device=features.device)
    weights = offsets / offsets.square().sum()
    bands = features.transpose(1, 2)
    padded = functional.pad(bands, (reach, reach), mode="replicate")
    return (padded.unfold(2, 2 * reach + 1, 1) @ weights).transpose(1, 2)
