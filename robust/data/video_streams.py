"""What becomes of decoded frames: samples on one time grid, and the pictures nearest to given times."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.data.audio_io import LARGEST_PEAK
from robust.errors import DataError

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame

_JITTER_SECONDS = 0.02  # containers round time stamps to a millisecond or more; sound goes on through less than this
_REACH = 512  # samples of the lower rate that the resampler may look at on either side, with room to spare


@dataclass(frozen=True)
class Window:
    """A stretch of a file's time, in seconds."""

    start: float
    seconds: float

    @property
    def end(self) -> float:
        """Where it ends."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Excerpt:
    """Sound and picture of the same stretch of time; None where not asked for.

    Attributes:
        audio: (T,) float32 in [-1, 1].
        audio_valid: (T,) bool, true where the file had sound.
        video: (F, 3, H, W) float32 in [0, 1].
        video_valid: (F,) bool, true where the file had a picture.
    """

    audio: NDArray[Any] | None
    audio_valid: NDArray[np.bool_] | None
    video: NDArray[Any] | None
    video_valid: NDArray[np.bool_] | None


class Collector(ABC):
    """Takes the decoded frames of one stream, in order of presentation, and keeps what an excerpt needs.

    Attributes:
        stream: The stream of PyAV's.
        zero: Where the file's time starts, seconds on the stream's own clock.
        done: Whether nothing more is needed.
        found: Whether anything of the excerpt was there.
        end: Where the last frame pushed ends, seconds; None before the first.
        seeked: Whether decoding started in the middle of the file.
    """

    def __init__(self, path: Path, stream: Any, zero: float, window: Window) -> None:
        self.path, self.stream, self.zero, self.window = path, stream, zero, window
        self.done = False
        self.found = False
        self.seeked = False
        self.first: float | None = None
        self.end: float | None = None

    @property
    def promised_end(self) -> float | None:
        """Where the stream ends by its header, seconds; None where that tells nothing."""
        if not self.stream.duration:
            return None
        return float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base) - self.zero

    @property
    def started_late(self) -> bool:
        """Whether seeking landed behind the start of the excerpt."""
        return self.seeked and (self.first is None or self.first > self.window.start)

    def push(self, frame: Any) -> None:
        """Takes one decoded frame; one without a time of presentation is left out."""
        if frame.time is None or self.done:
            return
        seconds = frame.time - self.zero
        self.first = seconds if self.first is None else self.first
        self._take(frame, seconds)

    @abstractmethod
    def _take(self, frame: Any, seconds: float) -> None:
        """Takes a frame presented at `seconds`."""

    @abstractmethod
    def finish(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """What was collected, padded, and its mask."""


class SoundCollector(Collector):
    """Mono samples at the native rate on a grid that starts with the excerpt, resampled at the end."""

    def __init__(self, path: Path, stream: Any, zero: float, window: Window, sample_rate: int) -> None:
        super().__init__(path, stream, zero, window)
        self.sample_rate = sample_rate
        self._rate = 0
        self._samples = np.zeros(0, dtype=np.float32)
        self._lead = 0  # native samples kept from before the excerpt, a whole number of resampled ones
        self._next: int | None = None
        self._covered = (0, 0)

    def _take(self, frame: AudioFrame, seconds: float) -> None:
        if not self._rate:
            self._lay_grid(int(frame.sample_rate))
        if frame.sample_rate != self._rate:
            raise DataError(f"{self.path} changes its sample rate from {self._rate} to {frame.sample_rate} Hz midway.")
        mono = _mono(frame)
        place = round((seconds - self.window.start) * self._rate) + self._lead
        if self._next is not None and abs(place - self._next) <= _JITTER_SECONDS * self._rate:
            place = self._next
        self._next = place + len(mono)
        self.end = self.window.start + (self._next - self._lead) / self._rate
        first, last = max(place, 0), min(self._next, len(self._samples))
        if first < last:
            self._samples[first:last] = mono[first - place : last - place]
            self._covered = (min(first, self._covered[0]) if self._covered[1] else first, last)
            self.found = self.found or self._lead < last
        self.done = self._next >= len(self._samples)

    def _lay_grid(self, rate: int) -> None:
        step = rate // math.gcd(rate, self.sample_rate)
        reach = _REACH * math.ceil(rate / self.sample_rate)
        self._rate = rate
        if self.window.start > 0 and rate != self.sample_rate:
            self._lead = step * math.ceil(reach / step)
        length = self._lead + math.ceil(self.window.seconds * rate) + (reach if rate != self.sample_rate else 0)
        self._samples = np.zeros(length, dtype=np.float32)

    def finish(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Audio (T,) float32 in [-1, 1] and its mask (T,)."""
        length = round(self.sample_rate * self.window.seconds)
        audio, valid = np.zeros(length, dtype=np.float32), np.zeros(length, dtype=bool)
        if not self.found:
            return audio, valid
        heard = self._samples[: self._covered[1]]
        if not np.abs(heard).max() <= LARGEST_PEAK:
            raise DataError(
                f"{self.path} holds NaN or infinite samples, or some beyond {LARGEST_PEAK:g}; audio lies in [-1, 1]. "
                "Render the file again, or take it out of the set."
            )
        ratio = self.sample_rate / self._rate
        if self._rate != self.sample_rate:
            import soxr

            heard = soxr.resample(heard, self._rate, self.sample_rate, quality="HQ")
        heard = np.clip(heard[round(self._lead * ratio) :][:length], -1.0, 1.0)
        audio[: len(heard)] = heard
        valid[max(math.ceil((self._covered[0] - self._lead) * ratio), 0) : len(heard)] = True
        return audio, valid


