"""Diffusion models of sounds: a schedule of noise, and a network that tells what of a noisy sound is noise.

Schedules are those of diffusers' schedulers; `defenses.diffusion_unet` has the networks.

Sources: Ho et al. 2020; Kong et al. 2021 (DiffWave: waveforms, 200 steps); Nichol & Dhariwal 2021 (cosine schedule);
Carlini et al. 2023 (one-shot denoising at the step that matches a noise level); methods.md 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError, unknown
from attacks.weights import weights_hash

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
"""Our name of a schedule -> diffusers'."""


@dataclass(frozen=True)
class Schedule:
    """How much noise there is at each step.

    Attributes:
        name: `linear` (DiffWave) or `cosine` (Nichol & Dhariwal).
        steps: T.
        first_beta, last_beta: Ends of the linear schedule; DiffWave's are 1e-4 and 0.02. The cosine one has none.
    """

    name: Literal["linear", "cosine"] = "linear"
    steps: int = 200
    first_beta: float = 1e-4
    last_beta: float = 0.02

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ThreatModelError(unknown("noise schedule", self.name, SCHEDULES))
        if self.steps < 2 or not 0 < self.first_beta <= self.last_beta < 1:
            raise ThreatModelError(
                f"A schedule needs 2 steps or more and 0 < first_beta <= last_beta < 1; given {asdict(self)}."
            )

    def scheduler(self) -> Any:
        """`DDIMScheduler` of diffusers, one step at a time; with eta 1 its steps are DDPM's posterior."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        scheduler = DDIMScheduler(
            num_train_timesteps=self.steps,
            beta_start=self.first_beta,
            beta_end=self.last_beta,
            beta_schedule=SCHEDULES[self.name],
            clip_sample=False,
            set_alpha_to_one=True,
        )
        scheduler.set_timesteps(self.steps)
        return scheduler


class DiffusionModel(nn.Module, ABC):
    """A diffusion model of clips of one rate and length. Steps count from 1 (hardly any noise) to `steps`.

    Attributes:
        schedule: Of its noise.
        domain: `waveform`, or `mel` where noise is added to a log-mel spectrogram.
        scale: What turns audio in [-1, 1] into the model's units; noise levels that the model tells are those of audio.
        sample_rate: Hz of its clips.
        samples: Their length.
        labels: Classes it can be asked for, or none.
    """

    domain: Literal["waveform", "mel"] = "waveform"
    scale: float = 1.0

    def __init__(self, schedule: Schedule, sample_rate: int, samples: int, labels: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.schedule, self.sample_rate, self.samples, self.labels = schedule, sample_rate, samples, labels
        self.scheduler = schedule.scheduler()

    @abstractmethod
    def predict_noise(self, noisy: Tensor, step: Tensor | int, labels: Tensor | None = None) -> Tensor:
        """The noise in `noisy`.

        Args:
            noisy: (B, *shape) sqrt(abar) x + sqrt(1 - abar) noise, in the model's own domain.
            step: 1 to `steps`, one for all or (B,) int64.
            labels: (B, K) weights of classes; nothing is asked for when None (and where all are 0).

        Returns:
            (B, *shape).
        """

    @property
    def steps(self) -> int:
        """T: the number of steps."""
        return self.schedule.steps

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip in the model's own domain."""
        return (self.samples,)

    def encode(self, clips: Tensor) -> Tensor:
        """Clips (B, T) in [-1, 1] in the model's own domain (B, *shape)."""
        return clips * self.scale

    def decode(self, clips: Tensor, encoded: Tensor, cleaned: Tensor) -> Tensor:
        """(B, T) in [-1, 1]: `clips`, whose encoding was `encoded`, with `cleaned` in its place."""
        return (cleaned / self.scale).clamp(-1.0, 1.0)

    def abar(self, step: Tensor | int) -> Tensor:
        """Share of the signal's power that is left at a step: () or (B,) float32, on the CPU or where `step` is."""
        place = torch.as_tensor(step) - 1
        kept: Tensor = self.scheduler.alphas_cumprod
        return kept.to(place.device)[place]

    @property
    def sigmas(self) -> Tensor:
        """(T,) float64, ascending: standard deviation of the noise on audio at each step, of which the first is 1."""
        abar: Tensor = self.scheduler.alphas_cumprod.double()
        return ((1 - abar) / abar).sqrt() / self.scale

    def sigma(self, step: int) -> float:
        """Standard deviation of the noise on audio at a step, sqrt((1 - abar) / abar) / scale."""
        return float(self.sigmas[step - 1])

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level that the schedule knows."""
        return self.sigma(1), self.sigma(self.steps)

    def step_for(self, sigma: float) -> int:
        """The smallest step with at least this noise level (methods.md 5.2).

        Raises:
            ThreatModelError: If the schedule has no such level.
        """
        low, high = self.sigma_range
        if not 0 < sigma <= high:
            raise ThreatModelError(
                f"sigma must be above 0 and at most {high:.4g}, the noisiest step of this diffusion model "
                f"({self.schedule.name}, {self.steps} steps, from {low:.4g}); given {sigma}."
            )
        return 1 + int(torch.searchsorted(self.sigmas, sigma * (1 - 1e-6)))

    def add_noise(self, clean: Tensor, step: Tensor | int, noise: Tensor) -> Tensor:
        """sqrt(abar) clean + sqrt(1 - abar) noise."""
        abar = shaped_like(self.abar(step), clean)
        return abar.sqrt() * clean + (1 - abar).sqrt() * noise

    def estimate(self, noisy: Tensor, step: Tensor | int, labels: Tensor | None = None) -> Tensor:
        """One-shot estimate of the clean encoding from a noisy one."""
        abar = shaped_like(self.abar(step), noisy)
        return (noisy - (1 - abar).sqrt() * self.predict_noise(noisy, step, labels)) / abar.sqrt()

    def reverse(self, noisy: Tensor, step: int, predicted: Tensor, noise: Tensor | None) -> Tensor:
        """One step back, to `step - 1`: DDPM's posterior draw with `noise`, DDIM without."""
        moved: Tensor = self.scheduler.step(
            predicted, step - 1, noisy, eta=0.0 if noise is None else 1.0, variance_noise=noise, return_dict=False
        )[0]
        return moved

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """One-shot estimate of clips from clips with white noise (Carlini et al. 2023).

        Audio is in [-1, 1] as the model knows it, so the noise level is not doubled as it is for images in [0, 1].

        Args:
            noisy: (B, T) clip + sigma * standard normal noise.
            sigma: Within `sigma_range`.

        Returns:
            (B, T) in [-1, 1].

        Raises:
            ThreatModelError: If the schedule has no such level, or the model is not one of waveforms.
        """
        if self.domain != "waveform":
            raise ThreatModelError(f"Denoising at a noise level needs a waveform model; this one is {self.domain!r}.")
        step = self.step_for(sigma)
        encoded = self.encode(noisy)
        return self.decode(noisy, encoded, self.estimate(encoded * float(self.abar(step).sqrt()), step))

    def describe(self) -> dict[str, Any]:
        """Domain, schedule, clips and a hash of the weights, as JSON."""
        own = {name: getattr(self, name) for name in ("domain", "scale", "sample_rate", "samples")}
        return {**own, "schedule": asdict(self.schedule), "weights": weights_hash(self)}


def shaped_like(value: Tensor, shaped: Tensor) -> Tensor:
    """() or (B,) as something that multiplies (B, ...)."""
    value = value.to(shaped)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (shaped.ndim - 1))


__all__ = ["SCHEDULES", "DiffusionModel", "Schedule", "shaped_like"]
