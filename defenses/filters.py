"""Purifiers without a model: smoothing, and the spectral gate that people denoise recordings with.

The other baselines of AudioPure's table are channels already: `robust.channels` has low-pass, band-pass, down-and-up
sampling, quantisation and codecs. `robust.purifiers` knows all of them by name.

Sources: Wu et al. 2023 (AudioPure, Table 1; Yang et al. 2019 for the smoothing); Sainburg et al. 2020 (spectral gate).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.channel import Channel, Parameters, where_valid
from attacks.errors import ThreatModelError

WIDEST = 255


class _Fixed(Channel):
    """A purifier without randomness."""

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """Nothing."""
        return {}


class Unchanged(_Fixed):
    """No purifier: clips are heard as they are. For attacks that are written for purifiers, on a bare victim."""

    name = "none"

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return clips

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name}


class Settled(_Fixed):
    """A channel whose settings leave it no choice, as a purifier: it draws nothing, and has a purifier's name.

    Args:
        channel: All of whose draws are alike, as those of a low-pass at one frequency.
        name: Kind and settings, e.g. `low-pass:4000`.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        super().__init__(channel.sample_rate)
        self.channel, self.name, self.gradient = channel, name, channel.gradient

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        heard: Tensor = self.channel(clips, self._always(clips), valid)
        return heard

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """As the channel measures."""
        return self.channel.measure(before, after, self._always(before), valid)

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "of": self.channel.describe()}

    def _always(self, clips: Tensor) -> Parameters:
        return self.channel.draw(clips, [torch.Generator()] * len(clips))


class _Smoothing(_Fixed):
    """A function of the `width` samples around each; those that are not there count as the sample in the middle."""

    kind: str

    def __init__(self, sample_rate: int, width: int = 3) -> None:
        super().__init__(sample_rate)
        given: object = width
        if not (isinstance(given, int) and 3 <= given <= WIDEST and given % 2):
            raise ThreatModelError(
                f"The width of {self.kind} must be an odd number of samples from 3 to {WIDEST}; given {width}."
            )
        self.width, self.name = width, f"{self.kind}:{width}"

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "width": self.width}

    def _around(self, clips: Tensor, valid: Tensor | None) -> Tensor:
        """(width, B, T) the samples around each."""
        reach, samples = self.width // 2, clips.shape[1]
        there = torch.ones_like(clips, dtype=torch.bool) if valid is None else valid.expand_as(clips)
        wide, known = (functional.pad(part, (reach, reach)) for part in (clips, there))
        shifts = [slice(first, first + samples) for first in range(self.width)]
        return torch.stack([torch.where(known[:, one], wide[:, one], clips) for one in shifts])


class Average(_Smoothing):
    """Each sample becomes the mean of those around it, itself among them: a moving average.

    Args:
        sample_rate: Hz.
        width: Samples in the mean, odd, 3 to 255.
    """

    kind = "average"

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return where_valid(self._around(clips, valid).mean(dim=0), clips, valid)


class Median(_Smoothing):
    """Each sample becomes the median of those around it, itself among them.

    The gradient is exact: it belongs to the sample that was taken.

    Args:
        sample_rate: Hz.
        width: Samples, odd, 3 to 255; clicks of less than half of them vanish.
    """

    kind = "median"

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        around = self._around(clips, valid)
        taken = around.detach().median(dim=0, keepdim=True).indices
        return where_valid(around.gather(0, taken)[0], clips, valid)


