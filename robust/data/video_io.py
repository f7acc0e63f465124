"""Reading video files: sound and frames of one excerpt, in step, or a `DataError` that says what is wrong.

Decisions:

- Time is presentation time, counted from the start of the container, for sound and picture alike: streams that start
  or end apart stay in step, variable frame rates and B-frames need no rule of their own.
- Frame i of F is the decoded one nearest to (i + 0.5) / F of the excerpt; of two as near, the earlier.
- Frames are scaled until they cover the size asked, bilinear over the pixels that fall together, and cropped centrally.
- Channels are averaged and resampled by soxr at quality HQ, as by `audio_io`. What goes beyond [-1, 1] is clipped, as a
  player would: lossy sound overshoots so often that `audio_io`'s warning would be noise, and scaling a clip down for
  it would make its level depend on where it is cut.
- What the file does not hold is zero and marked as padding. A stream of MP4 or QuickTime that breaks off before its
  header says is refused. (Other containers give no length for each stream: cut short, they are whole and shorter.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust.data.video_streams import Collector, Excerpt, SightCollector, SoundCollector, Window
from robust.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"})
"""Lower-case suffixes of the containers that are looked for; others are read too when named."""

_PREROLL_SECONDS = 0.25  # decoded before the excerpt: lossy audio needs a packet or several to settle
_TRUNCATED_SECONDS = 0.15  # headers round a stream's length; beyond this it broke off
_AGAIN = "Copy or download it again, or take it out of the set."


@dataclass(frozen=True)
class _Wanted:
    """What of a file is wanted; `sample_rate` or `frames` None leaves sound or picture undecoded."""

    window: Window
    sample_rate: int | None
    frames: int | None
    size: tuple[int, int]


def read_video(
    path: str | os.PathLike[str],
    *,
    clip_seconds: float,
    start_seconds: float = 0.0,
    sample_rate: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] = (224, 224),
) -> Excerpt:
    """Reads the sound and the frames of one excerpt of a file.

    Args:
        path: Any container FFmpeg reads.
        clip_seconds: Length of the excerpt, above 0.
        start_seconds: Where it starts, counted from the start of the file, at least 0.
        sample_rate: Hz of the sound wanted; None for none.
        frames: Number of frames wanted, spread evenly over the excerpt; None for none.
        size: Height and width of a frame.

    Returns:
        `Excerpt` with audio (round(sample_rate * clip_seconds),) float32 in [-1, 1] and video (frames, 3, H, W)
        float32 in [0, 1], each with its mask.

    Raises:
        DataError: If the file is missing, empty, no video, damaged or truncated, lacks a stream that is wanted, or
            holds nothing of the excerpt; or if the lengths asked are no lengths.
    """
    path = Path(path)
    _check_numbers(clip_seconds, start_seconds, sample_rate, frames, size)
    _check_file(path)
    wanted = _Wanted(Window(start_seconds, clip_seconds), sample_rate, frames, size)
    collectors = _collect(path, wanted, seek=start_seconds > _PREROLL_SECONDS)
    if any(collector.started_late for collector in collectors.values()):  # not every container seeks exactly
        collectors = _collect(path, wanted, seek=False)
    _check_found(path, wanted.window, list(collectors.values()))
    sound, sight = collectors.get("audio"), collectors.get("video")
    return Excerpt(*(sound.finish() if sound else (None, None)), *(sight.finish() if sight else (None, None)))


def _collect(path: Path, wanted: _Wanted, *, seek: bool) -> dict[str, Collector]:
    """Decodes what the excerpt needs of the wanted streams, in one pass over the file."""
    import av

    try:
        # No protocol but plain files: a playlist with a video's name must not reach the network.
        with av.open(str(path.resolve()), options={"protocol_whitelist": "file"}) as container:
            collectors = _collectors(path, container, wanted)
            if seek:
                _seek(container, collectors, wanted.window.start)
            complete = _decode(path, container, list(collectors.values()))
            if not complete and "mp4" in container.format.name:
                _check_whole(path, wanted.window, collectors)
            return collectors
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read as video ({reason}); it is none, or it is damaged. {_AGAIN}") from error


def _collectors(path: Path, container: InputContainer, wanted: _Wanted) -> dict[str, Collector]:
    """A collector for each wanted stream, `audio` and `video`."""
    from av import time_base
    from av.stream import Disposition

    zero = (container.start_time or 0) / time_base
    pictures = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    found: dict[str, Sequence[Any]] = {"audio": container.streams.audio, "video": pictures}
    if not len(container.streams):
        raise DataError(f"{path} holds no stream at all; it is damaged or not a video. {_AGAIN}")
    kept = {"audio": wanted.sample_rate is not None, "video": wanted.frames is not None}
    for kind, streams in found.items():
        if kept[kind] and not streams:
            raise DataError(
                f"{path} has no {kind} stream. Take it out of the set, copy it again if it may be cut short, or take a "
                f"victim that needs no {kind}."
            )
    collectors: dict[str, Collector] = {}
    if wanted.sample_rate is not None:
        collectors["audio"] = SoundCollector(path, found["audio"][0], zero, wanted.window, wanted.sample_rate)
    if wanted.frames is not None:
        collectors["video"] = SightCollector(path, found["video"][0], zero, wanted.window, wanted.frames, wanted.size)
    for collector in collectors.values():
        collector.stream.codec_context.thread_count = 1  # clips are read side by side instead, see reading.py
    return collectors


def _seek(container: InputContainer, collectors: dict[str, Collector], start: float) -> None:
    """Goes to the last key frame that is early enough; where a container cannot seek, nothing changes."""
    import av

    collector = collectors.get("video") or collectors["audio"]
    collector.seeked = True
    seconds = collector.zero + start - _PREROLL_SECONDS
    try:
        container.seek(math.floor(seconds / collector.stream.time_base), stream=collector.stream, backward=True)
    except av.FFmpegError:
        collector.seeked = False


def _decode(path: Path, container: InputContainer, collectors: list[Collector]) -> bool:
    """Feeds the collectors until each has enough (true) or the file ends (false)."""
    by_index = {collector.stream.index: collector for collector in collectors}
    for packet in container.demux([collector.stream for collector in collectors]):
        collector = by_index[packet.stream.index]  # a flushing packet has no index of its own
        if collector.done:
            continue
        if packet.is_corrupt:
            raise DataError(f"{path} breaks off in the middle, or is damaged. {_AGAIN}")
        for frame in packet.decode():
            collector.push(frame)
        if all(other.done for other in collectors):
            return True
    return all(collector.done for collector in collectors)


def _check_whole(path: Path, window: Window, collectors: dict[str, Collector]) -> None:
    """Refuses a file whose streams end before their headers say, within the excerpt."""
    for kind, collector in collectors.items():
        promised = collector.promised_end
        end = collector.end or 0.0
        if not collector.done and promised is not None and min(promised, window.end) > end + _TRUNCATED_SECONDS:
            raise DataError(
                f"{path} is truncated: its header promises {promised:.2f} s of {kind}, {end:.2f} s could be decoded. "
                f"{_AGAIN}"
            )


def _check_found(path: Path, window: Window, collectors: list[Collector]) -> None:
    """Refuses a file that holds nothing of the excerpt."""
    if any(collector.found for collector in collectors):
        return
    ends = [collector.end for collector in collectors if collector.end is not None]
    ending = f"it ends at {max(ends):.2f} s" if ends else "it holds nothing that could be decoded"
    raise DataError(
        f"{path} has nothing between {window.start:g} s and {window.end:g} s: {ending}. "
        "Correct the start of the clip, or take it out of the set."
    )


def _check_file(path: Path) -> None:
    """Refuses what is no readable file."""
    if path.is_dir():
        raise DataError(f"{path} is a directory, not a video file. Name one file.")
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Check the name and the folder you are in ({Path.cwd()}).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. Check that you may read it.") from error
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes). {_AGAIN}")


def _check_numbers(
    clip_seconds: float, start_seconds: float, sample_rate: int | None, frames: int | None, size: tuple[int, int]
) -> None:
    """Refuses lengths that are none."""
    if not (math.isfinite(clip_seconds) and clip_seconds > 0):
        raise DataError(f"clip_seconds={clip_seconds} must be above 0.")
    if not (math.isfinite(start_seconds) and start_seconds >= 0):
        raise DataError(f"start_seconds={start_seconds} must be at least 0.")
    if sample_rate is None and frames is None:
        raise DataError("Neither sound nor frames were asked for; give sample_rate, frames or both.")
    if sample_rate is not None and round(sample_rate * clip_seconds) < 1:
        raise DataError(f"clip_seconds={clip_seconds} holds no sample at {sample_rate} Hz; give a length above 0.")
    if frames is not None and (frames < 1 or min(size) < 1):
        raise DataError(f"{frames} frames of {size[0]} x {size[1]} pixels were asked for; each must be at least 1.")
