"""Can robustness be read off a model? Rank correlations of every measure of geometry with every score of a study.

Over victims a pair of numbers comes from one victim under one seed, and victims of one model are a family: values of
sharpness mean nothing across architectures, so what counts is the mean of the coefficients within families. Seeds of
one recipe resemble each other; p over them is too small as a statement about other recipes. So the same is given over
recipes, each the mean of its seeds, within families and over all victims. Over classes the pairs are classes of one
victim (`robust.study.class_ranks`).

Hundreds of pairs are tried at once: q is the false discovery rate at which each would be called real (Benjamini &
Hochberg 1995), over all pairs of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.progress import track
from robust.metrics.geometry.ranks import Correlation, correlation, family_correlation
from robust.study.class_ranks import complete, within_victims
from robust.study.points import MEASURE, NUMBER, SUBJECT, Points, class_points, victim_points
from robust.study.store import StudyStore
from robust.study.verdicts import correct

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
RESAMPLES, PERMUTATIONS = 300, 999
OVERS: Mapping[str, str] = {
    "victims": "Geometry against robustness, over victims and seeds",
    "classes": "Geometry against robustness, over the classes of each victim",
    "scores": "Scores against each other, over victims and seeds",
}
SCOPES: Mapping[str, tuple[str, ...]] = {
    "victims": ("within", "recipes", "across", "means"),
    "classes": ("within", "across"),
    "scores": ("within", "recipes", "across", "means"),
}
"""What each correlation is taken over: within families, within them over means of seeds, over everything, over means of
seeds of everything."""
PRIMARY: Mapping[str, str] = {"victims": "kendall", "classes": "spearman", "scores": "kendall"}
"""The method that pairs are ordered by, and whose p become q."""
COEFFICIENTS = ("kendall", "spearman")
MOST_CLASSES = 100
"""Beyond so many classes, Kendall's, which compares all pairs of them, is left out."""
PLACE = ("over", "data", "geometry", "measured_on", *MEASURE, *NUMBER)
COUNTS = ("n", "families", "recipes", "left_out")
ENDS = ("", "_low", "_high", "_p")
_SCOPES = ("within", "recipes", "across", "means")
COLUMNS = (
    *PLACE,
    *COUNTS,
    *(f"{method}_{scope}{end}" for scope in _SCOPES for method in COEFFICIENTS for end in ENDS),
    *(f"q_{scope}" for scope in _SCOPES),
)
"""Of the table."""


@dataclass(frozen=True)
class Correlations:
    """What came of all pairs.

    Attributes:
        table: One row for each pair of a measure and a number. `over` is a key of `OVERS`; `geometry` and
            `measured_on` name the condition and the data of the measure; of `scores`, `group` is `score` and `measure`
            the other number. Then `n` (pairs of numbers; of classes: classes), `families`, `recipes` (how many
            `within` and `recipes` hear), `left_out` (families too small), for each method and scope the coefficient
            `METHOD_SCOPE` with `_low`, `_high`, `_p`, and `q_SCOPE`.
        victims: What the rows over victims are taken of.
        left_out: What could not be read, in words.
    """

    table: pd.DataFrame
    victims: Points
    left_out: tuple[str, ...] = ()


def correlate(
    study: StudyStore, *, resamples: int = RESAMPLES, permutations: int = PERMUTATIONS, seed: int = 0
) -> Correlations:
    """All correlations of a study.

    Args:
        study: With finished cells of kind `geometry`, and with scores.
        resamples: Bootstrap draws of each interval.
        permutations: Random orders for each p.
        seed: Of both.

    Raises:
        StoreError: If a run lacks what it must hold.
    """
    return correlated(victim_points(study), class_points(study), resamples, permutations, seed)


