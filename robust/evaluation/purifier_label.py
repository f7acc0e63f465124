"""May a number against a purifier be called adaptive? If not, what was left out.

Sources: Carlini et al. 2019; Tramer et al. 2020; Wu et al. 2023, figure 2 (attacks converge from 70 steps); methods.md
5.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attacks.channel import Gradient
from robust.evaluation.purifier_attacks import BLACK_BOX, full_names

ADAPTIVE = "adaptive"
STEPS = 70
"""Enough of them, unless an attack has converged before."""
LATE_GAIN = 0.01
"""An attack has converged whose last ten steps brought less than this share of all it gained (check S13)."""
FEWEST_STEPS = 20
"""Fewer steps have no end that could be told from their beginning."""
FEWEST_QUERIES = 100
TOO_FEW_STEPS = f"under {STEPS} steps and not converged"


def missing_attacks(plan: Iterable[str], gradient: Gradient, queries: int) -> list[str]:
    """What a suite lacks, in words, but for its steps.

    Args:
        plan: The attacks that are run.
        gradient: Of the purifier: where it is straight-through there is no full one, and BPDA is what there is.
        queries: Of the black-box attacks.
    """
    names = set(plan)
    lacking = {
        "no full gradient": gradient == "exact" and not full_names(names),
        "no BPDA": "bpda" not in names,
        "no transfer": "transfer" not in names,
        "no black box": names.isdisjoint(BLACK_BOX),
        f"under {FEWEST_QUERIES} queries": not names.isdisjoint(BLACK_BOX) and queries < FEWEST_QUERIES,
    }
    return [words for words, lacks in lacking.items() if lacks]


def principal(plan: Sequence[str], gradient: Gradient) -> str | None:
    """The attack that is held to be the strongest: the full gradient over the most draws, or else BPDA."""
    full = full_names(plan)
    if full:
        return full[-1]
    return "bpda" if gradient == "straight-through" and "bpda" in plan else None


def label(missing: Sequence[str]) -> str:
    """`adaptive`, or `non-adaptive` and why."""
    return f"non-adaptive: {', '.join(missing)}" if missing else ADAPTIVE


def missing_of(labels: Iterable[str]) -> list[str]:
    """What any of these labels says is missing, in the order of its first mention."""
    told = (one.partition(": ")[2] for one in labels if one != ADAPTIVE)
    return list(dict.fromkeys(part for words in told for part in words.split(", ")))
