"""How convex the region of a class is in a latent space: is what lies between two of its clips recognised too?

As measured for the ICASSP 2022 paper (methods.md 2.2): of pairs (i, j) of clips of class c, z = r h_i + (1 - r) h_j
with r ~ U(0, 1), the share with p_c(z) >= 0.1. There the pairs were enumerated from the first clip on, so that a cap on
their number let few clips speak; here they are drawn at random from all ordered pairs, without repetition.

Ends that are not recognised themselves make a class look concave that is merely hard: the conditional share, over pairs
whose two ends are recognised, is ours. So is `top`, the share where c stays the highest of all classes, because 0.1 is
little for sigmoids and mere chance for the softmax of ten classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attacks.gradients import pad_to_lanes
from attacks.projections import per_example
from robust.errors import DataError, unknown
from robust.metrics.classification import wilson
from robust.metrics.geometry.estimate import RESAMPLES, Estimate
from robust.metrics.geometry.input_loss import evaluated
from robust.metrics.geometry.latent_arrays import membership
from robust.metrics.geometry.ranks import Correlation, correlation
from robust.metrics.multilabel import bootstrap_weights, percentile_interval

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Parts: TypeAlias = dict[str, Tensor]
Head: TypeAlias = Callable[[Any], Tensor]
Kind = Literal["convexity", "conditional", "top"]

THRESHOLD, PAIRS, BATCH = 0.1, 2000, 256
CELLS = 2**20
"""Weights of pairs held at once (8 MB)."""
WHOLE = "latent"
"""Name of latents that were given without one."""
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(dim=1),
}


class ClassConvexity(NamedTuple):
    """Convexity of one class; every interval is Wilson's, over pairs.

    Pairs share clips: as a statement about other clips of the class these intervals are too narrow.

    Attributes:
        convexity: Share of pairs recognised in between; NaN, as are the others, for a class of fewer than 2 clips.
        conditional: The same of pairs whose two ends are recognised; its `count` says how many those are.
        top: Share of pairs in between which the class has the highest logit.
    """

    convexity: Estimate
    conditional: Estimate
    top: Estimate


@dataclass(frozen=True)
class Convexity:
    """Convexity of every class, and over classes.

    Attributes:
        convexity, conditional, top: Mean over the classes that have pairs; bootstrap over clips, each pair weighing as
            often as both its clips are drawn.
        per_class: One for each of K classes.
        clips: (K,) clips of each class.
        pairs: Pairs examined in all.
    """

    convexity: Estimate
    conditional: Estimate
    top: Estimate
    per_class: tuple[ClassConvexity, ...]
    clips: tuple[int, ...]
    pairs: int

    def frequency_correlation(
        self, counts: ArrayLike | None = None, *, kind: Kind = "convexity", method: str = "pearson", seed: int = 0
    ) -> Correlation:
        """Correlation over classes of convexity with the logarithm of how frequent the class is.

        Args:
            counts: (K,) clips of each class in training; those measured here when None. Classes of 0 are left out.
            kind: Which of the three shares.
            method: `pearson` (the paper's), `spearman` or `kendall`.
            seed: Of bootstrap and permutations.

        Raises:
            DataError: If there is not one count for each class, or a name is unknown.
        """
        if kind not in ClassConvexity._fields:
            raise DataError(unknown("share of pairs", kind, ClassConvexity._fields))
        given = np.asarray(self.clips if counts is None else counts, dtype=np.float64)
        if given.shape != (len(self.per_class),):
            raise DataError(f"Give one count for each of {len(self.per_class)} classes; given shape {given.shape}.")
        logs = np.log(np.where(given > 0, given, np.nan))
        shares = [getattr(one, kind).value for one in self.per_class]
        return correlation(logs, shares, method=method, over="classes", seed=seed)


def convexity(
    latents: Tensor | Mapping[str, Tensor],
    labels: Tensor | ArrayLike,
    head: Head,
    *,
    vary: str | Sequence[str] | None = None,
    activation: Literal["sigmoid", "softmax"] | None = None,
    threshold: float = THRESHOLD,
    pairs: int = PAIRS,
    classes: int | None = None,
    batch_size: int = BATCH,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Convexity:
    """Convexity of the classes in a latent space.

    Args:
        latents: (N, ...) float, whole as the head takes them; or by modality, name -> (N, ...).
        labels: (N,) int64 class indices, or (N, K) multi-hot.
        head: Latents in the form given (a tensor, or a dict of them) -> logits (B, K). A module, or a method of one, is
            put in evaluation mode for the time; what a closure hides must be in it.
        vary: Modalities to interpolate, all when None; the others stay those of the first clip of the pair. Then the
            second end of a pair is a hybrid, and it is that which must be recognised for the conditional share.
        activation: Of logits; `softmax` for class indices and `sigmoid` for multi-hot labels when None.
        threshold: Probability from which a class counts as recognised.
        pairs: Ordered pairs drawn of each class; all of them, where there are no more.
        classes: K, where class indices may not show the last ones.
        batch_size: Latents that the head takes at once; results do not depend on it.
        resamples: Bootstrap draws.
        seed: Of pairs, of r, of bootstrap draws. A class's pairs depend on its own clips and number alone.

    Raises:
        DataError: For shapes, names or numbers that do not fit.
    """
    named: Parts = dict(latents) if isinstance(latents, Mapping) else {WHOLE: latents}
    members = membership(labels, classes)
    _check(named, members, threshold, pairs)
    multilabel = np.ndim(labels) == 2
    scorer = _Scorer(
        parts=named,
        head=head if isinstance(latents, Mapping) else lambda parts: head(parts[WHOLE]),
        varied=_varied(vary, named),
        activation=_activation(activation or ("sigmoid" if multilabel else "softmax")),
        threshold=threshold,
        batch_size=batch_size,
        classes=members.shape[1],
    )
    with torch.no_grad(), evaluated(head):
        judged = [
            scorer.judge(label, *_drawn_pairs(np.flatnonzero(own), pairs, np.random.default_rng([seed, label])))
            for label, own in enumerate(members.T)
        ]
    whole, conditional, top = _over_classes(judged, len(members), resamples, seed)
    return Convexity(
        convexity=whole,
        conditional=conditional,
        top=top,
        per_class=tuple(one.shares() for one in judged),
        clips=tuple(int(count) for count in members.sum(axis=0)),
        pairs=sum(len(one.first) for one in judged),
    )


@dataclass(frozen=True)
class _Judged:
    """What became of the pairs of one class: (P,) clips, and whether each is recognised, both its ends, and top."""

    first: Places
    second: Places
    between: Bools
    ends: Bools
    top: Bools

    def counted(self) -> tuple[tuple[Bools, Bools], ...]:
        """For each of the three shares, which pairs are for and which are asked."""
        everything = np.ones_like(self.ends)
        return (self.between, everything), (self.between & self.ends, self.ends), (self.top, everything)

    def shares(self) -> ClassConvexity:
        return ClassConvexity(*(_share(int(hits.sum()), int(asked.sum())) for hits, asked in self.counted()))


@dataclass(frozen=True)
class _Scorer:
    """The head on points between clips."""

    parts: Parts
    head: Callable[[Parts], Tensor]
    varied: frozenset[str]
    activation: Callable[[Tensor], Tensor]
    threshold: float
    batch_size: int
    classes: int

    def judge(self, label: int, first: Places, second: Places, share: Floats) -> _Judged:
        """The pairs (P,) of one class at `share` of the first clip."""
        between, top = self._recognised(label, first, second, share)
        clips = np.union1d(first, second)
        whole, _ = self._recognised(label, clips, clips, np.ones(len(clips)))
        here, there = (whole[np.searchsorted(clips, side)] for side in (first, second))
        if self.varied != self.parts.keys():  # the second end is a hybrid
            there, _ = self._recognised(label, first, second, np.zeros_like(share))
        return _Judged(first, second, between, here & there, top)

    def _recognised(self, label: int, first: Places, second: Places, share: Floats) -> tuple[Bools, Bools]:
        """(P,) whether the class reaches the threshold, and whether its logit is the highest."""
        above, top = np.zeros((2, len(first)), dtype=bool)
        for at in range(0, len(first), self.batch_size):
            some = slice(at, at + self.batch_size)
            logits = self._logits(*(torch.from_numpy(side[some]) for side in (first, second, share)))
            above[some] = (self.activation(logits.double())[:, label] >= self.threshold).cpu().numpy()
            top[some] = (logits.argmax(dim=1) == label).cpu().numpy()
        return above, top

    def _logits(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        points, count = pad_to_lanes(
            {name: self._between(name, value, first, second, share) for name, value in self.parts.items()}
        )
        logits = self.head(points)
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise DataError(
                f"The head gave logits of shape {tuple(logits.shape)}; expected (batch, {self.classes}), a column for "
                "each class of the labels. Pass classes=... if the labels do not show them all."
            )
        return logits[:count]

    def _between(self, name: str, value: Tensor, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        here = value[first.to(value.device)]
        if name not in self.varied:
            return here
        # r h_i + (1 - r) h_j, so that r = 1 and r = 0 give the clips themselves to the last bit.
        weight = per_example(share.to(value.device), value)
        return weight * here + (1 - weight) * value[second.to(value.device)]


def _drawn_pairs(members: Places, count: int, generator: np.random.Generator) -> tuple[Places, Places, Floats]:
    """Ordered pairs of different clips of a class, without repetition, and r for each."""
    size = len(members)
    possible = size * (size - 1)
    taken = generator.choice(possible, count, replace=False) if count < possible else np.arange(possible)
    first, step = np.divmod(taken, max(size - 1, 1))
    second = (first + 1 + step) % max(size, 1)
    return members[first], members[second], generator.random(len(taken))


def _share(hits: int, count: int) -> Estimate:
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, "pairs", 0)
    return Estimate(hits / count, *wilson(hits, count), "pairs", count)


def _over_classes(judged: Sequence[_Judged], clips: int, resamples: int, seed: int) -> list[Estimate]:
    """The three means over classes that have a share, each with a bootstrap over clips."""
    even = np.ones((1, clips))
    points = _macro(judged, even)[:, 0]
    spread = np.concatenate([even[:0], *bootstrap_weights(clips, resamples, seed)])
    draws = _macro(judged, spread)
    concerned = len(np.unique(np.concatenate([side for one in judged for side in (one.first, one.second)])))
    return [
        Estimate(float(point), *percentile_interval(values, (math.nan, math.nan)), "clips", concerned)
        for point, values in zip(points, draws, strict=True)
    ]


def _macro(judged: Sequence[_Judged], weights: Floats) -> Floats:
    """(3, R) means over classes of the three shares, each pair weighing the product of its clips' weights (R, N)."""
    total, rated = np.zeros((2, 3, len(weights)))
    for one in judged:
        if len(one.first) == 0:
            continue
        counted = np.array(one.counted(), dtype=np.float64)  # (3, 2, P)
        step = max(1, CELLS // len(one.first))
        for draws in (slice(at, at + step) for at in range(0, len(weights), step)):
            both = weights[draws, one.first] * weights[draws, one.second]
            found, known = np.moveaxis(counted @ both.T, 1, 0)
            total[:, draws] += np.where(known > 0, found / np.where(known > 0, known, 1.0), 0.0)
            rated[:, draws] += known > 0
    return np.where(rated > 0, total / np.maximum(rated, 1), np.nan)


def _varied(vary: str | Sequence[str] | None, parts: Parts) -> frozenset[str]:
    wanted = parts.keys() if vary is None else {vary} if isinstance(vary, str) else set(vary)
    for name in wanted:
        if name not in parts:
            raise DataError(unknown("modality", name, parts))
    if not wanted:
        raise DataError(f"Nothing to interpolate; name one of {', '.join(parts)} in vary, or leave it out for all.")
    return frozenset(wanted)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise DataError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]


def _check(parts: Parts, members: Bools, threshold: float, pairs: int) -> None:
    for name, value in parts.items():
        if value.ndim < 2 or len(value) != len(members):
            raise DataError(
                f"The latents {name!r} must be (clips, ...) for the {len(members)} labels; given {tuple(value.shape)}."
            )
        if not bool(value.isfinite().all()):
            raise DataError(f"The latents {name!r} are not all finite; look for the cause in the victim.")
    if members.shape[1] == 0:
        raise DataError("Convexity needs labels of one class or more; given none.")
    if not 0 < threshold < 1 or pairs < 1:
        raise DataError(
            f"Convexity needs a threshold between 0 and 1 and one pair or more; given {threshold:g} and {pairs}."
        )


__all__ = ["ClassConvexity", "Convexity", "convexity"]
