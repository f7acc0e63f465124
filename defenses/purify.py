"""Purification: noise is added to a clip, and a diffusion model takes it out again along with what an attacker added.

Sources: Nie et al. 2022 (DiffPure); Wu et al. 2023 (AudioPure, waveforms, n* reverse steps); Carlini et al. 2023 (one
shot); methods.md 5.4. How such a defense is evaluated honestly: `robust.evaluation.purification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attacks.channel import Channel, Parameters, where_valid
from attacks.errors import ThreatModelError, unknown
from defenses.diffusion import DiffusionModel

METHODS = {
    "ddpm": "n* steps back, noise drawn at each (AudioPure)",
    "ddim": "n* steps back without noise",
    "one-shot": "the clean clip as estimated from step n* at once",
}


class DiffusionPurifier(Channel):
    """Forward to step n* of a diffusion model and back again.

    Its gradient is exact: it goes through every reverse step. Each step's graph is built anew on the way back
    (activation checkpointing), so that memory hardly grows with n*.

    Args:
        model: Of the clips' own rate and length.
        steps: n*, 1 to the model's T. AudioPure takes 3 of 200.
        method: A name from `METHODS`.

    Raises:
        ThreatModelError: If there is no such step or method.
    """

    def __init__(
        self, model: DiffusionModel, steps: int = 3, method: Literal["ddpm", "ddim", "one-shot"] = "ddpm"
    ) -> None:
        super().__init__(model.sample_rate)
        if method not in METHODS:
            raise ThreatModelError(unknown("way back", method, METHODS))
        if not (isinstance(steps, int) and 1 <= steps <= model.steps):
            raise ThreatModelError(f"n* must be a whole number of steps from 1 to {model.steps}; given {steps}.")
        self.model, self.steps, self.method = model, steps, method
        self.name = f"{model.domain}:{steps}" + ("" if method == "ddpm" else f":{method}")

    @property
    def draws(self) -> int:
        """Noises in one draw: that of the way there, and one for each step back but the last."""
        return self.steps if self.method == "ddpm" else 1

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`noise` (B, `draws`, *shape of the model's domain), standard normal."""
        shape = (self.draws, *self.model.shape)
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        return {"noise": torch.stack(noise).to(clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        self._check_length(clips)
        noise = parameters["noise"].to(clips)
        real = clips if valid is None else torch.where(valid, clips, 0.0)  # what padding holds is heard nowhere
        encoded = self.model.encode(real)
        moved = self.model.add_noise(encoded, self.steps, noise[:, 0])
        if self.method == "one-shot":
            cleaned = self._kept_small(self._at_once, moved)
        else:
            cleaned = moved
            for step in range(self.steps, 0, -1):
                again = noise[:, self.steps - step + 1] if self.method == "ddpm" and step > 1 else None
                cleaned = self._kept_small(self._back, cleaned, step, again)
        return where_valid(self.model.decode(real, encoded, cleaned), clips, valid)

    def _at_once(self, noisy: Tensor) -> Tensor:
        return self.model.estimate(noisy, self.steps)

    def _back(self, noisy: Tensor, step: int, noise: Tensor | None) -> Tensor:
        return self.model.reverse(noisy, step, self.model.predict_noise(noisy, step), noise)

    @staticmethod
    def _kept_small(function: Any, *given: Any) -> Tensor:
        """`function` of what is given, its graph built only when gradients come back."""
        if not torch.is_grad_enabled():
            found: Tensor = function(*given)
            return found
        kept: Tensor = checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
        return kept

    def _check_length(self, clips: Tensor) -> None:
        if clips.shape[1] != self.model.samples:
            raise ThreatModelError(
                f"The purifier {self.name!r} was trained on clips of {self.model.samples} samples; given "
                f"{clips.shape[1]}. Train one with --clip-seconds {clips.shape[1] / self.sample_rate:g}."
            )

    def describe(self) -> dict[str, Any]:
        told = {"steps": self.steps, "method": self.method, "sigma": self.model.sigma(self.steps)}
        return {"channel": self.name, **told, "model": self.model.describe()}


__all__ = ["METHODS", "DiffusionPurifier"]
