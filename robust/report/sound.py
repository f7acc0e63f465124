"""Stored recordings as the page plays and shows them: FLAC in the page itself, spectrograms with the same gain."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robust.atomic import Folder
from robust.errors import StoreError

Floats = NDArray[np.float64]

KINDS = ("original", "adversarial", "difference")
LSB_16 = 2.0**-15
"""One step of 16-bit sound, full scale being 1."""
LOUDNESS = 0.7
"""Peak of the amplified difference."""
WINDOW_SECONDS = 0.032
RANGE_DB = {"original": 80.0, "adversarial": 80.0, "difference": 50.0}
"""How far down the colours go; a difference is mostly noise, and flat."""
MOST_COLUMNS = 240
COLOURS = "magma"


@dataclass(frozen=True)
class Triple:
    """A clip as it was, as the attack made it, and what was added; (T,) float64 each."""

    original: Floats
    adversarial: Floats
    difference: Floats
    sample_rate: int


@dataclass(frozen=True)
class Picture:
    """A spectrogram: a PNG of the bare map, and what its axes and colours show."""

    source: str
    seconds: float
    kilohertz: float
    bottom_db: float
    top_db: float


def read_triple(folder: Folder, stem: str) -> Triple | None:
    """The three recordings of a clip; None where one is missing.

    Raises:
        StoreError: If one cannot be read.
    """
    import soundfile

    found: dict[str, Floats] = {}
    sample_rate = 0
    for kind in KINDS:
        path = folder / f"{stem}-{kind}.wav"
        if not path.is_file():
            return None
        try:
            sound, sample_rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float64")
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{path} cannot be played: {error}.") from error
        found[kind] = sound
    return Triple(found["original"], found["adversarial"], found["difference"], sample_rate)


def read_sound(path: Folder) -> tuple[Floats, int] | None:
    """A recording (T,) and its sample rate in Hz; None where it is missing, empty or no recording."""
    import soundfile

    if not path.is_file():
        return None
    try:
        sound, sample_rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float64", always_2d=True)
    except (OSError, RuntimeError):
        return None
    return (sound.mean(axis=1), sample_rate) if len(sound) else None


def gain_db(peak: float) -> int:
    """Whole decibels that bring a peak up to 0.7 of full scale, never down."""
    return max(0, math.floor(20 * math.log10(LOUDNESS / peak))) if peak > 0 else 0


def amplified(sound: Floats, decibels: int) -> Floats:
    """`sound` louder."""
    return sound * 10 ** (decibels / 20)


def flac(sound: Floats, sample_rate: int, bits: int) -> str:
    """A recording as a FLAC data address.

    Args:
        sound: (T,) in [-1, 1]; what goes beyond is clipped.
        sample_rate: Hz.
        bits: 16 or 24.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, sound.clip(-1, 1), sample_rate, format="FLAC", subtype=f"PCM_{bits}")
    return data_address("audio/flac", buffer.getvalue())


def data_address(kind: str, content: bytes) -> str:
    """Content as an address that needs nothing outside itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def spectrogram_db(sound: Floats, sample_rate: int) -> Floats:
    """(bins, columns) level in dB, 0 dB for a full-scale sine; Hann window of 32 ms, about 240 columns at most."""
    length = max(16, min(2 ** round(math.log2(WINDOW_SECONDS * sample_rate)), len(sound)))
    padded = np.pad(sound, (0, max(0, length - len(sound))))
    hop = max(length // 4, math.ceil((len(padded) - length) / MOST_COLUMNS), 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    window = np.hanning(length + 1)[:-1]
    magnitude = np.abs(np.fft.rfft(frames * window, axis=1)).T / (window.sum() / 2)
    return np.asarray(20 * np.log10(np.maximum(magnitude, 1e-10)))


def pictures(triple: Triple) -> dict[str, Picture]:
    """The three spectrograms: original and adversarial in the same colours, the difference in its own."""
    levels = {kind: spectrogram_db(getattr(triple, kind), triple.sample_rate) for kind in KINDS}
    tops = {kind: _top(levels["difference" if kind == "difference" else "original"]) for kind in KINDS}
    length, rate = len(triple.original), triple.sample_rate
    return {kind: _picture(levels[kind], length, rate, tops[kind], RANGE_DB[kind]) for kind in KINDS}


def alike(sounds: Mapping[str, Floats], sample_rate: int) -> dict[str, Picture]:
    """Spectrograms that share their colours."""
    levels = {name: spectrogram_db(sound, sample_rate) for name, sound in sounds.items()}
    top = max(_top(level) for level in levels.values())
    return {
        name: _picture(level, len(sounds[name]), sample_rate, top, RANGE_DB["original"])
        for name, level in levels.items()
    }


def _top(levels: Floats) -> float:
    """The level at the top of the colours: the loudest, rounded up to ten decibels."""
    return 10 * math.ceil(float(levels.max()) / 10)


def _picture(levels: Floats, length: int, sample_rate: int, top_db: float, range_db: float) -> Picture:
    shares = ((levels - top_db) / range_db + 1).clip(0, 1)
    seconds, kilohertz = length / sample_rate, sample_rate / 2000
    return Picture(_png(shares[::-1]), seconds, kilohertz, top_db - range_db, top_db)


def colour_bar() -> str:
    """The colours from silent to loud, as a PNG one pixel high."""
    return _png(np.linspace(0, 1, 96)[None])


def _png(shares: Floats) -> str:
    """(H, W) in [0, 1] as a coloured PNG with a palette, the first row on top."""
    from matplotlib import colormaps
    from PIL import Image

    # A palette of 256 colours loses nothing of a colour map that has 256, and takes a quarter of the room.
    image = Image.fromarray(np.round(shares * 255).astype(np.uint8))
    image.putpalette((colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_address("image/png", buffer.getvalue())
