"""From who stands where to the numbers of `robust air`.

Success is counted over pairs of a clip and a situation in which the unperturbed clip stands: what a room does to a clip
is no merit of an attack. Intervals hold for new clips and new rooms: both are drawn again (the pigeonhole bootstrap,
Owen 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.air import PLACES, VERSIONS
from robust.evaluation.summary import finite
from robust.metrics.classification import Score, wilson
from robust.metrics.multilabel import percentile_interval
from robust.seeds import derived_seed

if TYPE_CHECKING:
    import pandas as pd

Pairs: TypeAlias = NDArray[np.bool_]
"""(clips, situations): which clip stands where."""

EVERYWHERE = ("no_channel", *PLACES)
RESAMPLES = 1000
SHARE_OF_WORST = 0.1


def stands(records: pd.DataFrame, version: str, place: str) -> Pairs:
    """Which clip of a version stands in which situation of a place; without a channel there is one."""
    found = np.stack([np.atleast_1d(row) for row in records[f"{version}_{place}"]])
    return np.asarray(found, dtype=bool)


def success_by_clip(records: pd.DataFrame, version: str, place: str) -> NDArray[np.float64]:
    """(N,) successes on each clip over the mean number of counted situations; their mean is the success."""
    counted, won = _counts(records, version, place)
    return np.asarray(won.sum(axis=1) / max(float(counted.sum(axis=1).mean()), 1e-12))


def halfway_by_clip(records: pd.DataFrame) -> NDArray[np.float64]:
    """(N,) the plain attack's success, midway between held-out rooms and no channel: the air costs it half as much."""
    near, far = (success_by_clip(records, "plain", place) for place in ("no_channel", "held_out_rooms"))
    return np.asarray((near + far) / 2)


