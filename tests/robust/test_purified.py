"""A purified victim: what it hears, what it passes on, and what it hides from nobody."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import robust
from attacks.channel import Channel
from attacks.errors import ThreatModelError
from attacks.gradients import in_lanes
from attacks.weights import weights_hash
from defenses.filters import Average, Median
from robust.errors import VictimError
from robust.purifiers import load_purifier
from robust.victims.purified import Purified, purified
from tests.robust.test_corruption_table import Pairs, both_senses
from tests.robust.toys import SAMPLE_RATE, SAMPLES, ToyData, victim


class Hiss(Channel):
    """Adds drawn noise, its level a weight."""

    name = "hiss"

    def __init__(self, sample_rate: int = SAMPLE_RATE, level: float = 0.1) -> None:
        super().__init__(sample_rate)
        self.level = torch.nn.Parameter(torch.tensor(level))

    def draw(self, clips: Tensor, generators: Any) -> dict[str, Tensor]:
        return {"noise": torch.stack([torch.randn(clips.shape[1], generator=one) for one in generators]).to(clips)}

    def forward(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
        return clips + self.level.to(clips) * parameters["noise"]


def clips(count: int = 5) -> Tensor:
    return 0.2 * torch.randn(count, SAMPLES, generator=torch.Generator().manual_seed(2))


def test_it_answers_as_the_victim_does_on_purified_clips():
    bare = victim()
    found = purified(bare, "average:3")
    cleaned = Average(SAMPLE_RATE)(clips(), {}, None)
    with torch.no_grad():
        torch.testing.assert_close(found({"audio": clips()}), bare({"audio": cleaned}))
    assert found.spec.name == "toy+average:3"
    assert (found.spec.labels, found.spec.sample_rate) == (bare.spec.labels, bare.spec.sample_rate)
    assert isinstance(found, robust.Victim)


def test_one_draw_for_all_clips_and_all_times():
    found = purified(victim(), Hiss(), seed=3)
    same = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = victim()({"audio": clips() + 0.1 * same})
        torch.testing.assert_close(found({"audio": clips()}), expected)
        assert torch.equal(found({"audio": clips()}), found({"audio": clips()}))
        other = purified(victim(), Hiss(), seed=4)
        assert not torch.equal(other({"audio": clips()}), found({"audio": clips()}))


def test_a_clip_is_answered_alone_as_among_others():
    found = purified(victim(), Hiss())
    with torch.no_grad():
        heard = found.purify({"audio": clips(5)})["audio"]
        for row in range(5):
            assert torch.equal(found.purify({"audio": clips(5)[row : row + 1]})["audio"][0], heard[row])
            together = found({"audio": in_lanes(clips(5))})[row]
            assert torch.equal(found({"audio": in_lanes(clips(5)[row : row + 1])})[0], together)


def test_gradients_come_through():
    bare, found = victim(), purified(victim(), "average:3")
    given = clips().requires_grad_()
    (slope,) = torch.autograd.grad(found({"audio": given}).square().sum(), given)
    again = clips().requires_grad_()
    (expected,) = torch.autograd.grad(bare({"audio": Average(SAMPLE_RATE)(again, {}, None)}).square().sum(), again)
    torch.testing.assert_close(slope, expected)


def test_an_attack_on_it_is_an_attack_on_what_it_hears():
    data = ToyData(16, victim())
    found = purified(victim(), Median(SAMPLE_RATE))
    run = robust.attack(found, data, eps=0.1, steps=5)
    assert run.robust.score < run.clean.score
    assert run.summary["victim"] == "toy+median:3"


def test_weights_of_both_make_the_hash():
    bare = victim()
    hashes = {weights_hash(one) for one in (bare, Purified(bare, Hiss()), Purified(bare, Hiss(level=0.2)))}
    assert len(hashes) == 3
    state = Purified(bare, Hiss()).state_dict()
    assert any(name.endswith("level") for name in state)
    assert sum(name.startswith("victim.") for name in state) == len(bare.state_dict())
    told = [Purified(bare, Average(SAMPLE_RATE, width)).config for width in (3, 5)]
    assert told[0] != told[1]


def test_embeddings_pass_through():
    bare = robust.load_victim("ast")
    found = purified(bare, "low-pass:4000")
    given = {"audio": 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        latents = found.embed(given)
        cleaned = load_purifier("low-pass:4000", sample_rate=16_000, samples=16_000)
        lower = cleaned(given["audio"], cleaned.draw(given["audio"], [torch.Generator()]), None)
        torch.testing.assert_close(latents["fused"], bare.embed({"audio": lower})["fused"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.head(latents["fused"]), found(given))
    assert found.spec.name == "ast+low-pass:4000"


def test_sight_is_left_alone():
    data, bare = Pairs(), both_senses()
    found = purified(bare, "average:3")
    video = data.video[:3]
    heard = found.purify({"audio": data.audio[:3], "video": video})
    assert torch.equal(heard["video"], video)
    assert not torch.equal(heard["audio"], data.audio[:3])
    assert found.spec.modalities == ("audio", "video")


def test_modes_and_devices_follow():
    assert not purified(victim().eval(), Average(SAMPLE_RATE)).training
    assert purified(victim().train(), Average(SAMPLE_RATE)).training
    moved = purified(victim(), Hiss()).to(torch.float64)
    assert moved({"audio": clips().double()}).dtype == torch.float64


class TestRefusals:
    def test_a_victim_that_hears_no_waveform(self):
        seen = robust.Victim.wrap(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), sample_rate=8000, labels=("a", "b"),
            modalities=("video",), shapes={"video": (1, 3, 2, 2)}, name="eye",
        )  # fmt: skip
        with pytest.raises(VictimError, match="'eye' takes video"):
            purified(seen, Average(8000))

    def test_a_purifier_of_another_rate(self):
        with pytest.raises(ThreatModelError, match="made for 16000 Hz and the victim hears 8000 Hz"):
            purified(victim(), Average(16_000))

    def test_what_a_purifier_says_of_the_clips_is_told(self):
        class Picky(Hiss):
            def forward(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
                raise ThreatModelError("clips of 7 samples alone")

        with pytest.raises(ThreatModelError, match="7 samples alone"):
            purified(victim(), Picky())

    def test_a_purifier_that_detaches_hides_nothing(self):
        class Cut(Hiss):
            def forward(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
                return clips.detach()

        with pytest.raises(VictimError, match="detaches gradients"):
            purified(victim(), Cut())

    def test_an_unknown_name(self):
        with pytest.raises(ThreatModelError, match="Did you mean 'median'"):
            purified(victim(), "mdian:3")
