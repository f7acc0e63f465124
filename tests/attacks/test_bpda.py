"""Stand-ins for a defender's channel: the identity backwards, and randomness held still."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.bpda import Held, Identity
from attacks.channel import Channel, Parameters, where_valid
from attacks.eot import Expectation
from attacks.losses import Goal
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from tests.oracles.linear import LinearVictim
from tests.oracles.toy import predictions, waves
from tests.robust.channel_contract import check_batches, check_draw, check_padding, check_silence, check_types, voices

RATE = 8000


class Smeared(Channel):
    """Adds drawn noise, smooths and rounds: its own gradient is zero."""

    name = "smeared"

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        level = torch.stack([torch.rand((), generator=generator) for generator in generators])
        noise = torch.stack([torch.randn(clips.shape[1], generator=generator) for generator in generators])
        return {"level": level.to(clips), "noise": noise.to(clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        noisy = clips + 0.01 * parameters["level"][:, None] * parameters["noise"]
        heard = ((noisy * 64).round() / 64).to(clips)
        return where_valid(heard, clips, valid)

    def measure(self, before: Tensor, after: Tensor, parameters: Parameters, valid: Tensor) -> Parameters:
        return {"moved": ((after - before).double() * valid).abs().mean(dim=1)}

    def describe(self) -> dict[str, Any]:
        return {"channel": self.name, "step": 1 / 64}


class Louder(Smeared):
    """Another gain where it hears padding, to see who keeps it out."""

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return 2 * clips


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("wrapped", [Identity(Smeared(RATE)), Held(Smeared(RATE), 3)], ids=["identity", "held"])
def test_both_are_channels(wrapped: Channel):
    clips = voices(3, RATE, 0.1)
    for check in (check_draw, check_batches, check_padding, check_silence, check_types):
        check(wrapped, clips)
    assert wrapped.sample_rate == RATE
    told = json.loads(json.dumps(wrapped.describe()))
    assert told["channel"] == wrapped.name
    assert told["of"] == {"channel": "smeared", "step": 1 / 64}


def test_forward_is_the_channel_to_the_bit_and_backward_the_identity():
    clips, inner = voices(3, RATE, 0.1), Smeared(RATE)
    bare, drawn = Identity(inner), inner.draw(clips, generators(3))
    asked = clips.clone().requires_grad_()
    heard = bare(asked, drawn)
    assert torch.equal(heard, inner(clips, drawn))
    weights = torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((heard * weights).sum(), asked)
    assert torch.equal(slope, weights)
    assert torch.equal(bare.draw(clips, generators(3))["noise"], drawn["noise"])
    valid = torch.ones_like(clips, dtype=torch.bool)
    assert torch.equal(
        bare.measure(clips, heard, drawn, valid)["moved"], inner.measure(clips, heard, drawn, valid)["moved"]
    )


def test_identity_leaves_padding_even_where_the_channel_does_not():
    clips = voices(2, RATE, 0.1)
    valid = torch.arange(clips.shape[1]).expand_as(clips) < 500
    heard = Identity(Louder(RATE))(clips, {}, valid)
    assert torch.equal(heard[:, 500:], clips[:, 500:])
    assert torch.equal(heard[:, :500], 2 * clips[:, :500])


def test_identity_keeps_no_graph_of_the_channel():
    class Trained(Smeared):
        def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
            assert not torch.is_grad_enabled()
            return clips.exp()

    asked = voices(1, RATE, 0.1).requires_grad_()
    (slope,) = torch.autograd.grad(Identity(Trained(RATE))(asked, {}).sum(), asked)
    assert torch.equal(slope, torch.ones_like(asked))


def test_held_draws_what_its_seed_gives_for_every_clip():
    clips, inner = voices(4, RATE, 0.1), Smeared(RATE)
    expected = inner.draw(clips[:1], [torch.Generator().manual_seed(7)])
    given = generators(4)
    states = [generator.get_state() for generator in given]
    drawn = Held(inner, 7).draw(clips, given)
    for name, value in drawn.items():
        assert torch.equal(value, expected[name].expand_as(value)), name
    assert all(torch.equal(one.get_state(), state) for one, state in zip(given, states, strict=True))
    assert not torch.equal(Held(inner, 8).draw(clips, given)["noise"], drawn["noise"])
    assert torch.equal(Held(inner, 7)(clips, drawn), inner(clips, drawn))


def test_held_has_the_gradient_of_what_it_holds():
    assert Held(Smeared(RATE)).gradient == "exact"
    assert Held(Identity(Smeared(RATE))).gradient == "straight-through"


def test_the_identity_breaks_what_a_missing_gradient_hides():
    """A linear victim behind a rounding channel: no gradient of its own, so only BPDA leads anywhere."""
    victim, clean = LinearVictim((200,)), waves(8, 200)
    goal, ball = Goal(predictions(victim, {"audio": clean})), {"audio": Ball("linf", 0.1)}

    def broken(channel: Channel) -> int:
        found = pgd(victim, {"audio": clean}, goal, ball, config=PGD(20), expectation=Expectation(channel, 2))
        return int(found.broken.sum())

    assert broken(Smeared(RATE)) <= 2
    assert broken(Identity(Smeared(RATE))) == 8
