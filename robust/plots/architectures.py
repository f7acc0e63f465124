"""A study of many architectures: what each scores under everything, and whether noise ranks them as attacks do."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.errors import StoreError, VictimError
from robust.metrics.geometry.ranks import correlation
from robust.plots.geometry import Interval, ScatterPanel
from robust.study.points import NUMBER, SUBJECT, victim_points
from robust.study.store import StudyStore
from robust.victims.registry import FAMILIES, victim_entry

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "other"
WORDS = {"clean": "clean", "adversarial": "attacks", "noise": "noise", "change": "other changes"}
"""Kinds of score, as panels are titled."""


def architecture_intervals(study: StudyStore) -> list[Interval]:
    """Every score of every victim; rows are victims by family, and seeds of one victim share its row.

    Raises:
        StoreError: If there are no scores.
    """
    scores = _scores(study)
    several = scores["data"].nunique() > 1
    order = {name: place for place, name in enumerate((*FAMILIES, UNKNOWN))}
    scores = scores.sort_values("architecture", key=lambda names: names.map(order), kind="stable")
    numbers = list(dict.fromkeys(zip(scores["data"], scores["kind"], scores["number"], strict=True)))
    numbers.sort(key=lambda one: list(WORDS).index(one[1]))
    found = []
    for data, kind, number in numbers:
        own = scores[(scores["data"] == data) & (scores["kind"] == kind) & (scores["number"] == number)]
        panel = WORDS[kind] + (f", {data}" if several else "")
        for row in own.to_dict("records"):
            value = 100 * float(row["value"])
            found.append(Interval(panel, f"{number} (%)", row["victim"], row["architecture"], value))
    return found


def architecture_panels(study: StudyStore, *, most: int = 9) -> list[ScatterPanel]:
    """Scores in noise against scores under attack; a point is a victim, the mean of its seeds, its marker the family.

    Raises:
        StoreError: If there are no scores.
    """
    means = _means(_scores(study))
    several, panels = means["data"].nunique() > 1, []
    for data, own in means.groupby("data", sort=False):
        table = own.pivot_table("value", ["victim", "architecture"], list(NUMBER), sort=False)
        kinds = {kind: [column for column in table if column[0] == kind] for kind in ("noise", "adversarial")}
        for noise, attack in product(kinds["noise"], kinds["adversarial"]):
            x, y = (table[column].to_numpy(dtype=np.float64) for column in (noise, attack))
            families = table.index.get_level_values("architecture").tolist()
            title = (f"{data}: " if several else "") + _told(x, y)
            words = (f"{noise[2]} (%)", f"{attack[2]} (%)")
            panels.append(ScatterPanel(*words, 100 * x, y, families, [""] * len(x), title))
    return panels[:most]


def _told(x: Any, y: Any) -> str:
    found = correlation(x, y, method="kendall", over="victims")
    low, high = found.estimate.low, found.estimate.high
    ends = f" [{low:+.2f}, {high:+.2f}]" if np.isfinite(low) else ""
    return f"τ = {found.estimate.value:+.2f}{ends}, p = {found.p:.2g}"


def _scores(study: StudyStore) -> pd.DataFrame:
    scores = victim_points(study).scores
    if scores.empty:
        raise StoreError(f"{study.folder} holds no scores of attacks, noise or changes.")
    return scores.assign(architecture=[_family(name) for name in scores["family"]])


def _means(scores: pd.DataFrame) -> pd.DataFrame:
    """Over the seeds of each victim."""
    columns = [name for name in (*SUBJECT, "architecture", "data", *NUMBER) if name != "point"]
    return scores.groupby(columns, sort=False)["value"].mean().reset_index()


def _family(model: str) -> str:
    """Kind of architecture of a registered model; of anybody's own, unknown."""
    try:
        return victim_entry(model).family
    except VictimError:
        return UNKNOWN


__all__ = ["architecture_intervals", "architecture_panels"]
