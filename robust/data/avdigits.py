"""Spoken digits that are seen too: FSDD speech beside scikit-learn's handwritten digits, real voices and real hands.

The speech and its splits are those of `fsdd`. The images are the 1,797 of 8 x 8 pixels that scikit-learn carries: the
test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, by 13 writers who follow
each other in the file. Cutting each digit by position therefore shows a later split mostly writers unseen before.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from robust.data.fsdd import DIGITS, SPLITS, fsdd
from robust.data.recordings import Recording, Recordings
from robust.data.registry import register_data
from robust.data.splits import hash_int
from robust.errors import DataError, unknown
from robust.types import Clip, Dataset, Inputs, VictimSpec

VIDEO_SHAPE = (8, 3, 32, 32)
"""Frames, channels, height, width, where a victim asks for none of its own; that of `events`."""

IMAGE_SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""Which part of the images of each digit, in the order of the file, a split sees."""

_BRIGHTEST = 16.0


class AVDigits(Dataset):
    """A voice that says a digit and a hand that wrote it, the image held still for the length of the clip.

    Attributes:
        speech: The recordings, in order.
        images: Row of every clip's image in scikit-learn's digits.
        targets: The digit of every clip.
        seed: Of the pairing.
    """

    name = "avdigits"
    labels = DIGITS
    modalities = ("audio", "video")

    def __init__(self, speech: Recordings, seed: int) -> None:
        self.speech = speech
        self.split = speech.split
        self.seed = seed
        self.images = _pair(speech.recordings, seed)
        self.targets = list(speech.targets)

    def __len__(self) -> int:
        return len(self.speech)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        """Reads clip `index` for `spec`; see `Dataset`.

        Video is float32 in [0, 1], of the shape that `spec` asks for or `VIDEO_SHAPE`: the image, bilinear, grey in
        three equal channels, the same in every frame.

        Raises:
            DataError: If `spec` asks for a modality the set has not, or video of an impossible shape.
        """
        for modality in spec.modalities:
            if modality not in self.modalities:
                raise DataError(unknown("modality of avdigits", modality, self.modalities))
        heard = self.speech.clip(index, replace(spec, modalities=("audio",))) if "audio" in spec.modalities else None
        inputs: Inputs = {}
        for modality in spec.modalities:
            inputs[modality] = heard.inputs["audio"] if heard and modality == "audio" else self._video(index, spec)
        return Clip(
            id=f"{self.speech.recordings[index].id}+{self.images[index]:04d}",
            inputs=inputs,
            label=torch.tensor(self.targets[index], dtype=torch.int64),
            valid=heard.valid if heard else {},
        )

    def fingerprint(self) -> str:
        """A hash of the recordings, of the images shown, and of which goes with which."""
        shown = _digits()[0][list(self.images)].tobytes()
        content = f"avdigits {self.speech.fingerprint()} {self.images} ".encode() + shown
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def _video(self, index: int, spec: VictimSpec) -> Tensor:
        shape = tuple(spec.shapes.get("video", VIDEO_SHAPE))
        if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
            raise DataError(
                f"The victim {spec.name!r} takes video of shape {shape}; avdigits has (frames, 3, height, width), "
                "each at least 1. Use a victim of such a shape."
            )
        image = torch.from_numpy(_digits()[0][self.images[index]])  # (8, 8)
        image = interpolate(image[None, None], size=shape[2:], mode="bilinear", align_corners=False)
        return image.expand(shape).contiguous()


@functools.cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (1797, 8, 8) in [0, 1], and their digits (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / _BRIGHTEST).astype(np.float32), bunch.target.astype(np.int64)


@functools.cache
def images_of(split: str, digit: int) -> tuple[int, ...]:
    """Rows of the images of `digit` that `split` (`train`, `validation` or `test`) may show; splits share none."""
    rows = np.flatnonzero(_digits()[1] == digit)
    first, last = (round(share * len(rows)) for share in IMAGE_SHARES[split])
    return tuple(rows[first:last].tolist())


def _pair(recordings: Sequence[Recording], seed: int) -> tuple[int, ...]:
    """An image for every recording, of its split and digit; none is shown again before all of those were."""
    groups: dict[tuple[str, int], list[Recording]] = defaultdict(list)
    for recording in recordings:
        take = int(recording.path.stem.rsplit("_", 1)[1])
        split = next(name for name in IMAGE_SHARES if take in SPLITS[name])
        groups[split, recording.label].append(recording)
    chosen: dict[str, int] = {}
    for (split, digit), said in groups.items():
        pool = sorted(images_of(split, digit), key=lambda row: hash_int(seed, "image", str(row)))
        said.sort(key=lambda recording: hash_int(seed, "speech", recording.id))
        chosen |= {recording.id: pool[place % len(pool)] for place, recording in enumerate(said)}
    return tuple(chosen[recording.id] for recording in recordings)


@register_data("avdigits", summary="FSDD speech with handwritten digits: real voices, real hands", needs_root=True)
def avdigits(*, split: str, root: Path | None, seed: int = 0) -> AVDigits:
    """Opens one split of spoken and handwritten digits.

    Args:
        split: As for `fsdd`: `train`, `validation`, `test` or `all`. A clip of `all` is the clip of its own split.
        root: Folder of the Free Spoken Digit Dataset, which holds `recordings/`, or that folder itself.
        seed: Chooses which image of its split and digit goes with a recording; a whole number.

    Raises:
        DataError: If the split is unknown, the tree is not that of the data set, or `seed` is no whole number.
    """
    if split not in SPLITS:
        raise DataError(unknown("split of avdigits", split, SPLITS))
    if root is None:
        raise DataError("avdigits needs the speech of fsdd; pass --root DIR, the folder that holds recordings/.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise DataError(f"seed={seed!r} of avdigits must be a whole number.")
    return AVDigits(cast(Recordings, fsdd(split=split, root=root)), seed)