class SightCollector(Collector):
    """The pictures nearest to the middles of equal parts of the excerpt."""

    def __init__(
        self, path: Path, stream: Any, zero: float, window: Window, frames: int, size: tuple[int, int]
    ) -> None:
        super().__init__(path, stream, zero, window)
        from av.video.reformatter import VideoReformatter

        self._times = [window.start + (place + 0.5) / frames * window.seconds for place in range(frames)]
        self._pictures = np.zeros((frames, *size, 3), dtype=np.uint8)
        self._valid = np.zeros(frames, dtype=bool)
        self._size = size
        self._reformatter = VideoReformatter()
        self._place = 0
        self._before: tuple[VideoFrame, float] | None = None
        self._shown: VideoFrame | None = None

    def _take(self, frame: VideoFrame, seconds: float) -> None:
        lasts = self._duration(frame)
        while self._place < len(self._times) and self._times[self._place] <= seconds:
            wanted = self._times[self._place]
            if self._before is not None and wanted - self._before[1] <= seconds - wanted:
                self._show(self._before[0])
            elif self._before is not None or seconds - wanted <= lasts:
                self._show(frame)
            self._place += 1  # else the stream had not begun
        self._before = (frame, seconds)
        self.end = seconds + lasts
        self.done = self._place == len(self._times)

    def _duration(self, frame: VideoFrame) -> float:
        if frame.duration:
            return float(frame.duration * self.stream.time_base)
        return float(1 / self.stream.average_rate) if self.stream.average_rate else 0.04

    def _show(self, frame: VideoFrame) -> None:
        """Puts a frame in the present place."""
        if frame is self._shown:
            self._pictures[self._place] = self._pictures[self._place - 1]
        else:
            self._pictures[self._place] = _covering(frame, self._size, self._reformatter)
        self._shown = frame
        self._valid[self._place] = self.found = True

    def finish(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Video (F, 3, H, W) float32 in [0, 1] and its mask (F,)."""
        if self._before is not None and self.end is not None:
            while self._place < len(self._times) and self._times[self._place] <= self.end:
                self._show(self._before[0])
                self._place += 1
        video = self._pictures.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        video /= np.float32(255)
        return video, self._valid


def _mono(frame: AudioFrame) -> NDArray[Any]:
    """Mean of the channels (T,) float32; full scale of integer formats is 1."""
    samples: NDArray[Any] = frame.to_ndarray()  # (channels, T), or (1, T * channels) where they are interleaved
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    mean: NDArray[Any] = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float64)
    if samples.dtype == np.uint8:
        mean = (mean.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        mean = mean / -float(np.iinfo(samples.dtype).min)
    return mean.astype(np.float32, copy=False)


def _covering(frame: VideoFrame, size: tuple[int, int], reformatter: Any) -> NDArray[np.uint8]:
    """The middle of a frame, scaled as little as covers `size`: (H, W, 3) uint8."""
    height, width = size
    scale = max(height / frame.height, width / frame.width)
    scaled_height = max(round(frame.height * scale), height)
    scaled_width = max(round(frame.width * scale), width)
    scaled = reformatter.reformat(frame, width=scaled_width, height=scaled_height, format="rgb24", threads=1)
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    pixels: NDArray[np.uint8] = scaled.to_ndarray()
    return pixels[top : top + height, left : left + width]
