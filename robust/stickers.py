"""`robust.sticker`: a sheet of camera stickers for one class, fitted on training clips, scored on test clips."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attacks.errors import ThreatModelError
from attacks.losses import Goal
from attacks.sticker import STILL, Stickers, stuck
from attacks.sticker_search import StickerResult, StickerSearch, fit_stickers
from robust.api import make_manifest, target_index
from robust.atomic import Folder, open_folder, write_atomically
from robust.data.one_class import OneClass
from robust.errors import StoreError, VictimError
from robust.evaluation.engine import AlignedData, evaluate, fitting_batch
from robust.evaluation.listening import clip_stem
from robust.evaluation.pictures import png, spread
from robust.evaluation.stickers import Wearing, sticker_rates, stickers_dict
from robust.evaluation.store import Store
from robust.metrics.classification import Score
from robust.seeds import derived_seed
from robust.types import Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

SHOWN_PIXELS = 256
"""Small pictures are enlarged to about so many pixels to be looked at."""


@dataclass(frozen=True)
class StickerRun:
    """What a sheet of stickers did to clips it never saw, seen in jittered views.

    Attributes:
        targeted, untargeted: Share of clips, of those right through a bare lens, that became the target (None without
            one), or anything wrong.
        result: The sheet and how it was found.
        summary: What `robust sticker --json` prints.
        records: Condition -> one row per test clip of the class.
    """

    targeted: Score | None
    untargeted: Score
    result: StickerResult
    summary: dict[str, Any]
    records: Mapping[str, pd.DataFrame]


def sticker(
    victim: Victim,
    training: Dataset,
    test: Dataset,
    *,
    source: str,
    target: str | None = None,
    dots: int | None = None,
    config: StickerSearch | None = None,
    fit_clips: int | None = None,
    clips: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: str | Folder | None = None,
    facts: Mapping[str, Any] | None = None,
) -> StickerRun:
    """Fits stickers that make a camera take one class for another, and says what they do to clips they never saw.

    Args:
        victim: That sees colour video, with one label a clip; what else it takes (sound) stays as it is.
        training: Clips of `source` in it are fitted to.
        test: Clips of `source` in it are scored.
        source: Class of the clips.
        target: Class that the attacker wants to see; any wrong one when None.
        dots: How many; instead of `config`.
        config: Settings of the search.
        fit_clips: Clips of the class that it is fitted to at most, the first ones; all when None.
        clips: Clips of the class that are scored at most, likewise.
        batch_size: Clips at once; fitted to their length when None.
        seed: Of the search, of views and of the control.
        out: Run folder: a store for each condition, `stickers.json`, `summary.json`, `sheet.png` and frames before
            and after in `video/`.
        facts: More entries for the manifest.

    Raises:
        RobustError: For anything the caller can mend.
    """
    config = _config(dots, config)
    _check_video(victim)
    wanted = target_index(victim, target)
    if target == source:
        raise ThreatModelError(f"The target is the class of the clips itself, {source!r}; choose another.")
    if out is not None and (there := open_folder(out)).exists() and (not there.is_dir() or any(there.iterdir())):
        raise StoreError(f"{out} holds something already; choose another --out.")  # before the fit, not after it
    fitting, scored = (
        AlignedData(OneClass(data, source, victim.spec, most), victim.spec)
        for data, most in ((training, fit_clips), (test, clips))
    )
    size = batch_size or fitting_batch(victim, scored)
    result = _fitted(victim, fitting, wanted, config, size, seed)
    conditions = _conditions(victim, result.stickers, config)
    told = _told(fitting.data, (source, target), config)
    manifest = make_manifest(victim, scored.data, told, seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        folder = open_folder(out) if out is not None else Path(scratch) / "run"
        records = {}
        for name, condition in conditions.items():
            store = Store.open(folder / name, {**manifest, **condition.describe()})
            evaluate(victim, scored, condition, store, batch_size=size, seed=seed)
            records[name] = store.records()
        summary = {**_summary(victim, scored.data, told, result), **_rates(records, wanted)}
        summary["run"] = str(folder) if out is not None else None
        if out is not None:
            _save(folder, victim, scored, result, records["stickers"], summary)
    rates = summary["jittered"]
    return StickerRun(
        None if wanted is None else Score(**rates["targeted"]["rate"]),
        Score(**rates["untargeted"]["rate"]),
        result,
        summary,
        records,
    )


def _config(dots: int | None, config: StickerSearch | None) -> StickerSearch:
    if dots is not None and config is not None and dots != config.dots:
        raise ThreatModelError(f"dots={dots} and a config with dots={config.dots} contradict each other; give one.")
    return config or (StickerSearch() if dots is None else StickerSearch(dots=dots))


def _check_video(victim: Victim) -> None:
    spec = victim.spec
    if "video" not in spec.modalities:
        raise VictimError(
            f"Stickers need a victim that sees video; {spec.name!r} takes {', '.join(spec.modalities)}. Use frames, "
            "av-video or another of the audio-visual ones."
        )
    if spec.task != "multiclass":
        raise VictimError(f"Stickers turn one class into another; the victim {spec.name!r} has many labels a clip.")


def _fitted(
    victim: Victim, data: AlignedData, target: int | None, config: StickerSearch, size: int, seed: int
) -> StickerResult:
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(range(len(data))).to(device)
    targets = None if target is None else torch.full_like(batch.labels, target)
    low, high = victim.spec.bounds["video"]
    return fit_stickers(
        victim,
        batch.inputs,
        Goal(batch.labels, targets),
        config=config,
        low=low,
        high=high,
        batch_size=size,
        generator=torch.Generator().manual_seed(derived_seed(seed, "stickers")),
    )


def _conditions(victim: Victim, sheet: Stickers, config: StickerSearch) -> dict[str, Wearing]:
    """The sheet, as many random dots, and a bare lens, each still and jittered; a still bare lens is the clean clip."""
    low, high = victim.spec.bounds["video"]
    found = {}
    for suffix, views in (("", STILL), ("-jittered", config.views)):
        for name, worn, shuffled in (("stickers", sheet, False), ("random", sheet, True), ("bare", None, False)):
            if worn is not None or suffix:
                found[name + suffix] = Wearing(worn, views, shuffled, name=name + suffix, low=low, high=high)
    return found


def _rates(records: Mapping[str, pd.DataFrame], target: int | None) -> dict[str, Any]:
    still = records["stickers"]["clean_correct"].to_numpy(dtype=bool)
    jittered = records["bare-jittered"]["correct"].to_numpy(dtype=bool)
    return {
        "still": sticker_rates(records["stickers"], records["random"], still, target),
        "jittered": sticker_rates(records["stickers-jittered"], records["random-jittered"], jittered, target),
    }


def _told(training: Dataset, classes: tuple[str, str | None], config: StickerSearch) -> dict[str, Any]:
    """From what the sheet was made, for manifest and summary."""
    return {
        "source": classes[0],
        "target": classes[1],
        "config": asdict(config),
        "fitted_on": {"split": training.split, "clips": len(training), "fingerprint": training.fingerprint()},
    }


def _summary(victim: Victim, test: Dataset, told: Mapping[str, Any], result: StickerResult) -> dict[str, Any]:
    return {
        "kind": "stickers",
        "victim": victim.spec.name,
        "data": {"name": test.name, "split": test.split, "fingerprint": test.fingerprint()},
        "clips": len(test),
        **told,
        "stickers": {**stickers_dict(result.stickers), "colour_names": list(result.colour_names)},
        "greedy_loss": result.greedy_loss,
        "loss": result.loss,
        "trace": result.trace,
        "forwards": result.forwards,
        "backwards": result.backwards,
    }


def _save(
    folder: Folder,
    victim: Victim,
    data: AlignedData,
    result: StickerResult,
    records: pd.DataFrame,
    summary: Mapping[str, Any],
    count: int = 4,
) -> None:
    """The sheet, frames of `count` clips before and after, and the summary, which comes last."""
    low, high = victim.spec.bounds["video"]
    paper = torch.ones(1, 1, 3, 2 * SHOWN_PIXELS, 2 * SHOWN_PIXELS)
    sheet = result.stickers.on(torch.device("cpu"))
    write_atomically(folder / "sheet.png", png(stuck(paper, sheet)[0, 0]))
    write_atomically(folder / "stickers.json", json.dumps(summary["stickers"], indent=2).encode())
    few = records.sort_values("correct", kind="stable").head(count)
    batch = data.batch(few["index"].tolist())
    before = (batch.inputs["video"] - low) / (high - low)
    pictures = {"original": before, "stickers": stuck(before, sheet)}
    for place, clip in enumerate(batch.ids):
        for frame in spread(before.shape[1], 3):
            for kind, video in pictures.items():
                path = folder / "video" / f"{clip_stem(place, clip)}-{kind}-{frame:02d}.png"
                write_atomically(path, png(enlarged(video[place, frame])))
    write_atomically(folder / "summary.json", json.dumps(dict(summary), indent=2).encode())


def enlarged(picture: torch.Tensor, pixels: int = SHOWN_PIXELS) -> torch.Tensor:
    """A picture (C, H, W) with each pixel repeated until its longer side has about `pixels`."""
    times = max(1, pixels // max(picture.shape[1:]))
    return picture.repeat_interleave(times, 1).repeat_interleave(times, 2)
