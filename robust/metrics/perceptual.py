"""What a change to a sound is to an ear: figures for every clip, from a waveform before and after.

Everything is computed in float64 over the part of a clip that is not padding, and each clip by itself. None stands
where a figure is undefined: a silent clip has no signal-to-noise ratio, an unchanged one no finite one.

Sources: segmental SNR - Schoenherr et al. 2020 (Imperio; methods.md 6.3), clamped as is usual since Hansen & Pellom
1998 (with a higher ceiling: small attacks all lie above theirs of 35 dB); loudness - ITU-R BS.1770-4, by pyloudnorm;
log-spectral distance - Gray & Markel 1976; masking - Qin et al. 2019 (`attacks.masking`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.masking import masking_excess_db, threshold
from robust.errors import DataError
from robust.metrics.perceptual_extra import EXTRAS, available, extra_score

Column: TypeAlias = list[float | None]

SEGMENT_S = 0.032
"""Frames of the segmental SNR, without overlap; a shorter rest at the end counts as one."""
SEGMENT_RANGE_DB = (-10.0, 80.0)
"""Between which each frame's SNR is kept."""
LOUDNESS_BLOCK_S = 0.4
"""Shorter clips have no loudness."""
SPECTRUM_S, SPECTRUM_HOPS = 0.032, 2
"""Hann window of the log-spectral distance, and hops in it."""
SPECTRUM_FLOOR_DB = 80.0
"""Spectra are cut off so far below the loudest bin of the two clips."""
COLUMNS = (
    "snr_db",
    "segmental_snr_db",
    "loudness_difference_lu",
    "perturbation_loudness_lu",
    "log_spectral_distance_db",
    "masking_mean_db",
    "masking_p95_db",
    "masking_audible",
)
"""Those that are always there; `perceptual_extra.EXTRAS` come where their libraries are installed."""


def perceptual_table(
    clean: Tensor,
    changed: Tensor,
    valid: Tensor | None,
    sample_rate: int,
    *,
    extras: Sequence[str] | None = (),
) -> dict[str, Column]:
    """All figures of a batch, ready for records.

    Args:
        clean: (B, T) float waveforms before the change, full scale 1.
        changed: (B, T) after it.
        valid: (B, T) bool, true where a clip is real; all when None. Figures are of the stretch from its first valid
            sample to its last.
        sample_rate: Hz.
        extras: Names from `EXTRAS`, which take 20 to 100 ms a clip; None for all that can be had here at this rate
            (columns of others are absent).

    Returns:
        Column -> B values or None:
            `snr_db`: energy of the clip over that of the change;
            `segmental_snr_db`: mean over frames (`SEGMENT_S`) of the same, each within `SEGMENT_RANGE_DB`; frames
                silent in both are left out;
            `loudness_difference_lu`: loudness (LUFS) of the changed clip minus that of the clean one;
            `perturbation_loudness_lu`: loudness of the change alone minus that of the clean clip;
            `log_spectral_distance_db`: mean over frames of the root mean square over bins of the two spectra's
                distance in dB;
            `masking_mean_db`, `masking_p95_db`, `masking_audible`: as in `attacks.masking.MaskingExcess`;
            and the `extras`.

    Raises:
        DataError: If shapes differ, values are not finite, or an extra is unknown, not installed or not for this rate.
    """
    one, other, spans = _checked(clean, changed, valid)
    wanted = available(sample_rate) if extras is None else tuple(extras)
    for name in wanted:
        EXTRAS.check(name, sample_rate)
    pairs = [
        (before[first:last], after[first:last]) for before, after, (first, last) in zip(one, other, spans, strict=True)
    ]
    rows = [
        _row(before, after, sample_rate, wanted) | masking
        for (before, after), masking in zip(pairs, _masking(pairs, sample_rate), strict=True)
    ]
    return {name: [row[name] for row in rows] for name in (*COLUMNS, *wanted)}


def snr_db(clean: NDArray[np.float64], changed: NDArray[np.float64]) -> float | None:
    """Signal-to-noise ratio of one clip (T,) in dB; None where the clip is silent or unchanged."""
    signal, noise = float(np.square(clean).sum()), float(np.square(changed - clean).sum())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def segmental_snr_db(clean: NDArray[np.float64], changed: NDArray[np.float64], sample_rate: int) -> float | None:
    """Mean SNR of the frames of one clip (T,), see `perceptual_table`; None where all of it is silence."""
    size = max(1, round(SEGMENT_S * sample_rate))
    edges = np.arange(0, len(clean), size)
    if len(edges) == 0:
        return None
    signal = np.add.reduceat(np.square(clean), edges)
    noise = np.add.reduceat(np.square(changed - clean), edges)
    sounding = (signal > 0) | (noise > 0)
    if not sounding.any():
        return None
    with np.errstate(divide="ignore"):
        level = 10 * (np.log10(signal[sounding]) - np.log10(noise[sounding]))
    return float(level.clip(*SEGMENT_RANGE_DB).mean())


