"""Levels of many clips at once: what of each is signal, noise at an SNR over it, and the SNR that came of it.

The batched form of what `robust.channels.noise` does clip by clip, with its thresholds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from robust.channels.noise import ACTIVE_RANGE_DB, FRAME_SECONDS, SILENT_POWER


def frame_samples(sample_rate: int) -> int:
    """Samples over which a level is taken, 20 ms."""
    return max(1, round(FRAME_SECONDS * sample_rate))


def everywhere(clips: Tensor, valid: Tensor | None) -> Tensor:
    """(B, T) bool, true where clips are real."""
    return torch.ones_like(clips, dtype=torch.bool) if valid is None else valid.expand_as(clips)


def without_padding(clips: Tensor, valid: Tensor | None) -> Tensor:
    """Clips with zeros for padding, so that nothing of it leaks into what is real."""
    return clips if valid is None else torch.where(valid, clips, 0.0)


def active_regions(clips: Tensor, valid: Tensor, frame: int) -> Tensor:
    """What of each clip is signal: neither padding, nor silence, nor 40 dB below its loudest frame.

    Args:
        clips: (B, T) float.
        valid: (B, T) bool.
        frame: Samples over which the level is taken.

    Returns:
        (B, T) bool, whole frames at a time; nothing is true where a clip is silent.
    """
    rows, samples = clips.shape
    squares = torch.where(valid, clips.detach().double(), 0.0).square()
    power, count = (
        functional.pad(part, (0, -samples % frame)).view(rows, -1, frame).sum(dim=2)
        for part in (squares, valid.double())
    )
    power = power / count.clamp_min(1)
    least = (power.amax(dim=1, keepdim=True) * 10 ** (-ACTIVE_RANGE_DB / 10)).clamp_min(SILENT_POWER)
    return (power >= least).repeat_interleave(frame, dim=1)[:, :samples] & valid


def energies(values: Tensor, where: Tensor) -> Tensor:
    """(B,) float64 sums of squares over `where`, differentiable in `values`."""
    return torch.where(where, values.double(), 0.0).square().sum(dim=1)


def at_snrs(clips: Tensor, noise: Tensor, snr_db: Tensor, active: Tensor, valid: Tensor) -> Tensor:
    """Clips with noise on all that is valid, each at its SNR over what is active; differentiable in clips and noise.

    Args:
        clips: (B, T) float.
        noise: (B, T); its own level does not matter.
        snr_db: (B,) energy of the clip over that of the noise, both over `active`.
        active: (B, T) bool; a clip where nothing is, or where the noise is nothing, comes back unchanged.
        valid: (B, T) bool.
    """
    signal, power = energies(clips, active), energies(noise, active)
    heard = (signal > 0) & (power > 0)
    ratio = torch.where(heard, signal, 1.0) / torch.where(heard, power, 1.0)
    scale = torch.where(heard, (ratio * 10 ** (-snr_db.double() / 10)).sqrt(), 0.0)
    return clips + (torch.where(valid, noise.double(), 0.0) * scale[:, None]).to(clips)


def snrs_db(before: Tensor, after: Tensor, active: Tensor) -> Tensor:
    """(B,) float64 realised SNR over what is active: NaN where nothing is, infinite where nothing was changed."""
    return ratios_db(before, after.detach().double() - before.detach().double(), active)


def ratios_db(over: Tensor, under: Tensor, where: Tensor) -> Tensor:
    """(B,) float64 dB by which `over` has more energy than `under`; NaN where both have none or `where` is nothing.

    Row by row, for the sum of a single row is rounded otherwise than that of many.
    """
    rows = zip(over.detach(), under.detach(), where, strict=True)
    sums = [torch.stack([part[real].double().square().sum() for part in (one, other)]) for one, other, real in rows]
    above, below = torch.stack(sums).unbind(dim=1)
    return 10 * torch.log10(above / below)
