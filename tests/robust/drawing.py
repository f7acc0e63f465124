"""The figure scripts as functions: a small store for each, what it draws, and pictures as numbers.

`python -m tests.robust.drawing` stores the pictures anew that tests/robust/test_figures.py compares with; look at each
of them then.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from robust.evaluation.occlusion import PATTERNS
from robust.plots import saving, script
from tests.robust import defended_stores, geometry_stores, physical_stores, stores, table_stores

HERE = Path(__file__).resolve().parents[2] / "figures"
STORED = Path(__file__).resolve().parents[1] / "fixtures" / "figures"
DPI = 72
TOLERANCE = 6.0
"""Root mean square of differences of pixels, 0 to 255: versions of FreeType differ by less, other numbers by more."""

FUSED = ("av-early", "av-mid", "av-late")
SUPPORTS = {
    "low": ("MelBand(first=0, last=20)", 12, 62),
    "high": ("MelBand(first=43, last=63)", 20, 64),
    "half": ("TimeWindow(start=0.0, stop=0.5)", 5, 45),
}


def curves(folder: Path) -> Path:
    asked = [("linf", "audio", 1e-4), ("l2", "audio", 1e-2), ("noise", "audio", 5.0)]
    runs = [
        stores.curve_run(
            folder / "cells" / f"{victim}-{norm}", victim, norm=norm, half=half * (1 + place), clean=88 + place
        )
        for place, victim in enumerate(("av-audio", *FUSED))
        for norm, modality, half in asked
    ]
    return stores.write_study(folder, runs)


def fusion(folder: Path) -> Path:
    pairs = [("av-audio", "audio"), ("av-video", "video")]
    pairs += [(victim, modality) for victim in FUSED for modality in ("audio", "video", "both")]
    runs = [
        stores.curve_run(folder / "cells" / f"{victim}-{modality}", victim, modality=modality, half=(place + 1) * 1e-4)
        for place, (victim, modality) in enumerate(pairs)
    ]
    return stores.write_study(folder, runs)


def universal(folder: Path) -> Path:
    cells = folder / "cells"
    common: dict[str, Any] = {"modality": "logmel", "eps": 0.1}
    runs = [stores.universal_run(cells / "universal"), stores.attack_run(cells / "all", right=2, **common)]
    for name, (support, inside, cut) in SUPPORTS.items():
        runs.append(stores.attack_run(cells / name, right=inside, support=support, **common))
        runs.append(stores.attack_run(cells / f"{name}-cut", right=cut, cut=support, **common))
    octave = "FrequencyBand(low_hz=707.9, high_hz=1412.5, sample_rate=16000)"
    runs.append(stores.attack_run(cells / "octave", right=22, support=octave))
    runs.append(stores.attack_run(cells / "other-radius", right=1, eps=0.01))
    return stores.write_study(folder, runs)


def occlusion(folder: Path) -> Path:
    runs = [
        stores.change_run(folder / "cells" / f"{modality}-{pattern}", modality=modality, pattern=pattern, right=right)
        for modality, slope in (("logmel", 5), ("audio", -3))
        for pattern, right in zip(PATTERNS, itertools.count(24 if slope > 0 else 80, slope), strict=False)
    ]
    return stores.write_study(folder, runs)


FIGURES: dict[str, Callable[[Path], Path]] = {
    "robustness_curves": curves,
    "fusion_bars": fusion,
    "universal_map": universal,
    "occlusion_patterns": occlusion,
    "threshold_scatter": table_stores.thresholds_run,
    "loss_surface": table_stores.surface_run,
    "latent_projections": table_stores.latents_run,
    "layer_latency": table_stores.latency_run,
    "over_the_air": physical_stores.air_run,
    "wake_word_music": physical_stores.music_run,
    "sticker_sheet": physical_stores.sticker_run,
    "purification_steps": defended_stores.purifier_study,
    "purifier_bars": defended_stores.purifiers,
    "certified_curves": defended_stores.certificates,
    "geometry": geometry_stores.small_study,
    "geometry_scatter": geometry_stores.small_study,
}
KINDS = {
    "robustness_curves": "curve",
    "fusion_bars": "curve",
    "universal_map": "universal",
    "occlusion_patterns": "change",
    "threshold_scatter": "thresholds",
    "loss_surface": "surface",
    "latent_projections": "latents",
    "layer_latency": "latency",
    "over_the_air": "air",
    "wake_word_music": "music",
    "sticker_sheet": "stickers",
    "purification_steps": "purify",
    "purifier_bars": "purify",
    "certified_curves": "certificate",
    "geometry": "geometry",
    "geometry_scatter": "geometry",
}


def module(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"figure_{name}", HERE / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    sys.modules[loaded.__name__] = loaded
    found.loader.exec_module(loaded)
    return loaded


def figures_of(name: str, store: Path, **options: Any) -> dict[str, Figure]:
    """What a script would write, by file name."""
    kept: dict[str, Figure] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "save_all", lambda figures, out, dpi: kept.update(figures))
        module(name).main(str(store), out="unused", **options)
    return kept


def pixels(picture: bytes | Path) -> np.ndarray:
    source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    return np.asarray(Image.open(source).convert("RGB"), dtype=np.float64)


def rms(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.sqrt(np.square(one - other).mean()))


def store_pictures() -> None:
    """Writes the pictures that the tests compare with, in few colours to be small."""
    with tempfile.TemporaryDirectory() as folder:
        for name, build in FIGURES.items():
            (figure,) = figures_of(name, build(Path(folder) / name)).values()
            picture = Image.open(io.BytesIO(saving.rendered(figure, "png", dpi=DPI))).convert("RGB")
            picture.quantize(96, dither=Image.Dither.NONE).save(STORED / f"{name}.png", optimize=True)


if __name__ == "__main__":
    store_pictures()
