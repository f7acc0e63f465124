"""Votes of a classifier under Gaussian noise, as fast as its counts allow.

Votes are cast in bfloat16 where that is faster, and count as float32 casts them: the error of bfloat16 is measured on
the first votes of each clip, every vote whose margin lies within a multiple of it is cast again in float32, and so is
the least sure of the others in each batch, as a check. A clip whose error proves larger than was allowed for is cast
anew in float32, and a vote that was trusted and is another in float32 ends the use of bfloat16 altogether.

The noise comes from the clip's own generator: a common bank of it would correlate the certificates of clips.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import LANES, in_lanes
from defenses.low_precision import WAYS, computed, fastest, keep_buffers
from defenses.noisy_copies import NoisyCopies
from defenses.smoothing import checked_sigma, checked_votes

Classify: TypeAlias = Callable[[Tensor], Tensor]
"""Noisy copies of one clip (B, ...) -> logits (B, K)."""

Precision: TypeAlias = Literal["auto", "fp32", "bf16"]

CALIBRATED = 2 * LANES
"""First votes of a clip that are cast in both precisions."""
SAFETY = 4.0
"""A vote is trusted whose margin exceeds so many times the root mean square of the errors on its clip's first votes.

Few votes have a margin near that, and few errors are as large: of 1,000 votes, 10^-4 would be another in float32.
"""
SLACK = 1.25
"""An error so many times as large as that says that it was measured too small."""
TRIAL = 4 * LANES
ROUNDS = 3
"""The first votes of all try each way in so many batches of that size; the best of each counts."""


@dataclass
class Tally:
    """What casting took.

    Attributes:
        votes: Votes asked for.
        recast: Of them, cast in float32 because their margin was small.
        checked: Trusted votes that were cast in float32, too.
        differing: Of those, votes that were another there.
        exceeded: Casts repeated in float32 because bfloat16 erred more than was allowed for.
        trial: Way -> seconds a vote of each batch that tried it.
        way: How votes are cast at present: `fp32`, `bf16`, or `bf16-explicit` (see
            `defenses.low_precision`); None while they are tried.
    """

    votes: int = 0
    recast: int = 0
    checked: int = 0
    differing: int = 0
    exceeded: int = 0
    trial: dict[str, list[float]] = field(default_factory=dict)
    way: str | None = None


@dataclass(frozen=True)
class Voter:
    """A base classifier that votes on noisy copies of clips.

    Attributes:
        classify: The base classifier, without gradients and in evaluation mode.
        sigma: Standard deviation of the noise.
        multilabel: A vote says of each label whether its logit is above 0, instead of naming one class.
        batch_size: Votes cast at once, in multiples of 8; changes no vote.
        precision: `auto` takes bfloat16 where that is faster, `bf16` takes it in any case, `fp32` never.
        tally: What was cast so far, and how; voters may share one (`dataclasses.replace`), e.g. where other inputs of
            the classifier differ from clip to clip.
    """

    classify: Classify
    sigma: float
    multilabel: bool = False
    batch_size: int = 64
    precision: str = "auto"
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        checked_sigma(self.sigma), checked_votes("The batch size", self.batch_size)
        if self.precision not in get_args(Precision):
            raise ThreatModelError(unknown("precision", self.precision, get_args(Precision)))

    def ballot(self, clip: Tensor, generator: torch.Generator) -> Ballot:
        """Votes on one clip (T,) or of any other shape; its noise comes from `generator`, which is on the CPU."""
        return Ballot(self, clip, generator)

    def ways(self) -> tuple[str, ...]:
        """Those from which the fastest is taken."""
        return WAYS if self.precision == "auto" else WAYS[:1] if self.precision == "fp32" else WAYS[1:]

    def timed(self, noisy: Tensor) -> tuple[str, Tensor]:
        """The way in which votes are cast at present, and logits; the first batches try the ways in turn."""
        tally = self.tally
        if tally.way is not None:
            return tally.way, self.logits(noisy, tally.way)
        way = min(self.ways(), key=lambda one: len(tally.trial.get(one, ())))
        started = time.perf_counter()
        logits = self.logits(noisy, way)
        float(logits[0, 0])  # waits for it
        tally.trial.setdefault(way, []).append((time.perf_counter() - started) / len(noisy))
        if self.untried() == 0:
            tally.way = fastest(tally.trial)
        return way, logits

    def untried(self) -> int:
        """Batches that are left of the trial."""
        if self.tally.way is not None:
            return 0
        return sum(max(ROUNDS - len(self.tally.trial.get(way, ())), 0) for way in self.ways())

    def logits(self, noisy: Tensor, way: str) -> Tensor:
        """(B, K) float32 logits in one of the ways."""
        with torch.inference_mode(), computed(way, noisy.device.type):
            return self.classify(noisy).float()

    def decide(self, logits: Tensor) -> Tensor:
        """(B,) class voted for, or (B, K) bool."""
        return logits > 0 if self.multilabel else logits.argmax(dim=1)

    def margin(self, logits: Tensor) -> Tensor:
        """(B,) by how much a logit, or the difference of two, must err for the vote to be another."""
        if self.multilabel:
            return logits.abs().amin(dim=1)
        if logits.shape[1] < 2:
            return torch.full_like(logits[:, 0], torch.inf)
        ahead = logits.topk(2, dim=1).values
        return ahead[:, 0] - ahead[:, 1]

    def errors(self, low: Tensor, full: Tensor) -> Tensor:
        """(B, K) errors of what `margin` is about: each logit's, or its difference from that of the class ahead."""
        gap = low - full
        return gap if self.multilabel else gap - gap.gather(1, low.argmax(dim=1, keepdim=True))


