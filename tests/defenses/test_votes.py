"""Votes: the closed form of a linear classifier, the same counts in every precision and batch size, bad victims."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from defenses import votes as module
from defenses.low_precision import ExplicitAttention
from defenses.smoothing import certify, certify_labels
from defenses.votes import Voter, count_votes
from tests.oracles.toy import AttentionVictim, waves

SAMPLES, SIGMA = 48, 0.25


class Linear:
    """Logits (w x + b, -w x - b): right with probability Phi(margin / sigma), the margin being the distance."""

    def __init__(self, seed: int = 0) -> None:
        weight = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weight = (weight / weight.norm()).float()

    def __call__(self, noisy: Tensor) -> Tensor:
        score = noisy @ self.weight
        return torch.stack([score, -score], dim=1)

    def at(self, distance: float) -> Tensor:
        """A clip at this distance from the border, on the side of class 0."""
        return distance * self.weight


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("distance", [0.1, 0.25, 0.4])
def test_certified_radius_of_a_linear_victim_is_its_distance_within_sampling_error(distance: float) -> None:
    """The bound on p lies between Phi(d / sigma) less 5 binomial errors, and, but for alpha, that itself."""
    victim, n, alpha = Linear(), 4000, 0.001
    counts = count_votes(victim, victim.at(distance), SIGMA, n, fresh(), 512, "fp32")
    p = norm.cdf(distance / SIGMA)
    assert abs(int(counts[0]) - n * p) < 5 * math.sqrt(n * p * (1 - p))
    radius = certify([1, 0], counts.numpy(), SIGMA, alpha).radius
    least = certify([1, 0], [binom.ppf(norm.cdf(-5), n, p), n - binom.ppf(norm.cdf(-5), n, p)], SIGMA, alpha).radius
    assert least <= radius < distance


def test_certificates_of_a_linear_victim_cover() -> None:
    """Of 300 clips at a known distance, at most alpha are certified beyond it (z = 4)."""
    victim, alpha = Linear(), 0.05
    voter = Voter(victim, SIGMA, batch_size=512, precision="fp32")
    ballots = [voter.ballot(victim.at(0.2), fresh(seed)) for seed in range(300)]
    radii = [certify([1, 0], ballot.counts(100, 2).numpy(), SIGMA, alpha).radius for ballot in ballots]
    beyond = sum(radius > 0.2 for radius in radii)
    assert beyond <= binom.ppf(norm.cdf(4), 300, alpha)
    assert beyond > 0
    assert max(radii) > 0.2  # the bound is not far from sharp


def test_many_labels_are_linear_victims_side_by_side() -> None:
    """Each label is a linear victim of its own; its certificate is that of the closed form at alpha / labels."""
    victims, distances = [Linear(seed) for seed in range(3)], (0.35, -0.3, 0.0)
    basis = torch.linalg.qr(torch.stack([one.weight for one in victims], dim=1).double()).Q.float()
    clip = basis @ torch.tensor(distances)

    def classify(noisy: Tensor) -> Tensor:
        return noisy @ basis

    voter = Voter(classify, SIGMA, multilabel=True, batch_size=512, precision="fp32")
    ballot = voter.ballot(clip, fresh(3))
    n0, n = 100, 3000
    first, later = ballot.counts(n0, 3).numpy(), ballot.counts(n, 3).numpy()
    found = certify_labels(first, n0, later, n, SIGMA, 0.003)
    assert [one.answer for one in found[:2]] == [1, 0]
    for one, distance in zip(found[:2], distances, strict=False):
        assert 0.85 * abs(distance) < one.radius < abs(distance)
    assert found[2].radius < 0.03


@pytest.mark.parametrize("size", [8, 24, 56, 64, 1000])
def test_counts_do_not_depend_on_the_batch_size(size: int) -> None:
    victim, clip = AttentionVictim(samples=400).eval(), waves(1)[0]
    expected = Voter(lambda noisy: victim({"audio": noisy}), SIGMA, precision="fp32").ballot(clip, fresh()).cast(100)
    voter = Voter(lambda noisy: victim({"audio": noisy}), SIGMA, batch_size=size, precision="fp32")
    assert torch.equal(voter.ballot(clip, fresh()).cast(100), expected)


@pytest.mark.parametrize("way", ["bf16", "bf16-explicit"])
def test_low_precision_changes_no_vote(way: str) -> None:
    victim, clips = AttentionVictim(samples=400).eval(), waves(4)

    def classify(noisy: Tensor) -> Tensor:
        return victim({"audio": noisy})

    low, full = Voter(classify, SIGMA, precision="bf16"), Voter(classify, SIGMA, precision="fp32")
    low.tally.way = way
    raw = 0
    for number, clip in enumerate(clips):
        votes = full.ballot(clip, fresh(number)).cast(400)
        assert torch.equal(low.ballot(clip, fresh(number)).cast(400), votes)
        ballot = full.ballot(clip, fresh(number))
        (noisy,) = ballot.copies.batches([400])
        raw += int((low.decide(low.logits(noisy, way)) != votes).sum())
    assert raw > 0  # low precision alone would have changed some
    assert low.tally.recast > 0
    assert low.tally.checked > 0
    assert low.tally.differing == 0
    assert low.tally.way == way


def test_low_precision_of_many_labels_changes_no_vote() -> None:
    victim, clip = AttentionVictim(samples=400).eval(), waves(1)[0]
    votes = [
        Voter(lambda noisy: victim({"audio": noisy}), SIGMA, True, 64, precision).ballot(clip, fresh()).cast(300)
        for precision in ("bf16", "fp32")
    ]
    assert votes[0].shape == (300, 5)
    assert torch.equal(*votes)


class Treacherous:
    """Is right in float32; in bfloat16 its error is small on the first votes of a clip, and all is wrong after."""

    def __init__(self, calm: int) -> None:
        self.calm, self.linear = calm, Linear()

    def __call__(self, noisy: Tensor) -> Tensor:
        logits = self.linear(noisy)
        if torch.is_autocast_enabled("cpu"):
            self.calm -= 1
            logits = logits.bfloat16().float() if self.calm >= 0 else -logits
        return logits


def test_an_error_that_grows_is_found_out_and_cast_anew() -> None:
    victim, linear = Treacherous(calm=1), Linear()
    voter = Voter(victim, SIGMA, precision="bf16")
    voter.tally.way = "bf16"
    votes = voter.ballot(linear.at(0.1), fresh()).cast(500)
    assert torch.equal(votes, Voter(linear, SIGMA, precision="fp32").ballot(linear.at(0.1), fresh()).cast(500))
    assert voter.tally.differing > 0
    assert voter.tally.exceeded == 1
    assert voter.tally.way == "fp32"


def test_noise_goes_on_between_calls_and_starts_anew_for_each_clip() -> None:
    victim = Linear()
    voter = Voter(victim, SIGMA, precision="fp32")
    ballot = voter.ballot(victim.at(0.0), fresh())
    first, second = ballot.cast(200), ballot.cast(200)
    assert not torch.equal(first, second)
    assert torch.equal(voter.ballot(victim.at(0.0), fresh()).cast(200), first)
    assert not torch.equal(voter.ballot(victim.at(0.0), fresh(1)).cast(200), first)


def test_noise_is_white_of_the_level_asked_for() -> None:
    heard: list[Tensor] = []

    def classify(noisy: Tensor) -> Tensor:
        heard.append(noisy.clone())
        return noisy[:, :2]

    clip = waves(1, 200)[0]
    Voter(classify, 0.1, precision="fp32").ballot(clip, fresh()).cast(400)
    noise = (torch.cat(heard) - clip).numpy() / 0.1
    assert noise.shape == (400, 200)
    assert noise.std() == pytest.approx(1.0, abs=5 / math.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert abs(np.corrcoef(noise[:8].ravel(), noise[8:16].ravel())[0, 1]) < 5 / math.sqrt(1600)


def test_the_fastest_way_is_found_on_votes_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    victim = Linear()

    def tried(seconds: dict[str, float], precision: str = "auto") -> Voter:
        asked: list[str] = []

        def logits(self: Voter, noisy: Tensor, way: str) -> Tensor:
            asked.append(way)
            clock[0] += seconds[way] * len(noisy)
            return victim(noisy)

        monkeypatch.setattr(Voter, "logits", logits)
        voter = Voter(victim, SIGMA, precision=precision)
        votes = voter.ballot(victim.at(0.1), fresh()).cast(1000)
        assert torch.equal(votes, victim_votes)
        assert len(asked) < 40
        return voter

    cost = {"fp32": 1.0, "bf16": 0.8, "bf16-explicit": 0.5}
    victim_votes = Voter(victim, SIGMA, precision="fp32").ballot(victim.at(0.1), fresh()).cast(1000)
    assert tried(cost).tally.way == "bf16-explicit"
    assert tried({**cost, "bf16-explicit": 0.9}).tally.way == "bf16"
    slow = {"fp32": 1.0, "bf16": 0.95, "bf16-explicit": 0.98}
    assert tried(slow).tally.way == "fp32"  # not worth it
    assert tried(slow, "bf16").tally.way == "bf16"
    assert tried(cost, "fp32").tally.way == "fp32"


def test_explicit_attention_is_attention() -> None:
    queries, keys, values = torch.randn(3, 2, 4, 47, 32, generator=fresh())
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(queries, keys, values, scale=0.3)
    mask = torch.rand(47, 47, generator=fresh()) > 0.5
    mask[:, 0] = True
    with ExplicitAttention():
        assert torch.allclose(attend(queries, keys, values, scale=0.3), expected, atol=1e-5)
        masked = attend(queries, keys, values, attn_mask=mask)
        causal = attend(queries, keys, values, is_causal=True)
    assert torch.equal(masked, attend(queries, keys, values, attn_mask=mask))
    assert torch.equal(causal, attend(queries, keys, values, is_causal=True))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ThreatModelError, match="sigma must be above 0"):
        Voter(Linear(), 0.0)
    with pytest.raises(ThreatModelError, match="Did you mean 'bf16'"):
        Voter(Linear(), 0.1, precision="bf-16")
    with pytest.raises(ThreatModelError, match="batch size must be 1"):
        Voter(Linear(), 0.1, batch_size=0)
    with pytest.raises(ThreatModelError, match="number of votes"):
        Voter(Linear(), 0.1).ballot(torch.zeros(SAMPLES), fresh()).cast(0)
