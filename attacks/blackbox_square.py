"""Square: random search whose steps are segments of the signal, kept where the loss rises. No backward pass is made.

On images the steps are squares; a signal is taken as the sequence of its values, and a segment is a stretch of it.

Source: Andriushchenko et al. 2020, algorithms 1 to 3.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.blackbox_oracle import QueryOracle
from attacks.eot import Expectation
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim, frozen
from attacks.losses import Goal, find_loss
from attacks.pgd import AttackResult
from attacks.threat import Ball, Region

FILLS = ("mixed", "constant")
HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of all queries after which segments get half as long (those of the paper, of 10,000)."""


@dataclass(frozen=True)
class Square:
    """Settings of the attack.

    Attributes:
        queries: Points asked of an example that is never broken, the first one included.
        share: First length of a segment, as a share of the signal (p in the paper); it is halved on the way.
        fill: What a segment is filled with: `constant`, one sign (linf) or one bump (l2) as in the paper, or `mixed`,
            several of a random width, from one value to the whole segment, each with its own sign. One sign is a low
            rumble; victims differ in which frequencies they hear worst, and widths are frequencies. Of 8 clips of
            `events` in 300 queries, mixed against constant broke 3 against 2 (linf) and 2 against 2 (l2) with `m18`, 4
            against 3 and 4 against 1 with `ast`.
        loss: A name from `attacks.losses.LOSSES`.

    Raises:
        ThreatModelError: If a setting is out of its range.
    """

    queries: int = 1000
    share: float = 0.8
    fill: Literal["mixed", "constant"] = "mixed"
    loss: str = "margin"

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ThreatModelError(f"queries must be 1 or more; given {self.queries}.")
        if not 0 < self.share <= 1:
            raise ThreatModelError(f"share must be above 0, and 1 at most; given {self.share}.")
        if self.fill not in FILLS:
            raise ThreatModelError(unknown("fill", self.fill, FILLS))
        find_loss(self.loss)

    def length(self, query: int, values: int) -> int:
        """Length of the segment of query number `query` (from 1) in a signal of so many values."""
        halvings: int = bisect.bisect_left(HALVED_AT, query / self.queries)
        return min(max(round(self.share * 0.5**halvings * values), 1), values)


