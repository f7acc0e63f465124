"""What a clip hides: the global masking threshold of psychoacoustics, as a loss and as a figure of audibility.

A loud tone makes its neighbourhood inaudible. Of every stretch of a clip the loudest tones are found, each spreads a
threshold over the frequencies about it, and the sum of these and of the threshold of hearing is what a perturbation may
reach unheard. The clip's loudest bin is taken to be played at 96 dB.

Sources: Qin et al. 2019, "Imperceptible, robust and targeted adversarial examples for automatic speech recognition",
appendix B; Lin & Abdulla 2015, "Audio watermark", chapter 2; methods.md 6.1. Unlike known implementations: the 0.5-Bark
filter asks for the frequency of a masker and not for its place in a list; every masker is held against the threshold
of hearing; clip and perturbation share one power, 8/3 |STFT / window|^2; and windows cover the ends of a clip fully.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.errors import ThreatModelError

WINDOW_S, HOPS = 2048 / 16_000, 4
"""Length of the Hann window, and hops in it: 2048 and 512 samples at 16 kHz."""
LOUDEST_DB = 96.0
"""Level of the loudest bin of a clip."""
FULL_SCALE_POWER = 1 / 6
"""Power of the peak bin of a full-scale sine: 8/3 (1/2 amplitude x 1/2 mean of the window)^2; silence goes by it."""
SILENT_POWER = 1e-20
"""A clip whose loudest bin has less, 190 dB below full scale, is taken for silent: float32 holds what it divides."""
APART_BARK = 0.5
"""Of two maskers closer than this the louder counts."""

AT_ONCE = 64
"""Maskers spread at once: what they need stays in the processor's cache."""


@dataclass(frozen=True)
class MaskingThreshold:
    """Below what nothing is heard, for each clip, frame and frequency.

    Attributes:
        theta: (B, frames, bins) float of the clips' type; power, 1 at 0 dB, on the scale on which the loudest bin of
            the clip has 96 dB. 0 where there is no threshold: nothing masks, and the frequency is at most 1 Bark, of
            which the threshold of hearing used here says nothing.
        psd_max: (B,) power 8/3 |STFT / window|^2 of the loudest bin; that of a full-scale sine for a silent clip.
        sample_rate: Hz.
    """

    theta: Tensor
    psd_max: Tensor
    sample_rate: int

    @property
    def theta_db(self) -> Tensor:
        """The threshold in dB; -inf where there is none."""
        return 10 * self.theta.log10()

    def select(self, index: Tensor) -> MaskingThreshold:
        """The thresholds of the clips at `index` alone."""
        return MaskingThreshold(self.theta[index], self.psd_max[index], self.sample_rate)


@dataclass(frozen=True)
class MaskingExcess:
    """How far a perturbation rises above the threshold, over all frames and bins of a clip.

    Attributes:
        mean_db: (B,) mean of what exceeds the threshold, where what does not counts as 0 dB.
        p95_db: (B,) 95th percentile of the same.
        audible: (B,) share of frames and bins that exceed it at all.
    """

    mean_db: Tensor
    p95_db: Tensor
    audible: Tensor


def threshold(clean: Tensor, sample_rate: int) -> MaskingThreshold:
    """The masking threshold of each clip.

    Args:
        clean: (B, T) float clips, of any scale; each result depends on its own clip alone.
        sample_rate: Hz.

    Raises:
        ThreatModelError: If the clips are no waveforms, or the sample rate is too low for a window.
    """
    _check(clean, sample_rate)
    # Clip by clip: transforms of several at once round differently, and results must not depend on company.
    power = torch.stack([_power(clip, sample_rate) for clip in clean.detach().double()])
    most = power.amax(dim=(1, 2))
    most = torch.where(most < SILENT_POWER, FULL_SCALE_POWER, most)
    level = (power * (10 ** (LOUDEST_DB / 10) / most)[:, None, None]).flatten(0, 1)
    frequency = torch.arange(power.shape[2], dtype=torch.float64, device=clean.device)
    frequency = frequency * sample_rate / window_samples(sample_rate)
    quiet, rate = quiet_power(frequency), bark(frequency)
    masker, peak = _maskers(level, quiet)
    theta = _spread(masker, _apart(masker, peak, rate), rate).add_(quiet).view_as(power)
    return MaskingThreshold(theta.to(clean.dtype), most.to(clean.dtype), sample_rate)


