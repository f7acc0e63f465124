"""What may hide behind a purifier: gradients that lead nowhere, noise that was not averaged, luck of the draw.

Sources: Athalye et al. 2018 (signs of masked gradients); Carlini et al. 2019; AutoAttack's flag for Square (methods.md
9.3); methods.md 5.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attacks.losses import Goal
from robust.evaluation.checks import Check, Verdict
from robust.evaluation.engine import AlignedData
from robust.evaluation.purification import Purification
from robust.evaluation.purification_summary import Shares, attack_names, shares
from robust.evaluation.purifier_attacks import full_draws, full_names
from robust.evaluation.purifier_versions import SCORING
from robust.types import Batch
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

CHECKED_CLIPS = 8
TOLERATED = 0.002
"""AutoAttack flags a black-box attack that is better by more."""
LARGE = 0.05
MORE, MOST_DRAWS = 4, 20
UNSURE = 0.02
"""Standard error of the score by the draws alone from which more of them are advised."""


@dataclass(frozen=True)
class Few:
    """The first attacked clips of a run, for checks that attack again.

    Attributes:
        victim: The bare victim.
        condition: As it was run.
        records: Rows of these clips.
        batch: The clips, on the victim's device, with the labels of the records.
        clean: (B, K) logits of the bare victim.
        goal: What the attacker wants of them.
        strongest: The full gradient over the fewest draws, or what stands for it.
        seed: The run's.
        again: Shares under attacks that the run had left out on some of them.
    """

    victim: Victim
    condition: Purification
    records: pd.DataFrame
    batch: Batch
    clean: Tensor
    goal: Goal
    strongest: str
    seed: int
    again: dict[str, Shares] = field(default_factory=dict)

    @classmethod
    def of(
        cls, victim: Victim, data: AlignedData, condition: Purification, records: pd.DataFrame, seed: int
    ) -> Few | None:
        """None where no clip was attacked."""
        some = records[records["attacked"]].head(CHECKED_CLIPS)
        if len(some) == 0:
            return None
        batch, clean = clips_of(victim, data, some)
        goal = condition.attack.goal(batch.labels, clean)
        plan, _ = condition.plan(batch.inputs[condition.modality])
        return cls(victim, condition, some, batch, clean, goal, reference(plan) or plan[-1], seed)

    def run(self, name: str, condition: Purification | None = None) -> Shares:
        """(B,) in which part of the scoring draws the clips stand when attacked anew."""
        own = condition or self.condition
        _, changed = own.run(name, self.victim, self.batch, self.goal, self.seed)
        stands, _ = own.hear(self.victim, changed, self.goal, self.seed)
        return np.asarray(stands[SCORING].double().mean(dim=1).cpu().numpy())


def clips_of(victim: Victim, data: AlignedData, records: pd.DataFrame) -> tuple[Batch, Tensor]:
    """The clips of records with their labels, and what the bare victim says of them, on its device."""
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(records["index"].tolist()).to(device)
    labels = torch.as_tensor(records["label"].tolist(), device=device).to(batch.labels.dtype)
    clean = torch.as_tensor(np.stack(records["clean_logits"].tolist()), device=device).float()
    return Batch(batch.ids, batch.inputs, labels, batch.valid), clean


def reference(plan: list[str]) -> str | None:
    """The full gradient over the fewest draws, which met the most clips; where there is none, BPDA; else None."""
    full = full_names(plan)
    return full[0] if full else "bpda" if "bpda" in plan else None


def gap(own: Shares, other: Shares) -> tuple[float, float]:
    """Mean of what `own` leaves standing over what `other` does, and its standard error; infinite for one clip."""
    difference = own - other
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
    return float(difference.mean()), float(error)


def masking(few: Few, records: pd.DataFrame) -> Check:
    """S19, ours (S5 and S6 of methods.md): no attack that knows less does better than the full gradient.

    Attacks cheaper than it are compared on the same clips, where need be by attacking these again. Dearer ones met, in
    a cascade, only what it had left: of the others their gain is 0, so that what is told is the most it can be. More
    than two standard errors are a warning, and with more than five points a failure.
    """
    name = "S19 gradient masking"
    names = attack_names(records)
    own = reference(names)
    if own is None:
        return Check(name, "skipped", "there is no gradient through the purifier to compare with")
    others = [other for other in names if full_draws(other) is None and other not in (own, "fixed")]
    if not others:
        return Check(name, "skipped", "there is no other attack to compare with")
    found = [_compared(few, records, own, other) for other in others]
    order: tuple[Verdict, ...] = ("pass", "warn", "fail")
    verdict = max((one for one, _ in found), key=order.index)
    told = "; ".join(words for one, words in found if one == verdict)
    return Check(name, verdict, told if verdict == "pass" else f"{told}: read S8, and believe the lower number at most")


def _compared(few: Few, records: pd.DataFrame, own: str, other: str) -> tuple[Verdict, str]:
    """The verdict on one attack beside the full gradient, and the numbers."""
    names, attacked = attack_names(records), records[records["attacked"]]
    if few.condition.cascade and names.index(other) < names.index(own):
        mine = _filled(few, own)
        theirs = shares(few.records, other)
    else:
        mine, theirs = shares(attacked, own), shares(attacked, other)
        theirs = np.where(np.isnan(theirs), mine, theirs)
    known = ~(np.isnan(mine) | np.isnan(theirs))
    if not known.any():
        return "pass", f"{other} met no clip that {own} did"
    mine, theirs = mine[known], theirs[known]
    surplus, error = gap(mine, theirs)
    told = f"{other} leaves {100 * theirs.mean():.1f} %, {own} {100 * mine.mean():.1f} % of {len(mine)} clips"
    words = f"{told} (standard error of the difference {100 * error:.1f})"
    if surplus <= max(TOLERATED, 2 * error):
        return "pass", words
    return ("fail" if surplus > LARGE else "warn"), words


def _filled(few: Few, name: str) -> Shares:
    """Shares of the few clips under an attack: those of the run, or where it left one out, of all of them anew."""
    found = shares(few.records, name)
    if not np.isnan(found).any():
        return found
    if name not in few.again:
        few.again[name] = few.run(name)
    return few.again[name]


def more_draws(few: Few, records: pd.DataFrame) -> Check:
    """S20, ours: averaging over more draws of the noise does not change the result."""
    name = "S20 more draws"
    full = full_names(attack_names(records))
    if not full or not few.condition.random(few.batch.inputs[few.condition.modality]):
        return Check(name, "skipped", "there is no full gradient in expectation to average")
    more, (before, after) = full[-1], _both(records, full)
    if len(full) == 1:
        draws = full_draws(full[0]) or 1
        if draws >= MOST_DRAWS:
            return Check(name, "skipped", f"{full[0]} has as many draws as are usual")
        more = f"full-{min(MORE * draws, MOST_DRAWS)}"
        before, after = _filled(few, full[0]), few.run(more)
    drop, error = gap(before, after)
    told = f"{full[0]} leaves {100 * before.mean():.1f} %, {more} {100 * after.mean():.1f} % of {len(before)} clips"
    words = f"{told} (standard error of the difference {100 * error:.1f})"
    return Check(name, "warn" if drop > max(error, LARGE) else "pass", words)


def _both(records: pd.DataFrame, full: list[str]) -> tuple[Shares, Shares]:
    """Shares of the attacked clips under the fewest draws and the most; the same where the latter were not needed."""
    attacked = records[records["attacked"]]
    before = np.nan_to_num(shares(attacked, full[0]))
    after = shares(attacked, full[-1])
    return before, np.where(np.isnan(after), before, after)


def spread(records: pd.DataFrame) -> Check:
    """S21, ours: there are draws enough for the score to be one of the defense and not of its noise."""
    stands = np.stack([np.asarray(row, dtype=float) for row in records[f"worst_{SCORING}"]])
    count, draws = stands.shape
    if draws == 1:
        return Check("S21 spread over draws", "skipped", "one draw tells nothing of its spread")
    own = stands.mean(axis=1)
    error = float(np.sqrt((own * (1 - own) / (draws - 1)).sum()) / count)
    mixed, single = float(((own > 0) & (own < 1)).mean()), stands.mean(axis=0)
    told = f"{100 * mixed:.0f} % of the clips stand in some of {draws} draws and fall in others"
    ends = f"a single draw would tell {100 * single.min():.1f} to {100 * single.max():.1f} %"
    verdict: Verdict = "pass" if error <= UNSURE else "warn"
    return Check("S21 spread over draws", verdict, f"{told}; {ends}; standard error by the draws {100 * error:.1f}")
