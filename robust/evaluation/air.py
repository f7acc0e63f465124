"""Over the air: attacks heard through a random channel, against controls in the very same situations.

A *situation* is one draw of a channel - a room with its places and noise, say - shared by all clips and all versions of
a clip. Each clip is heard in every situation in four versions: as it is, with random noise of the attack's size, with a
plain attack made for no channel, and with one made in expectation over the channel (EOT). Situations of the held-out
split have never been seen by any attack.

Sources: Athalye et al. 2018; Schoenherr et al. 2020 (held-out rooms); methods.md 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attacks.channel import Channel, Parameters, numbers
from attacks.eot import Expectation, ExpectedOracle
from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, Victim
from attacks.losses import Goal, find_loss
from attacks.pgd import AttackResult, around, pgd
from robust.channels import check_heard, spec_of
from robust.channels.condition import check_rate, heard_through
from robust.evaluation.conditions import Attack, audited
from robust.evaluation.perception import heard
from robust.seeds import derived_seed, generators_for
from robust.types import Batch, Outcome

VERSIONS = ("unperturbed", "random", "plain", "eot")
PLACES = ("train_rooms", "held_out_rooms")


@dataclass(frozen=True)
class OverTheAir:
    """Every clip attacked with and without EOT, and heard in all situations.

    All clips are attacked, those too that are wrong without a channel: in some room they may be right.

    Attributes:
        attack: Budget, target and settings. The plain attack takes them as they are, but goes on after a clip is
            broken: one that stops at the first success is an easy opponent.
        train: The channel that the expectation is over.
        held_out: The channel of situations that no attack sees.
        draws: K, channels in each gradient of the EOT attack.
        keep_steps: Q, steps for which draws are kept.
        situations: How many of each split clips are heard in.
        plain_steps: Steps of the plain attack; as many as the other's when None. `steps * draws` spends the same number
            of gradients.

    Raises:
        ThreatModelError: If a count is below 1, the attack is on other than one waveform.
    """

    attack: Attack
    train: Channel
    held_out: Channel
    draws: int = 4
    keep_steps: int = 1
    situations: int = 20
    plain_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "keep_steps", "situations", "plain_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {value}.")
        if len(self.attack.threat) != 1 or self.attack.packing is not None or self.attack.cut is not None:
            raise ThreatModelError("Over the air one waveform is attacked, with one budget and without a cut.")

    @property
    def name(self) -> str:
        """Part of every derived seed."""
        return "air"

    @property
    def modality(self) -> str:
        """The waveform attacked."""
        return next(iter(self.attack.threat))

    @cached_property
    def channels(self) -> Mapping[str, Channel]:
        """Place -> its channel."""
        return dict(zip(PLACES, (self.train, self.held_out), strict=True))

    def describe(self) -> dict[str, Any]:
        """Everything that decides the result."""
        own = ("draws", "keep_steps", "situations", "plain_steps")
        told = {**self.attack.describe(), **{name: getattr(self, name) for name in own}}
        places = {place: channel.describe() for place, channel in self.channels.items()}
        return {**told, "condition": self.name, "channels": places}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The EOT versions without a channel.

        Columns: `{version}_no_channel` (bool) and `{version}_{place}` (a list of bool, one for each situation): whether
        the clip stands, i.e. the attacker has not what he wants (unperturbed: is right there, and not of the target
        class). Sizes and perceptual figures of both attacks (those of the plain one begin with `plain_`), passes, and
        `gradient_noise`.
        """
        self._check(victim, batch)
        goal = self.attack.goal(batch.labels, clean_logits)
        found = self._attacks(victim, batch, goal, seed)
        versions = self._versions(batch, found, seed)
        columns: dict[str, Any] = {}
        oracle = Oracle(victim, len(batch), batch.labels.device)
        for version, clips in versions.items():
            logits = oracle.logits({**batch.inputs, self.modality: clips}, _rows(batch))
            columns[f"{version}_no_channel"] = self._stands(version, logits, goal).cpu().tolist()
        for place in PLACES:
            for version, stands in self._heard(oracle, batch, goal, versions, place, seed).items():
                columns[f"{version}_{place}"] = stands.cpu().tolist()
        eot, plain = found["eot"], found["plain"]
        columns |= {
            "attacked": [True] * len(batch),
            "success": [not stands for stands in columns["eot_no_channel"]],
            "forwards": (eot.forwards + plain.forwards).tolist(),
            "backwards": (eot.backwards + plain.backwards).tolist(),
            "gradient_noise": eot.gradient_noise.cpu().tolist(),
        }
        return Outcome(eot.inputs, {**columns, **self._sizes(victim, batch, found)})

    def attacked(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> dict[str, Tensor]:
        """Version -> (B, T) waveforms, the same that `apply` hears in rooms."""
        goal = self.attack.goal(batch.labels, clean_logits)
        return self._versions(batch, self._attacks(victim, batch, goal, seed), seed)

    def try_on(self, victim: Victim, batch: Batch, oracle: Oracle, seed: int) -> None:
        """Budget, loss and channels held against a batch, without an attack.

        Raises:
            RobustError: For what cannot be.
        """
        self._check(victim, batch)
        clean = oracle.logits(batch.inputs, _rows(batch))
        labels = batch.labels.clamp_min(0)
        goal = self.attack.goal(labels, clean)
        versions = {"random": self._random(batch, seed)}
        if self.attack.config.loss is not None:
            find_loss(self.attack.config.loss)(clean, goal)
        for place in PLACES:
            self._heard(oracle, batch, goal, versions, place, seed, situations=1)

    def situation(self, place: str, number: int, clips: Tensor, seed: int) -> Parameters:
        """Draw `number` of a place, the same for each of `clips` (B, T)."""
        draw_seed = derived_seed(seed, "situation", place, number)
        drawn = self.channels[place].draw(clips[:1], [torch.Generator().manual_seed(draw_seed)])
        return {name: value.expand(len(clips), *value.shape[1:]) for name, value in drawn.items()}

    def situation_table(self, clips: Tensor, seed: int) -> list[dict[str, Any]]:
        """What was drawn for each situation, for the summary: place, number, and every parameter that is a number."""
        return [
            {"place": place, "number": number}
            | {name: value[0].item() for name, value in numbers(self.situation(place, number, clips, seed)).items()}
            for place in PLACES
            for number in range(self.situations)
        ]

    def _check(self, victim: Victim, batch: Batch) -> None:
        check_heard(self.modality, batch)
        for channel in self.channels.values():
            check_rate(channel, spec_of(victim, self.name).sample_rate)
        shape = tuple(batch.inputs[self.modality].shape)
        if len(shape) != 2:
            raise ThreatModelError(f"A channel needs a waveform (B, T); {self.modality!r} is {shape}.")

    def _attacks(self, victim: Victim, batch: Batch, goal: Goal, seed: int) -> dict[str, AttackResult]:
        return {"plain": self._plain(victim, batch, goal, seed), "eot": self._eot(victim, batch, goal, seed)}

    def _versions(self, batch: Batch, found: Mapping[str, AttackResult], seed: int) -> dict[str, Tensor]:
        return {
            "unperturbed": batch.inputs[self.modality],
            "random": self._random(batch, seed),
            **{name: result.inputs[self.modality] for name, result in found.items()},
        }

    def _plain(self, victim: Victim, batch: Batch, goal: Goal, seed: int) -> AttackResult:
        config = replace(self.attack.config, stop_when_broken=False)
        config = replace(config, steps=self.plain_steps or config.steps)
        generators = generators_for(seed, batch.ids, self.attack.name)
        threat, valid = self.attack.threat, batch.valid
        found = pgd(victim, batch.inputs, goal, threat, config=config, valid=valid, generators=generators)
        if self.attack.inaudible is not None:
            oracle = Oracle(victim, len(batch), goal.labels.device)
            self.attack.hidden(oracle, victim, batch.inputs, goal, threat, valid, found)
        return found

    def _eot(self, victim: Victim, batch: Batch, goal: Goal, seed: int) -> AttackResult:
        threat, valid = self.attack.threat, batch.valid
        generators = generators_for(seed, batch.ids, self.name)
        expectation = Expectation(self.train, self.draws, self.keep_steps, self.modality)
        found = pgd(
            victim,
            batch.inputs,
            goal,
            threat,
            config=self.attack.config,
            valid=valid,
            generators=generators,
            expectation=expectation,
        )
        if self.attack.inaudible is not None:
            device = goal.labels.device
            oracle = ExpectedOracle(victim, len(batch), device, None, expectation, generators, valid)
            self.attack.hidden(oracle, victim, batch.inputs, goal, threat, valid, found)
        return found

    def _random(self, batch: Batch, seed: int) -> Tensor:
        """A full step along Gaussian noise: a random corner of the linf ball, a random point of the others' surface."""
        region = around(batch.inputs, self.attack.threat, batch.valid)[self.modality]
        generators = generators_for(seed, batch.ids, "random")
        clips = batch.inputs[self.modality]
        noise = torch.stack([torch.randn(clips.shape[1:], generator=generator) for generator in generators])
        return region.ascend(clips, region.restrict(noise.to(clips)), region.radius.to(clips))

    def _heard(
        self,
        oracle: Oracle,
        batch: Batch,
        goal: Goal,
        versions: Mapping[str, Tensor],
        place: str,
        seed: int,
        situations: int | None = None,
    ) -> dict[str, Tensor]:
        """Version -> (B, situations) bool: which clips stand where."""
        clips = batch.inputs[self.modality]
        valid = batch.valid[self.modality].expand_as(clips)
        stands: dict[str, list[Tensor]] = {version: [] for version in versions}
        for number in range(situations or self.situations):
            drawn = self.situation(place, number, clips, seed)
            for version, sound in versions.items():
                with torch.no_grad():
                    arrived = heard_through(self.channels[place], sound, drawn, valid)
                logits = oracle.logits({**batch.inputs, self.modality: arrived}, _rows(batch))
                stands[version].append(self._stands(version, logits, goal))
        return {version: torch.stack(found, dim=1) for version, found in stands.items()}

    def _stands(self, version: str, logits: Tensor, goal: Goal) -> Tensor:
        """(B,) bool: the attacker has not what he wants; unperturbed clips are worth attacking, too."""
        stands = ~goal.broken(logits)
        if version != "unperturbed" or goal.multilabel:
            return stands
        return stands & self.attack.eligible(goal.labels, logits)

    def _sizes(self, victim: Victim, batch: Batch, found: Mapping[str, AttackResult]) -> dict[str, Any]:
        """Audits and perceptual figures of both attacks."""
        columns: dict[str, Any] = {}
        for version, result in found.items():
            prefix = "" if version == "eot" else f"{version}_"
            sizes = audited(self.attack.threat, batch, result.inputs)
            columns |= {f"{prefix}{name}": values for name, values in sizes.items()}
            columns |= heard(victim, batch, result.inputs, prefix, speech=self.attack.speech)
        columns["violated"] = [a or b for a, b in zip(columns["violated"], columns["plain_violated"], strict=True)]
        pairs = zip(columns["violation"], columns["plain_violation"], strict=True)
        columns["violation"] = ["; ".join(sorted({one for one in pair if one})) for pair in pairs]
        return columns


def _rows(batch: Batch) -> Tensor:
    return torch.arange(len(batch), device=batch.labels.device)
