"""Votes of a classifier under Gaussian noise, as fast as its counts allow.

Votes are cast in bfloat16 where that is faster, and count as float32 casts them: the error of bfloat16 is measured on
the first votes of each clip, every vote whose margin lies within a multiple of it is cast again in float32, and so is
the least sure of the others in each batch, as a check. A clip whose error proves larger than was allowed for is cast
anew in float32, and a vote that was trusted and is another in float32 ends the use of bfloat16 altogether.

The noise is drawn in blocks of eight votes from the clip's own generator, so that a vote is the same whatever the batch
size, and no two clips share noise (a common bank of it would correlate their certificates).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import LANES, in_lanes
from defenses.low_precision import WAYS, computed, keep_buffers
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
ROUNDS = 3
WORTH = 0.9
"""Low precision is used where it takes less than this share of the time of float32."""


@dataclass
class Tally:
    """What casting took.

    Attributes:
        votes: Votes asked for.
        recast: Of them, cast in float32 because their margin was small.
        checked: Trusted votes that were cast in float32, too.
        differing: Of those, votes that were another there.
        exceeded: Casts repeated in float32 because bfloat16 erred more than was allowed for.
        way: How votes are cast at present: `fp32`, `bf16`, or `bf16-explicit` (see
            `defenses.low_precision`); None before the first.
    """

    votes: int = 0
    recast: int = 0
    checked: int = 0
    differing: int = 0
    exceeded: int = 0
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

    def choose(self, noisy: Tensor) -> None:
        """Finds out the fastest way to cast votes, on the first ones."""
        keep_buffers()
        ways = WAYS if self.precision == "auto" else WAYS[:1] if self.precision == "fp32" else WAYS[1:]
        self.tally.way = self._fastest(noisy, ways) if len(ways) > 1 else ways[0]

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

    def _fastest(self, noisy: Tensor, ways: Sequence[str]) -> str:
        seconds = dict.fromkeys(ways, float("inf"))
        for turn in range(ROUNDS + 1):  # the first fills caches
            for way in ways:
                started = time.perf_counter()
                self.decide(self.logits(noisy, way)).cpu()
                if turn:
                    seconds[way] = min(seconds[way], time.perf_counter() - started)
        best = min(ways, key=lambda way: seconds[way])
        return "fp32" if seconds[best] > WORTH * seconds.get("fp32", float("inf")) else best


class Ballot:
    """Votes on one clip, cast when asked for; make it with `Voter.ballot`."""

    def __init__(self, voter: Voter, clip: Tensor, generator: torch.Generator) -> None:
        self.voter, self.clip, self.generator = voter, clip, generator
        self.bound: float | None = None
        self.full = False

    def cast(self, count: int) -> Tensor:
        """(count,) int64 classes or (count, K) bool labels, in the order of the noise.

        Votes of one call and of the next never share noise.
        """
        voter, start = self.voter, self.generator.get_state()
        voter.tally.votes += checked_votes("The number of votes", count)
        if voter.tally.way is None:
            voter.choose(self._noisy(min(_in_lanes(count), self._size)))
            self.generator.set_state(start)
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

    def _noisy(self, rows: int) -> Tensor:
        """`rows` noisy copies, a multiple of 8."""
        return self._heard(self._drawn(rows))

    def _drawn(self, rows: int) -> Tensor:
        """Standard normal noise, each block of 8 from its own draw, so that it is the same in batches of any size."""
        noise = torch.empty(rows, *self.clip.shape, dtype=self.clip.dtype)
        for first in range(0, rows, LANES):
            noise[first : first + LANES].normal_(generator=self.generator)
        return noise

    def _heard(self, noise: Tensor) -> Tensor:
        return noise.to(self.clip.device).mul_(self.voter.sigma).add_(self.clip)

    def _in_full(self, count: int) -> Tensor:
        voter = self.voter
        with closing(self._copies(count)) as copies:
            found = [voter.decide(voter.logits(noisy, "fp32")) for _, noisy in copies]
        return torch.cat(found)[:count].cpu()

    def _in_low(self, count: int) -> Tensor | None:
        """The same from low precision; None where it errs too much for this clip."""
        with closing(self._copies(count)) as copies:
            return self._checked(copies, count)

    def _checked(self, copies: Iterator[tuple[int, Tensor]], count: int) -> Tensor | None:
        voter, found = self.voter, []
        pool = _Doubtful()
        for first, noisy in copies:
            low = voter.logits(noisy, str(voter.tally.way))
            margin = voter.margin(low)[: count - first]
            if self.bound is None:
                full = voter.logits(noisy[:CALIBRATED], "fp32")
                self.bound = SAFETY * float(voter.errors(low[:CALIBRATED], full).square().mean().sqrt())
                self.full = float((margin > self.bound).double().mean()) < 0.5
                if self.full:
                    return None
            found.append(voter.decide(low))
            trusted = margin > self.bound
            kept = ~trusted
            if bool(trusted.any()):  # the least sure of those that are trusted stands for them in the check
                kept[torch.where(trusted, margin, torch.inf).argmin()] = True
            places = kept.nonzero()[:, 0]
            pool.add(first + places, noisy[places], low[places], trusted[places])
            if len(pool) >= self._size and not self._settle(pool, found):
                return None
        return torch.cat(found)[:count].cpu() if self._settle(pool, found) else None

    def _settle(self, pool: _Doubtful, found: list[Tensor]) -> bool:
        """Casts what is doubtful in float32; False where low precision erred more than was allowed for."""
        if len(pool) == 0:
            return True
        voter, tally = self.voter, self.voter.tally
        places, noisy, low, trusted = pool.empty()
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
        if differing or not bool((self._error(low, full) <= SLACK * (self.bound or 0.0)).all()):
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

    def _copies(self, count: int) -> Generator[tuple[int, Tensor], None, None]:
        """Number of the first vote, and noisy copies, of each batch; the last is filled up to whole blocks.

        Drawing takes one thread: where there are several, the noise of the next batch is drawn while one is used.
        """
        sizes = [min(self._size, _in_lanes(count - first)) for first in range(0, count, self._size)]
        if len(sizes) == 1 or torch.get_num_threads() == 1:
            for place, rows in enumerate(sizes):
                yield place * self._size, self._noisy(rows)
            return
        with ThreadPoolExecutor(1) as beside:  # waits for a draw under way, also where the consumer stops early
            coming = beside.submit(self._drawn, sizes[0])
            for place in range(len(sizes)):
                noise = coming.result()
                if place + 1 < len(sizes):
                    coming = beside.submit(self._drawn, sizes[place + 1])
                yield place * self._size, self._heard(noise)


class _Doubtful:
    """Noisy copies that are to be cast in float32, with what they said in low precision."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    def add(self, places: Tensor, noisy: Tensor, low: Tensor, trusted: Tensor) -> None:
        self._parts.append((places, noisy, low, trusted))

    def empty(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that it held."""
        places, noisy, low, trusted = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        self._parts.clear()
        return places, noisy, low, trusted


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
