"""Groups of victims in claims: `transformers[linf].robust > convolutions[linf].robust`.

A statement about transformers is one about those that were not tried as well, so it must hold over clips and over
architectures: of a paired test over clips and Welch's test over victims (means over seeds), the one that says less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from robust.study.verdicts import Verdict

MEASURES = ("clean", "robust", "auc")
"""What has a mean over victims."""
TEST = "over clips and over victims, the weaker"


def mistake(groups: Mapping[str, Sequence[str]], victims: Sequence[str]) -> tuple[tuple[str | int, ...], str] | None:
    """Place and words of the first thing wrong with the groups of a study, or None."""
    for name, members in groups.items():
        if name in victims:
            return ("groups", name), f"{name!r} is a victim; give the group another name."
        twice = sorted({member for member in members if members.count(member) > 1})
        if twice:
            return ("groups", name), f"each victim once; {', '.join(twice)} stands there more often."
    return None


def over_victims(
    told: Verdict, left: NDArray[np.float64], right: NDArray[np.float64] | float, margin: float
) -> Verdict:
    """The verdict over clips, or that over victims if that one says less.

    Args:
        told: Of a paired test over clips.
        left: (V,) means of the victims on the left, over clips and seeds.
        right: (W,) of those on the right, or a number.
        margin: Added to the right side.
    """
    from scipy.stats import ttest_1samp, ttest_ind

    if len(left) < 2 or (not isinstance(right, float) and len(right) < 2):
        return replace(told, test=f"{told.test}; a group of one says nothing of others", p=1.0)
    if isinstance(right, float):
        found, shift = ttest_1samp(left - right, margin), 0.0
    else:
        found, shift = ttest_ind(left - margin, right, equal_var=False), margin
    p = 1.0 if math.isnan(float(found.pvalue)) else float(found.pvalue)  # nan: all victims alike
    ends = found.confidence_interval(0.95)
    low, high = float(ends.low) + shift, float(ends.high) + shift
    weaker = p >= (told.p or 0.0)
    return replace(
        told,
        p=max(p, told.p or 0.0),
        low=min(low, told.low) if told.low is not None else low,
        high=max(high, told.high) if told.high is not None else high,
        test=f"{'Welch t-test over victims' if weaker else told.test}, {TEST}",
    )
