"""Measured impulse responses: a folder of recordings as a bank of rooms.

Decisions, so that a room is what was measured of it:

- One channel is taken, none is averaged. Any rate is resampled by soxr at quality HQ.
- The direct path begins at the first sample within 20 dB of the peak (ISO 3382-1: the onset, not the peak, which may
  be a reflection); what comes before is cut off.
- The tail ends where the decay meets the noise of the recording, where 60 dB of it are past, or at `longest_seconds`.
- `direct` scales the first 2.5 ms after the onset to unit energy, `energy` the whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.errors import ThreatModelError, unknown
from robust.channels.acoustics import (
    DIRECT_SECONDS,
    Normalisation,
    acoustics_of,
    check_normalisation,
    of_unit_energy,
)
from robust.channels.bank import RoomBank
from robust.channels.room_sets import SPLITS
from robust.data.audio_io import AUDIO_SUFFIXES, check_audio
from robust.data.splits import hash_int
from robust.errors import DataError

Part: TypeAlias = Literal["file", "folder"]

ONSET_DB = 20.0
SMALLEST_PEAK = 1e-7
"""-140 dBFS: what is below in all samples is no response."""

FRAME_SECONDS = 0.01
FLAT_DB = 1.5
"""The noise floor is reached if the last tenth of a recording falls by no more than this from its half to its half."""


def load_responses(
    folder: str | os.PathLike[str],
    *,
    sample_rate: int = 16_000,
    channel: int = 0,
    held_out: float = 0.2,
    seed: int = 0,
    normalise: Normalisation = "direct",
    rooms_are: Part = "file",
    longest_seconds: float = 4.0,
) -> RoomBank:
    """A bank of the responses in a folder and the folders below it, hidden ones aside.

    Responses longer than clips are cut to their length when used: what arrives after its end is not heard.

    Args:
        folder: Of audio files that libsndfile reads, of any rate from 1 kHz.
        sample_rate: Hz of the clips.
        channel: Which of each file, from 0.
        held_out: Share of the rooms that is held out, 0 to 1, chosen by `seed`; unless 0 or 1, one room at least is on
            either side.
        seed: Chooses which.
        normalise: `direct` or `energy`.
        rooms_are: `file`: each file is a room; `folder`: all files of one folder are of one room and stay together.
        longest_seconds: Responses are cut to this length, and their row of the table says by how much (`cut_s`).

    Raises:
        ThreatModelError: If a setting cannot be.
        DataError: If the folder has no audio, a file cannot be read, has no such channel, is NaN somewhere or has no
            energy, there are too few rooms to hold one out, or training and held-out rooms hold the same recording.
    """
    _check_settings(sample_rate, channel, held_out, rooms_are, longest_seconds)
    check_normalisation(normalise)
    root = Path(folder)
    names = _audio_files(root)
    sides = _sides(names, held_out, seed, rooms_are, root)
    names = [name for split in SPLITS for name in names if sides[name] == split]
    fingerprint = _fingerprint(root, names, sides)
    longest = max(round(longest_seconds * sample_rate), 1)
    found = [_response(root / name, sample_rate, channel, normalise, longest) for name in names]
    responses = torch.zeros(len(found), max(len(samples) for samples, _ in found))
    for row, (samples, _) in zip(responses, found, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    table = _table(names, sides, [told for _, told in found])
    train = sum(side == SPLITS[0] for side in sides.values())
    settings = {
        "responses": fingerprint,
        **{"sample_rate": sample_rate, "channel": channel, "share_held_out": held_out, "seed": seed},
        **{"normalise": normalise, "rooms_are": rooms_are, "longest_seconds": longest_seconds},
    }
    return RoomBank(responses[:train], responses[train:], sample_rate, table, settings)


def _check_settings(sample_rate: int, channel: int, held_out: float, rooms_are: str, longest_seconds: float) -> None:
    if sample_rate < 1000:
        raise ThreatModelError(f"Responses are resampled to 1000 Hz and more; given {sample_rate}.")
    if channel < 0:
        raise ThreatModelError(f"Channels are counted from 0; given {channel}.")
    if not 0 <= held_out <= 1:
        raise ThreatModelError(f"The share of held-out rooms must be from 0 to 1; given {held_out}.")
    if rooms_are not in ("file", "folder"):
        raise ThreatModelError(unknown("kind of room", rooms_are, ("file", "folder")))
    if not 0 < longest_seconds <= 60:
        raise ThreatModelError(f"longest_seconds must be above 0 and up to 60; given {longest_seconds}.")


def _audio_files(root: Path) -> list[str]:
    """Paths below the folder, with forward slashes, sorted."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}; name a folder of impulse responses.")
    below = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    names = sorted(path.as_posix() for path in below if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise DataError(
            f"{root} holds no audio file; put impulse responses in it ({', '.join(sorted(AUDIO_SUFFIXES))})."
        )
    return names


def _sides(names: Sequence[str], held_out: float, seed: int, rooms_are: str, root: Path) -> dict[str, str]:
    """Name -> split; by rooms, in an order that is the seed's."""
    room_of = {name: name.rpartition("/")[0] if rooms_are == "folder" else name for name in names}
    rooms = sorted(set(room_of.values()), key=lambda room: hash_int(seed, "responses", room))
    count = round(held_out * len(rooms))
    if 0 < held_out < 1:
        if len(rooms) < 2:
            raise DataError(f"{root} holds one room; there must be two or more to hold one out. Or give held_out=0.")
        count = min(max(1, count), len(rooms) - 1)
    chosen = set(rooms[:count])
    return {name: SPLITS[1] if room_of[name] in chosen else SPLITS[0] for name in names}


def _fingerprint(root: Path, names: Sequence[str], sides: dict[str, str]) -> str:
    """A hash of all files, none of which is on both sides: it would be a room trained in and held out."""
    seen: dict[str, str] = {}
    whole = hashlib.sha256()
    for name in names:
        check_audio(root / name)
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        whole.update(f"{name}\0{digest}\0".encode(errors="surrogateescape"))
        other = seen.setdefault(digest, name)
        if sides[other] != sides[name]:
            raise DataError(
                f"{root / other} and {root / name} are the same recording, one of which would be held out; remove one."
            )
    return whole.hexdigest()[:16]


def _response(
    path: Path, sample_rate: int, channel: int, normalise: Normalisation, longest: int
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The response (L,) of one file, and what its row says."""
    samples, native_rate = _channel_of(path, channel)
    if native_rate != sample_rate:
        import soxr

        samples = soxr.resample(samples, native_rate, sample_rate, quality="HQ")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < SMALLEST_PEAK:
        raise DataError(f"{path} has no energy in channel {channel}; a response must. Take it out of the folder.")
    onset = int(np.argmax(np.abs(samples) >= peak * 10 ** (-ONSET_DB / 20)))
    samples = samples[onset:]
    end = _tail(np.square(samples), max(round(FRAME_SECONDS * sample_rate), 1))
    kept = samples[: min(end, longest)]
    direct = np.sqrt(np.square(kept[: round(DIRECT_SECONDS * sample_rate) + 1]).sum())
    scaled = of_unit_energy(kept) if normalise == "energy" else kept / direct
    told = {
        "file_rate": native_rate,
        "onset_s": onset / sample_rate,
        "samples": len(kept),
        "cut_s": (end - len(kept)) / sample_rate,
        "acoustics": acoustics_of(kept, sample_rate),
    }
    return scaled.astype(np.float32), told


def _channel_of(path: Path, channel: int) -> tuple[NDArray[np.float64], int]:
    import soundfile

    try:
        frames, native_rate = soundfile.read(path, dtype="float64", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path} breaks off or is damaged ({error}). Copy or download it again.") from error
    if channel >= frames.shape[1]:
        count = frames.shape[1]
        has = "one channel" if count == 1 else f"{count} channels, 0 to {count - 1}"
        raise DataError(f"{path} has {has}, and no channel {channel}; choose another with channel=...")
    samples = np.ascontiguousarray(frames[:, channel])
    if not np.isfinite(samples).all():
        raise DataError(f"{path} holds NaN or infinite samples in channel {channel}. Render the file again.")
    return samples, int(native_rate)


def _tail(energy: NDArray[np.float64], frame: int) -> int:
    """Where a response ends, in samples, from energies (L,) after the onset."""
    end = len(energy)
    last = energy[-max(end // 10, 1) :]
    halves = [float(half.mean()) for half in np.array_split(last, 2) if len(half)]
    if len(last) >= 2 * frame and min(halves) > 0 and abs(10 * np.log10(halves[0] / halves[-1])) <= FLAT_DB:
        frames = energy[: end // frame * frame].reshape(-1, frame).mean(axis=1)
        quiet = np.flatnonzero(frames < 2 * last.mean())
        end = max(int(quiet[0]), 1) * frame if len(quiet) else end
    left = energy[:end][::-1].cumsum()[::-1]
    return int(np.count_nonzero(left > 1e-6 * left[0]))


def _table(names: Sequence[str], sides: dict[str, str], told: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    count = dict.fromkeys(SPLITS, 0)
    rows = []
    for name, one in zip(names, told, strict=True):
        acoustics = asdict(one["acoustics"])
        rows.append(
            {
                **{"split": sides[name], "room": count[sides[name]], "file": name, "rt60_s": None},
                **{key: value for key, value in one.items() if key != "acoustics"},
                "rt60_s_measured": acoustics.pop("rt60_s"),
                **acoustics,
            }
        )
        count[sides[name]] += 1
    return tuple(rows)
