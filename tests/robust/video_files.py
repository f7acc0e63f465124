"""Video files written by the tests: what is seen and heard at each moment is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Picture = Callable[[float], NDArray[np.uint8]]
"""Seconds -> (H, W, 3) uint8."""
Sound = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Seconds (T,) -> samples (T,) or (channels, T) in [-1, 1]."""

CLOCK = 90_000  # ticks a second of written pictures


def write_video(
    path: Path,
    *,
    seconds: float = 1.0,
    picture: Picture | None = None,
    sound: Sound | None = None,
    fps: float = 25,
    times: Sequence[float] | None = None,
    sound_start: float = 0.0,
    rate: int = 44_100,
    codec: str = "libx264",
    audio_codec: str = "aac",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encodes a file; `times` are the moments of its frames, evenly spaced unless told."""
    times = [place / fps for place in range(round(seconds * fps))] if times is None else times
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        seen = heard = None
        if picture is not None:
            seen = container.add_stream(codec, rate=round(fps))
            seen.height, seen.width = picture(0.0).shape[:2]
            seen.pix_fmt, seen.thread_count = "yuv420p", 1
            seen.options = {"crf": "10", "g": "12", "bf": "2"} if options is None else options
            seen.codec_context.time_base = Fraction(1, CLOCK)
        if sound is not None:
            heard = container.add_stream(audio_codec, rate=rate)
            heard.layout = "stereo" if sound(np.zeros(1)).ndim == 2 else "mono"
        if seen is not None and picture is not None:
            for time in times:
                frame = av.VideoFrame.from_ndarray(picture(time), format="rgb24")
                frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
                container.mux(seen.encode(frame))
            container.mux(seen.encode(None))
        if heard is not None and sound is not None:
            for first in range(0, round(seconds * rate), 1024):
                places = np.arange(first, min(first + 1024, round(seconds * rate)))
                samples = np.atleast_2d(sound(sound_start + places / rate)).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(samples), format="fltp", layout=heard.layout.name
                )
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = first + round(sound_start * rate)
                container.mux(heard.encode(frame))
            container.mux(heard.encode(None))
    return path


def grey(time_to_level: Callable[[float], float], height: int = 48, width: int = 64) -> Picture:
    """A picture of one grey, 0 to 1, that depends on time."""
    return lambda time: np.full((height, width, 3), round(255 * time_to_level(time)), dtype=np.uint8)


def clock(seconds: float = 1.0) -> Picture:
    """A grey that grows from 0.1 to 0.9 over `seconds`: the level tells the time."""
    return grey(lambda time: 0.1 + 0.8 * time / seconds)


def tone(hertz: float = 440.0, level: float = 0.5) -> Sound:
    """A sine."""
    return lambda times: level * np.sin(2 * np.pi * hertz * times)
