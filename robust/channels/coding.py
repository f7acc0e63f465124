"""Real encoders and decoders of sound, by PyAV and in memory, with what they delay taken out again."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.errors import ThreatModelError

_MP3_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_AAC_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
_TRIAL_SECONDS, _TRIAL_KBPS, _TRIAL_LEVEL = 0.5, 64.0, 0.1


@dataclass(frozen=True)
class Coding:
    """One codec.

    Attributes:
        name: As people call it.
        encoder: FFmpeg's name of what writes it.
        decoders: FFmpeg's names of what reads it, the best first.
        rates: Hz at which it works; other sounds are resampled to the next higher one.
        kbps: Lowest and highest bit rate.
    """

    name: str
    encoder: str
    decoders: tuple[str, ...]
    rates: tuple[int, ...]
    kbps: tuple[float, float]

    def rate_for(self, sample_rate: int) -> int:
        """The rate at which sounds of `sample_rate` are encoded."""
        return min((rate for rate in self.rates if rate >= sample_rate), default=self.rates[-1])


CODINGS = {
    "mp3": Coding("mp3", "libmp3lame", ("mp3float", "mp3"), _MP3_RATES, (8, 320)),
    "opus": Coding("opus", "libopus", ("libopus", "opus"), (8000, 12_000, 16_000, 24_000, 48_000), (6, 256)),
    "aac": Coding("aac", "aac", ("aac",), _AAC_RATES, (8, 512)),
}


def check_coding(coding: Coding) -> None:
    """Raises `ThreatModelError` unless this build of PyAV can write and read it."""
    _codec((coding.encoder,), "w", coding.name)
    _codec(coding.decoders, "r", coding.name)


def round_trip(sound: NDArray[np.float32], sample_rate: int, coding: Coding, kbps: float) -> NDArray[np.float32]:
    """A sound (T,) float32 encoded, decoded and brought back to its place: (T,) float32."""
    rate = coding.rate_for(sample_rate)
    decoded = _decoded(_resampled(sound, sample_rate, rate), coding, rate, kbps)
    decoded = _from(decoded, _delay(coding, rate))
    return _fitted(_resampled(decoded, rate, sample_rate), len(sound))


def realised_kbps(sound: NDArray[np.float32], sample_rate: int, coding: Coding, kbps: float) -> float:
    """Bits of all packets over the time that they last, in kbit/s; NaN where the sound is too short for any."""
    rate = coding.rate_for(sample_rate)
    packets, encoder = _encoded(_resampled(sound, sample_rate, rate), coding, rate, kbps)
    seconds = len(packets) * encoder.frame_size / rate
    return float(sum(packet.size for packet in packets) * 8 / seconds / 1000) if seconds else float("nan")


@lru_cache(maxsize=256)
def bandwidth_hz(coding: Coding, sample_rate: int, kbps: float) -> float:
    """The highest frequency that comes through: of white noise, at half its power or more; to 1/64 of the band."""
    noise = _trial(sample_rate)
    heard = round_trip(noise, sample_rate, coding, kbps)
    power = [np.square(np.abs(np.fft.rfft(one)))[1:] for one in (noise, heard)]
    bands = [part[: len(part) // 64 * 64].reshape(64, -1).sum(axis=1) for part in power]
    through = np.flatnonzero(bands[1] >= 0.5 * bands[0])
    return float((through[-1] + 1 if len(through) else 1) / 64 * sample_rate / 2)


@lru_cache(maxsize=64)
def _delay(coding: Coding, rate: int) -> int:
    """Samples by which what is decoded comes late; found by trial, as builds of FFmpeg drop more or less of it."""
    noise = _trial(rate)
    decoded = _decoded(noise, coding, rate, _TRIAL_KBPS)
    length = len(noise) + len(decoded)
    likeness = np.fft.irfft(np.fft.rfft(decoded, length) * np.conj(np.fft.rfft(noise, length)), length)
    late = int(np.argmax(likeness))
    return late if late < len(decoded) else late - length


def _trial(rate: int) -> NDArray[np.float32]:
    """White noise, always the same."""
    noise = np.random.default_rng(0).standard_normal(round(_TRIAL_SECONDS * rate))
    return (_TRIAL_LEVEL * noise).astype(np.float32)


def _codec(names: tuple[str, ...], mode: str, coding: str) -> str:
    """The first of `names` that this build of PyAV has."""
    import av

    for name in names:
        try:
            av.Codec(name, mode)
        except ValueError:
            continue
        return name
    what = "encoder" if mode == "w" else "decoder"
    raise ThreatModelError(
        f"PyAV {av.__version__} as installed has no {what} {names[0]!r}, which {coding} needs; "
        f"install PyAV's own wheel, or take another codec ({', '.join(sorted(CODINGS))})."
    )


def _encoded(sound: NDArray[np.float32], coding: Coding, rate: int, kbps: float) -> tuple[list[Any], Any]:
    """All packets of a sound at `rate`, and the encoder, which knows the headers."""
    import av

    encoder = av.CodecContext.create(_codec((coding.encoder,), "w", coding.name), "w")
    formats = [form.name for form in encoder.codec.audio_formats]
    encoder.format = form = "fltp" if "fltp" in formats else "flt"
    encoder.sample_rate, encoder.layout, encoder.time_base = rate, "mono", Fraction(1, rate)
    encoder.bit_rate = round(kbps * 1000)
    encoder.open()
    packets: list[Any] = []
    for start in range(0, len(sound), encoder.frame_size):
        piece = np.ascontiguousarray(sound[None, start : start + encoder.frame_size])
        frame = av.AudioFrame.from_ndarray(piece, format=form, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += encoder.encode(frame)
    return packets + encoder.encode(None), encoder


def _decoded(sound: NDArray[np.float32], coding: Coding, rate: int, kbps: float) -> NDArray[np.float32]:
    """A sound encoded and decoded, at `rate`, as late as the codec makes it."""
    import av

    packets, encoder = _encoded(sound, coding, rate, kbps)
    decoder = av.CodecContext.create(_codec(coding.decoders, "r", coding.name), "r")
    decoder.sample_rate, decoder.layout = rate, "mono"
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    pieces, decoded_rate = [], rate
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            piece, decoded_rate = frame.to_ndarray().reshape(-1), frame.sample_rate
            pieces.append(piece / np.float32(32768) if piece.dtype == np.int16 else piece)
    whole = np.concatenate(pieces).astype(np.float32) if pieces else np.zeros(0, dtype=np.float32)
    return _resampled(whole, decoded_rate, rate)


def _resampled(sound: NDArray[np.float32], old: int, new: int) -> NDArray[np.float32]:
    """By soxr, which keeps everything in its place."""
    if old == new or not len(sound):
        return sound
    import soxr

    changed: NDArray[np.float32] = soxr.resample(sound, old, new, quality="HQ").astype(np.float32)
    return changed


def _from(sound: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """A sound from its sample `start` on, with zeros where that is before its first."""
    return sound[start:] if start >= 0 else np.concatenate([np.zeros(-start, dtype=np.float32), sound])


def _fitted(sound: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Cut, or filled with zeros, to `samples`."""
    return np.pad(sound[:samples], (0, max(0, samples - len(sound))))
