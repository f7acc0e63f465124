"""Reading audio files: mono, at the rate and length a victim wants, or a `DataError` that says what is wrong.

Decisions, so that a number never rests on a signal that was changed unseen:

- Channels are averaged; no channel is preferred.
- Another rate is resampled by soxr at quality HQ. Its band-limited overshoot beyond [-1, 1] is clipped, as a converter
  would clip it.
- A long recording is cut to its first `clip_seconds`; no more than that (and the resampler's reach) is read or checked.
- A peak above 1 (float files, lossy decoders) is scaled down to 1 with a `RangeWarning`; one above 16 is refused,
  because it is a file of integers stored as floats and not a loud recording.
- NaN, infinite samples, truncated files and clips without a sample are refused. Digital silence is not. (Ogg and MP3
  streams carry no length to hold them against: cut short at a page they are whole, shorter recordings.)
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.data.riff import missing_bytes
from robust.errors import DataError

AUDIO_SUFFIXES = frozenset(
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".nist", ".oga", ".ogg", ".opus"}
    | {".rf64", ".snd", ".sph", ".voc", ".w64", ".wav", ".wave"}
)
"""Lower-case suffixes of the audio files libsndfile reads; by these a folder tells recordings from notes."""

LOWEST_RATE = 1000  # Hz; a header below this is damaged, and would ask the resampler for 16 samples and more for one
LARGEST_PEAK = 16.0  # +24 dBFS, beyond any float master
_BLOCK = 1 << 16  # frames read at once, so that many channels and long files cost little memory
_UNKNOWN_FRAMES = 1 << 62  # libsndfile gives this and more for a stream encoded without its length
_CONVERT = "Convert it to WAV or FLAC, or take it out of the set."


class RangeWarning(UserWarning):
    """A recording went beyond [-1, 1] and was scaled down; the message states its peak and the gain."""


def read_audio(path: str | os.PathLike[str], sample_rate: int, *, clip_seconds: float | None = None) -> NDArray[Any]:
    """Reads a recording as mono at `sample_rate`.

    Args:
        path: Any file libsndfile reads, of any rate from 1 kHz and any number of channels.
        sample_rate: Hz wanted.
        clip_seconds: Reads the first so many seconds only; None reads all.

    Returns:
        (T,) float32 in [-1, 1]; T is at most `round(sample_rate * clip_seconds)`, less where the recording is shorter.

    Raises:
        DataError: If the file is missing, a directory, empty, unreadable, truncated or without a sample, or if a sample
            read is NaN, infinite or beyond +-16.

    Warns:
        RangeWarning: If the peak of the mono signal read is above 1; it is scaled to 1.
    """
    path = Path(path)
    _check_file(path)
    wanted = None if clip_seconds is None else _clip_samples(sample_rate, clip_seconds)
    audio, native_rate = _decode(path, sample_rate, wanted)
    audio = _into_range(audio, path)
    if native_rate != sample_rate:
        import soxr

        audio = np.clip(soxr.resample(audio, native_rate, sample_rate, quality="HQ"), -1.0, 1.0)
    if not len(audio):
        raise DataError(f"{path} is shorter than one sample at {sample_rate} Hz. Take it out of the set.")
    return np.ascontiguousarray(audio[:wanted], dtype=np.float32)


def check_audio(path: str | os.PathLike[str]) -> None:
    """Raises the `DataError` of `read_audio` for every fault that shows without decoding the samples."""
    path = Path(path)
    _check_file(path)
    with _open(path) as file:
        _check_header(path, file)


def fit_length(audio: NDArray[Any], num_samples: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Cuts a clip to its first `num_samples`, or pads it with zeros at the end.

    Args:
        audio: (T,) float32.
        num_samples: Length wanted, at least 1.

    Returns:
        The clip (num_samples,), always a copy, and a mask (num_samples,), true where it is real and not padding.
    """
    kept = min(len(audio), num_samples)
    fitted = np.zeros(num_samples, dtype=audio.dtype)
    fitted[:kept] = audio[:kept]
    return fitted, np.arange(num_samples) < kept


def _clip_samples(sample_rate: int, clip_seconds: float) -> int:
    """Samples in a clip; at least one."""
    samples = round(sample_rate * clip_seconds)
    if samples < 1:
        raise DataError(f"clip_seconds={clip_seconds} holds no sample at {sample_rate} Hz; give a length above 0.")
    return samples


def _check_file(path: Path) -> None:
    """Refuses what is no readable file, and WAV and AIFF files that are shorter than their header says."""
    if path.is_dir():
        raise DataError(f"{path} is a directory, not an audio file. Name one file, or use --data folder --root {path}.")
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the name and the folder you are in ({Path.cwd()}).")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file. Give an audio file on disk.")
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path} is empty (0 bytes). Copy or download it again, or take it out of the set.")
        with path.open("rb") as file:
            missing = missing_bytes(file, size)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. Check that you may read it.") from error
    if missing:
        raise DataError(
            f"{path} is truncated: its header promises {missing} bytes more than the {size} there are. "
            "Copy or download it again; if this is all there is, re-save it with an audio editor to mend the header."
        )