class SpectralGate(_Fixed):
    """Denoising by a non-stationary spectral gate, as `noisereduce.reduce_noise(y=clip, sr=sample_rate)` does it.

    What is not well above its own average over time is taken for noise: with the magnitude X of a frequency (1024
    points, a quarter of them from frame to frame) and s, X smoothed forwards and backwards over `time_constant_s`,

        mask = sigmoid(slope ((X - s) / s - threshold)),

    smoothed by a triangle over 500 Hz and 50 ms, multiplies the spectrum. Before and after a clip there are 30,000
    samples of silence. noisereduce works in NumPy, clip by clip, and gives NaN where all is silent. Here the same is
    written with an exact gradient, through the mask too: one that takes the mask for constant would hide attacks. (So
    does its module for torch, which is another gate besides: other defaults, and a mean of 20 frames for s.) Values
    agree with its release 3.0 to rounding; clips of more than 600,000 samples it would cut in pieces.

    Args:
        sample_rate: Hz, 5,120 to 256,000: of others the frames or frequencies are wider than the triangle.
        threshold: How many times above its average a magnitude is half let through, from 0.
        slope: Of the sigmoid, above 0.
        time_constant_s: Of the average over time, above 0.

    Raises:
        ThreatModelError: If one of them cannot be.
    """

    name = "gate"

    POINTS, HOP, SILENCE = 1024, 256, 30_000
    WIDTH_HZ, WIDTH_S = 500.0, 0.05
    _begin = (SILENCE - POINTS // 2) // HOP + 1

    def __init__(
        self, sample_rate: int, *, threshold: float = 2.0, slope: float = 10.0, time_constant_s: float = 2.0
    ) -> None:
        super().__init__(sample_rate)
        _check("threshold", threshold, 0.0, 100.0)
        _check("slope", slope, 1e-3, 1000.0)
        _check("time_constant_s", time_constant_s, 1e-3, 1000.0)
        reach_hz = int(self.WIDTH_HZ / (sample_rate / (self.POINTS / 2)))
        reach_s = int(self.WIDTH_S / (self.HOP / sample_rate))
        if reach_hz < 1 or reach_s < 1:
            raise ThreatModelError(f"The spectral gate works from 5120 to 256000 Hz; given {sample_rate} Hz.")
        self.threshold, self.slope, self.time_constant_s = float(threshold), float(slope), float(time_constant_s)
        bins = self.POINTS // 2 + 1
        self.reach_s = reach_s
        self.register_buffer("over_hz", _triangles(reach_hz, bins)[:, reach_hz : reach_hz + bins], persistent=False)
        self.over_hz: Tensor

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        real = clips if valid is None else torch.where(valid, clips, 0.0)
        # All frames that reach into the clip, at the places where noisereduce has them: those of silence are nothing.
        samples, first = clips.shape[1], self.SILENCE - self.HOP * self._begin
        behind = self.POINTS // 2
        behind += -(first + samples + behind) % self.HOP
        window = torch.hann_window(self.POINTS, dtype=clips.dtype, device=clips.device)
        wide = functional.pad(real, (first, behind))
        spectrum = torch.stft(
            wide, self.POINTS, self.HOP, window=window, center=True, pad_mode="constant", return_complex=True
        )
        gated = spectrum * self._mask(spectrum.abs(), samples)
        heard = torch.istft(gated, self.POINTS, self.HOP, window=window, center=True, length=wide.shape[1])
        return where_valid(heard[:, first : first + samples], clips, valid)

    def describe(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("threshold", "slope", "time_constant_s")}
        return {"channel": self.name, **told}

    def _mask(self, magnitude: Tensor, samples: int) -> Tensor:
        """(B, F, N) in [0, 1] from magnitudes (B, F, N)."""
        over_time = _over_time(samples + 2 * self.SILENCE, self.HOP, self.time_constant_s * self.sample_rate)
        frames = slice(self._begin, self._begin + magnitude.shape[2])
        usual = magnitude @ over_time[frames, frames].to(magnitude)
        heard = usual > 0  # where nothing sounds at any time there is no ratio, and nothing to let through
        ratio = torch.where(heard, magnitude, 0.0) / torch.where(heard, usual, 1.0) - 1
        mask = torch.sigmoid(self.slope * (ratio - self.threshold))
        around = float(torch.sigmoid(torch.tensor(-self.slope * (1 + self.threshold), dtype=torch.float64)))
        wide = functional.pad(mask, (self.reach_s, self.reach_s), value=around)  # the silence before and after
        # As products of matrices: backwards, a convolution of one channel takes ten times as long.
        smoothed = torch.bmm(self.over_hz.to(mask).expand(len(mask), -1, -1), wide)
        return smoothed @ _triangles(self.reach_s, mask.shape[2]).T.to(mask)


@lru_cache(maxsize=8)
def _over_time(samples: int, hop: int, constant: float) -> Tensor:
    """(N, N) float64: frames times it are frames smoothed by one pole forwards and backwards.

    The pole is that whose square response has the time constant, `constant` samples, as its width.
    """
    from scipy.signal import filtfilt

    frames, width = samples // hop + 1, constant / hop
    share = (np.sqrt(1 + 4 * width**2) - 1) / (2 * width**2)
    return torch.from_numpy(filtfilt([share], [1, share - 1], np.eye(frames), axis=-1, padtype=None).copy())


def _triangles(reach: int, count: int) -> Tensor:
    """(count, count + 2 reach) float64: what is multiplied by it from the left is smoothed by a triangle of sum 1."""
    triangle = 1 - torch.arange(-reach, reach + 1, dtype=torch.float64).abs() / (reach + 1)
    far = torch.arange(count + 2 * reach) - torch.arange(count)[:, None]
    inside = (far >= 0) & (far <= 2 * reach)
    return torch.where(inside, triangle[far.clamp(0, 2 * reach)], 0.0) / triangle.sum()


def _check(name: str, given: object, low: float, high: float) -> None:
    if not (isinstance(given, Real) and low <= float(given) <= high):
        raise ThreatModelError(f"{name} of the spectral gate must be {low:g} to {high:g}; given {given!r}.")


__all__ = ["Average", "Median", "Settled", "SpectralGate"]
