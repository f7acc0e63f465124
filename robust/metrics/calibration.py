"""Whether a classifier is as sure as it is right: calibration error, log loss and Brier score, all lower is better.

ECE with bins of equal width: Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust.errors import DataError

Floats = NDArray[np.float64]
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Of some clips.

    Attributes:
        ece: Expected calibration error, 0 to 1: mean gap between confidence and accuracy over bins of confidence.
            With many labels a clip, over all decisions: between the probability of a label and its frequency.
        nll: Mean negative log-likelihood of the truth in nats; with many labels, of each decision.
        brier: One label a clip: mean over clips of the squared distance between probabilities and truth, 0 to 2
            (Brier 1950). Many labels: mean squared error of each decision, 0 to 1.
    """

    ece: float
    nll: float
    brier: float


def calibration(logits: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> Calibration:
    """Calibration of a classifier.

    Args:
        logits: (N, K) scores before softmax (one label a clip) or sigmoid (many).
        labels: (N,) class indices, or (N, K) multi-hot.
        bins: Of equal width from 0 to 1; a confidence on an edge belongs to the bin below it.

    Raises:
        DataError: If there is no clip, the shapes do not fit, or a logit is NaN or infinite.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or truth.shape not in (scores.shape[:1], scores.shape) or len(scores) == 0:
        raise DataError(
            f"Calibration needs logits (clips, classes) and labels (clips,) or of the same shape; given {scores.shape} "
            f"and {truth.shape}."
        )
    if not np.isfinite(scores).all():
        raise DataError("Calibration needs finite logits; some are NaN or infinite.")
    return _multilabel(scores, truth > 0, bins) if truth.ndim == 2 else _multiclass(scores, truth, bins)


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, *, bins: int = BINS) -> float:
    """Mean over bins, weighted by how many fall into each, of |share right - mean confidence|.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,) bool.
        bins: Of equal width; a confidence on an edge belongs to the bin below it.
    """
    sure, hit = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=hit - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def _multiclass(scores: Floats, truth: NDArray[np.integer], bins: int) -> Calibration:
    from scipy.special import log_softmax

    logs = log_softmax(scores, axis=1)
    probabilities = np.exp(logs)
    rows = np.arange(len(scores))
    error = probabilities.copy()
    error[rows, truth] -= 1
    ece = expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, bins=bins)
    return Calibration(ece, float(-logs[rows, truth].mean()), float(np.square(error).sum(axis=1).mean()))


def _multilabel(scores: Floats, truth: NDArray[np.bool_], bins: int) -> Calibration:
    from scipy.special import expit

    probabilities = expit(scores)
    ece = expected_calibration_error(probabilities.ravel(), truth.ravel(), bins=bins)
    losses = np.logaddexp(0.0, np.where(truth, -scores, scores))
    return Calibration(ece, float(losses.mean()), float(np.square(probabilities - truth).mean()))