def square(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    *,
    config: Square | None = None,
    valid: Mapping[str, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    expectation: Expectation | None = None,
    modality: str = "audio",
) -> AttackResult:
    """Attacks every example of a batch by random search, in linf or l2.

    Args:
        victim: Maps modalities to logits (B, K); never differentiated.
        inputs: Modality -> (B, ...) clean inputs.
        goal: Labels, and targets if the attack is targeted.
        threat: `modality` -> its budget.
        config: Settings.
        valid: Modality -> bool mask of what is not padding; padding is never touched.
        generators: One generator for each example (on the CPU), so that results do not depend on how examples are
            batched; seeded 0 to B - 1 when absent.
        expectation: Attack what is heard through a random channel. Each step is then heard beside the point it would
            replace, through the same `draws` fresh draws, at twice the passes: against a loss of earlier draws the
            luckiest step would win. `keep_steps` means nothing here; who is finished is up to `sure`, as in
            `attacks.pgd.pgd`.
        modality: The one attacked.

    Returns:
        As `pgd`; `backwards` are all 0, `trace` has a column for each query, without an expectation the best loss.

    Raises:
        ThreatModelError: If the budget is not one of that modality, in L1, or cannot hold.
    """
    config = config or Square()
    oracle = QueryOracle(victim, inputs, goal, threat, modality, valid, generators, expectation)
    if oracle.regions[modality].norm == "l1":
        raise ThreatModelError("Square knows the norms linf and l2; given l1. Use NES, or another norm.")
    with frozen(victim), frozen(oracle.expectation.channel):
        return _Search(oracle, inputs, goal, config).run()


class _Search:
    """A batch under way; every example stands at the best point it has found."""

    def __init__(self, oracle: QueryOracle, inputs: Mapping[str, Tensor], goal: Goal, config: Square) -> None:
        self.oracle, self.config, self.goal = oracle, config, goal
        self.inputs = {name: value.detach().clone() for name, value in inputs.items()}
        self.point = self.inputs[oracle.modality]
        self.region = oracle.regions[oracle.modality]
        count, device = len(goal.labels), goal.labels.device
        self.rows = torch.arange(count, device=device)
        self.loss = torch.full((count,), -torch.inf, device=device)
        self.broken = torch.zeros(count, dtype=torch.bool, device=device)
        self.trace = torch.full((count, config.queries), -torch.inf, device=device)

    def run(self) -> AttackResult:
        """Asks until all are broken or there are no queries left."""
        for query in range(self.config.queries):
            if len(self.rows) == 0:
                break
            self._step(query)
            self.trace[:, query] = self.loss
        self.trace[:, query:] = self.loss[:, None]
        if not self.oracle.direct and len(self.rows):
            self._hear_out()
        return AttackResult(
            self.inputs, self.broken, self.loss, self.oracle.forwards, self.oracle.backwards, self.trace
        )

    def _step(self, query: int) -> None:
        """One more point for each example, kept where it is better."""
        rows, region, here = self.rows, self.region.select(self.rows), self.point[self.rows]
        goal, inputs = self._current()
        tried = self._tried(query, here, region)
        alone = query == 0 or self.oracle.direct
        versions = tried[None] if alone else torch.stack([tried, here])
        loss = find_loss(self.config.loss)
        losses, logits = self.oracle.losses(versions, inputs, goal, loss, rows)
        before = self.loss[rows] if alone else losses[1]
        better = losses[0] > before
        if self.oracle.direct:
            better = better | goal.broken(logits[0, 0])
        self.point[rows[better]] = tried[better]
        self.loss[rows] = torch.where(better, losses[0], before)
        self.oracle.note_draws(rows, torch.where(better[:, None], logits[0], logits[-1]))
        self._dismiss(better, logits[0, 0])

    def _dismiss(self, better: Tensor, logits: Tensor) -> None:
        """Lets go of those that are broken: at once without a channel, else if `sure`."""
        goal, inputs = self._current()
        if self.oracle.direct:
            broken = goal.broken(logits) & better
        elif self.oracle.expectation.sure is not None:
            broken = self.oracle.finished(inputs, goal, self.rows)
        else:
            return
        self.broken[self.rows] = broken
        self.rows = self.rows[~broken]

    def _current(self) -> tuple[Goal, dict[str, Tensor]]:
        """Goal and inputs of those at work, at the best points so far."""
        return self.goal.select(self.rows), {name: value[self.rows] for name, value in self.inputs.items()}

    def _hear_out(self) -> None:
        """What is left at the end, judged by fresh draws as `attacks.pgd.pgd` does."""
        goal, inputs = self._current()
        logits = self.oracle.logits(inputs, self.rows)
        sure = self.oracle.expectation.sure is not None
        self.broken[self.rows] = self.oracle.finished(inputs, goal, self.rows) if sure else goal.broken(logits)

    def _tried(self, query: int, here: Tensor, region: Region) -> Tensor:
        """(A, ...) the next point of each example, in the region; made one by one, over what may move."""
        delta = (here - region.clean).flatten(1)
        for place, row in enumerate(self.rows.tolist()):
            free = slice(None) if region.valid is None else region.valid[place].flatten().nonzero()[:, 0]
            radius, generator = float(region.radius[place]), self.oracle.search[row]
            delta[place, free] = self._moved(delta[place, free], query, radius, region.norm, generator)
        return region.project(region.clean + delta.view_as(here))

    def _moved(self, delta: Tensor, query: int, radius: float, norm: str, generator: torch.Generator) -> Tensor:
        """The perturbation (N,) of one example, with one segment changed; the first one is made from nothing."""
        if len(delta) == 0:
            return delta
        fill, first = self.config.fill, query == 0
        length = len(delta) if first else self.config.length(query, len(delta))
        if norm == "l2":
            return first_l2(delta, radius, generator) if first else changed_l2(delta, radius, length, fill, generator)
        if first and fill == "constant":
            return radius * stripes(delta, length, 1, generator)
        return changed_linf(delta, radius, length, fill, generator)


def changed_linf(delta: Tensor, radius: float, length: int, fill: str, generator: torch.Generator) -> Tensor:
    """`delta` (N,) with a random segment at the ends of the ball."""
    start = _start(len(delta), length, generator)
    moved = delta.clone()
    moved[start : start + length] = radius * stripes(delta, length, _width(length, fill, generator), generator)
    return moved


def first_l2(delta: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Five bumps in a row, each of a random sign."""
    return radius * bumps(delta, len(delta), max(len(delta) // 5, 2), generator)


def changed_l2(delta: Tensor, radius: float, length: int, fill: str, generator: torch.Generator) -> Tensor:
    """`delta` (N,) with what a second random segment held moved to a first one, as bumps added to what is there."""
    length = min(max(length, 2), len(delta))
    to, source = (_start(len(delta), length, generator) for _ in range(2))
    added = bumps(delta, length, max(_width(length, fill, generator), 2), generator)
    moved = delta.clone()
    moved[source : source + length] = 0
    moved[to : to + length] = 0
    free = (radius**2 - moved.double().square().sum()).clamp_min(0).sqrt()
    moved[to : to + length] = _scaled(added + _scaled(delta[to : to + length], 1.0), float(free))
    return moved


def stripes(like: Tensor, length: int, width: int, generator: torch.Generator) -> Tensor:
    """(length,) stretches of `width` values, each of a random sign; the last one may be shorter."""
    return _signs(like, -(-length // width), generator).repeat_interleave(width)[:length]


def bumps(like: Tensor, length: int, width: int, generator: torch.Generator) -> Tensor:
    """(length,) bumps of `width` values, each of a random sign, of unit length together; the last one may be cut."""
    signs = _signs(like, -(-length // width), generator)[:, None]
    return _scaled((signs * bump(width).to(like)).flatten()[:length], 1.0)


def bump(length: int) -> Tensor:
    """(length,) a peak and a trough side by side, of unit length: each the sum over k of boxes of weight 1 / k^2."""
    half = length // 2
    sides = [_peak(half), -_peak(length - half)]
    return _scaled(torch.cat(sides), 1.0)


def _peak(length: int) -> Tensor:
    distance = (torch.arange(length) - length // 2).abs()
    weights = 1 / torch.arange(1, length // 2 + 2, dtype=torch.float64).square()
    return weights.flip(0).cumsum(0).flip(0)[distance].float()


def _scaled(values: Tensor, size: float) -> Tensor:
    """`values` with length `size`; zeros stay."""
    return values * (size / max(float(values.double().norm()), 1e-30))


def _width(length: int, fill: str, generator: torch.Generator) -> int:
    """Width of what a segment is filled with: all of it, or log-uniform between one value and that."""
    return length if fill == "constant" else max(round(length ** float(torch.rand((), generator=generator))), 1)


def _signs(like: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) random signs."""
    return (2 * torch.randint(2, (count,), generator=generator) - 1).to(like)


def _start(values: int, length: int, generator: torch.Generator) -> int:
    return int(torch.randint(values - length + 1, (), generator=generator))


__all__ = ["Square", "square"]
