"""Lossy codecs, converters of few bits, lower sample rates and lines that lose packets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from robust.channels.codecs import Codec
from robust.channels.quantisation import MuLaw, Quantise
from robust.channels.transmission import PacketLoss, Resample
from robust.corruptions.base import Corruption, Transform, register_corruption
from robust.corruptions.channels import through
from robust.corruptions.devices import channelled
from robust.corruptions.measures import CHANGED, LOG_SPECTRAL
from robust.types import Inputs

CODED_RATE, HIGHEST_CODED_RATE = 16_000, 24_000
"""Hz; sound of a higher rate is coded at 16 kHz, as encoders do by themselves at such bit rates. MP3 knows none below
32 kbit/s at 32 kHz and more."""


def coded(codec: str) -> Callable[[float, int], Transform]:
    """A maker of transforms through a codec at a bit rate in kbit/s."""

    def make(kbps: float, sample_rate: int) -> Transform:
        if sample_rate <= HIGHEST_CODED_RATE:
            return through(Codec(sample_rate, codec, kbps))
        return at_rate(through(Codec(CODED_RATE, codec, kbps)), sample_rate, CODED_RATE)

    return make


def at_rate(transform: Transform, sample_rate: int, inner_rate: int) -> Transform:
    """A transform of waveforms at `sample_rate` from one at another rate, by soxr both ways."""

    def changed(inputs: Inputs, valid: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        import soxr

        clips, real = inputs["audio"], valid["audio"].expand_as(inputs["audio"])
        inner = torch.stack(
            [
                torch.from_numpy(soxr.resample((clip * mask).numpy(), sample_rate, inner_rate))
                for clip, mask in zip(clips, real, strict=True)
            ]
        )
        places = (torch.arange(inner.shape[1]) * sample_rate / inner_rate).long().clamp_max(clips.shape[1] - 1)
        heard = transform({"audio": inner}, {"audio": real[:, places]}, generators)["audio"]
        rows = []
        for clip, mask, row in zip(clips, real, heard, strict=True):
            outer = torch.from_numpy(soxr.resample(row.numpy(), inner_rate, sample_rate))[: len(clip)]
            outer = torch.nn.functional.pad(outer, (0, len(clip) - len(outer)))
            rows.append(torch.where(mask, outer, clip))
        return {"audio": torch.stack(rows)}

    return changed


for _codec, _kbps, _what in (
    ("mp3", (48.0, 32.0, 24.0, 16.0, 8.0), "LAME"),
    ("opus", (32.0, 24.0, 16.0, 10.0, 6.0), "libopus"),
    ("aac", (48.0, 32.0, 24.0, 16.0, 8.0), "FFmpeg's own"),
):
    register_corruption(
        Corruption(
            _codec,
            "codec",
            "audio",
            "bit rate (kbit/s)",
            _kbps,
            coded(_codec),
            LOG_SPECTRAL,
            f"encoded by {_what} and decoded, without the delay",
        )
    )

register_corruption(
    Corruption(
        "mu-law",
        "codec",
        "audio",
        "bits",
        (6.0, 5.0, 4.0, 3.0, 2.0),
        channelled(lambda bits, rate: MuLaw(rate, round(2**bits)), full_level=True),
        summary="telephone companding of few bits, at full level",
    )
)
register_corruption(
    Corruption(
        "quantise",
        "codec",
        "audio",
        "bits",
        (7.0, 6.0, 5.0, 4.0, 3.0),
        channelled(lambda bits, rate: Quantise(rate, bits), full_level=True),
        summary="even steps, at full level",
    )
)
register_corruption(
    Corruption(
        "packet-loss",
        "codec",
        "audio",
        "packets lost (share)",
        (0.05, 0.1, 0.2, 0.35, 0.5),
        channelled(lambda share, rate: PacketLoss(rate, share, mode="repeat")),
        CHANGED,
        "packets of 20 ms; the last one that came is heard again",
    )
)
register_corruption(
    Corruption(
        "resample",
        "codec",
        "audio",
        "sample rate (Hz)",
        (6000.0, 4500.0, 3000.0, 2000.0, 1000.0),
        channelled(lambda lower, rate: Resample(rate, lower)),
        summary="down to a lower rate and up again",
    )
)
