"""The attacks on a purified victim, by name: what each knows of the purifier, what it costs, how it is run.

Sources: Athalye et al. 2018 (BPDA, EOT); Lee & Kim 2023 (full gradients through samplers); methods.md 5.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from attacks.blackbox import NES, Square, nes, square
from attacks.bpda import Held, Identity
from attacks.channel import Channel
from attacks.eot import Expectation
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim
from attacks.losses import Goal
from attacks.pgd import PGD, AttackResult, pgd
from robust.evaluation.conditions import Attack
from robust.seeds import derived_seed, generators_for
from robust.types import Batch

ATTACKS: Mapping[str, str] = {
    "transfer": "PGD on the bare victim, going on after success; knows nothing of the purifier",
    "bpda": "PGD through the purifier, whose gradient is taken for the identity",
    "fixed": "PGD with the full gradient through one held draw of the sampler's noise",
    "full-1": "PGD with the full gradient through the sampler, a fresh draw at every step",
    "full-5": "PGD with the full gradient, losses averaged over 5 fresh draws at every step",
    "full-20": "PGD with the full gradient, losses averaged over 20 fresh draws at every step",
    "square": "random search with squares (black box: scores alone)",
    "nes": "gradients estimated from scores along random directions (black box)",
}
"""Name -> what it does; `full-K` for any K."""

SUITE = ("transfer", "bpda", "full-1", "square")
"""The cheapest suite that may call itself adaptive."""

BLACK_BOX = ("nes", "square")
"""Ask for scores alone."""

VALID = "purifier-valid"
"""Carries the mask of what is no padding along with a victim's inputs, so that it follows the examples at work."""

_FULL = re.compile(r"full-([1-9][0-9]*)")


def take_no_gradient(names: Iterable[str]) -> bool:
    """Whether all of these attacks are black boxes, so that a victim without gradients will do."""
    return set(names) <= set(BLACK_BOX)


def check_names(names: Sequence[str]) -> None:
    """Raises `ThreatModelError` for an attack that there is not, for one named twice, and for none at all."""
    for name in names:
        if name not in ATTACKS and _FULL.fullmatch(name) is None:
            raise ThreatModelError(unknown("attack on a purifier", name, ATTACKS))
    if not names or len(set(names)) < len(names):
        raise ThreatModelError(f"Give each attack on a purifier once, and at least one; given {', '.join(names)}.")


def full_draws(name: str) -> int | None:
    """K of `full-K`; None of another attack."""
    found = _FULL.fullmatch(name)
    return None if found is None else int(found.group(1))


def full_names(names: Iterable[str]) -> list[str]:
    """Those that take the full gradient, from few draws to many."""
    return sorted((name for name in names if full_draws(name) is not None), key=lambda name: full_draws(name) or 0)


def described(name: str) -> str:
    """What an attack does, in words."""
    return ATTACKS.get(name) or ATTACKS["full-5"].replace("5", str(full_draws(name)))


def planned(
    names: Sequence[str], purifier: Channel, *, random: bool, steps: int, queries: int
) -> tuple[list[str], dict[str, str]]:
    """Which attacks are run on this purifier, from cheap to dear, and why the others are not.

    Args:
        names: As asked for.
        purifier: Where the gradient is straight-through, the full one is that of BPDA.
        random: Whether the purifier draws anything; if not, one draw is all draws.
        steps: Of PGD.
        queries: Of the black-box attacks.
    """
    instead = {name: _instead(name, purifier, random=random) for name in names}
    kept = dict.fromkeys(other for other, _ in instead.values())
    cost = {name: _cost(name, steps, queries) for name in kept}
    skipped = {name: why for name, (other, why) in instead.items() if other != name}
    return sorted(kept, key=lambda name: cost[name]), skipped


def _instead(name: str, purifier: Channel, *, random: bool) -> tuple[str, str]:
    """The attack that `name` comes down to on this purifier, and why."""
    held = name == "fixed" and not random
    if full_draws(name) is None and not held:
        return name, ""
    if purifier.gradient == "straight-through":
        return "bpda", "the purifier's own gradient is straight-through: the same as bpda"
    if random:
        return name, ""
    return "full-1", "the purifier draws nothing: the same as full-1"


def _cost(name: str, steps: int, queries: int) -> float:
    """Passes through the purifier for each clip, roughly; the way back through a checkpointed sampler costs three."""
    draws = full_draws(name)
    if draws is not None:
        return 4.0 * draws * steps
    return {"transfer": 0.0, "bpda": 1.0 * steps, "fixed": 3.9 * steps}.get(name, float(queries))


