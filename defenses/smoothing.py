"""Randomised smoothing: what votes under Gaussian noise prove about a classifier.

The smoothed classifier answers what the base classifier answers most often when noise N(0, sigma^2) is added to the
input. If it answers `a` with probability at least p > 1/2, no perturbation of L2 norm below sigma * Phi^-1(p) makes it
answer anything else. p is bounded from votes, so each certificate holds with probability 1 - alpha.

With many labels a clip, each label is a classifier of two answers, and all labels of a clip are claimed together:
each at alpha / labels (Bonferroni).

Sources: Cohen, Rosenfeld & Kolter 2019 (CERTIFY, PREDICT, theorem 1); Clopper & Pearson 1934; methods.md 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtri, ndtri_exp
from scipy.stats import beta, binom, binomtest
from torch import Tensor

from attacks.channel import Channel, Parameters
from attacks.errors import ThreatModelError

ABSTAIN = -1
"""Stands where the smoothed classifier gives no answer."""


@dataclass(frozen=True)
class Certificate:
    """What is proved of one clip, or of one label of it.

    Attributes:
        answer: Class (or 1 present, 0 absent); `ABSTAIN` where nothing is proved.
        radius: L2 radius within which the smoothed classifier gives that answer; 0 where nothing is proved.
        p_lower: Lower bound of the answer's probability under noise.
        votes_for: Votes for the answer that was tested.
        votes: Votes of the test.
    """

    answer: int
    radius: float
    p_lower: float
    votes_for: int
    votes: int


class GaussianChannel(Channel):
    """White Gaussian noise of one standard deviation on every sample, also where a clip is padding.

    Attributes:
        sigma: Standard deviation, in units of the input (full scale 1).
    """

    name = "smoothing"

    def __init__(self, sigma: float, sample_rate: int) -> None:
        super().__init__(sample_rate)
        self.sigma = checked_sigma(sigma)

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        """`noise` (B, ...), of unit variance."""
        drawn = [torch.randn(clips.shape[1:], generator=one) for one in generators]
        return {"noise": torch.stack(drawn).to(clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        """`clips` with the noise; nothing is cut, since the certificate is about noise that is Gaussian."""
        return clips + self.sigma * parameters["noise"]

    def describe(self) -> dict[str, object]:
        return {"channel": self.name, "sigma": self.sigma}


def checked_sigma(sigma: float) -> float:
    """`sigma`, or a `ThreatModelError` where it is no positive number."""
    if not 0 < sigma < math.inf:
        raise ThreatModelError(f"sigma must be above 0 and finite (full scale is 1, e.g. 0.25); given {sigma}.")
    return float(sigma)


def checked_alpha(alpha: float) -> float:
    """`alpha`, or a `ThreatModelError` where it is no probability of error."""
    if not 0 < alpha < 1:
        raise ThreatModelError(
            f"alpha, the probability of a false certificate, must lie between 0 and 1 (e.g. 0.001); given {alpha}."
        )
    return float(alpha)


def checked_votes(name: str, votes: int) -> int:
    """`votes`, or a `ThreatModelError` where there is none."""
    if votes < 1:
        raise ThreatModelError(f"{name} must be 1 vote or more; given {votes}.")
    return int(votes)


def lower_bound(votes_for: ArrayLike, votes: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """One-sided Clopper-Pearson bound: a probability is at least this with confidence 1 - `alpha`."""
    k, n = np.broadcast_arrays(np.asarray(votes_for, dtype=float), np.asarray(votes, dtype=float))
    bound = beta.ppf(checked_alpha(alpha), np.maximum(k, 1), n - np.maximum(k, 1) + 1)
    return np.where(k > 0, bound, 0.0)


def certified_radius(p_lower: ArrayLike, sigma: float) -> NDArray[np.float64]:
    """L2 radius that a lower bound above 1/2 proves; 0 for others."""
    p = np.asarray(p_lower, dtype=float)
    radii: NDArray[np.float64] = checked_sigma(sigma) * np.maximum(ndtri(np.maximum(p, 0.5)), 0.0)
    return radii


def ceiling(sigma: float, n: int, alpha: float) -> float:
    """The largest radius that `n` votes can prove: that of a unanimous vote, whose bound is alpha^(1/n)."""
    log_p = math.log(checked_alpha(alpha)) / checked_votes("n", n)
    return checked_sigma(sigma) * max(float(ndtri_exp(log_p)), 0.0)


def votes_needed(radius: float, sigma: float, alpha: float) -> int:
    """The least number of votes that can prove `radius`; for 0, that can prove anything at all.

    Raises:
        ThreatModelError: If the radius is negative or not finite, or so many sigmas that no number of votes will do.
    """
    if not 0 <= radius < math.inf:
        raise ThreatModelError(f"The radius to certify must be 0 or more and finite; given {radius}.")
    log_p = float(log_ndtr(radius / checked_sigma(sigma)))
    most = math.log(checked_alpha(alpha)) / log_p if log_p < 0 else math.inf
    if not most < 2**53:
        raise ThreatModelError(
            f"No number of votes can certify {radius:g} at sigma {sigma:g}: it is {radius / sigma:.0f} sigmas. "
            "Ask for a smaller radius, or take a larger sigma."
        )
    found = max(math.floor(most) - 1, 1)
    while not _proves(found, radius, sigma, alpha):
        found += 1
    return found


def check_reach(radius: float, sigma: float, n: int, alpha: float, share: float = 1.0) -> None:
    """Raises `ThreatModelError` with the number that would do where `n` votes cannot prove `radius`.

    Args:
        radius: L2.
        sigma: Of the noise.
        n: Votes.
        alpha: Probability with which the proof may fail.
        share: Of alpha that the votes may use; told with the error.
    """
    told = f"{alpha:g}" if share == 1.0 else f"{alpha:g} (of which they may use {alpha * share:g})"
    alpha *= share
    needed = votes_needed(radius, sigma, alpha)
    if n < needed:
        raise ThreatModelError(
            f"{n} votes cannot certify the radius {radius:g} at sigma {sigma:g} and alpha {told}: even a unanimous "
            f"vote shows {ceiling(sigma, n, alpha):.4g}. Give n = {needed} votes or more, or a larger sigma."
        )


def certify(selection: ArrayLike, counts: ArrayLike, sigma: float, alpha: float) -> Certificate:
    """CERTIFY: the class that most of the first votes chose, tested on votes that it was not chosen by.

    Args:
        selection: (K,) counts of the n0 votes that choose the class.
        counts: (K,) counts of the n other votes.
        sigma: Of the noise under which they were cast.
        alpha: Probability with which a wrong certificate may be given.

    Returns:
        The class with its radius, or `ABSTAIN` where its bound is not above 1/2.
    """
    chosen = int(np.argmax(np.asarray(selection)))
    tested = np.asarray(counts)
    return _certificate(chosen, int(tested[chosen]), int(tested.sum()), sigma, alpha)


def certify_labels(
    selection: ArrayLike, n0: int, counts: ArrayLike, n: int, sigma: float, alpha: float
) -> list[Certificate]:
    """CERTIFY for each label: present or absent, as most of the first votes say, all labels claimed at once.

    Args:
        selection: (K,) for each label, how many of the `n0` first votes have it present.
        n0: Number of first votes.
        counts: (K,) the same of `n` other votes.
        n: Their number.
        sigma: Of the noise.
        alpha: Probability with which any of the K certificates of the clip may be wrong; each gets its K-th.
    """
    first, later = np.asarray(selection), np.asarray(counts)
    found = []
    for yes0, yes in zip(first.tolist(), later.tolist(), strict=True):
        present = 2 * yes0 > n0
        found.append(_certificate(int(present), int(yes if present else n - yes), n, sigma, alpha / len(first)))
    return found


def predict(counts: ArrayLike, alpha: float) -> int:
    """PREDICT: the class with most votes, or `ABSTAIN` where the runner-up may be as likely.

    Args:
        counts: (K,) votes.
        alpha: Probability with which a wrong class may be returned (binomial test of the two classes ahead).
    """
    votes = np.asarray(counts)
    order = np.argsort(-votes, kind="stable")
    first = int(votes[order[0]])
    second = int(votes[order[1]]) if len(order) > 1 else 0
    if first == 0 or binomtest(first, first + second, 0.5).pvalue > checked_alpha(alpha):
        return ABSTAIN
    return int(order[0])


def predict_labels(counts: ArrayLike, n: int, alpha: float) -> list[int]:
    """PREDICT for each label: 1, 0 or `ABSTAIN`, from how many of `n` votes have it present; each at alpha / labels."""
    votes = np.asarray(counts).tolist()
    return [predict((n - yes, yes), checked_alpha(alpha) / len(votes)) for yes in votes]


def high_probability(certified: float, clips: int, alpha: float, rho: float = 0.001) -> float:
    """Certified accuracy that holds for the true smoothed classifier with probability 1 - `rho`.

    Each certificate may be wrong with probability alpha, independently, so that wrong ones among `clips` are fewer than
    a binomial variable's upper quantile. Cohen et al. bound the same tail by Bernstein's inequality, which takes off
    more; their published code also drops a factor 2 under its root.

    Args:
        certified: Share of clips that are right and certified.
        clips: Their number.
        alpha: Of the certificates.
        rho: Probability with which the figure may be too high.
    """
    if clips == 0:
        return 0.0
    return max(certified - float(binom.ppf(1 - checked_alpha(rho), clips, checked_alpha(alpha))) / clips, 0.0)


def radius_snr_db(norm: ArrayLike, radius: ArrayLike) -> NDArray[np.float64]:
    """How far a perturbation of L2 norm `radius` lies below a clip of L2 `norm`, in dB; infinite for radius 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(norm, dtype=float) / np.asarray(radius, dtype=float)
        return np.asarray(20 * np.log10(ratio))


def _certificate(answer: int, votes_for: int, votes: int, sigma: float, alpha: float) -> Certificate:
    p_lower = float(lower_bound(votes_for, votes, alpha))
    if p_lower <= 0.5:
        return Certificate(ABSTAIN, 0.0, p_lower, votes_for, votes)
    return Certificate(answer, float(certified_radius(p_lower, sigma)), p_lower, votes_for, votes)


def _proves(n: int, radius: float, sigma: float, alpha: float) -> bool:
    """Whether a unanimous vote of `n` proves `radius`; a bound of 1/2 proves nothing."""
    most = ceiling(sigma, n, alpha)
    return most > 0 and most >= radius


__all__ = [
    "ABSTAIN",
    "Certificate",
    "GaussianChannel",
    "ceiling",
    "certified_radius",
    "certify",
    "certify_labels",
    "check_reach",
    "checked_alpha",
    "checked_sigma",
    "checked_votes",
    "high_probability",
    "lower_bound",
    "predict",
    "predict_labels",
    "radius_snr_db",
    "votes_needed",
]
