"""A purifier under attack: every attack's clips heard through draws of its noise, the worst attack told for each clip.

Each clip is heard in *selection* draws, on which the worst of its attacks is chosen, and in as many fresh *scoring*
draws, on which that attack is scored; both are the same for all attacks on a clip. Choosing on the draws that score
would pick the lucky attack and understate the defense; taking one attack for all clips would overstate it.

Sources: Athalye et al. 2018; Carlini et al. 2019 (worst case per example); Croce & Hein 2020 (cascade); methods.md 5.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks.channel import Channel, Parameters
from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, find_loss, margin
from attacks.pgd import AttackResult
from robust.channels import check_heard, spec_of
from robust.channels.condition import check_rate, heard_through
from robust.evaluation.conditions import Attack, audited
from robust.evaluation.perception import heard
from robust.evaluation.purifier_attacks import SUITE, Job, check_names, held, planned, rows_of
from robust.evaluation.purifier_label import (
    FEWEST_STEPS,
    LATE_GAIN,
    STEPS,
    TOO_FEW_STEPS,
    label,
    missing_attacks,
    principal,
)
from robust.evaluation.purifier_versions import (
    PURPOSES,
    SCORING,
    SELECTION,
    UNPERTURBED,
    Version,
    chosen,
    version_columns,
    worst_of,
)
from robust.evaluation.transfer_memory import TransferMemory, recalled
from robust.seeds import generators_for
from robust.types import Batch, Outcome


@dataclass(frozen=True)
class Purification:
    """Every clip attacked by a suite and heard through a purifier.

    Only clips that stand unperturbed in some draw are attacked. The transfer attack works on all that the bare victim
    has right, too: it also is the attack on the victim without a defense.

    Attributes:
        attack: Budget, target and settings of all attacks. The budget is on the waveform that is handed in; what a
            purifier makes of it may go where it likes.
        purifier: What stands before the victim.
        attacks: Names from `robust.evaluation.purifier_attacks.ATTACKS`.
        draws: Selection draws, and as many scoring draws; one for both where the purifier draws nothing.
        cascade: From cheap to dear, each attack works only on clips that still stand in some selection draw; if not,
            each on all.
        sure: Fresh draws in a row after which an attack takes a clip for broken and lets it go; None: never.
        queries: Of each black-box attack on each clip.
        transfers: What the transfer attack found before on these clips, with other purifiers; it takes in what is new.

    Raises:
        ThreatModelError: For an unknown attack, a count below 1, or an attack on other than one waveform.
    """

    attack: Attack
    purifier: Channel
    attacks: tuple[str, ...] = SUITE
    draws: int = 8
    cascade: bool = True
    sure: int | None = 8
    queries: int = 300
    transfers: TransferMemory | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_names(self.attacks)
        for name in ("draws", "sure", "queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {value}.")
        own = self.attack
        if len(own.threat) != 1 or any(part is not None for part in (own.packing, own.cut, own.inaudible)):
            raise ThreatModelError(
                "Before a purifier one waveform is attacked, with one budget, without a cut or a second stage."
            )
        if "square" in self.attacks and any(ball.norm == "l1" for ball in own.threat.values()):
            raise ThreatModelError("The attack square knows the norms linf and l2; for l1 take nes in its place.")

    @property
    def name(self) -> str:
        """Part of every derived seed."""
        return "purification"

    @property
    def modality(self) -> str:
        """The waveform attacked."""
        return next(iter(self.attack.threat))

    @property
    def steps(self) -> int:
        """Gradient steps of each attack that takes any, over all restarts."""
        return self.attack.config.steps * self.attack.config.restarts

    def describe(self) -> dict[str, Any]:
        """Everything that decides the result."""
        own = ("draws", "cascade", "sure", "queries")
        told = {**self.attack.describe(), **{name: getattr(self, name) for name in own}}
        return {**told, "attacks": list(self.attacks), "condition": self.name, "purifier": self.purifier.describe()}

    def random(self, clips: Tensor) -> bool:
        """Whether the purifier draws anything for clips (B, T) of this length."""
        return bool(self.purifier.draw(clips[:1], [torch.Generator().manual_seed(0)]))

    def plan(self, clips: Tensor) -> tuple[list[str], dict[str, str]]:
        """Which attacks are run on clips like these, from cheap to dear, and why the others are not."""
        random = self.random(clips)
        return planned(self.attacks, self.purifier, random=random, steps=self.steps, queries=self.queries)

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """Each clip under the attack that does worst to it.

        Columns: `{version}_selection` and `{version}_scoring` (a list of bool, one for each draw; None where the
        attack did not work on the clip) for the `unperturbed` clip, every attack and `worst`: whether the clip stands,
        i.e. the attacker has not what he wants (unperturbed: is right). `worst` names the attack, `success` tells
        whether it wins in all scoring draws. `bare_stands`: without a purifier, under the transfer attack.
        `fixed_held`: under `fixed`, in the very draw that it saw. `adaptivity`: what may be said of the clip's result.
        Passes, late gain, gradient noise and ratio to the budget by attack; sizes and perceptual figures of the worst.
        The engine's `correct`, `prediction` and `margin` are those of the bare victim on the worst input.
        """
        self._check(victim, batch)
        goal = self.attack.goal(batch.labels, clean_logits)
        with frozen(self.purifier):
            versions, told = self._attacked(victim, batch, goal, clean_logits, seed)
        worst = worst_of(versions)
        clips = chosen({name: one.clips for name, one in versions.items()}, worst)
        inputs = {**batch.inputs, self.modality: clips}
        columns = {
            **audited(self.attack.threat, batch, inputs),
            **version_columns(versions, worst, self.attack.threat, batch),
            **told,
            **heard(victim, batch, inputs, speech=self.attack.speech),
        }
        pairs = zip(told["attacked"], columns[f"worst_{SCORING}"], strict=True)
        columns["success"] = [attacked and not any(stands) for attacked, stands in pairs]
        columns["adaptivity"] = self._adaptivity(versions, told["attacked"], columns[f"worst_{SELECTION}"])
        return Outcome(inputs, columns)

    def run(self, name: str, victim: Victim, batch: Batch, goal: Goal, seed: int) -> tuple[AttackResult, Batch]:
        """One attack on all clips of a batch, the same as in `apply`: what it says, and the clips as it left them."""
        random = self.random(batch.inputs[self.modality])

        def run(part: Batch, wanted: Goal) -> AttackResult:
            settings = (self.purifier, self.attack, part, wanted, seed, random, self.sure, self.queries)
            return Job(victim, *settings).run(name)

        with frozen(self.purifier):
            known = self.transfers if name == "transfer" else None
            found = run(batch, goal) if known is None else recalled(known, batch, goal, run)
        return found, _with(batch, self.modality, found.inputs[self.modality])

    def try_on(self, victim: Victim, batch: Batch, oracle: Oracle, seed: int) -> None:
        """Budget, loss and purifier held against a batch, without an attack.

        Raises:
            RobustError: For what cannot be.
        """
        self._check(victim, batch)
        clean = oracle.logits(batch.inputs, _every(batch))
        goal = self.attack.goal(batch.labels.clamp_min(0), clean)
        for name, ball in self.attack.threat.items():
            ball.around(batch.inputs[name], batch.valid.get(name))
        if self.attack.config.loss is not None:
            find_loss(self.attack.config.loss)(clean, goal)
        self.logits(victim, batch, self.draw(SELECTION, 0, batch, seed))

    def draw(self, purpose: str, number: int, batch: Batch, seed: int) -> Parameters:
        """Draw `number` of a purpose, each clip its own."""
        generators = generators_for(seed, batch.ids, f"purify-{purpose}-{number}")
        return self.purifier.draw(batch.inputs[self.modality], generators)

    def hear(self, victim: Victim, batch: Batch, goal: Goal, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        """Purpose -> (B, D) bool: in which draws the clips of a batch stand; (B,) mean margin in selection draws."""
        random = self.random(batch.inputs[self.modality])
        stands: dict[str, Tensor] = {}
        gains: dict[str, Tensor] = {}
        for purpose in PURPOSES if random else (SELECTION,):
            drawn = (self.draw(purpose, number, batch, seed) for number in range(self.draws if random else 1))
            said = [self.logits(victim, batch, one) for one in drawn]
            stands[purpose] = torch.stack([~goal.broken(one) for one in said], dim=1)
            gains[purpose] = torch.stack([margin(one, goal) for one in said]).mean(dim=0)
        return {SCORING: stands[SELECTION], **stands}, gains[SELECTION]

    def logits(self, victim: Victim, batch: Batch, drawn: Parameters, purifier: Channel | None = None) -> Tensor:
        """(B, K) what the victim says of the clips of a batch, purified with what was drawn."""
        cleaned = self.purified(batch, drawn, purifier)
        return _said(victim, {**batch.inputs, self.modality: cleaned}, batch)

    def purified(self, batch: Batch, drawn: Parameters, purifier: Channel | None = None) -> Tensor:
        """(B, T) the clips of a batch, purified with what was drawn."""
        clips, channel = batch.inputs[self.modality], purifier or self.purifier
        with torch.no_grad(), frozen(channel):
            return heard_through(channel, clips, drawn, batch.valid[self.modality].expand_as(clips))

    def _attacked(
        self, victim: Victim, batch: Batch, goal: Goal, clean_logits: Tensor, seed: int
    ) -> tuple[dict[str, Version], dict[str, Any]]:
        """All versions of a batch, and the columns that are no version's."""
        plan, _ = self.plan(batch.inputs[self.modality])
        first = Version.begin(batch.inputs[self.modality], *self.hear(victim, batch, Goal(batch.labels), seed))
        versions = {UNPERTURBED: first}
        attacked = torch.cat(list(first.stands.values()), dim=1).any(dim=1)
        if self.attack.target is not None:
            attacked &= batch.labels != self.attack.target
        alive, columns = attacked, {"attacked": attacked.cpu().tolist()}
        for name in plan:
            wanted = alive if self.cascade else attacked
            if name == "transfer":
                wanted = wanted | self.attack.eligible(batch.labels, clean_logits)
            versions[name] = self._version(name, first, victim, batch, goal, wanted, seed)
            alive = alive & versions[name].stands[SELECTION].any(dim=1)
        for name, beside in (("transfer", self._bare), ("fixed", self._held)):
            found = beside(victim, batch, goal, versions[name], seed) if name in versions else None
            columns["bare_stands" if name == "transfer" else "fixed_held"] = found or [None] * len(batch)
        return versions, columns

    def _version(
        self, name: str, first: Version, victim: Victim, batch: Batch, goal: Goal, wanted: Tensor, seed: int
    ) -> Version:
        """The clips that are `wanted` (B,) under one attack."""
        rows, none = wanted.nonzero()[:, 0], first.untouched()
        if len(rows) == 0:
            return none
        part, own = rows_of(batch, rows), goal.select(rows)
        found, changed = self.run(name, victim, part, own, seed)
        return none.with_rows(rows, found, self.modality, *self.hear(victim, changed, own, seed))

    def _bare(self, victim: Victim, batch: Batch, goal: Goal, version: Version, seed: int) -> list[bool | None]:
        """Which clips the bare victim has right, as they are and under the transfer attack."""
        logits = _said(victim, {**batch.inputs, self.modality: version.clips}, batch)
        clean = ~Goal(batch.labels).broken(_said(victim, batch.inputs, batch))
        stands: list[bool | None] = (clean & (~version.ran | ~goal.broken(logits))).cpu().tolist()
        return stands

    def _held(self, victim: Victim, batch: Batch, goal: Goal, version: Version, seed: int) -> list[bool | None]:
        """Which of the clips attacked with one held draw stand in that draw."""
        channel, changed = held(self.purifier, seed), _with(batch, self.modality, version.clips)
        drawn = channel.draw(version.clips, [torch.Generator()] * len(batch))
        stands = (~goal.broken(self.logits(victim, changed, drawn, channel))).cpu().tolist()
        return [one if ran else None for one, ran in zip(stands, version.ran.tolist(), strict=True)]

    def _adaptivity(self, versions: Mapping[str, Version], attacked: list[bool], stands: list[list[bool]]) -> list[str]:
        """What may be said of each clip's result: that an attack in fewer steps had converged is told by clip."""
        plan = [name for name in versions if name != UNPERTURBED]
        lacking = missing_attacks(plan, self.purifier.gradient, self.queries)
        strongest, steps = principal(plan, self.purifier.gradient), self.attack.config.steps
        late = versions[UNPERTURBED if strongest is None else strongest].late_gain
        if steps >= STEPS:
            done = [True] * len(attacked)
        else:
            converged = (late < LATE_GAIN).tolist() if steps >= FEWEST_STEPS else [False] * len(attacked)
            done = [
                not open_ or not any(own) or end for open_, own, end in zip(attacked, stands, converged, strict=True)
            ]
        return [label(lacking if one else [*lacking, TOO_FEW_STEPS]) for one in done]

    def _check(self, victim: Victim, batch: Batch) -> None:
        check_heard(self.modality, batch)
        check_rate(self.purifier, spec_of(victim, self.name).sample_rate)
        shape = tuple(batch.inputs[self.modality].shape)
        if len(shape) != 2:
            raise ThreatModelError(f"A purifier needs a waveform (B, T); {self.modality!r} is {shape}.")
        if batch.labels.ndim != 1:
            raise ThreatModelError(
                "Attacks on a purifier are scored by accuracy and need one label a clip; this victim knows many. "
                "`robust certify` takes such victims, and so does `robust attack` without a purifier."
            )


def _said(victim: Victim, inputs: dict[str, Tensor], batch: Batch) -> Tensor:
    """(B, K) logits of the bare victim."""
    return Oracle(victim, len(batch), batch.labels.device).logits(inputs, _every(batch))


def _with(batch: Batch, modality: str, clips: Tensor) -> Batch:
    """The batch with other sounds."""
    return Batch(batch.ids, {**batch.inputs, modality: clips}, batch.labels, batch.valid)


def _every(batch: Batch) -> Tensor:
    return torch.arange(len(batch), device=batch.labels.device)


__all__ = ["Purification"]
