"""Every clip certified under Gaussian noise, and attacked to see what the certificates are worth.

The condition leaves clips as they are; what it finds stands in the columns. A victim of one label a clip is one
decision, one of many labels is a decision for each label; columns hold a list of decisions for each clip either way.

Sources: Cohen et al. 2019; Salman et al. 2019 (SmoothAdv, the attack); methods.md 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Victim as AnyVictim
from attacks.gradients import frozen
from attacks.pgd import PGD
from defenses.sequential import Sequential
from defenses.smoothing import (
    Certificate,
    GaussianChannel,
    certify,
    certify_labels,
    checked_alpha,
    checked_votes,
    predict,
    predict_labels,
    radius_snr_db,
)
from defenses.votes import Ballot, Tally, Voter
from robust.evaluation.certificate_attack import SmoothedAttack
from robust.seeds import generators_for
from robust.types import Batch, Outcome
from robust.victims.base import Victim

Decided: TypeAlias = dict[str, list[Any]]
"""Column -> one value for each decision of a clip, or one for the clip."""


@dataclass(frozen=True)
class Certified:
    """Certificates of a smoothed classifier on clips.

    Attributes:
        base: Base classifier, which hears the noise; a denoiser may be in it.
        voter: Casts its votes at a noise level; its `classify` is replaced for each clip.
        n0: Votes that choose the answer.
        n: Votes that test it; the most of them where `radius` is given.
        alpha: Probability with which the certificates of a clip may be wrong.
        radius: Decide only whether this radius is certified, with as few votes as that takes. None: the largest.
        radii: Radii at which clips are attacked.
        attack: Settings of the attack; None for none.
        draws: Noises in each of its gradients.
        facts: What else decides the result, e.g. the denoiser.

    Raises:
        ThreatModelError: If a count or probability is out of range, or `n` votes cannot certify `radius`.
    """

    base: Victim
    voter: Voter
    n0: int
    n: int
    alpha: float
    radius: float | None
    radii: Sequence[float]
    attack: PGD | None
    draws: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_votes("n0", self.n0), checked_votes("n", self.n), checked_alpha(self.alpha)
        checked_votes("The draws of the attack", self.draws)
        if any(not 0 <= radius < float("inf") for radius in self.radii) or list(self.radii) != sorted(set(self.radii)):
            raise ThreatModelError(
                f"The radii must be 0 or more, finite and ascending, each given once; given {list(self.radii)}."
            )
        if self.radius is not None:
            self.test(self.decisions)

    @property
    def name(self) -> str:
        """Part of every derived seed."""
        return "smoothing"

    @property
    def decisions(self) -> int:
        """Answers claimed for a clip: one, or one for each label."""
        return len(self.base.spec.labels) if self.voter.multilabel else 1

    @property
    def channel(self) -> GaussianChannel:
        """Adds the noise."""
        return GaussianChannel(self.voter.sigma, self.base.spec.sample_rate)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the result."""
        own = {name: getattr(self, name) for name in ("n0", "n", "alpha", "radius", "draws")}
        attack = None if self.attack is None else self._attack().describe()
        told = {"condition": self.name, "sigma": self.voter.sigma, "radii": list(self.radii), **own, **self.facts}
        return {**told, "attack": attack}

    def test(self, decisions: int) -> Sequential:
        """The sequential test of one of the decisions."""
        assert self.radius is not None
        return Sequential(self.radius, self.voter.sigma, self.n, self.alpha / decisions)

    def apply(self, victim: AnyVictim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """Unchanged clips.

        Columns, a list of decisions for each clip: `answers` (-1 where there is none), `truth`, `radii`,
        `p_lower`, `votes_for`. For each clip: `right` (all answers are the true ones), `radius` (within which they stay
        so; 0 where one is not), `radius_snr_db`, `norm` (L2), `votes` (of the test), what casting took (`recast`,
        `checked`, `differing`, `exceeded`, `way`), and with an attack its own; see `SmoothedAttack`.
        """
        with frozen(self.base):
            found = [self._certified(batch, row, seed) for row in range(len(batch))]
            columns: dict[str, list[Any]] = {name: [clip[name] for clip in found] for name in found[0]}
            if self.attack is not None:
                columns |= self._attack().columns(batch, columns, seed, self.predicted)
        return Outcome(batch.inputs, columns)

    def predicted(self, batch: Batch, row: int, clip: Tensor, generator: torch.Generator) -> list[int]:
        """PREDICT of each decision about `clip`, which is row `row` of a batch or has grown from it."""
        ballot = self._ballot(batch, row, clip, generator)
        counts = ballot.counts(self.n, len(self.base.spec.labels)).numpy()
        if self.voter.multilabel:
            return predict_labels(counts, self.n, self.alpha)
        return [predict(counts, self.alpha)]

    def _attack(self) -> SmoothedAttack:
        assert self.attack is not None
        return SmoothedAttack(self.base, self.channel, self.attack, self.draws, tuple(self.radii))

    def _ballot(self, batch: Batch, row: int, clip: Tensor, generator: torch.Generator) -> Ballot:
        others = {name: value[row : row + 1] for name, value in batch.inputs.items() if name != "audio"}

        def classify(noisy: Tensor) -> Tensor:
            beside = {name: value.expand(len(noisy), *value.shape[1:]) for name, value in others.items()}
            logits: Tensor = self.base({**beside, "audio": noisy})
            return logits

        return replace(self.voter, classify=classify).ballot(clip, generator)

    def _certified(self, batch: Batch, row: int, seed: int) -> Decided:
        """All columns of one clip but those of the attack."""
        before = replace(self.voter.tally)
        clip = batch.inputs["audio"][row]
        ballot = self._ballot(batch, row, clip, generators_for(seed, batch.ids[row : row + 1], self.name)[0])
        decided, votes = self._in_full(ballot) if self.radius is None else self._one_radius(ballot)
        label = batch.labels[row].cpu()
        truth = [int(one > 0) for one in label] if self.voter.multilabel else [int(label)]
        if not self.voter.multilabel and truth[0] < 0:  # unlabelled clips: the smoothed answer is the truth
            truth = [one.answer for one in decided]
        norm = float(torch.linalg.vector_norm(clip.double()))
        right = all(one.answer == true for one, true in zip(decided, truth, strict=True))
        radius = min(one.radius for one in decided) if right else 0.0
        return {
            "answers": [one.answer for one in decided],
            "truth": truth,
            "radii": [one.radius for one in decided],
            "p_lower": [one.p_lower for one in decided],
            "votes_for": [one.votes_for for one in decided],
            "right": right,
            "radius": radius,
            "radius_snr_db": float(radius_snr_db(norm, radius)) if radius > 0 else math.nan,
            "norm": norm,
            "votes": votes,
            **_spent(before, self.voter.tally),
        }

    def _in_full(self, ballot: Ballot) -> tuple[list[Certificate], int]:
        """CERTIFY with all votes."""
        classes, sigma = len(self.base.spec.labels), self.voter.sigma
        first, later = (ballot.counts(count, classes).numpy() for count in (self.n0, self.n))
        if self.voter.multilabel:
            return certify_labels(first, self.n0, later, self.n, sigma, self.alpha), self.n
        return [certify(first, later, sigma, self.alpha)], self.n

    def _one_radius(self, ballot: Ballot) -> tuple[list[Certificate], int]:
        """Whether `radius` is certified, decided as early as each decision allows.

        Where it is not, the answer is PREDICT's of the first votes: whether the clip is right at 0.
        """
        test, many = self.test(self.decisions), self.voter.multilabel
        first = ballot.counts(self.n0, len(self.base.spec.labels)).numpy()
        chosen = (2 * first > self.n0).astype(int) if many else np.array([first.argmax()])
        cast: list[NDArray[np.bool_]] = []
        told, votes = [("open", 0)] * len(chosen), 0
        for look in test.looks:
            new = ballot.cast(look - votes).numpy()
            cast.append((new if many else new[:, None]) == chosen)
            votes = look
            told = [test.decide(column) for column in np.concatenate(cast).T]
            if all(decision != "open" for decision, _ in told):
                break
        won = np.concatenate(cast).sum(axis=0)
        named = predict_labels(first, self.n0, self.alpha) if many else [predict(first, self.alpha)]
        return [
            Certificate(int(answer), test.radius, test.p0, int(count), votes)
            if decision == "certified"
            else Certificate(likely, 0.0, 0.0, int(count), votes)
            for answer, likely, (decision, _), count in zip(chosen, named, told, won, strict=True)
        ], votes


def _spent(before: Tally, after: Tally) -> dict[str, Any]:
    names = ("recast", "checked", "differing", "exceeded")
    return {**{name: getattr(after, name) - getattr(before, name) for name in names}, "way": after.way}


__all__ = ["Certified"]