def masking_loss(delta: Tensor, threshold: MaskingThreshold) -> Tensor:
    """(B,) mean over frames and bins of the power by which perturbations `delta` (B, T) exceed the threshold.

    Qin et al. 2019, l_theta; differentiable, and zero with zero gradient for what cannot be heard.
    """
    return (_level(delta, threshold) - threshold.theta).clamp_min(0).mean(dim=(1, 2))


def masking_excess_db(delta: Tensor, threshold: MaskingThreshold) -> MaskingExcess:
    """By how many dB perturbations `delta` (B, T) can be heard.

    Up to 1 Bark, where there may be no threshold, it is at least that of the frequency heard best, so that figures are
    finite.
    """
    # The ear is deafer below 1 Bark than at its best.
    lowest = float(quiet_power(delta.new_tensor(3300.0, dtype=torch.float64)))
    ratio = _level(delta, threshold) / threshold.theta.clamp_min(lowest)
    audible = ratio > 1
    excess = (10 * ratio.clamp_min(1.0).log10()).flatten(1)
    high = excess.kthvalue(max(1, math.ceil(0.95 * excess.shape[1])), dim=1).values
    return MaskingExcess(excess.mean(dim=1), high, audible.flatten(1).to(delta.dtype).mean(dim=1))


def bark(frequency_hz: Tensor) -> Tensor:
    """Critical-band rate of frequencies: 13 atan(0.00076 f) + 3.5 atan((f / 7500)^2), in Bark."""
    return 13 * (0.00076 * frequency_hz).atan() + 3.5 * (frequency_hz / 7500).square().atan()


def quiet_power(frequency_hz: Tensor) -> Tensor:
    """Threshold of hearing as power, 1 at 0 dB (Terhardt 1979): 0, no contribution, up to 1 Bark."""
    khz = (frequency_hz / 1000).clamp_min(1e-3)
    level_db = 3.64 * khz**-0.8 - 6.5 * (-0.6 * (khz - 3.3).square()).exp() + 0.001 * khz**4 - 12
    return torch.where(bark(frequency_hz) > 1, 10 ** (level_db / 10), 0.0)


def window_samples(sample_rate: int) -> int:
    """Length of the window: a multiple of the hops in it."""
    return HOPS * round(WINDOW_S * sample_rate / HOPS)