def loudness_lufs(clip: NDArray[np.float64], sample_rate: int) -> float | None:
    """Integrated loudness (ITU-R BS.1770-4) of one clip (T,); None below 0.4 s and where all is below -70 LUFS."""
    if len(clip) < LOUDNESS_BLOCK_S * sample_rate or not clip.any():
        return None
    with np.errstate(all="ignore"):
        loudness = float(_meter(sample_rate).integrated_loudness(clip))
    return loudness if math.isfinite(loudness) else None


def log_spectral_distance_db(
    clean: NDArray[np.float64], changed: NDArray[np.float64], sample_rate: int
) -> float | None:
    """Log-spectral distance of one clip (T,), see `perceptual_table`; None where both are silent."""
    size = SPECTRUM_HOPS * max(1, round(SPECTRUM_S * sample_rate / SPECTRUM_HOPS))
    power = [_spectra(clip, size) for clip in (clean, changed)]
    most = max(float(spectrum.max(initial=0.0)) for spectrum in power)
    if most <= 0:
        return None
    floor = most * 10 ** (-SPECTRUM_FLOOR_DB / 10)
    one, other = (10 * np.log10(np.maximum(spectrum, floor)) for spectrum in power)
    return float(np.sqrt(np.square(one - other).mean(axis=1)).mean())


def _row(
    clean: NDArray[np.float64], changed: NDArray[np.float64], sample_rate: int, extras: Sequence[str]
) -> dict[str, float | None]:
    loudness, after, alone = (loudness_lufs(clip, sample_rate) for clip in (clean, changed, changed - clean))
    return {
        "snr_db": snr_db(clean, changed),
        "segmental_snr_db": segmental_snr_db(clean, changed, sample_rate),
        "loudness_difference_lu": _difference(after, loudness),
        "perturbation_loudness_lu": _difference(alone, loudness),
        "log_spectral_distance_db": log_spectral_distance_db(clean, changed, sample_rate),
        **{name: extra_score(name, clean, changed, sample_rate) for name in extras},
    }


def _masking(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], sample_rate: int
) -> list[dict[str, float | None]]:
    """The masking columns; clips of one length are worked on together, which is three times as fast."""
    names = ("masking_mean_db", "masking_p95_db", "masking_audible")
    found: list[dict[str, float | None]] = [dict.fromkeys(names) for _ in pairs]
    by_length: dict[int, list[int]] = {}
    for place, (clean, _) in enumerate(pairs):
        by_length.setdefault(len(clean), []).append(place)
    by_length.pop(0, None)
    for places in by_length.values():
        before, after = (torch.from_numpy(np.stack([pairs[place][side] for place in places])) for side in (0, 1))
        excess = masking_excess_db(after - before, threshold(before, sample_rate))
        told = torch.stack([excess.mean_db, excess.p95_db, excess.audible], dim=1).tolist()
        for place, values in zip(places, told, strict=True):
            found[place] = dict(zip(names, values, strict=True))
    return found


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _spectra(clip: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(frames, bins) power; zeros fill the last frame."""
    hop = size // SPECTRUM_HOPS
    count = max(1, -(-(len(clip) - size) // hop) + 1)
    padded = np.pad(clip, (0, (count - 1) * hop + size - len(clip)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power: NDArray[np.float64] = np.square(np.abs(np.fft.rfft(frames * window, axis=1)))
    return power


@functools.lru_cache(maxsize=8)
def _meter(sample_rate: int) -> Any:
    import pyloudnorm

    # These filters keep to the standard at any rate (0.04 LU); the library's usual ones are 0.2 LU off at 8 kHz.
    return pyloudnorm.Meter(sample_rate, filter_class="DeMan")


def _checked(
    clean: Tensor, changed: Tensor, valid: Tensor | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[int, int]]]:
    """Both as float64, and the first and one past the last valid sample of each clip."""
    if clean.ndim != 2 or clean.shape != changed.shape:
        raise DataError(
            "Perceptual figures are of waveforms (B, T) before and after a change; given "
            f"{tuple(clean.shape)} and {tuple(changed.shape)}."
        )
    one, other = (side.detach().cpu().double().numpy() for side in (clean, changed))
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise DataError("A waveform holds values that are not finite; perceptual figures need finite ones.")
    if valid is None:
        return one, other, [(0, one.shape[1])] * len(one)
    mask = valid.detach().cpu().expand_as(clean).numpy()
    return one, other, [_ends(row) for row in mask]


def _ends(row: NDArray[np.bool_]) -> tuple[int, int]:
    there = np.flatnonzero(row)
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)
