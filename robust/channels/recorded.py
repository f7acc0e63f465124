"""Recordings to be heard behind others: a folder of any audio files, read once and kept in memory."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from robust.channels.levels import frame_samples
from robust.channels.noise import SILENT_POWER, active_region
from robust.data.audio_io import AUDIO_SUFFIXES, read_audio
from robust.data.reading import ahead
from robust.data.splits import hash_int
from robust.errors import DataError

LONGEST_SECONDS = 60.0
"""No more of a recording is read: variety comes of many recordings."""

MOST_BYTES = 1 << 30
"""Of memory; a larger folder is heard in part."""

SPLITS = ("train", "held-out")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """Recordings at one rate.

    Attributes:
        names: Paths below the folder, with forward slashes.
        sounds: (T,) float32 each, without its silent frames, at unit power over what is active of it.
        fingerprint: Hash of names and sounds.
    """

    names: tuple[str, ...]
    sounds: tuple[Tensor, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.sounds)

    def stretch(self, number: int, samples: int, generator: torch.Generator) -> Tensor:
        """(samples,) of one recording from a random place, going round at its end."""
        sound = self.sounds[number]
        start = int(torch.randint(len(sound), (), generator=generator))
        if start + samples <= len(sound):
            return sound[start : start + samples]
        return sound[(start + torch.arange(samples)) % len(sound)]

    def describe(self) -> dict[str, Any]:
        """How many there are, and their hash."""
        return {"count": len(self), "fingerprint": self.fingerprint}


def load_recorded(
    folder: str | os.PathLike[str], sample_rate: int, *, split: str | None = None, held_out: float = 0.2, seed: int = 0
) -> Recorded:
    """The recordings of a folder and the folders below, hidden ones aside.

    Of each the first minute is read, by `read_audio`; frames of digital silence (below -80 dBFS) are cut out, so that
    every stretch is heard. A folder beyond 1 GiB is heard in part, chosen by `seed`.

    Args:
        folder: Of audio files of any format libsndfile reads, any rate, any number of channels.
        sample_rate: Hz.
        split: `train` or `held-out` for only those files; all when None.
        held_out: Share of the files, in (0, 1), that is held out; one at least, and one is left.
        seed: Chooses which.

    Raises:
        ThreatModelError: If the split or the share cannot be.
        DataError: If the folder cannot be read or holds no audio, too few files to hold one out, one that cannot be
            read or is silent, or the same recording on both sides of the split.
    """
    if split is not None and split not in SPLITS:
        raise ThreatModelError(unknown("split of recordings", split, SPLITS))
    if not 0 < held_out < 1:
        raise ThreatModelError(f"held_out must be a share between 0 and 1; given {held_out}.")
    root = Path(folder)
    paths = _audio_files(root)
    names = sorted(paths, key=lambda name: hash_int(seed, "noise", name))
    if split is not None:
        if len(names) < 2:
            raise DataError(f"{root} holds one recording; there must be two or more to hold one out.")
        count = min(max(1, round(held_out * len(names))), len(names) - 1)
        _check_apart(paths, names[:count], names[count:])
        names = names[:count] if split == "held-out" else names[count:]
    seen = tuple((name, str(paths[name]), *_state(paths[name])) for name in names)
    return _loaded(str(root), seen, sample_rate)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    try:
        told = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Mend the link, or take it out.") from error
    return told.st_size, told.st_mtime_ns


def _check_apart(paths: dict[str, Path], held_out: list[str], train: list[str]) -> None:
    """Raises `DataError` if a file is on both sides under two names; only files of one size are compared."""
    sizes: dict[int, list[str]] = {}
    for name in held_out:
        sizes.setdefault(_state(paths[name])[0], []).append(name)
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        if name not in digests:
            with paths[name].open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests[name]

    for name in train:
        for other in sizes.get(_state(paths[name])[0], []):
            if digest(name) == digest(other):
                raise DataError(
                    f"{paths[other]} and {paths[name]} are the same recording, one of which would be held out; remove "
                    "one."
                )


def _audio_files(root: Path) -> dict[str, Path]:
    """Name -> path of all audio files."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"The folder of noise {root} {what}. Name a folder of recordings.")
    found = {}
    for here, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(here, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in AUDIO_SUFFIXES:
                found[path.relative_to(root).as_posix()] = path
    if not found:
        raise DataError(f"{root} holds no audio file; put recordings in it ({', '.join(sorted(AUDIO_SUFFIXES))}).")
    return found


@lru_cache(maxsize=4)
def _loaded(root: str, seen: tuple[tuple[str, str, int, int], ...], sample_rate: int) -> Recorded:
    """Reads the files, in the order given, as far as memory goes; kept while the files do not change."""

    def read(path: str) -> Tensor:
        return _heard(path, sample_rate)

    names: list[str] = []
    sounds: list[Tensor] = []
    taken = 0
    digest = hashlib.blake2b(digest_size=16)
    for (name, *_), sound in zip(seen, ahead(read, [path for _, path, *_ in seen]), strict=True):
        if sounds and taken + sound.nbytes > MOST_BYTES:
            _log.warning("%s: %d of %d recordings are heard; more do not fit into 1 GiB", root, len(sounds), len(seen))
            break
        names.append(name)
        sounds.append(sound)
        taken += sound.nbytes
        digest.update(os.fsencode(f"{name}\0"))
        digest.update(sound.numpy().tobytes())
    return Recorded(tuple(names), tuple(sounds), digest.hexdigest())


def _heard(path: str, sample_rate: int) -> Tensor:
    """(T,) one recording, without silence, at unit power."""
    sound = torch.from_numpy(read_audio(path, sample_rate, clip_seconds=LONGEST_SECONDS))
    frame = frame_samples(sample_rate)
    whole = torch.ones_like(sound, dtype=torch.bool)
    active = active_region(sound, whole, frame)
    if not bool(active.any()):
        raise DataError(f"{path} is silent at {sample_rate} Hz (below -80 dBFS); noise must be heard. Take it out.")
    level = sound[active].double().square().mean().sqrt()
    frames = torch.nn.functional.pad(sound.double().square(), (0, -len(sound) % frame)).view(-1, frame)
    loud = (frames.mean(dim=1) >= SILENT_POWER).repeat_interleave(frame)[: len(sound)]
    return (sound[loud].double() / level).float()
