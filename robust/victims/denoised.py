"""A victim behind a one-shot denoiser: the base classifier of denoised smoothing (Carlini et al. 2023)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor, nn

from attacks.errors import ThreatModelError
from robust.errors import VictimError
from robust.types import Inputs
from robust.victims.base import Victim


class Denoiser(Protocol):
    """What takes Gaussian noise of a known level off a waveform, e.g. `defenses.diffusion.DiffusionModel`.

    Attributes:
        sample_rate: Hz of its clips.
        samples: Their length.
    """

    @property
    def sample_rate(self) -> int: ...

    @property
    def samples(self) -> int: ...

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """(B, T) in [-1, 1] from clips with noise (B, T)."""

    def describe(self) -> dict[str, Any]:
        """Its settings, as JSON."""


class Denoised(Victim):
    """A victim that hears what a denoiser makes of noise of one level.

    Audio is in [-1, 1] both for victim and denoiser, so their noise level is the same (for images in [0, 1] it is
    doubled). Only `audio` is denoised.

    Args:
        victim: Hears a waveform.
        denoiser: For clips of its rate and length.
        sigma: Standard deviation of the noise.

    Raises:
        VictimError: If the victim hears no waveform.
        ThreatModelError: If the denoiser is made for another rate or length, or knows no such noise level.
    """

    def __init__(self, victim: Victim, denoiser: Denoiser, sigma: float) -> None:
        spec = victim.spec
        if "audio" not in spec.modalities:
            raise VictimError(
                f"A denoiser cleans a waveform, `audio`; the victim {spec.name!r} takes {', '.join(spec.modalities)}."
            )
        if (denoiser.sample_rate, denoiser.samples) != (spec.sample_rate, spec.clip_samples):
            raise ThreatModelError(
                f"The denoiser is made for {denoiser.samples} samples at {denoiser.sample_rate} Hz and the victim "
                f"hears {spec.clip_samples} at {spec.sample_rate} Hz; train one for it, or take another victim."
            )
        _check_level(denoiser, sigma)
        super().__init__(replace(spec, name=f"{spec.name}+denoised"))
        self.victim, self.denoiser, self.sigma = victim, denoiser, sigma
        if isinstance(denoiser, nn.Module):
            self.network = denoiser  # so that modes and flags reach it
        self.config = {"victim": victim.config, "denoiser": denoiser.describe(), "sigma": sigma}

    def forward(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.victim({**inputs, "audio": self.denoiser.denoise(inputs["audio"], self.sigma)})
        return logits


def _check_level(denoiser: Denoiser, sigma: float) -> None:
    """Asks the denoiser's schedule for the level, where it has one; its error names those that there are."""
    find = getattr(denoiser, "step_for", None)
    if find is not None:
        find(sigma)
    domain = getattr(denoiser, "domain", "waveform")
    if domain != "waveform":
        raise ThreatModelError(
            f"Denoised smoothing adds its noise to the waveform; this diffusion model is one of {domain!r}. "
            "Give a waveform model."
        )


__all__ = ["Denoised", "Denoiser"]