def correlated(
    victims: Points, classes: Points, resamples: int = RESAMPLES, permutations: int = PERMUTATIONS, seed: int = 0
) -> Correlations:
    """The same of points that were read before."""
    import pandas as pd

    options = {"resamples": resamples, "permutations": permutations, "seed": seed}
    asked = [*_of_victims(victims), *_of_classes(classes), *_of_scores(victims)]
    rows = [{**pair.place, **pair.told(options)} for pair in track(asked, "Correlations")]
    table = pd.DataFrame(rows, columns=COLUMNS)
    for over in OVERS:
        own = table["over"] == over
        for scope in SCOPES[over]:
            table.loc[own, f"q_{scope}"] = rates(table.loc[own, f"{PRIMARY[over]}_{scope}_p"])
    return Correlations(table, victims, (*victims.left_out, *classes.left_out))


def rates(p: pd.Series) -> Floats:
    """q-values of those p that are known (Benjamini & Hochberg 1995); NaN of the others."""
    values = p.to_numpy(dtype=np.float64)
    found, known = np.full(len(values), np.nan), ~np.isnan(values)
    found[known] = correct(values[known].tolist(), "benjamini-hochberg")
    return found


def strongest(table: pd.DataFrame, over: str, most: int | None = None) -> pd.DataFrame:
    """Rows of one part, the strongest within families first; where none is known, the strongest across."""
    own = table[table["over"] == over]
    keys = [f"{PRIMARY[over]}_{scope}" for scope in ("within", "across")]
    sizes = own[keys].abs().assign(place=range(len(own)))
    order = sizes.sort_values([*keys, "place"], ascending=[False, False, True], na_position="last").index
    return own.loc[order if most is None else order[:most]]


