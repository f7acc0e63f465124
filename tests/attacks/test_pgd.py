"""The fixed-radius attack: against closed forms, against torchattacks, and in every company."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from attacks.losses import Goal
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from tests.oracles.linear import LinearVictim, breaking_radius
from tests.oracles.toy import AttentionVictim, ConvVictim, TwoSenses, predictions, waves

NORMS = ("linf", "l2", "l1")
AUDIO = waves(12)
MIDDLING = {"linf": 0.01, "l2": 0.15, "l1": 1.0}
"""Radii that break some, but not all, of what `ConvVictim` gets right on `AUDIO`."""


def seeds(rows: Tensor) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(int(row)) for row in rows]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("schedule", ["apgd", "cosine", "constant"])
def test_linear_victim_breaks_just_above_its_closed_form_radius(norm: str, schedule: str) -> None:
    victim, clean = LinearVictim((60,)), waves(8, 60)
    labels = predictions(victim, {"audio": clean})
    exact = torch.from_numpy(breaking_radius(victim, clean, labels, norm))
    config = PGD(steps=100, schedule=schedule, sparsity=1 / 60)  # L1: one coordinate at a time is steepest
    for factor, broken in ((0.99, False), (1.01, True)):
        result = pgd(victim, {"audio": clean}, Goal(labels), {"audio": Ball(norm, exact * factor)}, config=config)
        assert result.broken.tolist() == [broken] * 8, factor


@pytest.mark.parametrize("norm", NORMS)
def test_linear_victim_in_a_tight_range(norm: str) -> None:
    """The last step to the closed form leads along the data range: only a joint projection gets there."""
    victim, clean = LinearVictim((60,), seed=1), waves(8, 60, peak=0.2)
    labels = predictions(victim, {"audio": clean})
    exact = torch.from_numpy(breaking_radius(victim, clean, labels, norm, -0.2, 0.2))
    wide = torch.from_numpy(breaking_radius(victim, clean, labels, norm))
    reachable = exact.isfinite() & (exact > wide * 1.001)
    assert int(reachable.sum()) >= 2
    clean, labels, exact = clean[reachable], labels[reachable], exact[reachable]
    for factor, broken in ((0.99, False), (1.02, True)):
        ball = Ball(norm, exact * factor, low=-0.2, high=0.2)
        result = pgd(victim, {"audio": clean}, Goal(labels), {"audio": ball}, config=PGD(steps=100))
        assert result.broken.tolist() == [broken] * len(clean)
        assert ball.around(clean).audit(result.inputs["audio"]).reasons == ()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("victim", [ConvVictim(), AttentionVictim()], ids=["conv", "attention"])
def test_an_example_fares_alike_alone_and_in_company(norm: str, victim: nn.Module) -> None:
    """Broken examples leave the batch on the way; with two restarts the rest meets other neighbours again."""
    labels = predictions(victim, {"audio": AUDIO})
    ball, config, every = Ball(norm, MIDDLING[norm]), PGD(steps=12, restarts=2), torch.arange(12)
    together = pgd(victim, {"audio": AUDIO}, Goal(labels), {"audio": ball}, config=config, generators=seeds(every))
    assert len(set(together.forwards.tolist())) > 1
    for row in range(0, 12, 2):
        one = torch.tensor([row])
        alone = pgd(
            victim, {"audio": AUDIO[one]}, Goal(labels[one]), {"audio": ball}, config=config, generators=seeds(one)
        )
        assert torch.equal(alone.inputs["audio"][0], together.inputs["audio"][row])
        for name in ("broken", "loss", "forwards", "backwards"):
            assert getattr(alone, name)[0] == getattr(together, name)[row], name


@pytest.mark.parametrize("norm", NORMS)
def test_what_comes_back_is_in_the_budget_and_really_breaks(norm: str) -> None:
    victim = ConvVictim().train()
    labels, before = predictions(victim, {"audio": AUDIO}), {k: v.clone() for k, v in victim.state_dict().items()}
    valid = (torch.arange(400) < 300).expand(12, 400)
    ball = Ball(norm, MIDDLING[norm])
    result = pgd(victim, {"audio": AUDIO}, Goal(labels), {"audio": ball}, valid={"audio": valid})
    assert ball.around(AUDIO, valid).audit(result.inputs["audio"]).reasons == ()
    assert 0 < int(result.broken.sum()) < 12
    assert torch.equal(predictions(victim, result.inputs) != labels, result.broken)
    assert victim.training
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())


def robust_share(config: PGD, norm: str, clean: Tensor, victim: nn.Module) -> float:
    goal = Goal(predictions(victim, {"audio": clean}))
    result = pgd(victim, {"audio": clean}, goal, {"audio": Ball(norm, MIDDLING[norm])}, config=config)
    return 1 - float(result.broken.double().mean())


@pytest.mark.parametrize("norm", NORMS)
def test_more_work_is_never_worse(norm: str) -> None:
    victim, clean = ConvVictim(), waves(48, seed=5)
    by_steps = [robust_share(PGD(steps=steps), norm, clean, victim) for steps in (3, 12, 50)]
    two_errors = 2 * (0.25 / 48) ** 0.5
    assert by_steps[0] >= by_steps[1] - two_errors
    assert by_steps[1] >= by_steps[2] - two_errors
    assert 0 < by_steps[2] < 1
    # Restarts only ever work on what the ones before left: no tolerance.
    by_restarts = [robust_share(PGD(steps=6, restarts=restarts), norm, clean, victim) for restarts in (1, 2, 4)]
    assert by_restarts == sorted(by_restarts, reverse=True)


def test_best_is_no_worse_than_last() -> None:
    victim = ConvVictim()
    goal = Goal(predictions(victim, {"audio": AUDIO}))
    config = PGD(steps=15, schedule="constant", rel_step=1.0, stop_when_broken=False, random_start=False)
    best, last = (
        pgd(victim, {"audio": AUDIO}, goal, {"audio": Ball("l2", 0.15)}, config=replace(config, keep=keep))
        for keep in ("best", "last")
    )
    assert bool((best.loss >= last.loss).all())
    assert bool((best.loss > last.loss).any())
    assert bool((best.broken | ~last.broken).all())
    torch.testing.assert_close(best.trace[:, -1], best.loss)
    assert bool((best.trace.diff(dim=1) >= 0).all())


@pytest.mark.parametrize("norm", NORMS)
def test_targeted(norm: str) -> None:
    victim = LinearVictim((40,), classes=4)
    clean = waves(8, 40, seed=2)
    labels = predictions(victim, {"audio": clean})
    goal = Goal(labels, targets=(labels + 2) % 4)
    ball = Ball(norm, {"linf": 0.4, "l2": 2.5, "l1": 12.0}[norm])
    result = pgd(victim, {"audio": clean}, goal, {"audio": ball}, config=PGD(steps=60))
    assert torch.equal(predictions(victim, result.inputs) == goal.targets, result.broken)
    assert int(result.broken.sum()) >= 6


@pytest.mark.parametrize("norm", NORMS)
def test_multilabel_breaks_just_above_its_closed_form_radius(norm: str) -> None:
    """One event in the clip: it is gone where its own logit, a linear function, falls below 0."""
    victim, clean = LinearVictim((60,), classes=3), waves(12, 60, seed=3)
    logits = victim({"audio": clean}).detach()
    present = torch.nn.functional.one_hot(logits.argmax(1), 3)
    heard = logits.amax(1) > 0.05
    weight = victim.weight.detach()[logits.argmax(1)]
    steepness = torch.linalg.vector_norm(weight, {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm], dim=1)
    clean, present, radius = clean[heard], present[heard], (logits.amax(1) / steepness)[heard].double()
    assert len(clean) >= 4
    for factor, broken in ((0.99, False), (1.01, True)):
        ball = Ball(norm, radius * factor)
        result = pgd(victim, {"audio": clean}, Goal(present), {"audio": ball}, config=PGD(steps=100, loss="margin"))
        assert result.broken.tolist() == [broken] * len(clean)


def test_multilabel_goes_on_after_the_clip_is_broken() -> None:
    victim, clean = LinearVictim((60,), classes=3), waves(6, 60, seed=3)
    goal = Goal((victim({"audio": clean}) > 0).long())
    result = pgd(victim, {"audio": clean}, goal, {"audio": Ball("linf", 0.3)}, config=PGD(steps=20))
    assert bool(result.broken.all())
    assert result.forwards.tolist() == [21] * 6


def test_two_modalities_with_their_own_norms() -> None:
    victim = TwoSenses()
    inputs = {"audio": AUDIO, "video": torch.rand(12, 2, 3, 4, 4, generator=torch.Generator().manual_seed(4))}
    goal = Goal(predictions(victim, inputs))
    threat = {"audio": Ball("linf", 0.004), "video": Ball("l2", 0.1, low=0.0, high=1.0)}
    both = pgd(victim, inputs, goal, threat)
    for name, ball in threat.items():
        audit = ball.around(inputs[name]).audit(both.inputs[name])
        assert audit.reasons == ()
        assert bool((audit.ratio > 0.3).any())
    for name, ball in threat.items():
        single = pgd(victim, inputs, goal, {name: ball})
        assert int(single.broken.sum()) <= int(both.broken.sum())
        other = next(iter(set(inputs) - {name}))
        assert torch.equal(single.inputs[other], inputs[other])
    assert int(both.broken.sum()) > 0


@pytest.mark.parametrize("factor", [0.999, 1.01, 1.5])
def test_low_precision_search_never_claims_what_does_not_hold(factor: float) -> None:
    victim, clean = LinearVictim((60,)), waves(24, 60, seed=6)
    labels = predictions(victim, {"audio": clean})
    exact = torch.from_numpy(breaking_radius(victim, clean, labels, "linf"))
    config = PGD(search_dtype=torch.bfloat16)
    result = pgd(victim, {"audio": clean}, Goal(labels), {"audio": Ball("linf", exact * factor)}, config=config)
    assert torch.equal(predictions(victim, result.inputs) != labels, result.broken)
    if factor < 1:
        assert not bool(result.broken.any())
    if factor > 1.1:
        assert bool(result.broken.all())


@pytest.mark.parametrize("norm", NORMS)
def test_radius_zero_returns_the_clean_input_bit_for_bit(norm: str) -> None:
    victim = ConvVictim()
    goal = Goal(predictions(victim, {"audio": AUDIO}))
    radius = torch.zeros(12)
    radius[3] = MIDDLING[norm]
    result = pgd(victim, {"audio": AUDIO}, goal, {"audio": Ball(norm, radius)})
    still = torch.arange(12) != 3
    assert torch.equal(result.inputs["audio"][still], AUDIO[still])
    assert not torch.equal(result.inputs["audio"][3], AUDIO[3])
    assert not bool(result.broken[still].any())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
def test_a_constant_victim_is_never_broken(norm: str, loss: str) -> None:
    def victim(inputs: dict[str, Tensor]) -> Tensor:
        return inputs["audio"].sum(1, keepdim=True) * 0 + torch.tensor([1.0, 0.0, 0.5])

    for schedule in ("apgd", "cosine"):
        config = PGD(steps=10, loss=loss, schedule=schedule, momentum=0.75)
        goal = Goal(torch.zeros(12, dtype=torch.int64))
        result = pgd(victim, {"audio": AUDIO}, goal, {"audio": Ball(norm, 0.1)}, config=config)
        assert not bool(result.broken.any())
        assert bool(result.inputs["audio"].isfinite().all())
        assert bool(result.loss.isfinite().all())


class ImageVictim(nn.Module):
    """Two-dimensional convolutions on images (B, 3, 8, 8) in [0, 1]: where torchattacks is at home."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images)).flatten(1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_is_torchattacks_pgd_when_set_to_its_settings(norm: str, random_start: bool) -> None:
    import torchattacks

    victim = ImageVictim().eval()
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    if norm == "l2":  # near its bounds torchattacks clamps after projecting, which is no projection; stay away
        images = images * 0.4 + 0.3
    labels = victim(images).argmax(1)
    eps, alpha, steps = {"linf": (0.03, 0.008, 15), "l2": (0.4, 0.1, 15)}[norm]
    attack = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    start = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        theirs = attack(victim, eps=eps, alpha=alpha, steps=steps, random_start=random_start)(images, labels)
        if random_start:  # zero steps: the start alone, from the same draws
            torch.manual_seed(7)
            start = {"image": attack(victim, eps=eps, alpha=alpha, steps=0)(images, labels)}
    config = PGD(
        steps=steps,
        loss="ce",
        schedule="constant",
        rel_step=alpha / eps,
        random_start=False,
        keep="last",
        stop_when_broken=False,
    )
    ours = pgd(
        lambda inputs: victim(inputs["image"]),
        {"image": images},
        Goal(labels),
        {"image": Ball(norm, eps, low=0.0, high=1.0)},
        config=config,
        start=start,
    )
    torch.testing.assert_close(ours.inputs["image"], theirs, rtol=0, atol=1e-6)
    assert float((theirs - images).abs().max()) > 0.9 * eps / 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more"),
        ({"restarts": 0}, "restarts must be 1 or more"),
        ({"rel_step": 0.0}, "rel_step must be above 0"),
        ({"sparsity": -1.0}, "sparsity must be above 0"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"loss": "cee"}, "Did you mean 'ce'"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        PGD(**settings)


def test_an_unknown_modality_is_named() -> None:
    with pytest.raises(ThreatModelError, match="Did you mean 'audio'"):
        pgd(ConvVictim(), {"audio": AUDIO}, Goal(torch.zeros(12).long()), {"audoi": Ball("linf", 0.1)})
