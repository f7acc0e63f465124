"""PESQ and STOI, where their libraries are installed: what listeners would say of speech, predicted.

Sources: ITU-T P.862 and P.862.2 (PESQ), Taal et al. 2011 (STOI); by the libraries `pesq` and `pystoi`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robust.errors import DataError, unknown

Score = Callable[[NDArray[np.float64], NDArray[np.float64], int], float | None]


@dataclass(frozen=True)
class Extra:
    """A figure that needs a library of its own.

    Attributes:
        library: To be imported and installed under this name.
        sample_rates: Hz for which it is defined.
        score: (clean (T,), changed (T,), sample rate) -> value, or None where it is undefined.
    """

    library: str
    sample_rates: tuple[int, ...]
    score: Score

    @property
    def installed(self) -> bool:
        """Whether its library can be imported; it is not imported to find out."""
        return importlib.util.find_spec(self.library) is not None


def _pesq(clean: NDArray[np.float64], changed: NDArray[np.float64], sample_rate: int) -> float | None:
    """MOS-LQO: narrow band at 8 kHz, wide band at 16 kHz; None where no utterance is found or a clip is too short."""
    import pesq

    mode = "nb" if sample_rate == 8000 else "wb"
    if len(clean) < sample_rate // 4 or not clean.any() or not changed.any():
        return None
    try:
        return float(pesq.pesq(sample_rate, clean.astype(np.float32), changed.astype(np.float32), mode))
    except pesq.PesqError:
        return None


def _stoi(clean: NDArray[np.float64], changed: NDArray[np.float64], sample_rate: int) -> float | None:
    """Short-time objective intelligibility; None where too little of the clip sounds for it."""
    from pystoi import stoi

    if not clean.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # how it says that there are too few frames
        try:
            return float(stoi(clean, changed, sample_rate))
        except (RuntimeWarning, ValueError):
            return None


class _Extras(dict[str, Extra]):
    """Name -> extra figure."""

    def check(self, name: str, sample_rate: int) -> None:
        """Raises `DataError` unless the figure can be had here at this rate."""
        if name not in self:
            raise DataError(unknown("perceptual figure", name, self))
        extra = self[name]
        if not extra.installed:
            raise DataError(f"The figure {name!r} needs the library {extra.library!r}; pip install {extra.library}.")
        if sample_rate not in extra.sample_rates:
            raise DataError(
                f"{name!r} is defined at {' and '.join(str(rate) for rate in extra.sample_rates)} Hz; the clips have "
                f"{sample_rate} Hz. Resample them, or leave it out."
            )


EXTRAS = _Extras(pesq=Extra("pesq", (8000, 16000), _pesq), stoi=Extra("pystoi", (8000, 16000), _stoi))


def available(sample_rate: int = 16_000) -> tuple[str, ...]:
    """Names of the extras that can be had here at this rate (Hz)."""
    return tuple(name for name, extra in EXTRAS.items() if extra.installed and sample_rate in extra.sample_rates)


def extras_told() -> Mapping[str, str]:
    """Extra -> `installed`, or how to get it; for `robust doctor`."""
    return {
        name: "installed" if extra.installed else f"absent: pip install {extra.library}"
        for name, extra in EXTRAS.items()
    }


def extra_score(name: str, clean: NDArray[np.float64], changed: NDArray[np.float64], sample_rate: int) -> float | None:
    """One of `EXTRAS` for one clip (T,); None where it is undefined."""
    return EXTRAS[name].score(clean, changed, sample_rate)