@dataclass(frozen=True)
class _Pair:
    """Two numbers of the same victims, or of the same classes of each.

    Attributes:
        place: Which, as `PLACE` names it.
        first, second: (N,) by point, or (V, K) by victim and class.
        families: N names; none by class.
        recipes: N names; none by class.
    """

    place: dict[str, Any]
    first: Floats
    second: Floats
    families: Sequence[str] = ()
    recipes: Sequence[str] = ()

    def told(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Counts, and all coefficients."""
        return self._by_class(options) if self.first.ndim == 2 else self._by_victim(options)

    def _by_victim(self, options: Mapping[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        x, y, names, families = self._means()
        repeated = len(names) < len(self.first)
        for method in COEFFICIENTS:
            found = family_correlation(self.first, self.second, self.families, method=method, **options)
            means = family_correlation(x, y, families, method=method, **options) if repeated else found
            row |= _ends(method, "within", found.within) | _ends(method, "across", found.across)
            row |= _ends(method, "recipes", means.within) | _ends(method, "means", means.across)
            row |= {"n": found.across.estimate.count, "families": len(found.by_family)}
            row |= {"recipes": means.within.estimate.count, "left_out": ", ".join(found.left_out)}
        return row

    def _means(self) -> tuple[Floats, Floats, list[str], list[str]]:
        """Means over the seeds of each recipe, its name and its family; of seeds in which both are known."""
        known = ~(np.isnan(self.first) | np.isnan(self.second))
        names = [name for name, there in zip(self.recipes, known, strict=True) if there]
        kin = dict(zip(self.recipes, self.families, strict=True))
        unique = list(dict.fromkeys(names))
        places = [np.flatnonzero(known & (np.array(self.recipes) == name)) for name in unique]
        x, y = (np.array([side[own].mean() for own in places]) for side in (self.first, self.second))
        return x, y, unique, [kin[name] for name in unique]

    def _by_class(self, options: Mapping[str, Any]) -> dict[str, Any]:
        heard, classes = complete(self.first, self.second)[0].shape
        row: dict[str, Any] = {"n": classes, "families": heard, "recipes": None, "left_out": ""}
        means = [_known_means(side, self.first, self.second) for side in (self.first, self.second)]
        for method in COEFFICIENTS:
            if method == "kendall" and self.first.shape[1] > MOST_CLASSES:
                continue
            found = within_victims(self.first, self.second, method=method, **options)
            row |= _ends(method, "within", found)
            row |= _ends(method, "across", correlation(*means, method=method, over="classes", **options))
        return row


def _known_means(side: Floats, first: Floats, second: Floats) -> Floats:
    """(K,) mean over the victims in which both numbers of a class are known; NaN where there is none."""
    known = ~(np.isnan(first) | np.isnan(second))
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, side, 0.0).sum(axis=0) / known.sum(axis=0)
    return means


def _ends(method: str, scope: str, found: Correlation) -> dict[str, float]:
    values = (found.estimate.value, found.estimate.low, found.estimate.high, found.p)
    return {f"{method}_{scope}{end}": value for end, value in zip(ENDS, values, strict=True)}


def _of_victims(points: Points) -> Iterator[_Pair]:
    """Every measure against every number, on every data set."""
    for place, own, scored in _sides(points):
        measures, numbers = _columns_of(own, MEASURE), _columns_of(scored, NUMBER)
        joined = measures.index.intersection(numbers.index, sort=False)
        for measure in measures:
            for number in numbers:
                named = {**_named(MEASURE, measure), **_named(NUMBER, number)}
                values = (measures.loc[joined, measure], numbers.loc[joined, number])
                yield _by_point({**place, "over": "victims", **named}, *values)


def _of_classes(points: Points) -> Iterator[_Pair]:
    """The same class by class, over classes that both sides name."""
    for place, own, scored in _sides(points):
        numbers = _matrices(scored, NUMBER)
        for measure, first in _matrices(own, MEASURE).items():
            for number, second in numbers.items():
                victims = first.index.intersection(second.index, sort=False)
                labels = first.columns.intersection(second.columns, sort=False)
                named = {**_named(MEASURE, measure), **_named(NUMBER, number)}
                values = (side.loc[victims, labels].to_numpy(dtype=np.float64) for side in (first, second))
                yield _Pair({**place, "over": "classes", **named}, *values)


def _of_scores(points: Points) -> Iterator[_Pair]:
    """Every two scores of different kinds: do noise and attacks rank victims alike, and does the clean score?"""
    for data, own in points.scores.groupby("data", sort=False):
        numbers = _columns_of(own, NUMBER)
        place = {"over": "scores", "data": data, "geometry": "", "measured_on": data}
        for first, second in combinations(numbers, 2):
            if first[0] != second[0]:
                named = {"group": "score", "space": first[0], "measure": first[2], **_named(NUMBER, second)}
                yield _by_point({**place, **named}, numbers[first], numbers[second])


def _sides(points: Points) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """For every data set with scores and every measurement on the same set: where, its geometry, its scores."""
    for (known, data), scored in points.scores.groupby(["set", "data"], sort=False):
        same = points.geometry[points.geometry["set"] == known]
        for (condition, measured_on), own in same.groupby(["condition", "data"], sort=False):
            yield {"data": data, "geometry": condition, "measured_on": measured_on}, own, scored


def _by_point(place: dict[str, Any], first: pd.Series, second: pd.Series) -> _Pair:
    values = (side.to_numpy(dtype=np.float64) for side in (first, second))
    return _Pair(place, *values, *(first.index.get_level_values(name).tolist() for name in ("family", "victim")))


def _columns_of(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Values by point and by measure or number, both in the order in which they were found."""
    return frame.set_index([*SUBJECT, *columns])["value"].unstack(list(columns), sort=False)


def _matrices(frame: pd.DataFrame, columns: Sequence[str]) -> dict[Any, pd.DataFrame]:
    """Measure or number -> its values by point and class."""
    groups = frame.groupby(list(columns), sort=False)
    return {key: own.set_index([*SUBJECT, "label"])["value"].unstack("label", sort=False) for key, own in groups}


def _named(names: Sequence[str], values: Any) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


__all__ = [
    "COEFFICIENTS",
    "COLUMNS",
    "OVERS",
    "PLACE",
    "PRIMARY",
    "SCOPES",
    "Correlations",
    "correlate",
    "correlated",
    "rates",
    "strongest",
]
