"""Waveform transforms of audiomentations: by name as corruptions without severity, and for what ours are built on.

That library draws from the global generators of `random` and NumPy, and for rooms from pyroomacoustics' own. Here each
clip's draw is seeded by the clip's own generator, and the global states of the first two are put back afterwards, so
that nothing outside is changed; pyroomacoustics' cannot be read, and whatever else uses it seeds it first.
"""

from __future__ import annotations

import inspect
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from attacks.errors import ThreatModelError, unknown
from robust.corruptions.base import OTHER, Corruption, Floats, Transform, on_clips
from robust.corruptions.measures import SNR

PREFIX = "audiomentations:"
NOT_ALONE = {"Lambda": "it wraps a function, which a name cannot give", "Compose": "", "OneOf": "", "SomeOf": ""}

_ONE_AT_A_TIME = threading.Lock()
"""Global states can be lent to one thread at a time only."""


@contextmanager
def global_randomness(seed: int) -> Iterator[None]:
    """Within, `random` and `np.random` are seeded; their states are as before afterwards, whatever happened."""
    with _ONE_AT_A_TIME:
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            with _rooms_seeded(seed % 2**32):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _rooms_seeded(seed: int) -> Iterator[None]:
    """Within, pyroomacoustics is seeded and uses one thread, whose number changes what it adds up; if it is loaded."""
    if "pyroomacoustics" not in sys.modules:
        yield
        return
    import pyroomacoustics

    from robust.channels.hybrid import own_settings

    with own_settings(num_threads=1):
        pyroomacoustics.random.seed(seed)
        yield


def augmented(augmentation: Any, clip: Floats, sample_rate: int, generator: np.random.Generator) -> Floats:
    """One clip (n,) through a transform of audiomentations, cut or filled with zeros to its length."""
    with global_randomness(int(generator.integers(2**62))), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = np.asarray(augmentation(clip.astype(np.float32), sample_rate), dtype=np.float64)[: len(clip)]
    return np.pad(changed, (0, len(clip) - len(changed)))


def waveform_transforms() -> dict[str, type]:
    """Name -> class of every waveform transform there is."""
    import audiomentations
    from audiomentations.core.transforms_interface import BaseWaveformTransform

    found = {name: value for name, value in vars(audiomentations).items() if inspect.isclass(value)}
    return {
        name: value
        for name, value in sorted(found.items())
        if issubclass(value, BaseWaveformTransform) and name not in NOT_ALONE
    }


def augmentation_corruption(name: str, parameters: Mapping[str, Any]) -> Corruption:
    """A waveform transform as a corruption without severity.

    Args:
        name: E.g. `PitchShift`, with or without `audiomentations:` before it.
        parameters: Of the transform, e.g. `min_semitones`; it is always applied unless `p` says otherwise.

    Raises:
        ThreatModelError: If there is no such transform or parameter, a value cannot be, a file is needed that is not
            given or not there, or a library that the transform needs is not installed.
    """
    plain = name.removeprefix(PREFIX)
    transforms = waveform_transforms()
    if plain not in transforms:
        why = NOT_ALONE.get(plain)
        raise ThreatModelError(
            f"{plain} of audiomentations cannot be used by name: {why}."
            if why
            else unknown("waveform transform of audiomentations", plain, transforms)
        )
    settings = {"p": 1.0, **parameters}
    _check_settings(plain, transforms[plain], settings)
    built = _built(plain, transforms[plain], settings)
    told = ",".join(f"{key}={value}" for key, value in sorted(parameters.items()))

    def make(value: float, sample_rate: int) -> Transform:
        return on_clips(lambda clip, generator: augmented(built, clip, sample_rate, generator))

    corruption = Corruption(
        f"{PREFIX}{plain}" + (f",{told}" if told else ""),
        OTHER,
        "audio",
        "none",
        (float("nan"),),
        make,
        SNR,
        f"{plain} of audiomentations",
        told_whole=not any(isinstance(value, str) and Path(value).exists() for value in parameters.values()),
    )
    _try(corruption)
    return corruption


def _check_settings(name: str, kind: type, settings: Mapping[str, Any]) -> None:
    allowed = {
        key: value for key, value in inspect.signature(kind).parameters.items() if value.kind != value.VAR_KEYWORD
    }
    for key in settings:
        if key not in allowed:
            raise ThreatModelError(unknown(f"parameter of {name}", key, allowed))
    missing = [
        key for key, value in allowed.items() if value.default is inspect.Parameter.empty and key not in settings
    ]
    if missing:
        raise ThreatModelError(
            f"{name} of audiomentations needs {' and '.join(missing)}, a file or a folder of recordings; give "
            f"{PREFIX}{name},{missing[0]}=FOLDER."
        )


def _built(name: str, kind: type, settings: Mapping[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(**settings)
    except Exception as error:  # whatever a foreign library raises at settings that cannot be
        raise ThreatModelError(
            f"{name} of audiomentations cannot be made with {dict(settings)}: {_reason(error)}"
        ) from error


def _try(corruption: Corruption) -> None:
    """Applies it once, so that a missing library or a setting that cannot be is told before anything is computed."""
    import torch

    clip = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(clip, dtype=torch.bool)
    try:
        corruption.make(float("nan"), 16_000)({"audio": clip}, {"audio": valid}, [torch.Generator().manual_seed(0)])
    except Exception as error:  # as above
        raise ThreatModelError(
            f"{corruption.name} does not run here: {_reason(error)} Change its parameters, install "
            "what it asks for, or use a corruption of `robust noise --list`."
        ) from error


def _reason(error: Exception) -> str:
    """What a foreign library said, as one sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}." if text else f"{type(error).__name__}."