class Ballot:
    """Votes on one clip, cast when asked for; make it with `Voter.ballot`."""

    def __init__(self, voter: Voter, clip: Tensor, generator: torch.Generator) -> None:
        self.voter, self.generator = voter, generator
        self.copies = NoisyCopies(clip, voter.sigma, generator)
        self.bounds: dict[str, float] = {}
        self.full = voter.precision == "fp32"

    def cast(self, count: int) -> Tensor:
        """(count,) int64 classes or (count, K) bool labels, in the order of the noise.

        Votes of one call and of the next never share noise.
        """
        voter, start = self.voter, self.generator.get_state()
        if voter.tally.votes == 0:
            keep_buffers()
        voter.tally.votes += checked_votes("The number of votes", count)
        if voter.precision == "fp32":
            voter.tally.way = "fp32"
        votes = None if self.full or voter.tally.way == "fp32" else self._in_low(count)
        if votes is None:
            self.generator.set_state(start)
            votes = self._in_full(count)
        return votes

    def counts(self, count: int, classes: int) -> Tensor:
        """(K,) int64 votes for each class, or having each label present, of `count` new ones."""
        votes = self.cast(count)
        return votes.sum(dim=0) if self.voter.multilabel else torch.bincount(votes, minlength=classes)

    @property
    def _size(self) -> int:
        return _in_lanes(self.voter.batch_size)

    def _in_full(self, count: int) -> Tensor:
        voter = self.voter
        with closing(self.copies.batches(self._sizes(count))) as batches:
            found = [voter.decide(voter.logits(noisy, "fp32")) for noisy in batches]
        return torch.cat(found)[:count].cpu()

    def _in_low(self, count: int) -> Tensor | None:
        """The same from low precision; None where it errs too much for this clip."""
        with closing(self.copies.batches(self._sizes(count))) as batches:
            return self._checked(batches, count)

    def _checked(self, batches: Iterator[Tensor], count: int) -> Tensor | None:
        voter, pool = self.voter, _Doubtful()
        found: list[Tensor] = []
        for noisy in batches:
            first = sum(map(len, found))
            way, logits = voter.timed(noisy)
            found.append(voter.decide(logits))
            if way == "fp32":
                continue
            margin = voter.margin(logits)[: count - first]
            bound = self._bound(way, noisy, logits, margin)
            if self.full:
                return None
            trusted = margin > bound
            kept = ~trusted
            if bool(trusted.any()):  # the least sure of those that are trusted stands for them in the check
                kept[torch.where(trusted, margin, torch.inf).argmin()] = True
            places = kept.nonzero()[:, 0]
            pool.add(
                first + places, noisy[places], logits[places], trusted[places], margin.new_full((len(places),), bound)
            )
            if len(pool) >= self._size and not self._settle(pool, found):
                return None
        return torch.cat(found)[:count].cpu() if self._settle(pool, found) else None

    def _bound(self, way: str, noisy: Tensor, low: Tensor, margin: Tensor) -> float:
        """Margin up to which a vote of this way is cast again, measured once; most must be above it."""
        if way not in self.bounds:
            full = self.voter.logits(noisy[:CALIBRATED], "fp32")
            self.bounds[way] = SAFETY * float(self.voter.errors(low[:CALIBRATED], full).square().mean().sqrt())
            self.full = float((margin > self.bounds[way]).double().mean()) < 0.5
        return self.bounds[way]

    def _settle(self, pool: _Doubtful, found: list[Tensor]) -> bool:
        """Casts what is doubtful in float32; False where low precision erred more than was allowed for."""
        if len(pool) == 0:
            return True
        voter, tally = self.voter, self.voter.tally
        places, noisy, low, trusted, bounds = pool.empty()
        parts = torch.split(noisy, self._size)
        full = torch.cat([voter.logits(in_lanes(part), "fp32")[: len(part)] for part in parts])
        before = torch.cat(found)
        after = before.clone()
        after[places] = voter.decide(full)
        found[:] = [after]
        changed = (after[places] != before[places]).view(len(places), -1).any(dim=1)
        differing = int((changed & trusted).sum())
        tally.recast += int((~trusted).sum())
        tally.checked += int(trusted.sum())
        tally.differing += differing
        if differing:
            tally.way = "fp32"
        if differing or not bool((self._error(low, full) <= SLACK * bounds).all()):
            tally.exceeded += 1
            self.full = True
        return not self.full

    def _error(self, low: Tensor, full: Tensor) -> Tensor:
        """(B,) error of what came nearest to making the vote another."""
        errors = self.voter.errors(low, full).abs()
        if self.voter.multilabel:
            return errors.gather(1, low.abs().argmin(dim=1, keepdim=True))[:, 0]
        second = low.topk(min(2, low.shape[1]), dim=1).indices[:, -1:]
        return errors.gather(1, second)[:, 0]

    def _sizes(self, count: int) -> list[int]:
        """Rows of each batch: the last is filled up to whole blocks, those of a trial are small."""
        found: list[int] = []
        small = 0 if self.full else self.voter.untried()
        while (left := count - sum(found)) > 0:
            size = min(self._size, TRIAL) if len(found) < small else self._size
            found.append(min(size, _in_lanes(left)))
        return found


