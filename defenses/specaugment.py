"""SpecAugment for every victim, also one of raw waveforms: blocks of time and of frequency fall silent.

Park et al. 2019, without warping. Waveforms go through a lapped transform and back, which loses nothing of the rest;
log-mel features are blanked as they are, to the clip's own lowest value, which is silence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from defenses.lapped import LappedTransform

COEFFICIENTS = 64


@dataclass(frozen=True)
class SpecAugment:
    """Blanks blocks, drawn anew for every clip.

    Attributes:
        time_share: Greatest width of a block over the clip's length; widths are uniform from 0.
        frequency_share: Greatest width of a block over all frequencies.
        stripes: Blocks along each axis.
    """

    time_share: float = 0.15
    frequency_share: float = 0.15
    stripes: int = 2

    def __call__(self, sound: Tensor, generator: torch.Generator) -> Tensor:
        """`sound`, waveforms (B, T) or features (B, frames, bands), with blocks silent; the generator is on the CPU.

        Raises:
            ThreatModelError: If it has another number of dimensions.
        """
        if sound.ndim == 3:
            lowest = sound.flatten(1).amin(dim=1)[:, None, None]
            return torch.where(self._keep(sound, generator), sound, lowest)
        if sound.ndim != 2:
            raise ThreatModelError(
                f"SpecAugment takes waveforms (B, T) or features (B, frames, bands); given {tuple(sound.shape)}."
            )
        lapped = LappedTransform(COEFFICIENTS).to(sound.device)
        spectrum = lapped.analyse(sound)
        keep = self._keep(spectrum.transpose(1, 2), generator).transpose(1, 2)
        return lapped.synthesise(spectrum * keep, sound.shape[1]).clamp(-1.0, 1.0)

    def _keep(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Bool (B, frames, bands), false inside the blocks."""
        count, frames, bands = features.shape
        time = outside_stripes(count, frames, int(self.time_share * frames), self.stripes, generator)
        frequency = outside_stripes(count, bands, int(self.frequency_share * bands), self.stripes, generator)
        return (time[:, :, None] & frequency[:, None]).to(features.device)


def outside_stripes(count: int, length: int, widest: int, stripes: int, generator: torch.Generator) -> Tensor:
    """Bool (count, length), false inside random stripes, as many for each row, of widths uniform in 0..widest."""
    size = (count, stripes, 1)
    widths = torch.randint(0, min(widest, length) + 1, size, generator=generator)
    starts = (torch.rand(size, generator=generator) * (length - widths + 1).float()).long()
    place = torch.arange(length)
    return ~((place >= starts) & (place < starts + widths)).any(dim=1)


__all__ = ["SpecAugment", "outside_stripes"]
