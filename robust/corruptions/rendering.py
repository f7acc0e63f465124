"""Corrupted clips as they are kept: sound in 16 bits, pictures in 8, with what was measured of each.

All victims get what is kept, also where nothing is cached, so that a cache changes no result. Sound is rounded to
32,767ths of each clip's peak, or of full scale where that is exact; nothing is clipped. SNR is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.errors import ThreatModelError
from robust.corruptions.base import Corruption, span
from robust.corruptions.measures import PSNR, SNR
from robust.seeds import generators_for
from robust.types import Inputs

VERSION = 1
"""To be raised whenever the same corruption gives other clips."""

FULL_SCALE, LARGEST = 32_768, 32_767
COLUMNS = ("snr_db", "psnr_db", "realised", "silent", "over_range")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Rendered:
    """Some clips under one corruption at one severity.

    Attributes:
        arrays: `audio` (B, T) int16 with `audio_scale` (B,) float32 (0: the clip is unchanged), `video` uint8.
        columns: `snr_db` (NaN for silent clips and where no sound was touched), `psnr_db` (NaN where no picture was),
            `realised` (what the corruption's own measure says), `silent` (no part of the clip is active) and
            `over_range` (share of the samples beyond [-1, 1]), each (B,).
    """

    arrays: Arrays
    columns: Arrays

    def rows(self, first: int, last: int) -> Rendered:
        """Clips `first` to `last`, exclusive."""
        cut = [{name: value[first:last] for name, value in part.items()} for part in (self.arrays, self.columns)]
        return Rendered(*cut)

    def inputs(self, clean: Inputs) -> Inputs:
        """What victims get, modality -> (B, ...) float32; `clean` are the clips as they were."""
        return unpack(self.arrays, clean)

    @classmethod
    def joined(cls, parts: Sequence[Rendered]) -> Rendered:
        """Several of them as one."""
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
        return cls(arrays, {name: np.concatenate([part.columns[name] for part in parts]) for name in COLUMNS})


def render(
    corruption: Corruption,
    severity: int,
    clean: Inputs,
    valid: Inputs,
    ids: Sequence[str],
    sample_rate: int,
    seed: int,
) -> Rendered:
    """Clips under a corruption; a clip's result depends on nothing but itself, its id and the seed.

    Args:
        corruption: What happens.
        severity: 1 to 5, or 0 where it has none. A clip's draw is the same at all.
        clean: Modality -> (B, ...) float32 on the CPU; those that the corruption concerns are used.
        valid: Of each modality, in shape or broadcastable.
        ids: Of the clips.
        sample_rate: Hz of the sound.
        seed: From which, with the clip's id and the corruption's name, all randomness is derived.

    Raises:
        ThreatModelError: If there is no such severity, the rate is too low, or what comes out is not finite.
    """
    own = {name: clean[name] for name in corruption.modalities}
    masks = {name: valid[name].expand_as(own[name]) for name in own}
    transform = corruption.transform(severity, sample_rate)
    changed = transform(own, masks, generators_for(seed, ids, f"corruption-{corruption.name}"))
    for name, value in changed.items():
        whole = value.flatten(1).isfinite().all(dim=1)
        if not bool(whole.all()):
            raise ThreatModelError(
                f"The corruption {corruption.name!r} makes {name} of the clip {ids[int(whole.int().argmin())]!r} NaN "
                "or infinite; leave the corruption or the clip out."
            )
    arrays = pack(own, changed)
    kept = unpack(arrays, own)
    rows = [
        _measured(corruption, {n: own[n][row] for n in own}, {n: kept[n][row] for n in own}, masks, row, sample_rate)
        for row in range(len(ids))
    ]
    return Rendered(arrays, {name: np.array([row[name] for row in rows]) for name in COLUMNS})


def pack(clean: Inputs, changed: Inputs) -> dict[str, NDArray[Any]]:
    """Clips in few bits; see `Rendered`."""
    arrays: dict[str, NDArray[Any]] = {}
    if "audio" in changed:
        sound, before = (part["audio"].numpy() for part in (changed, clean))
        peak = np.abs(sound).max(axis=1)
        steps = sound * FULL_SCALE
        exact = (peak <= LARGEST / FULL_SCALE) & (steps == np.round(steps)).all(axis=1)
        scale = np.where(exact | (peak == 0), 1 / FULL_SCALE, peak / LARGEST).astype(np.float32)
        rounded = np.clip(np.round(sound / scale[:, None]), -LARGEST, LARGEST)
        arrays["audio"] = rounded.astype(np.int16)
        arrays["audio_scale"] = np.where((sound == before).all(axis=1), np.float32(0), scale)
    if "video" in changed:
        arrays["video"] = (changed["video"].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return arrays


def unpack(arrays: Arrays, clean: Inputs) -> Inputs:
    """Clips as float32 again."""
    found: Inputs = {}
    if "audio" in arrays:
        scale = torch.from_numpy(arrays["audio_scale"])[:, None]
        found["audio"] = torch.where(scale > 0, torch.from_numpy(arrays["audio"]).float() * scale, clean["audio"])
    if "video" in arrays:
        found["video"] = torch.from_numpy(arrays["video"]).float() / 255
    return found


def _measured(
    corruption: Corruption, before: Inputs, after: Inputs, masks: Inputs, row: int, sample_rate: int
) -> dict[str, float | bool]:
    """The columns of one clip."""
    told: dict[str, float | bool] = {"snr_db": np.nan, "psnr_db": np.nan, "silent": False, "over_range": 0.0}
    pairs: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    if "audio" in before:
        pairs["audio"] = sound = _spans(before["audio"], after["audio"], masks["audio"][row])
        told["snr_db"] = SNR.of(*sound, sample_rate) if len(sound[1]) else np.nan
        told["silent"] = bool(np.isnan(told["snr_db"]))
        told["over_range"] = float((np.abs(sound[1]) > 1).mean()) if len(sound[1]) else 0.0
    if "video" in before:
        pairs["video"] = seen = _spans(before["video"], after["video"], masks["video"][row].flatten(1).any(dim=1))
        told["psnr_db"] = PSNR.of(*seen, sample_rate) if len(seen[0]) else np.nan
    already = {"snr_db": "snr_db", "psnr_db": "psnr_db"}.get(corruption.measure.name)
    main = pairs[corruption.modalities[0]]
    if already:
        told["realised"] = told[already]
    else:
        told["realised"] = corruption.measure.of(*main, sample_rate) if len(main[0]) else np.nan
    return told


def _spans(before: Tensor, after: Tensor, valid: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """What of a clip is valid, before and after."""
    first, last = span(valid)
    return before[first:last].numpy(), after[first:last].numpy()
