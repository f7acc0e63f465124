"""Noise behind a sound, at an SNR over what is active of it: coloured, of a band, of a folder, or babble."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from attacks.channel import Channel, Parameters, Span, checked_span, drawn
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import LANES
from robust.channels.levels import active_regions, at_snrs, everywhere, frame_samples, snrs_db
from robust.channels.noise import ACTIVE_RANGE_DB, COLOURS, LARGEST_SNR_DB, colour_gains, shaped
from robust.channels.recorded import Recorded, load_recorded
from robust.channels.spectra import check_below_nyquist

KINDS = (*COLOURS, "band", "babble", "folder")
MOST_TALKERS = 64


class Noise(Channel):
    """Noise on everything that is not padding; a silent clip stays as it is, and its measured SNR is NaN.

    The noise is drawn beforehand and its level set to whatever passes, so that all versions of a clip hear the same
    noise at the same SNR. What passes may leave [-1, 1].

    Args:
        sample_rate: Hz.
        kind: White, pink, brown, blue or violet (Gaussian); `band`, white between two frequencies; `folder`, a stretch
            of a recording, taken at random and looped where it is shorter; `babble`, several recordings at once at
            the same level, each from a random place.
        snr_db: Energy of the clip over that of the noise, both over the clip's active region; -200 to 200.
        folder: Of `folder` and `babble`: all audio files in it and below.
        low_hz: Of `band`: its lower end; from 0 when None.
        high_hz: Of `band`: its upper end, at most half the sample rate; up to that when None.
        talkers: Of `babble`: how many recordings, a number or a range, 1 to 64.
        split: Of `folder` and `babble`: `train` or `held-out` for only those files; all when None.
        held_out: Share of the files that is held out, one at least.
        seed: Chooses which.

    Raises:
        ThreatModelError: If a setting cannot be, or belongs to another kind.
        DataError: If the folder holds no audio, or a recording that is silent or cannot be read.
    """

    name = "noise"

    def __init__(
        self,
        sample_rate: int,
        kind: str = "white",
        snr_db: Span = 20.0,
        *,
        folder: str | os.PathLike[str] | None = None,
        low_hz: float | None = None,
        high_hz: float | None = None,
        talkers: int | tuple[int, int] | None = None,
        split: str | None = None,
        held_out: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(sample_rate)
        if kind not in KINDS:
            raise ThreatModelError(unknown("kind of noise", kind, KINDS))
        self.kind = kind
        self.snr_db = checked_span("snr_db", snr_db, -LARGEST_SNR_DB, LARGEST_SNR_DB, "dB")
        belongs = {"folder": ("folder", "babble"), "split": ("folder", "babble"), "talkers": ("babble",)}
        belongs |= {"low_hz": ("band",), "high_hz": ("band",)}
        given = {"folder": folder, "split": split, "talkers": talkers, "low_hz": low_hz, "high_hz": high_hz}
        for name, value in given.items():
            if value is not None and kind not in belongs[name]:
                raise ThreatModelError(f"{name} is for {' and '.join(belongs[name])} noise; leave it out of {kind}.")
        self.band = self._checked_band(low_hz, high_hz) if kind == "band" else None
        self.talkers = self._checked_talkers(4 if talkers is None else talkers) if kind == "babble" else None
        self.recorded: Recorded | None = None
        if kind in belongs["folder"]:
            if folder is None:
                raise ThreatModelError(f"{kind} noise is made of recordings; give folder=, where they lie.")
            self.recorded = load_recorded(folder, sample_rate, split=split, held_out=held_out, seed=seed)

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`snr_db` (B,), `noise` (B, T) at any level; `recording` (B,) or `talkers` (B,) where there are such."""
        parameters = {"snr_db": drawn(self.snr_db, generators, clips)}
        if self.kind == "folder":
            return parameters | self._stretches(clips, generators)
        if self.kind == "babble":
            return parameters | self._babble(clips, generators)
        return {**parameters, "noise": self._made(clips.shape[1], generators).to(clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        real = everywhere(clips, valid)
        active = active_regions(clips, real, frame_samples(self.sample_rate))
        return at_snrs(clips, parameters["noise"], parameters["snr_db"], active, real)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`snr_db` as realised; NaN where the clip is silent."""
        active = active_regions(before, valid, frame_samples(self.sample_rate))
        return {"snr_db": snrs_db(before, after, active)}

    def describe(self) -> dict[str, Any]:
        told = {
            "channel": self.name,
            "kind": self.kind,
            "snr_db": list(self.snr_db),
            "active_range_db": ACTIVE_RANGE_DB,
        }
        if self.band is not None:
            told["band_hz"] = list(self.band)
        if self.talkers is not None:
            told["talkers"] = list(self.talkers)
        if self.recorded is not None:
            told["recordings"] = self.recorded.describe()
        return told

    def _checked_band(self, low_hz: float | None, high_hz: float | None) -> tuple[float, float]:
        if low_hz is None and high_hz is None:
            raise ThreatModelError("band noise needs low_hz, high_hz or both; without them it is white.")
        low = checked_span("low_hz", 0.0 if low_hz is None else low_hz, 0.0, 1e9, "Hz")[0]
        check_below_nyquist("low_hz", low, self.sample_rate)
        if high_hz is None:
            return low, self.sample_rate / 2
        high = checked_span("high_hz", high_hz, 0.0, 1e9, "Hz")[0]
        check_below_nyquist("high_hz", high, self.sample_rate)
        if not low < high:
            raise ThreatModelError(f"low_hz must be below high_hz; given {low_hz} and {high_hz}.")
        return low, high

    @staticmethod
    def _checked_talkers(talkers: int | tuple[int, int]) -> tuple[int, int]:
        low, high = checked_span("talkers", talkers, 1, MOST_TALKERS, "recordings")
        if not (low.is_integer() and high.is_integer()):
            raise ThreatModelError(f"talkers must be whole; given {talkers}.")
        return int(low), int(high)

    def _made(self, samples: int, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, samples) float32 of a colour or a band."""
        white = torch.stack([torch.randn(samples, generator=generator) for generator in generators])
        if self.kind == "white":
            return white
        lanes = functional.pad(white, (0, 0, 0, -len(white) % LANES))  # so that no row depends on how many there are
        return shaped(lanes, self._gains(samples))[: len(white)]

    def _gains(self, samples: int) -> Tensor:
        """(F,) float64 amplitudes over frequency."""
        if self.band is None:
            return colour_gains(samples, self.kind, self.sample_rate)
        frequency = torch.fft.rfftfreq(samples, 1 / self.sample_rate, dtype=torch.float64)
        inside = (frequency > 0) & (frequency >= self.band[0]) & (frequency <= self.band[1])
        if not bool(inside.any()):
            low, high = self.band
            raise ThreatModelError(
                f"{samples} samples at {self.sample_rate} Hz are too short for noise of {low:g} to {high:g} Hz; "
                f"their frequencies are {self.sample_rate / samples:g} Hz apart. Widen the band."
            )
        gains: Tensor = inside.double()
        return gains

    def _stretches(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """One stretch of one recording for each clip."""
        assert self.recorded is not None
        which = [int(torch.randint(len(self.recorded), (), generator=one)) for one in generators]
        pairs = zip(which, generators, strict=True)
        noise = torch.stack([self.recorded.stretch(number, clips.shape[1], one) for number, one in pairs])
        return {"noise": noise.to(clips), "recording": torch.tensor(which, device=clips.device)}

    def _babble(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """Several recordings at once for each clip: different ones as long as there are enough."""
        assert self.recorded is not None
        assert self.talkers is not None
        low, high = self.talkers
        count, noise = [], []
        for generator in generators:
            talkers = int(torch.randint(low, high + 1, (), generator=generator))
            rounds = math.ceil(talkers / len(self.recorded))
            orders = [torch.randperm(len(self.recorded), generator=generator) for _ in range(rounds)]
            voices = [
                self.recorded.stretch(number, clips.shape[1], generator)
                for number in torch.cat(orders)[:talkers].tolist()
            ]
            noise.append(torch.stack(voices).sum(dim=0))
            count.append(talkers)
        return {"noise": torch.stack(noise).to(clips), "talkers": torch.tensor(count, device=clips.device)}
