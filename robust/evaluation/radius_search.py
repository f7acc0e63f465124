"""The condition behind a curve: for each clip, the smallest of a grid of budgets that breaks it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Victim
from attacks.minimal import minimal_scale
from attacks.radii import MinimalResult
from attacks.threat import Unit
from robust.evaluation.conditions import Attack, audited_within
from robust.seeds import generators_for
from robust.types import Batch, Outcome

DECIBELS = {"dbfs": 1.0, "snr_db": -1.0}
"""Units in which a budget is a level, and whether it grows or falls with it."""


def shares(levels: Sequence[float], unit: Unit) -> Tensor:
    """(G,) float64: what share of the last level's budget each level is, ascending to 1.

    Args:
        levels: From the smallest budget to the largest; for `snr_db` this is from high to low.
        unit: Of the levels.

    Raises:
        ThreatModelError: If there are none, one is not finite, or they do not go from smaller budgets to larger ones.
    """
    given = torch.tensor(list(levels), dtype=torch.float64)
    if len(given) == 0 or not bool(given.isfinite().all()):
        raise ThreatModelError("A curve needs at least one radius, and finite ones.")
    if unit in DECIBELS:
        found = 10 ** (DECIBELS[unit] * (given - given[-1]) / 20)
    elif bool((given <= 0).any()):
        raise ThreatModelError("The radii of a curve must be positive and ascending, each given once.")
    else:
        found = given / given[-1]
    if bool((found[1:] <= found[:-1]).any()):
        raise ThreatModelError(
            "The radii of a curve must be positive and ascending, each given once"
            f"{'; SNRs go from high to low' if unit == 'snr_db' else ''}."
        )
    return found


def level_at(share: float, last: float, unit: Unit) -> float:
    """The level of which the budget is `share` of that of the level `last`; the inverse of `shares`."""
    if unit not in DECIBELS:
        return share * last
    decibels = 20 * math.log10(share) if share > 0 else -math.inf
    return last + DECIBELS[unit] * decibels


@dataclass(frozen=True)
class RadiusSearch:
    """Finds, for each clip, between which shares of a threat model's budget it breaks.

    Records get `scale`: the realised size of the smallest perturbation found that breaks the clip, over the budget of
    the threat model (over several modalities the largest of the ratios); 0 where the clip is wrong at first, infinite
    where none was found. The rest is as of an attack of that size: what the victim is asked again is the clip so
    perturbed, audited against `scale` times the budget.

    Attributes:
        attack: The attack, with the largest budget.
        grid: Ascending shares of that budget, see `shares`.
    """

    attack: Attack
    grid: tuple[float, ...]

    @property
    def name(self) -> str:
        """Part of every derived seed."""
        return "curve"

    def describe(self) -> dict[str, Any]:
        """The attack's description with the grid."""
        return {**self.attack.describe(), "condition": self.name, "grid": list(self.grid)}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The clips as the smallest perturbations found leave them."""
        attack, rows = self.attack, self._with_budget(batch)
        inputs, count = dict(batch.inputs), len(batch)
        wrong = attack.goal(batch.labels).broken(clean_logits).cpu()
        scale = torch.where(wrong, 0.0, torch.inf).double()
        forwards, backwards = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        if len(rows):
            found = self._search(victim, batch, rows, seed)
            place = rows.cpu()
            scale[place] = found.scale.cpu()
            forwards[place], backwards[place] = found.forwards.cpu(), found.backwards.cpu()
            for name in attack.threat:
                inputs[name] = inputs[name].index_copy(0, rows, found.inputs[name])
        columns: dict[str, Any] = {
            "attacked": (scale > 0).tolist(),
            "success": ((scale > 0) & scale.isfinite()).tolist(),
            "scale": scale.tolist(),
            "forwards": forwards.tolist(),
            "backwards": backwards.tolist(),
            **audited_within(attack.threat, batch, inputs, scale.where(scale.isfinite(), torch.ones(()).double())),
        }
        return Outcome(inputs, columns)

    def _with_budget(self, batch: Batch) -> Tensor:
        """Clips that may be changed at all: an SNR allows nothing of a silent one."""
        budgets = [
            ball.around(batch.inputs[name], batch.valid.get(name)).radius for name, ball in self.attack.threat.items()
        ]
        return (torch.stack(budgets) > 0).all(dim=0).nonzero()[:, 0]

    def _search(self, victim: Victim, batch: Batch, rows: Tensor, seed: int) -> MinimalResult:
        return minimal_scale(
            victim,
            {name: value[rows] for name, value in batch.inputs.items()},
            self.attack.goal(batch.labels[rows]),
            self.attack.threat,
            config=self.attack.config,
            grid=torch.tensor(self.grid, dtype=torch.float64),
            valid={name: mask[rows] for name, mask in batch.valid.items()},
            generators=generators_for(seed, [batch.ids[row] for row in rows.tolist()], self.name),
        )