class Composed(nn.Module):
    """A victim behind a purifier whose draw asks no generator: one that draws nothing, or a held one."""

    def __init__(self, victim: Victim, purifier: Channel, modality: str) -> None:
        super().__init__()
        self.victim, self.purifier, self.modality = victim, purifier, modality

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, K) of inputs with their mask under `VALID`."""
        clips = inputs[self.modality]
        drawn = self.purifier.draw(clips.detach(), [torch.Generator()] * len(clips))
        rest = {name: value for name, value in inputs.items() if name != VALID}
        return self.victim({**rest, self.modality: self.purifier(clips, drawn, inputs[VALID])})


@dataclass(frozen=True)
class Job:
    """What an attack on a purified victim works on.

    Attributes:
        victim: The bare victim.
        purifier: What stands before it.
        attack: Budget and settings.
        batch: The clips to be attacked.
        goal: What is wanted of each of them.
        seed: The run's.
        random: Whether the purifier draws anything.
        sure: Fresh draws in a row after which a clip counts as broken and leaves the attack; None: never.
        queries: Of the black-box attacks.
    """

    victim: Victim
    purifier: Channel
    attack: Attack
    batch: Batch
    goal: Goal
    seed: int
    random: bool
    sure: int | None
    queries: int

    @cached_property
    def modality(self) -> str:
        """The waveform attacked."""
        return next(iter(self.attack.threat))

    @cached_property
    def valid(self) -> Tensor:
        """(B, T) bool."""
        return self.batch.valid[self.modality].expand_as(self.batch.inputs[self.modality])

    def run(self, name: str) -> AttackResult:
        """The attack called `name`."""
        if name == "transfer":
            return self._pgd(self.victim, self._going_on, None, name)
        if name == "bpda":
            # A purifier that is straight-through by itself says best what stands for its gradient.
            exact = self.purifier.gradient == "exact"
            return self._through(Identity(self.purifier) if exact else self.purifier, 1, name)
        if name == "fixed":
            composed = Composed(self.victim, held(self.purifier, self.seed), self.modality)
            return self._pgd(composed, self._going_on, None, name)
        draws = full_draws(name)
        return self._black_box(name) if draws is None else self._through(self.purifier, draws, name)

    @property
    def _going_on(self) -> PGD:
        """Settings of an attack that must break more than what it sees: it takes all its steps."""
        return replace(self.attack.config, stop_when_broken=False)

    def _through(self, channel: Channel, draws: int, name: str) -> AttackResult:
        """PGD through a channel: in expectation where it draws, else on the composed victim, until success."""
        if self.random:
            expectation = Expectation(channel, draws, modality=self.modality, sure=self.sure)
            return self._pgd(self.victim, self.attack.config, expectation, name)
        composed = Composed(self.victim, channel, self.modality)
        return self._pgd(composed, replace(self.attack.config, stop_when_broken=True), None, name)

    def _pgd(self, victim: Victim, config: PGD, expectation: Expectation | None, name: str) -> AttackResult:
        return pgd(
            victim,
            self._inputs(victim),
            self.goal,
            self.attack.threat,
            config=config,
            valid=self.batch.valid,
            generators=self._generators(name),
            expectation=expectation,
        )

    def _inputs(self, victim: Victim) -> dict[str, Tensor]:
        mask = {VALID: self.valid} if isinstance(victim, Composed) else {}
        return {**self.batch.inputs, **mask}

    def _generators(self, name: str) -> list[torch.Generator]:
        return generators_for(self.seed, self.batch.ids, f"purify-{name}")

    def _black_box(self, name: str) -> AttackResult:
        """Attacks by scores alone; each query hears a fresh draw."""
        victim: Victim = self.victim if self.random else Composed(self.victim, self.purifier, self.modality)
        expectation = Expectation(self.purifier, 1, modality=self.modality, sure=self.sure) if self.random else None
        given: dict[str, Any] = {
            "valid": self.batch.valid,
            "generators": self._generators(name),
            "expectation": expectation,
            "modality": self.modality,
        }
        inputs, threat = self._inputs(victim), self.attack.threat
        if name == "nes":
            return nes(victim, inputs, self.goal, threat, config=nes_settings(self.queries), **given)
        return square(victim, inputs, self.goal, threat, config=Square(self.queries), **given)


def nes_settings(queries: int) -> NES:
    """NES that asks about so many queries of a clip."""
    usual = NES()
    if queries <= usual.samples + 1:
        return NES(steps=1, samples=2)
    return NES(steps=(queries - 1) // (usual.samples + 1))


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """The clips `rows` (R,) of a batch."""
    inputs, valid = ({name: value[rows] for name, value in part.items()} for part in (batch.inputs, batch.valid))
    return Batch(tuple(batch.ids[row] for row in rows.tolist()), inputs, batch.labels[rows], valid)


def held(purifier: Channel, seed: int) -> Held:
    """The purifier with one draw of its noise for all clips: the deterministic variant of the defence."""
    return Held(purifier, derived_seed(seed, "held"))
