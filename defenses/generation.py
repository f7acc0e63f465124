"""Clips out of noise: a diffusion model's way back from its noisiest step, asked for classes or for none.

Sources: Song et al. 2021 (DDIM over a sub-sequence of steps; eta 1 is DDPM); Nichol & Dhariwal 2021 (sub-sequences as
schedules of their own); Ho & Salimans 2022 (classifier-free guidance); Griffin & Lim 1984 (phases for a spectrogram).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import in_lanes
from defenses.diffusion import DiffusionModel
from defenses.diffusion_unet import UNetDiffusion
from defenses.mel import FLOOR, HOP, REACH, WINDOW, MelDomain

GRIFFIN_LIM_ITERATIONS = 32


@torch.no_grad()
def generate(
    model: DiffusionModel,
    count: int,
    labels: Tensor | None = None,
    *,
    guidance: float = 1.0,
    steps: int = 50,
    eta: float = 0.0,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Clips from a diffusion model.

    Args:
        model: In evaluation mode.
        count: N, number of clips.
        labels: (N, K) weights of the model's classes; nothing is asked for when None.
        guidance: w in eps = eps_null + w (eps_label - eps_null): 1 samples from the class as the model knows it, more
            exaggerates what sets it apart, 0 asks for nothing.
        steps: How many of the model's T steps are walked, from the noisiest down; see `sub_steps`.
        eta: 0 draws no noise on the way (DDIM), 1 as much as DDPM.
        generators: One for each clip, on the CPU; a clip is the same whatever else is generated with it.

    Returns:
        (N, T) in [-1, 1]. Log-mel spectrograms become sound by Griffin and Lim's iteration, on the CPU.

    Raises:
        ThreatModelError: If a number is out of range, or the model has no such classes.
    """
    _check(model, count, labels, guidance, steps, eta, len(generators))
    place = next(model.parameters(), torch.zeros(()))
    asked = None if labels is None else in_lanes(labels.to(place))
    chosen = sub_steps(model.steps, steps)
    scheduler = _scheduler(model, chosen)
    start = in_lanes(_drawn(model, generators).to(place))
    noisy = model.add_noise(torch.zeros_like(start), model.steps, start)
    for index in reversed(range(steps)):
        predicted = guided(model, noisy, int(chosen[index]), asked, guidance)
        noise = in_lanes(_drawn(model, generators).to(place)) if eta > 0 and index > 0 else torch.zeros_like(noisy)
        noisy = scheduler.step(predicted, index, noisy, eta=eta, variance_noise=noise, return_dict=False)[0]
    made = noisy[:count]
    if isinstance(model, UNetDiffusion) and model.mel is not None:
        return griffin_lim(model.mel, made.cpu(), model.samples, generators).to(place)
    return model.decode(made, made, made)


def guided(model: DiffusionModel, noisy: Tensor, step: int, labels: Tensor | None, guidance: float) -> Tensor:
    """The noise in `noisy` (B, *shape), with classifier-free guidance: both answers from one batch."""
    if labels is None or guidance == 1:
        return model.predict_noise(noisy, step, labels)
    both = model.predict_noise(noisy.repeat(2, *[1] * (noisy.ndim - 1)), step, torch.cat([labels, 0 * labels]))
    with_labels, without = both.chunk(2)
    return without + guidance * (with_labels - without)


def sub_steps(last: int, count: int) -> Tensor:
    """(count,) int64 rising steps, quadratically apart (Song et al. 2021, appendix D.2); the last is `last`.

    Evenly apart, the noise of the last few is louder than quiet sounds are, and 50 steps of DiffWave's 200 leave half
    of the amplitude of a sound of -34 dBFS; so they leave 84 %, as all 200 do.
    """
    places = np.arange(1, count + 1)
    return torch.as_tensor(np.maximum(places, np.round((places / count) ** 2 * last)).astype(np.int64))


def griffin_lim(domain: MelDomain, encoded: Tensor, samples: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Sound (B, samples) in [-1, 1] whose log-mel spectrogram is near `encoded` (B, bands, frames).

    Power is spread within bands as evenly as explains them (least squares; what is negative is nothing, and hardly
    ever is); phases begin at random.
    """
    import librosa

    energies = (encoded.double() * (REACH * domain.std) + domain.mean).exp() - FLOOR
    powers = torch.linalg.pinv(domain.filters.cpu().double().T) @ energies.clamp_min(0.0)
    sounds = []
    for power, generator in zip(powers.clamp_min(0.0).numpy(), generators, strict=True):
        sound = librosa.griffinlim(
            np.sqrt(power),
            n_iter=GRIFFIN_LIM_ITERATIONS,
            hop_length=HOP,
            win_length=WINDOW,
            n_fft=WINDOW,
            pad_mode="constant",
            length=samples,
            random_state=np.random.default_rng(int(torch.randint(2**31, (), generator=generator))),
        )
        sounds.append(torch.as_tensor(sound, dtype=torch.float32))
    return torch.stack(sounds).clamp(-1.0, 1.0)


def _drawn(model: DiffusionModel, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(model.shape, generator=generator) for generator in generators])


def _scheduler(model: DiffusionModel, chosen: Tensor) -> Any:
    """DDIM of diffusers over the chosen steps alone.

    They become a schedule of their own: diffusers takes a sub-sequence to be evenly apart in whole steps, and its noise
    levels are off wherever T is no multiple of the number of steps.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    abar = model.abar(chosen).double()
    betas = 1 - abar / torch.cat([torch.ones(1).to(abar), abar[:-1]])
    scheduler = DDIMScheduler(
        num_train_timesteps=len(chosen), trained_betas=betas.tolist(), clip_sample=False, set_alpha_to_one=True
    )
    scheduler.alphas_cumprod = abar  # its own is a product of float32 numbers, 0 where one step takes all
    scheduler.set_timesteps(len(chosen))
    return scheduler


def _check(
    model: DiffusionModel, count: int, labels: Tensor | None, guidance: float, steps: int, eta: float, drawers: int
) -> None:
    if count < 1 or count != drawers:
        raise ThreatModelError(f"Give a generator for each clip, of one or more; given {drawers} for {count} clips.")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= model.steps:
        raise ThreatModelError(f"steps must be a whole number from 1 to {model.steps}, the model's; given {steps}.")
    if not math.isfinite(guidance):
        raise ThreatModelError(f"guidance must be a finite number: 1 for none, 2 to 7 as a rule; given {guidance}.")
    if not 0 <= eta <= 1:
        raise ThreatModelError(f"eta must be from 0 (DDIM) to 1 (DDPM); given {eta}.")
    if labels is not None and labels.shape != (count, len(model.labels)):
        raise ThreatModelError(
            f"labels must be ({count}, {len(model.labels)}): weights of the {len(model.labels)} classes that the model "
            f"knows, for each clip; given {tuple(labels.shape)}."
        )


__all__ = ["generate", "griffin_lim", "guided", "sub_steps"]
