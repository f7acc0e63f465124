"""MP3, Opus and AAC as channels: what is heard was really encoded and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.bpda import straight_through
from attacks.channel import Parameters, where_valid
from attacks.errors import ThreatModelError, unknown
from robust.channels.choices import Choices, checked_choices, chosen
from robust.channels.coding import CODINGS, bandwidth_hz, check_coding, realised_kbps, round_trip
from robust.channels.levels import everywhere, without_padding
from robust.channels.quantisation import Converter
from robust.channels.spectra import butterworth, fast_length, filtered, frequencies_hz
from robust.data.reading import ahead

SURROGATES = ("identity", "band")
_ORDER, _REACH_SECONDS = 16, 0.05


class Codec(Converter):
    """A lossy codec at a constant or average bit rate, without the delay that it brings.

    What is heard is in its place to the sample; of Opus to 0.07 ms, by which its modes differ among themselves.

    The forward pass is real: FFmpeg's encoder and decoder by PyAV, in float32. Backwards (straight-through) it is taken
    for the identity, or, with `surrogate="band"`, for a low-pass at the bandwidth that white noise has behind it.
    Padding is not encoded. A codec that does not work at `sample_rate` hears the sound at the next higher rate that it
    knows, by soxr. Rates that the codec has not become the nearest that it has; `measure` tells.

    Args:
        sample_rate: Hz.
        codec: `mp3` (LAME), `opus` (libopus) or `aac` (FFmpeg's own).
        kbps: Bit rate in kbit/s, or several to choose from: mp3 8 to 320, opus 6 to 256 (libopus allows no more
            a channel), aac 8 to 512.
        surrogate: `identity` or `band`.

    Raises:
        ThreatModelError: If a setting cannot be, or PyAV was built without the codec.
    """

    name = "codec"

    def __init__(
        self,
        sample_rate: int,
        codec: str = "mp3",
        kbps: Choices = 32.0,
        *,
        surrogate: Literal["identity", "band"] = "identity",
    ) -> None:
        super().__init__(sample_rate)
        if codec not in CODINGS:
            raise ThreatModelError(unknown("codec", codec, CODINGS))
        if surrogate not in SURROGATES:
            raise ThreatModelError(unknown("surrogate", surrogate, SURROGATES))
        self.coding, self.surrogate = CODINGS[codec], surrogate
        check_coding(self.coding)
        self.kbps = checked_choices(f"kbps of {codec}", kbps, *self.coding.kbps, "kbit/s")

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`kbps` (B,)."""
        return {"kbps": chosen(self.kbps, generators, clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        heard = self._heard(clips, parameters["kbps"], everywhere(clips, valid))
        taken_for = clips if self.surrogate == "identity" else self._banded(clips, parameters["kbps"], valid)
        return where_valid(straight_through(heard, taken_for), clips, valid)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        """`snr_db` with what the codec changed as noise, and `kbps`, bits over time of the stream (encoded anew)."""

        def rate_of(job: tuple[NDArray[np.float32], float]) -> float:
            sound, kbps = job
            return realised_kbps(sound, self.sample_rate, self.coding, kbps) if len(sound) else float("nan")

        rates = list(ahead(rate_of, _jobs(before, parameters["kbps"], valid)))
        told = torch.tensor(rates, dtype=torch.float64, device=before.device)
        return {**super().measure(before, after, parameters, valid), "kbps": told}

    def describe(self) -> dict[str, Any]:
        told = {"codec": self.coding.name, "kbps": list(self.kbps), "surrogate": self.surrogate}
        return {"channel": self.name, **told}

    def _heard(self, clips: Tensor, kbps: Tensor, valid: Tensor) -> Tensor:
        """(B, T) what comes out, without gradient; each different clip is encoded once."""

        def through(job: tuple[NDArray[np.float32], float]) -> NDArray[np.float32]:
            sound, rate = job
            return round_trip(sound, self.sample_rate, self.coding, rate) if len(sound) else sound

        jobs = _jobs(clips, kbps, valid)
        first: dict[tuple[bytes, float], int] = {}
        source = [first.setdefault((sound.tobytes(), rate), row) for row, (sound, rate) in enumerate(jobs)]
        rows = sorted(set(source))
        heard = dict(zip(rows, ahead(through, [jobs[row] for row in rows]), strict=True))
        samples = clips.shape[1]
        whole = np.stack([np.pad(heard[row], (0, samples - len(heard[row]))) for row in source])
        return torch.from_numpy(whole).to(clips)

    def _banded(self, clips: Tensor, kbps: Tensor, valid: Tensor | None) -> Tensor:
        """(B, T) clips through the low-pass that stands for the codec in gradients."""
        ends = [bandwidth_hz(self.coding, self.sample_rate, rate) for rate in kbps.tolist()]
        length = fast_length(clips.shape[1] + round(_REACH_SECONDS * self.sample_rate))
        high_hz = torch.tensor(ends, dtype=torch.float64, device=clips.device)
        gains = butterworth(frequencies_hz(length, self.sample_rate, clips), None, high_hz, _ORDER)
        return filtered(without_padding(clips, valid), gains, length)


def _jobs(clips: Tensor, kbps: Tensor, valid: Tensor) -> list[tuple[NDArray[np.float32], float]]:
    """Each clip (T,) up to its last real sample, with its bit rate."""
    sounds = without_padding(clips, valid).detach().float().cpu().numpy()
    ends = [int(real.nonzero()[-1]) + 1 if bool(real.any()) else 0 for real in valid]
    return [(sound[:end], rate) for sound, end, rate in zip(sounds, ends, kbps.tolist(), strict=True)]
