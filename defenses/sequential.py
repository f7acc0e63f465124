"""Is a radius certified? Votes one after the other until it is known, with the error probability of a single look.

A radius r is certified where the answer's probability p is above p0 = Phi(r / sigma). The test of p <= p0 bets against
it. After s votes for the answer and f against, its capital is

    M = E_q[ (q / p0)^s ((1 - q) / (1 - p0))^f ],    q ~ Beta(1/2, 1/2) truncated to (p0, 1).

*For every p <= p0, M is a nonnegative supermartingale that starts at 1.* Let the next vote be for the answer with
probability p, whatever came before. For a fixed q > p0 the expected factor is

    g(p) = p q / p0 + (1 - p) (1 - q) / (1 - p0),

linear in p with slope q / p0 - (1 - q) / (1 - p0) > 0 and g(p0) = q + (1 - q) = 1; so g(p) <= 1 for all p <= p0, and
the product is a supermartingale. A mixture over q by weights fixed beforehand is one too. By Ville's inequality M ever
reaches 1 / alpha with probability alpha at most, so one may look after every vote and stop when it does.

Half of alpha goes to that test and half to the ordinary one (Clopper-Pearson) at the last vote, so that clips near the
border are decided as if nobody had looked; by the union bound both together err with probability alpha at most. Giving
up needs no proof, since a radius that is not certified claims nothing. We do where no outcome of the votes left could
pass, and where the mirrored bet has won a hundredfold: that p is below p1, the share that passes the last test. An
answer that would more likely than not pass it (p >= p1) is thus given up with probability 1 % at most.

Sources: Ville 1939; Robbins 1970 (mixtures); Howard et al. 2021; Cohen et al. 2019 (the fixed test).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, log_ndtr, ndtr
from scipy.stats import beta

from attacks.errors import ThreatModelError
from defenses.smoothing import check_reach, checked_alpha, checked_sigma, checked_votes, lower_bound

Decision = Literal["certified", "given up", "open"]

Counts: TypeAlias = NDArray[np.int64]

PRIOR = (0.5, 0.5)
FIRST_LOOK = 32
GIVEN_UP = 0.01
"""Probability with which an answer may be given up that would more likely than not have passed the last test."""


@dataclass(frozen=True)
class Sequential:
    """The decision whether an answer is certified at `radius`.

    Attributes:
        radius: L2, above 0 or 0 (then: is the answer's probability above 1/2).
        sigma: Of the noise.
        n: Most votes.
        alpha: Probability with which a radius may be certified falsely.

    Raises:
        ThreatModelError: If a setting is out of range, or even a unanimous vote of `n` would not do.
    """

    radius: float
    sigma: float
    n: int
    alpha: float

    def __post_init__(self) -> None:
        checked_sigma(self.sigma), checked_votes("n", self.n), checked_alpha(self.alpha)
        if not 0 <= self.radius < math.inf:
            raise ThreatModelError(f"The radius to certify must be 0 or more and finite; given {self.radius}.")
        check_reach(self.radius, self.sigma, self.n, self.alpha, 0.5)

    @property
    def p0(self) -> float:
        """Probability above which the radius is certified."""
        return float(ndtr(self.radius / self.sigma))

    @cached_property
    def least(self) -> int:
        """Votes for the answer, of `n`, from which the ordinary test passes at alpha / 2."""
        low, high = 0, self.n
        while low < high:
            middle = (low + high) // 2
            passed = float(lower_bound(middle, self.n, self.alpha / 2)) >= self.p0
            low, high = (low, middle) if passed else (middle + 1, high)
        return low

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Numbers of votes after which to look: every 32 at first, then after a quarter more, and `n`."""
        found, at = [], FIRST_LOOK
        while at < self.n:
            found.append(at)
            at += max(FIRST_LOOK, at // 32 * 8)
        return (*found, self.n)

    def decide(self, votes_for: NDArray[np.bool_]) -> tuple[Decision, int]:
        """What the first votes say, and after how many of them it was settled.

        Args:
            votes_for: (M,) in the order in which they were cast, M <= n.
        """
        cast = np.arange(1, len(votes_for) + 1)
        won = np.cumsum(np.asarray(votes_for, dtype=np.int64))
        against = cast - won
        proved = (self.log_capital(won, against) >= math.log(2 / self.alpha)) | (won >= self.least)
        hopeless = (self.log_doubt(won, against) >= -math.log(GIVEN_UP)) | (against > self.n - self.least)
        settled = np.flatnonzero(proved | hopeless)
        if len(settled) == 0:
            return "open", len(votes_for)
        first = int(settled[0])
        return ("certified" if proved[first] else "given up"), first + 1

    def log_capital(self, votes_for: Counts, against: Counts) -> NDArray[np.float64]:
        """`ln M` after so many votes: how much the bet that p is above p0 has won."""
        # Both logarithms from the radius: p0 itself may round to 1.
        logs = float(log_ndtr(self.radius / self.sigma)), float(log_ndtr(-self.radius / self.sigma))
        return _log_bet(votes_for, against, self.p0, logs, beta.logsf)

    def log_doubt(self, votes_for: Counts, against: Counts) -> NDArray[np.float64]:
        """The same of the bet that p is below p1, the share of all votes that passes the last test."""
        p1 = self.least / self.n
        if p1 >= 1.0:  # every vote must be won, and the first that is lost settles it
            return np.where(np.asarray(against) > 0, np.inf, 0.0)
        return _log_bet(votes_for, against, p1, (math.log(p1), math.log1p(-p1)), beta.logcdf)


def _log_bet(
    votes_for: Counts,
    against: Counts,
    border: float,
    logs: tuple[float, float],
    tail: Callable[..., NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Logarithm of the mixture of likelihood ratios on one side of `border`; `logs`: those of it and of 1 less it."""
    a, b = PRIOR
    with np.errstate(divide="ignore"):
        mixed = betaln(a + votes_for, b + against) + tail(border, a + votes_for, b + against)
        start = betaln(a, b) + tail(border, a, b)
    return np.asarray(mixed - start - votes_for * logs[0] - against * logs[1])


__all__ = ["Decision", "Sequential"]
