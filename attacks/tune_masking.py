"""Keeping an adversarial tune near the tune that it was: what differs is to be hidden under what that one masks.

Source: the psychoacoustic term of Li et al. 2019 (methods.md 4.2; its form is not public), by the masking of Qin et al.
2019, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.masking import MaskingExcess, MaskingThreshold, masking_excess_db, masking_loss, threshold


@dataclass(frozen=True)
class HiddenIn:
    """How far a loop can be told from another by ear.

    Attributes:
        plain: (T,) the loop that masks.
        heard: Its masking threshold.
    """

    plain: Tensor
    heard: MaskingThreshold

    @classmethod
    def under(cls, plain: Tensor, sample_rate: int) -> HiddenIn:
        """Differences from the loop `plain` (T,), at `sample_rate` Hz."""
        return cls(plain.detach(), threshold(plain.detach()[None], sample_rate))

    def __call__(self, loop: Tensor) -> Tensor:
        """() log10 of 1 plus the masking loss of what differs: differentiable, 0 where nothing can be heard."""
        return torch.log10(1 + masking_loss((loop - self.plain)[None], self.heard)).sum()

    def excess(self, loop: Tensor) -> MaskingExcess:
        """By how much what differs can be heard."""
        return masking_excess_db((loop - self.plain)[None], self.heard)
