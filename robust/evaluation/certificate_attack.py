"""The attack that no certificate may fall to: PGD on the expectation over the noise (SmoothAdv).

Sources: Salman et al. 2019, "Provably robust deep learning via adversarially trained smoothed classifiers"; Cohen et
al. 2019 (PREDICT, which says whether it succeeded).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.eot import Expectation
from attacks.losses import Goal
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from defenses.smoothing import ABSTAIN, GaussianChannel
from robust.seeds import derived_seed, generators_for
from robust.types import Batch
from robust.victims.base import Victim

Predict: TypeAlias = Callable[[Batch, int, Tensor, torch.Generator], list[int]]
"""Batch, row, waveform, generator -> PREDICT of each decision."""


@dataclass(frozen=True)
class SmoothedAttack:
    """L2 attacks at growing radii on clips whose answers are right at 0; those that fall stay fallen.

    A decision falls where the smoothed classifier's own PREDICT gives another answer than the true one; one that it
    abstains from stands, since it shows no more than that the clip is near the border.

    Attributes:
        base: Base classifier.
        channel: Adds the noise.
        config: Settings of PGD, for each radius. The first starts at the clip, each further one where the one before
            ended, moved out to its own radius.
        draws: Noises in each gradient.
        radii: Ascending; at 0 there is nothing to attack.
    """

    base: Victim
    channel: GaussianChannel
    config: PGD
    draws: int
    radii: tuple[float, ...]

    def describe(self) -> dict[str, Any]:
        """Settings."""
        return {**asdict(self.config), "search_dtype": str(self.config.search_dtype), "draws": self.draws}

    def columns(
        self, batch: Batch, certified: Mapping[str, Sequence[Any]], seed: int, predict: Predict
    ) -> dict[str, list[Any]]:
        """What stands where.

        Args:
            batch: Clips.
            certified: Columns of `robust.evaluation.certificates.Certified`.
            seed: Of the run.
            predict: The smoothed classifier.

        Returns:
            `stands`: for each clip and radius, whether each decision is right and has not fallen; `attack_answers`
            likewise (those of the radius at which a clip was attacked last); `attack_l2` (realised, 0 where it was
            not); `violations`, the number of decisions that fell within their certified radius; `attacked_radii`,
            how many radii a clip was attacked at.
        """
        answers, truth = np.array(certified["answers"]), np.array(certified["truth"])
        proved = np.array(certified["radii"])
        standing = answers == truth
        p_lower = np.array(certified["p_lower"])
        found = batch.inputs["audio"].clone()
        names = ("stands", "attack_answers", "attack_l2")
        told: dict[str, list[Any]] = {name: [[] for _ in batch.ids] for name in names}
        violations = np.zeros(len(batch), dtype=int)
        attacked = np.zeros(len(batch), dtype=int)
        before = 0.0
        for radius in self.radii:
            sizes = np.zeros(len(batch))
            rows = torch.as_tensor(standing.any(axis=1).nonzero()[0], device=found.device)
            if radius > 0 and len(rows):
                goal = _goal(batch, truth, standing, p_lower)
                found[rows] = self._moved(batch, rows, goal, found, before, radius, seed)
                sizes[rows.cpu().numpy()] = self._sizes(batch, found, rows)
                for row in rows.tolist():
                    generator = torch.Generator().manual_seed(derived_seed(seed, batch.ids[row], "predict", radius))
                    answers[row] = predict(batch, row, found[row], generator)
                fallen = standing & (answers != truth) & (answers != ABSTAIN)
                violations += (fallen & (sizes[:, None] < proved)).sum(axis=1)
                attacked[rows.cpu().numpy()] += 1
                standing = standing & ~fallen
                before = radius
            for row in range(len(batch)):
                told["stands"][row].append(standing[row].tolist())
                told["attack_answers"][row].append(answers[row].tolist())
                told["attack_l2"][row].append(float(sizes[row]))
        return {**told, "violations": violations.tolist(), "attacked_radii": attacked.tolist()}

    def _moved(
        self, batch: Batch, rows: Tensor, goal: Goal, found: Tensor, before: float, radius: float, seed: int
    ) -> Tensor:
        """(A, T) the clips `rows` as far out as `radius`, from where the attack before left them."""
        inputs = {name: value[rows] for name, value in batch.inputs.items()}
        grown = inputs["audio"] + (radius / before if before else 1.0) * (found[rows] - inputs["audio"])
        low, high = self.base.spec.bounds["audio"]
        ids = [batch.ids[row] for row in rows.tolist()]
        result = pgd(
            self.base,
            inputs,
            goal.select(rows),
            {"audio": Ball("l2", radius, low=low, high=high)},
            config=self.config,
            valid={name: value[rows] for name, value in batch.valid.items()},
            generators=generators_for(seed, ids, f"smoothed-attack-{radius!r}"),
            start={"audio": grown},
            expectation=Expectation(self.channel, self.draws),
        )
        return result.inputs["audio"]

    def _sizes(self, batch: Batch, found: Tensor, rows: Tensor) -> NDArray[np.float64]:
        """(A,) float64 L2 norms of what was added."""
        moved = found[rows].double() - batch.inputs["audio"][rows].double()
        sizes: NDArray[np.float64] = torch.linalg.vector_norm(moved, dim=1).cpu().numpy()
        return sizes


def _goal(batch: Batch, truth: NDArray[np.int64], standing: NDArray[np.bool_], p_lower: NDArray[np.float64]) -> Goal:
    """Another answer; of many labels, one for the label that stands and is the least sure.

    An attack on all labels at once would share its budget among them.
    """
    if batch.labels.ndim == 1:
        return Goal(torch.as_tensor(truth[:, 0]).to(batch.labels))
    weakest = np.where(standing, p_lower, np.inf).argmin(axis=1)
    watched = torch.zeros_like(batch.labels, dtype=torch.bool)
    watched[torch.arange(len(watched)), torch.as_tensor(weakest).to(watched.device)] = True
    return Goal(batch.labels, watched=watched)


__all__ = ["SmoothedAttack"]