def air_scores(records: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """`plain`, `eot` and `random`, each by place with worst decile; `unperturbed` by place; what EOT wins back.

    Args:
        records: One row per clip, as `OverTheAir` makes them.
        seed: Of the bootstrap.
    """
    told: dict[str, Any] = {
        version: {place: _place(records, version, place, seed) for place in EVERYWHERE} for version in VERSIONS
    }
    for version in VERSIONS[1:]:
        told[version]["worst_decile"] = {place: _worst_decile(records, version, place) for place in PLACES}
    recovered = _recovered(records, seed)
    return {
        "plain": told["plain"],
        "eot": told["eot"],
        "controls": {"unperturbed": told["unperturbed"], "random": told["random"]},
        "recovered": recovered,
        "gain": _gain(records, seed),
    }


def held_out_score(records: pd.DataFrame, version: str, seed: int = 0) -> Score:
    """Share of pairs of a clip and a held-out situation in which a version stands."""
    found = stands(records, version, "held_out_rooms").astype(float)
    low, high = _ends(found, np.ones_like(found), seed)
    return Score(float(found.mean()), low, high, "accuracy in held-out rooms", len(found))


def _place(records: pd.DataFrame, version: str, place: str, seed: int) -> dict[str, Any]:
    """Share of pairs that stand and, but for unperturbed clips, success, each with its interval."""
    found = stands(records, version, place).astype(float)
    low, high = _ends(found, np.ones_like(found), seed)
    told: dict[str, Any] = {"standing": {"score": float(found.mean()), "low": low, "high": high}}
    if version == "unperturbed":
        return told
    counted, won = _counts(records, version, place)
    low, high = _ends(won, counted, seed)
    score = Score(_ratio(won, counted), low, high, "attack success", len(found))
    return {**told, "success": {**asdict(score), "score": finite(score.score)}, "pairs": int(counted.sum())}


def success_over_rooms(records: pd.DataFrame, version: str, place: str) -> NDArray[np.float64]:
    """(R,) the same over situations: successes in each over the mean number of clips that count in one."""
    counted, won = _counts(records, version, place)
    return np.asarray(won.sum(axis=0) / max(float(counted.sum(axis=0).mean()), 1e-12))


def success_by_room(records: pd.DataFrame, version: str, place: str) -> NDArray[np.float64]:
    """(R,) success in each situation in which any unperturbed clip stands."""
    counted, won = _counts(records, version, place)
    met = counted.any(axis=0)
    return np.asarray(won.sum(axis=0)[met] / counted.sum(axis=0)[met])


def _worst_decile(records: pd.DataFrame, version: str, place: str) -> float | None:
    """Mean success in the tenth of the situations where it is lowest: what an attacker must reckon with."""
    by_room = success_by_room(records, version, place)
    worst = np.sort(by_room)[: max(1, round(SHARE_OF_WORST * len(by_room)))]
    return finite(float(worst.mean())) if len(worst) else None


def _recovered(records: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Share of what the air costs the plain attack that EOT wins back in held-out rooms; None if it costs nothing."""
    near_counted, near = _counts(records, "plain", "no_channel")
    counted, far = _counts(records, "plain", "held_out_rooms")
    eot = _counts(records, "eot", "held_out_rooms")[1]

    def share(clips: NDArray[np.float64] | None = None, rooms: NDArray[np.float64] | None = None) -> float:
        top = _ratio(near, near_counted, clips, None)
        bottom, won = _ratio(far, counted, clips, rooms), _ratio(eot, counted, clips, rooms)
        return (won - bottom) / (top - bottom) if top > bottom else float("nan")

    low, high = _interval(share, counted.shape, seed)
    return {"score": finite(share()), "low": finite(low), "high": finite(high)}


def _gain(records: pd.DataFrame, seed: int) -> dict[str, Any]:
    """EOT's success in held-out rooms minus the plain attack's: interval over clips and rooms, p of clips."""
    counted, eot = _counts(records, "eot", "held_out_rooms")
    plain = _counts(records, "plain", "held_out_rooms")[1]
    low, high = _interval(lambda clips, rooms: _ratio(eot - plain, counted, clips, rooms), counted.shape, seed)
    gains = success_by_clip(records, "eot", "held_out_rooms") - success_by_clip(records, "plain", "held_out_rooms")
    told = {"difference": finite(_ratio(eot - plain, counted)), "low": finite(low), "high": finite(high)}
    return {**told, "p": _wilcoxon(gains), "test": "Wilcoxon signed-rank over clips"}


def _wilcoxon(gains: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(gains).pvalue) if bool((gains != 0).any()) else 1.0


def _counts(records: pd.DataFrame, version: str, place: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(clips, situations) 1 where the unperturbed clip stands, and 1 where it does and the version does not."""
    counted = stands(records, "unperturbed", place)
    return counted.astype(float), (counted & ~stands(records, version, place)).astype(float)


def _ratio(
    won: NDArray[np.float64],
    counted: NDArray[np.float64],
    clips: NDArray[np.float64] | None = None,
    rooms: NDArray[np.float64] | None = None,
) -> float:
    pairs = _total(counted, clips, rooms)
    return _total(won, clips, rooms) / pairs if pairs > 0 else float("nan")


def _ends(won: NDArray[np.float64], counted: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Interval of a share: Wilson's of clips alone, the pigeonhole bootstrap's of clips and rooms.

    Where all pairs or none are won every draw of the bootstrap says the same; then it is Wilson's again, of as many
    observations as clips or rooms count, whichever are fewer.
    """
    if won.shape[1] == 1:
        return wilson(int(won.sum()), int(counted.sum()))
    if won.sum() in (0, counted.sum()):
        fewer = int(min(counted.any(axis=1).sum(), counted.any(axis=0).sum()))
        return wilson(fewer if won.any() else 0, fewer)
    return _interval(lambda clips, rooms: _ratio(won, counted, clips, rooms), won.shape, seed)


def _total(values: NDArray[np.float64], clips: NDArray[np.float64] | None, rooms: NDArray[np.float64] | None) -> float:
    by_clip = values.sum(axis=1) if rooms is None or values.shape[1] != len(rooms) else values @ rooms
    return float(by_clip.sum() if clips is None else by_clip @ clips)


def _interval(
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float], shape: tuple[int, ...], seed: int
) -> tuple[float, float]:
    """95 % of the statistic over draws, with replacement, of clips and of situations."""
    generator = np.random.default_rng(derived_seed(seed, "pigeonhole"))  # any whole number, -1 too
    clips, rooms = shape
    spread = np.array(
        [
            statistic(
                generator.multinomial(clips, np.full(clips, 1 / clips)).astype(float),
                generator.multinomial(rooms, np.full(rooms, 1 / rooms)).astype(float),
            )
            for _ in range(RESAMPLES)
        ]
    )
    return percentile_interval(spread, (0.0, 1.0))