class _Doubtful:
    """Noisy copies that are to be cast in float32, with what they said in low precision and how that was taken."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    def add(self, *part: Tensor) -> None:
        """Places among all votes, copies, logits, whether they are trusted, and the bound that this was held to."""
        self._parts.append(part)

    def empty(self) -> list[Tensor]:
        """All that it held, in the same order."""
        held = [torch.cat(parts) for parts in zip(*self._parts, strict=True)]
        self._parts.clear()
        return held


def count_votes(
    classify: Classify,
    clip: Tensor,
    sigma: float,
    n: int,
    generator: torch.Generator,
    batch_size: int = 64,
    precision: str = "auto",
    *,
    multilabel: bool = False,
) -> Tensor:
    """Votes on one clip under noise.

    Args:
        classify: Maps (B, ...) noisy copies to logits (B, K); in evaluation mode.
        clip: (T,) or of any other shape.
        sigma: Standard deviation of the noise.
        n: Number of votes.
        generator: Of the noise, on the CPU; a fresh one for each clip.
        batch_size: Votes cast at once; changes no count.
        precision: As of `Voter`; changes no count.
        multilabel: Count how often each logit is above 0.

    Returns:
        (K,) int64 counts.
    """
    ballot = Voter(classify, sigma, multilabel, batch_size, precision).ballot(clip, generator)
    with torch.inference_mode():
        classes = classify(clip[None]).shape[1]
    return ballot.counts(n, classes)


def _in_lanes(count: int) -> int:
    """`count` filled up to whole blocks."""
    return -(-count // LANES) * LANES


__all__ = ["Ballot", "Classify", "Precision", "Tally", "Voter", "count_votes"]
