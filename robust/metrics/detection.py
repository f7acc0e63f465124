"""Scores of a detector: of clips (F1, precision, recall) and of streams (false alarms, misses, delays).

A detection stands where the score rises to the threshold; a refractory period after it nothing else does. It belongs to
the first event, not yet detected, from whose onset to `tolerance_s` after whose end it falls; one that belongs to none
is a false alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.errors import ThreatModelError
from robust.metrics.classification import Score, wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """How well clips with the event are told from clips without.

    Attributes:
        f1: Harmonic mean of precision and recall, with a bootstrap interval over clips; at 0 and 1, where no draw
            differs, from Wilson's of TP / (TP + FP + FN), of which it is a function.
        precision, recall: With Wilson's interval.
        true_positives, false_positives, false_negatives, true_negatives: Counts of clips.
    """

    f1: Score
    precision: Score
    recall: Score
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


def detection(truth: Bools, found: Bools, *, resamples: int = 1000, seed: int = 0) -> Detection:
    """Compares what is there with what was found.

    F1 is 0 where nothing is there that was found, as in scikit-learn with `zero_division=0`.

    Args:
        truth: (N,) bool.
        found: (N,) bool.
        resamples: Bootstrap draws of the interval of F1 (percentiles 2.5 and 97.5).
        seed: Of the draws.

    Raises:
        ThreatModelError: If the two do not match in shape, or are empty.
    """
    truth, found = np.asarray(truth, dtype=bool), np.asarray(found, dtype=bool)
    if truth.shape != found.shape or truth.ndim != 1 or truth.size == 0:
        raise ThreatModelError(f"Truth and detections must be (N,) with N from 1; given {truth.shape}, {found.shape}.")
    counts = _counts(truth, found)
    hits, false_alarms, misses, rest = (int(count) for count in counts)
    draws = np.random.default_rng(seed).multinomial(truth.size, counts / truth.size, size=resamples)
    low, high = np.percentile(_f1(draws), [2.5, 97.5]) if resamples else (0.0, 1.0)
    if hits == 0 or false_alarms + misses == 0:  # no draw differs, but other clips would
        low, high = (2 * share / (1 + share) for share in wilson(hits, hits + false_alarms + misses))
    point = float(_f1(counts))
    return Detection(
        Score(point, min(float(low), point), max(float(high), point), "F1", truth.size),
        _proportion(hits, hits + false_alarms, "precision"),
        _proportion(hits, hits + misses, "recall"),
        hits,
        false_alarms,
        misses,
        rest,
    )


def _counts(truth: Bools, found: Bools) -> NDArray[np.int64]:
    """Hits, false alarms, misses and correct rejections; resampling clips is resampling these four."""
    return np.array([(truth & found).sum(), (~truth & found).sum(), (truth & ~found).sum(), (~truth & ~found).sum()])


def _f1(counts: NDArray[np.integer]) -> Floats:
    """2 TP / (2 TP + FP + FN) of counts (..., 4); 0 where undefined."""
    hits, false_alarms, misses = (counts[..., place].astype(np.float64) for place in range(3))
    below = 2 * hits + false_alarms + misses
    return np.divide(2 * hits, below, out=np.zeros_like(below), where=below > 0)


def _proportion(successes: int, count: int, metric: str) -> Score:
    low, high = wilson(successes, count)
    return Score(successes / count if count else 0.0, low, high, metric, count)


@dataclass(frozen=True)
class Tradeoff:
    """Error rates against threshold (a DET curve, before its axes are warped).

    Attributes:
        thresholds: (M,) ascending: every score that occurs, and infinity. A clip is detected from its score on.
        false_alarm_rate: (M,) share of clips without the event that are detected; falls.
        miss_rate: (M,) share of clips with it that are not; rises.
        f1: (M,).
    """

    thresholds: Floats
    false_alarm_rate: Floats
    miss_rate: Floats
    f1: Floats


def tradeoff(truth: Bools, scores: Floats) -> Tradeoff:
    """Error rates at every threshold that makes a difference.

    Args:
        truth: (N,) bool, both kinds present.
        scores: (N,) higher where the event is more likely.

    Raises:
        ThreatModelError: If one kind is absent, or a score is NaN.
    """
    truth, scores = np.asarray(truth, dtype=bool), np.asarray(scores, dtype=np.float64)
    if truth.all() or not truth.any() or np.isnan(scores).any():
        raise ThreatModelError(
            f"Thresholds need clips with and without the event, and no NaN; given {int(truth.sum())} with, "
            f"{int((~truth).sum())} without, {int(np.isnan(scores).sum())} NaN."
        )
    thresholds = np.append(np.unique(scores), np.inf)
    events, others = np.sort(scores[truth]), np.sort(scores[~truth])
    misses = np.searchsorted(events, thresholds, side="left")
    alarms = len(others) - np.searchsorted(others, thresholds, side="left")
    hits = len(events) - misses
    counts = np.stack([hits, alarms, misses, len(others) - alarms], axis=-1)
    return Tradeoff(thresholds, alarms / len(others), misses / len(events), _f1(counts))


def equal_error(curve: Tradeoff) -> tuple[float, float]:
    """Threshold where the two error rates are nearest, and their mean there."""
    place = int(np.argmin(np.abs(curve.false_alarm_rate - curve.miss_rate)))
    return float(curve.thresholds[place]), float((curve.false_alarm_rate[place] + curve.miss_rate[place]) / 2)


def choose_threshold(curve: Tradeoff, *, most_false_alarms: float | None = None) -> float:
    """The threshold of the highest F1 (the highest such), or the lowest that keeps to a false-alarm rate.

    Args:
        curve: Of clips that are not those on which the threshold is then used.
        most_false_alarms: Share of clips without the event that may be detected.
    """
    if most_false_alarms is None:
        best = np.flatnonzero(curve.f1 == curve.f1.max())
        return float(curve.thresholds[best[-1]])
    return float(curve.thresholds[np.flatnonzero(curve.false_alarm_rate <= most_false_alarms)[0]])


@dataclass(frozen=True)
class StreamDetection:
    """How a detector does on a recording.

    Attributes:
        events: How many there are.
        detected: How many of them were detected.
        false_alarms: Detections that belong to none.
        hours: Length of the recording.
        false_alarms_per_hour: With its exact 95 % Poisson interval in `false_alarms_low`, `false_alarms_high`.
        miss_rate: Share of events not detected, with Wilson's interval.
        delays_s: (detected,) from the end of the event to its detection; negative where it is detected before.
        median_delay_s, p90_delay_s: Of these; NaN where there is none.
    """

    events: int
    detected: int
    false_alarms: int
    hours: float
    false_alarms_per_hour: float
    false_alarms_low: float
    false_alarms_high: float
    miss_rate: Score
    delays_s: Floats
    median_delay_s: float
    p90_delay_s: float


def detections(scores: Floats, threshold: float, *, frames_per_second: float, refractory_s: float = 1.0) -> Floats:
    """(D,) seconds at which a detector speaks up.

    Args:
        scores: (F,) one for each frame; frame f stands at f / frames_per_second.
        threshold: A detection stands at the first frame that reaches it, and again only after the score was below it,
            or after another refractory period for as long as it stays there.
        frames_per_second: Of the scores.
        refractory_s: Time after a detection in which there is no other, 0 or more.

    Raises:
        ThreatModelError: If the rate is not positive or the period negative.
    """
    if not frames_per_second > 0 or refractory_s < 0:
        raise ThreatModelError(
            f"Detections need frames_per_second above 0 and refractory_s from 0; given {frames_per_second}, "
            f"{refractory_s}."
        )
    above = np.asarray(scores, dtype=np.float64) >= threshold
    wait = max(1, math.ceil(refractory_s * frames_per_second - 1e-9))
    places: list[int] = []
    free = 0
    for place in np.flatnonzero(above):
        if place < free:
            continue
        if wait == 1 and places and above[places[-1] : place].all():
            continue  # without a refractory period, one rise is one detection
        places.append(int(place))
        free = int(place) + wait
    return np.array(places, dtype=np.float64) / frames_per_second


def stream_detection(
    times_s: Floats, onsets_s: Floats, offsets_s: Floats, *, duration_s: float, tolerance_s: float = 0.5
) -> StreamDetection:
    """Counts detections against events.

    Args:
        times_s: (D,) of detections, ascending.
        onsets_s: (E,) of events, ascending, none overlapping.
        offsets_s: (E,) their ends.
        duration_s: Of the recording.
        tolerance_s: A detection may come so long after an event's end.

    Raises:
        ThreatModelError: If onsets and ends do not match, or the duration is not positive.
    """
    onsets, offsets = np.asarray(onsets_s, dtype=np.float64), np.asarray(offsets_s, dtype=np.float64)
    if onsets.shape != offsets.shape or (offsets < onsets).any() or not duration_s > 0:
        raise ThreatModelError("Every event needs an onset and a later end, and the recording a duration above 0.")
    found: dict[int, float] = {}
    alarms = 0
    for time in np.asarray(times_s, dtype=np.float64):
        inside = np.flatnonzero((onsets <= time) & (time <= offsets + tolerance_s))
        fresh = [int(event) for event in inside if int(event) not in found]
        if fresh:
            found[fresh[0]] = float(time)
        elif len(inside) == 0:
            alarms += 1  # one more for an event detected already is no false alarm
    delays = np.array([found[event] - offsets[event] for event in sorted(found)])
    hours = duration_s / 3600
    low, high = poisson_interval(alarms)
    missed = len(onsets) - len(found)
    median, late = np.percentile(delays, [50, 90]) if delays.size else (math.nan, math.nan)
    return StreamDetection(
        events=len(onsets),
        detected=len(found),
        false_alarms=alarms,
        hours=hours,
        false_alarms_per_hour=alarms / hours,
        false_alarms_low=low / hours,
        false_alarms_high=high / hours,
        miss_rate=_proportion(missed, len(onsets), "miss rate"),
        delays_s=delays,
        median_delay_s=float(median),
        p90_delay_s=float(late),
    )


def poisson_interval(count: int) -> tuple[float, float]:
    """Exact 95 % interval of a Poisson mean (Garwood 1936)."""
    from scipy.stats import chi2

    low = 0.0 if count == 0 else float(chi2.ppf(0.025, 2 * count) / 2)
    return low, float(chi2.ppf(0.975, 2 * count + 2) / 2)
