"""How densely the clips of a class lie in a latent space: measures each named for what it is.

What the ICASSP 2022 paper calls density is not on record (methods.md 2.3). These are the measures recommended there;
none claims to be the paper's:

    knn-log-density        D1: log k - log M - log V_D - D log r_k, r_k the distance to the k-th of M other clips
    knn-class-log-density  D1 among the clips of one class
    knn-compactness        D1 in many dimensions: -log r_k after every latent is scaled to length 1
    intra-inter-ratio      D2: mean distance to the class's mean, over that between class means; small is dense
    sample-log-density     log(dN / Vol(dB)) of Pang et al. 2020: clips within one fixed radius over the ball's volume
    local-purity           D3: share of the k nearest neighbours that have a label in common with the clip

The log-densities go with the scale and the dimension of the latents: they compare clips and classes of one space, never
victims; the other three have no unit. Distances are Euclidean, in float64; V_D is the volume of the unit ball.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from robust.errors import DataError
from robust.metrics.geometry.estimate import RESAMPLES, Estimate, bootstrapped
from robust.metrics.geometry.latent_arrays import membership, nearest, points, within
from robust.metrics.multilabel import percentile_interval

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
NEIGHBOURS = 10


@dataclass(frozen=True)
class Density:
    """One measure of one latent space.

    Attributes:
        measure: Its name, as in the module's list.
        per_clip: (N,) float64; NaN where undefined: a clip without a label, or one that coincides with k others.
        overall: Mean over clips (`intra-inter-ratio`: over classes); neighbours of a clip stay its own when clips are
            drawn again, so that the interval is that of the mean alone.
        per_class: K of the same, each over the clips of a class; NaN for classes that cannot be rated.
        higher_is_denser: Which way it goes.
    """

    measure: str
    per_clip: Floats
    overall: Estimate
    per_class: tuple[Estimate, ...]
    higher_is_denser: bool = True


class LatentSpace:
    """Latents of clips and their labels, with neighbours found once for all measures.

    Args:
        latents: (N, D), or (N, S, D) of which the mean over S steps is taken. Finite.
        labels: (N,) int64 class indices, or (N, K) multi-hot.
        classes: K, where single labels may not show the last ones.
        neighbours: k, from 1 to N - 1.
        resamples: Bootstrap draws of every interval.
        seed: Of the draws.

    Raises:
        DataError: For shapes that do not fit, latents that are not finite, or too few clips for k neighbours.
    """

    def __init__(
        self,
        latents: Tensor | ArrayLike,
        labels: Tensor | ArrayLike,
        *,
        classes: int | None = None,
        neighbours: int = NEIGHBOURS,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self.latents, self.members = points(latents), membership(labels, classes)
        count = len(self.latents)
        if len(self.members) != count:
            raise DataError(
                f"Latents of {count} clips, but labels of {len(self.members)}; give one of each for a clip."
            )
        if not 1 <= neighbours < count:
            raise DataError(
                f"{neighbours} neighbours of {count} clips: the number of neighbours must be from 1 to {count - 1}."
            )
        self.neighbours, self.resamples, self.seed = neighbours, resamples, seed

    def log_density(self) -> Density:
        """D1 of each clip among all others, nats; its class means say where in the whole a class lies."""
        return self._rated("knn-log-density", self._log_density(self._nearest[0][:, -1], len(self.latents) - 1))

    def class_log_density(self) -> Density:
        """D1 among the clips of a class alone, nats: how concentrated each class is in itself.

        A clip with several labels has the mean over its classes; classes of k clips or fewer cannot be rated. Values of
        classes of different sizes are comparable, as the count is divided out.
        """
        each = np.full(self.members.shape, np.nan)
        for label, members in enumerate(self._classes):
            if len(members) > self.neighbours:
                own = self.latents[members]
                each[members, label] = self._log_density(nearest(own, self.neighbours)[0][:, -1], len(members) - 1)
        return self._of_classes("knn-class-log-density", each)

    def compactness(self) -> Density:
        """Minus log of the distance to the k-th neighbour on the unit sphere (latents scaled to length 1), nats."""
        lengths = np.linalg.norm(self.latents, axis=1, keepdims=True)
        on_sphere = self.latents / np.where(lengths > 0, lengths, 1.0)
        return self._rated("knn-compactness", -_log(nearest(on_sphere, self.neighbours)[0][:, -1]))

    def sample_density(self, radius: float | None = None) -> Density:
        """Pang's log(dN / Vol(dB)), nats: clips within `radius` of each, itself among them, over the ball's volume.

        Args:
            radius: In units of the latents; the median distance to the k-th neighbour when None. Spaces and classes
                compare at one radius only.

        Raises:
            DataError: If the radius is not above 0.
        """
        radius = float(np.median(self._nearest[0][:, -1])) if radius is None else radius
        if not (math.isfinite(radius) and radius > 0):
            raise DataError(f"The radius of a sample density must be finite and above 0; given {radius:g}.")
        inside = within(self.latents, radius)
        return self._rated("sample-log-density", np.log(inside) - self._log_volume(math.log(radius)))

    def purity(self) -> Density:
        """Share of the k nearest neighbours with a label in common, 0 to 1; NaN for clips without a label."""
        found = self._nearest[1]
        shared = (self.members[found] & self.members[:, None]).any(axis=2).mean(axis=1)
        return self._rated("local-purity", np.where(self.members.any(axis=1), shared, np.nan))

    def ratio(self) -> Density:
        """D2: within-class spread over the distance between classes, per class and as the ratio of the two means.

        A class's own ratio is its spread over its mean distance to the other classes; that of a clip its distance to
        the mean of its class (mean over its classes) over the mean distance between classes.
        """
        shape = _Spread.of(self.latents, self._classes)
        generator, count = np.random.default_rng(self.seed), len(self.latents)
        drawn = [self._drawn(generator.integers(0, count, count)) for _ in range(self.resamples)]
        overall, spread = (np.array([draw[place] for draw in drawn]) for place in (0, 1))
        clips = np.full(self.members.shape, np.nan)
        for label, members in enumerate(self._classes):
            clips[members, label] = np.linalg.norm(self.latents[members] - shape.means[label], axis=1) / shape.inter
        return Density(
            "intra-inter-ratio",
            _mean_over_labels(clips),
            _recentred(shape.overall, overall, int(self.members.any(axis=1).sum())),
            tuple(
                _recentred(float(value), draws, len(members))
                for value, draws, members in zip(shape.ratios, spread.T, self._classes, strict=True)
            ),
            higher_is_denser=False,
        )

    def all(self) -> tuple[Density, ...]:
        """Every measure with its defaults."""
        return (
            self.log_density(),
            self.class_log_density(),
            self.compactness(),
            self.ratio(),
            self.sample_density(),
            self.purity(),
        )

    @cached_property
    def _nearest(self) -> tuple[Floats, Places]:
        return nearest(self.latents, self.neighbours)

    @cached_property
    def _classes(self) -> list[Places]:
        return [np.flatnonzero(column) for column in self.members.T]

    def _log_density(self, distance: Floats, others: int) -> Floats:
        return math.log(self.neighbours) - math.log(others) - self._log_volume(_log(distance))

    def _log_volume(self, log_radius: Floats | float) -> Floats:
        """Log of the volume of a ball in as many dimensions as the latents have."""
        size = self.latents.shape[1]
        unit = size / 2 * math.log(math.pi) - math.lgamma(size / 2 + 1)
        volume: Floats = unit + size * np.asarray(log_radius, dtype=np.float64)
        return volume

    def _drawn(self, draw: Places) -> tuple[float, Floats]:
        spread = _Spread.of(self.latents, [draw[column] for column in self.members[draw].T])
        return spread.overall, spread.ratios

    def _estimate(self, values: Floats) -> Estimate:
        return bootstrapped(values, resamples=self.resamples, seed=self.seed)

    def _rated(self, measure: str, values: Floats) -> Density:
        per_class = tuple(self._estimate(values[members]) for members in self._classes)
        return Density(measure, values, self._estimate(values), per_class)

    def _of_classes(self, measure: str, each: Floats) -> Density:
        """From a value for each clip and class (N, K), NaN where the clip is not of the class."""
        per_class = tuple(self._estimate(each[members, label]) for label, members in enumerate(self._classes))
        values = _mean_over_labels(each)
        return Density(measure, values, self._estimate(values), per_class)


@dataclass(frozen=True)
class _Spread:
    """Spread of classes and the distances between them.

    Attributes:
        means: (K, D); NaN for classes without clips.
        ratios: (K,) mean distance to the class's mean over its mean distance to the other classes; NaN below two clips.
        inter: Mean distance between the means of two classes.
        overall: Mean spread over `inter`.
    """

    means: Floats
    ratios: Floats
    inter: float
    overall: float

    @classmethod
    def of(cls, latents: Floats, classes: Sequence[Places]) -> _Spread:
        from scipy.spatial.distance import cdist

        means, intra = np.full((len(classes), latents.shape[1]), np.nan), np.full(len(classes), np.nan)
        for label, members in enumerate(classes):
            if len(members):
                own = latents[members]
                means[label] = own.mean(axis=0)
                if len(members) > 1:
                    intra[label] = np.linalg.norm(own - means[label], axis=1).mean()
        apart = cdist(means, means)
        np.fill_diagonal(apart, np.nan)
        known = np.isfinite(apart)
        others = known.sum(axis=1)
        total = np.where(known, apart, 0.0).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = intra / (total / others)
            inter = float(total.sum() / others.sum())
            rated = ~np.isnan(intra)
            overall = float(np.float64(intra[rated].mean() if rated.any() else np.nan) / inter)
        return cls(means, ratios, inter, overall)


def _log(distance: Floats) -> Floats:
    """Natural logarithm; NaN at 0, where a clip coincides with its neighbours and has no density."""
    with np.errstate(divide="ignore"):
        return np.where(distance > 0, np.log(distance), np.nan)


def _mean_over_labels(each: Floats) -> Floats:
    """(N,) mean over the columns (N, K) that are numbers; NaN where none is."""
    known = np.isfinite(each)
    count = known.sum(axis=1)
    total = np.where(known, each, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _recentred(value: float, spread: Floats, count: int) -> Estimate:
    """A percentile interval moved so that the mean of the draws falls on the value.

    A draw repeats clips, so that its class means lie nearer to them and further from each other: all draws of a ratio
    are too low by about 1 / (clips of a class), which may be more than the interval is wide.
    """
    spread = spread[np.isfinite(spread)]
    low, high = percentile_interval(spread - (spread.mean() if spread.size else 0.0), (math.nan, math.nan))
    return Estimate(value, value + low, value + high, "clips", count)


__all__ = ["Density", "LatentSpace"]