def _open(path: Path) -> Any:
    """A `soundfile.SoundFile`, or a `DataError` with libsndfile's reason and a look at the content."""
    import soundfile

    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        # TypeError is soundfile's answer to headerless files, which need a rate nobody told us.
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise DataError(f"{path} is not audio that libsndfile can read ({reason}){_sniff(path)}. {_CONVERT}") from error


def _sniff(path: Path) -> str:
    """Says so when a file holds text (a renamed note, an error page, a large-file pointer) rather than audio."""
    with path.open("rb") as file:
        head = file.read(256)
    if b"\0" in head or not head.isascii():
        return ""
    first_line = (head.decode("ascii").strip().splitlines() or [""])[0][:40]
    return f"; it holds text, beginning with {first_line!r}"


def _check_header(path: Path, file: Any) -> None:
    """Refuses a header without frames or with an impossible rate."""
    if file.frames == 0:
        raise DataError(f"{path} is a valid {file.format} file with no samples in it. Take it out of the set.")
    if file.samplerate < LOWEST_RATE:
        raise DataError(
            f"{path} has a sample rate of {file.samplerate} Hz in its header; {LOWEST_RATE} Hz and more are read. "
            "Re-save it with the right rate."
        )


def _decode(path: Path, sample_rate: int, wanted: int | None) -> tuple[NDArray[Any], int]:
    """Mono samples at the file's own rate, and that rate; only those that `wanted` samples at `sample_rate` need."""
    import soundfile

    with _open(path) as file:
        _check_header(path, file)
        native_rate = int(file.samplerate)
        frames = file.frames
        length_known = frames < _UNKNOWN_FRAMES
        if wanted is not None:
            frames = min(frames, _native_frames(wanted, native_rate, sample_rate))
        try:
            audio = _read_mono(path, file, frames)
        except soundfile.SoundFileError as error:
            reason = "breaks off or is damaged" if length_known else "ends early, and has no length in its header"
            raise DataError(f"{path} {reason} ({error}). Copy or download it again, or re-encode it.") from error
    if len(audio) < frames and length_known:
        raise DataError(
            f"{path} is truncated: {frames} frames were promised, {len(audio)} could be decoded. "
            "Copy or download it again."
        )
    if not len(audio):
        raise DataError(f"{path} has no samples in it. Take it out of the set.")
    return audio, native_rate


def _native_frames(wanted: int, native_rate: int, sample_rate: int) -> int:
    """Frames to read so that the first `wanted` resampled samples are those of the whole file (to 1e-6)."""
    if native_rate == sample_rate:
        return wanted
    ratio = native_rate / sample_rate
    reach = 512 + 128 * int(np.ceil(ratio))  # HQ looks some 85 samples of the lower rate ahead
    return int(np.ceil(wanted * ratio)) + reach


def _read_mono(path: Path, file: Any, frames: int) -> NDArray[Any]:
    """Up to `frames` frames, averaged over the channels: (T,) float32."""
    blocks: list[NDArray[Any]] = []
    done = 0
    while done < frames:
        block = file.read(min(_BLOCK, frames - done), dtype="float32", always_2d=True)  # (frames, channels)
        if not len(block):
            break
        bad = ~np.isfinite(block)
        if bad.any():
            first = done + int(np.argmax(bad.any(axis=1)))
            raise DataError(
                f"{path} holds NaN or infinite samples (first at frame {first}, {first / file.samplerate:.3f} s). "
                "Every sample must be finite; render the file again."
            )
        blocks.append(block.mean(axis=1, dtype=np.float64).astype(np.float32))
        done += len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _into_range(audio: NDArray[Any], path: Path) -> NDArray[Any]:
    """Scales a peak in (1, 16] down to 1 with a warning, refuses a larger one."""
    peak = float(np.abs(audio).max())
    if peak <= 1.0:
        return audio
    if peak > LARGEST_PEAK:
        raise DataError(
            f"{path} has a peak of {peak:g}; audio lies in [-1, 1], and up to {LARGEST_PEAK:g} is scaled down. "
            "If these are 16-bit integers stored as floats, divide them by 32768 and save again."
        )
    warnings.warn(
        f"{path} has a peak of {peak:.4g}, beyond [-1, 1]; it was scaled by {1 / peak:.4g}. "
        "Scale the file yourself to be rid of this warning.",
        RangeWarning,
        stacklevel=3,
    )
    return np.clip(audio / np.float32(peak), -1.0, 1.0)