def frames_of(clip: Tensor, sample_rate: int) -> Tensor:
    """(frames, bins) spectrum STFT / window of one clip (T,), Hann; every sample is in `HOPS` windows."""
    size = window_samples(sample_rate)
    hop = size // HOPS
    count = -(-(len(clip) + size - hop) // hop)
    padded = torch.nn.functional.pad(clip, (size - hop, (count - 1) * hop + hop - len(clip)))
    window = torch.hann_window(size, dtype=clip.dtype, device=clip.device)
    spectrum: Tensor = torch.fft.rfft(padded.unfold(0, size, hop) * window) / size
    return spectrum


def _power(clip: Tensor, sample_rate: int) -> Tensor:
    spectrum = frames_of(clip, sample_rate)
    return 8 / 3 * (spectrum.real.square() + spectrum.imag.square())


def _level(delta: Tensor, threshold: MaskingThreshold) -> Tensor:
    """(B, frames, bins) power of perturbations, on the scale of the threshold."""
    power = torch.stack([_power(clip, threshold.sample_rate) for clip in delta])
    if power.shape != threshold.theta.shape:
        raise ThreatModelError(
            f"The perturbation {tuple(delta.shape)} is not of the clips that the threshold was made of; give one of "
            "their number and length."
        )
    return power * (10 ** (LOUDEST_DB / 10) / threshold.psd_max)[:, None, None]


def _maskers(level: Tensor, quiet: Tensor) -> tuple[Tensor, Tensor]:
    """Power of each bin with both neighbours, and where it is a masker: (frames, bins) float64 and bool.

    The first and last bin lack a neighbour and are none.
    """
    joined, peak = torch.zeros_like(level), torch.zeros_like(level, dtype=torch.bool)
    middle, before, after = level[:, 1:-1], level[:, :-2], level[:, 2:]
    joined[:, 1:-1] = before + middle + after
    peak[:, 1:-1] = (middle > before) & (middle > after)
    return joined, peak & (joined > quiet)


def _apart(masker: Tensor, peak: Tensor, rate: Tensor) -> Tensor:
    """(frames, bins) bool: the maskers left when, upwards, of two within 0.5 Bark the louder stays."""
    rows, bins = peak.nonzero(as_tuple=True)
    count = peak.sum(dim=1)
    kept = torch.zeros_like(peak)
    if len(rows) == 0:
        return kept
    # Peaks of each frame side by side, so that all frames are scanned at once.
    place = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]
    shape = (len(peak), int(count.max()))
    listed = torch.zeros(shape, dtype=torch.int64, device=rows.device)
    listed[rows, place] = bins
    power = masker.new_full(shape, -1.0)
    power[rows, place] = masker[rows, bins]
    where = rate[listed]
    stays = power > 0
    last = torch.zeros(len(peak), dtype=torch.int64, device=rows.device)
    every = torch.arange(len(peak), device=rows.device)
    for step in range(1, shape[1]):
        close = where[:, step] - where[every, last] < APART_BARK
        louder = power[:, step] > power[every, last]
        stays[every, last] &= ~(close & louder)
        stays[:, step] &= ~close | louder
        last = torch.where(stays[:, step], step, last)
    kept[rows, bins] = stays[rows, place]
    return kept


def _spread(masker: Tensor, kept: Tensor, rate: Tensor) -> Tensor:
    """(frames, bins) sum of the thresholds that the maskers spread, as power."""
    rows, bins = kept.nonzero(as_tuple=True)
    total = torch.zeros_like(masker)
    if len(rows) == 0:
        return total
    level_db = 10 * masker[rows, bins].log10()
    centre = rate[bins]
    top_db = level_db - 6.025 - 0.275 * centre
    slope = -27 + 0.37 * (level_db - 40).clamp_min(0)
    decade = math.log(10) / 10
    # Below a masker all slopes are 27 dB a Bark: what depends on the bin comes out of the sum over maskers.
    anchored = torch.zeros_like(masker)
    anchored[rows, bins] = (decade * (top_db - 27 * centre)).exp()
    above = anchored.flip(1).cumsum(1).flip(1) - anchored
    total += above * (decade * 27 * rate).exp()
    top, fall = decade * top_db, decade * slope
    for first in range(0, len(rows), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        spread = (rate - centre[part, None]).mul_(fall[part, None]).add_(top[part, None]).exp_()
        upwards = torch.arange(len(rate), device=rate.device) >= bins[part, None]
        total.index_add_(0, rows[part], spread.mul_(upwards))
    return total


def _check(clean: Tensor, sample_rate: int) -> None:
    if clean.ndim != 2 or clean.shape[1] == 0 or not clean.is_floating_point():
        raise ThreatModelError(
            f"Masking thresholds are for waveforms (B, T) of floats; given {clean.dtype} of shape {tuple(clean.shape)}."
        )
    if sample_rate < 1 or window_samples(sample_rate) < 2 * HOPS:
        raise ThreatModelError(f"The sample rate {sample_rate} Hz is too low for masking; give 100 or more.")
