"""From who stands in which draw to the numbers of `robust attack --purify`.

A clip's result is the share of scoring draws in which it stands under its worst attack; scores are means of these
shares over clips, with intervals that hold for new clips (bootstrap; a clip's draws are its own and come with it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust.evaluation.purifier_attacks import described
from robust.evaluation.purifier_label import label, missing_of
from robust.evaluation.purifier_versions import PURPOSES, SCORING, SELECTION, UNPERTURBED
from robust.metrics.classification import Score, accuracy, wilson
from robust.metrics.multilabel import percentile_interval
from robust.seeds import derived_seed

if TYPE_CHECKING:
    import pandas as pd

Shares = NDArray[np.float64]
"""(N,) in which part of its draws each clip stands; NaN where that is not known."""

RESAMPLES = 1000
METRIC = "accuracy over draws"


def attack_names(records: pd.DataFrame) -> list[str]:
    """The attacks that records tell of, from cheap to dear."""
    ending = f"_{SCORING}"
    names = [column.removesuffix(ending) for column in records if column.endswith(ending)]
    return [name for name in names if name not in (UNPERTURBED, "worst")]


def shares(records: pd.DataFrame, version: str, purpose: str = SCORING) -> Shares:
    """Of the unperturbed clips, of an attack, or of the `worst`."""
    return np.array([np.nan if row is None else np.mean(row) for row in records[f"{version}_{purpose}"]], dtype=float)


def worst_shares(records: pd.DataFrame, names: Sequence[str]) -> Shares:
    """Shares under the worst of these attacks for each clip, or of the clip as it is: chosen as in a run of them."""
    versions = (UNPERTURBED, *names)
    found = {purpose: np.stack([shares(records, one, purpose) for one in versions]) for purpose in PURPOSES}
    selection = np.nan_to_num(found[SELECTION], nan=np.inf)
    gains = np.stack([records[f"{one}_gain"].astype(float).to_numpy() for one in versions])
    lowest = selection == selection.min(axis=0)
    order = np.where(lowest, np.maximum(np.nan_to_num(gains, nan=-np.inf), -1e300), -np.inf)
    return np.asarray(np.take_along_axis(found[SCORING], order.argmax(axis=0)[None], axis=0)[0])


def share_score(values: Shares, seed: int, metric: str = METRIC) -> Score:
    """Mean of shares with a bootstrap over clips; Wilson's interval where every clip always stands, or none ever."""
    count = len(values)
    if count == 0 or values.sum() in (0.0, float(count)):
        low, high = wilson(round(values.sum()), count)
        return Score(float(values.mean()) if count else float("nan"), low, high, metric, count)
    generator = np.random.default_rng(derived_seed(seed, "purification"))
    spread = values[generator.integers(0, count, (RESAMPLES, count))].mean(axis=1)
    return Score(float(values.mean()), *percentile_interval(spread, (0.0, 1.0)), metric, count)


def purified_clean(records: pd.DataFrame, seed: int = 0) -> Score:
    """How often clips that nobody attacked stand after the purifier."""
    return share_score(shares(records, UNPERTURBED), seed)


def purified_robust(records: pd.DataFrame, seed: int = 0) -> Score:
    """How often clips stand after the purifier, each under the attack that does worst to it."""
    return share_score(shares(records, "worst"), seed)


def bare_robust(records: pd.DataFrame) -> Score | None:
    """Share of clips that stand the transfer attack without a purifier; None where it was not run."""
    found = records["bare_stands"]
    return None if found.isna().any() else accuracy(found.to_numpy(dtype=bool))


def purification_scores(records: pd.DataFrame, skipped: Mapping[str, str], seed: int = 0) -> dict[str, Any]:
    """`clean`, `robust`, `always` (in all scoring draws), the bare victim's, the table of attacks, and the label.

    Args:
        records: One row per clip, as `Purification` makes them.
        skipped: Attacks that were asked for and not run, and why.
        seed: Of the bootstrap.
    """
    bare, missing = bare_robust(records), missing_of(records["adaptivity"])
    always = accuracy(np.array([all(row) for row in records[f"worst_{SCORING}"]]))
    return {
        "clean": asdict(purified_clean(records, seed)),
        "robust": asdict(purified_robust(records, seed)),
        "always": asdict(Score(always.score, always.low, always.high, "accuracy in all draws", always.clips)),
        "bare_clean": asdict(accuracy(records["clean_correct"].to_numpy())),
        "bare_robust": None if bare is None else asdict(bare),
        "adaptive": not missing,
        "missing": missing,
        "label": label(missing),
        "attacks": {name: _row(records, name, seed) for name in attack_names(records)},
        "skipped": dict(skipped),
    }


def _row(records: pd.DataFrame, name: str, seed: int) -> dict[str, Any]:
    """One line of the table.

    `robust`: under this attack alone, None where a cascade gave it some clips only; `left`: under it and all before
    it; `standing`: of the `clips` it worked on; `worst_for`: clips to which none did worse.
    """
    names, found = attack_names(records), shares(records, name)
    ran = ~np.isnan(found)
    everywhere = bool(ran[records["attacked"].to_numpy(dtype=bool)].all())
    some = records[ran]
    told: dict[str, Any] = {
        "what": described(name),
        "clips": int(ran.sum()),
        "robust": asdict(share_score(worst_shares(records, [name]), seed)) if everywhere else None,
        "standing": asdict(share_score(found[ran], seed)) if ran.any() else None,
        "left": asdict(share_score(worst_shares(records, names[: names.index(name) + 1]), seed)),
        "worst_for": int((records["worst"] == name).sum()),
        "forwards": float(some[f"{name}_forwards"].mean()) if ran.any() else 0.0,
        "backwards": float(some[f"{name}_backwards"].mean()) if ran.any() else 0.0,
    }
    if name == "fixed" and ran.any():
        told["held"] = asdict(accuracy(some["fixed_held"].to_numpy(dtype=bool)))
    return told
