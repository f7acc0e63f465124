"""One perturbation for all clips: closed forms, a budget that always holds, and the author's variant that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from attacks.gradients import Victim
from attacks.joint import JOINT, Packing, packed_victim
from attacks.legacy import Legacy, legacy_universal
from attacks.losses import Goal
from attacks.supports import FrequencyBand, MelBand, TimeWindow, out_of_support
from attacks.threat import Ball, audit
from attacks.universal import (
    Batches,
    Clips,
    Universal,
    UniversalResult,
    apply_universal,
    fit_universal,
    random_universal,
)
from tests.oracles.linear import LinearVictim
from tests.oracles.toy import ConvVictim, TwoSenses, predictions, waves

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": 1.0, "l2": 2.0, "l1": np.inf}
ORDER = {"linf": np.inf, "l2": 2.0, "l1": 1.0}


def feed(inputs: Mapping[str, Tensor], goal: Goal, size: int = 8, valid: Mapping[str, Tensor] | None = None) -> Batches:
    """Batches of `size` clips, anew at every call."""

    def batches() -> Iterator[Clips]:
        for rows in torch.arange(len(goal.labels)).split(size):
            masks = {name: mask[rows] for name, mask in (valid or {}).items()}
            yield {name: value[rows] for name, value in inputs.items()}, goal.select(rows), masks

    return batches


def norm_of(delta: Tensor, norm: str) -> float:
    return float(np.linalg.norm(delta.double().numpy().ravel(), ORDER[norm]))


def one_class(victim: nn.Module, count: int, samples: int) -> tuple[Tensor, Tensor]:
    """Clips that the victim gives class 0."""
    clean = waves(8 * count, samples, seed=2)
    clean = clean[predictions(victim, {"audio": clean}) == 0][:count]
    return clean, torch.zeros(len(clean), dtype=torch.int64)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_victim_gets_the_best_there_is(norm: str) -> None:
    """All clips share a slope: the best gain is radius times its dual norm, at its sign, direction or largest value."""
    victim = LinearVictim((60,), seed=1)
    clean, labels = one_class(victim, 20, 60)
    radius = {"linf": 0.05, "l2": 0.3, "l1": 0.45}[norm]
    slope = (victim.weight[1] - victim.weight[0]).detach().double().numpy()
    config = Universal(epochs=10, sparsity=1 / 60)
    found = fit_universal(victim, feed({"audio": clean}, Goal(labels)), {"audio": Ball(norm, radius)}, config=config)
    delta = found.delta["audio"].double().numpy()
    assert slope @ delta == pytest.approx(radius * np.linalg.norm(slope, DUAL[norm]), rel=2e-3)
    assert found.realised["audio"] == pytest.approx(norm_of(found.delta["audio"], norm), rel=1e-12)
    assert radius * 0.999 < found.realised["audio"] <= radius * (1 + 1e-6)
    assert found.forwards == found.backwards == 10 * len(clean)
    assert len(found.trace) == 10
    assert found.trace[-1] > found.trace[0]
    assert not found.legacy


def test_nothing_is_spent_where_nothing_follows() -> None:
    """Padding of all clips, and values that all clips have at the end of the range they would have to cross."""
    victim = LinearVictim((60,), seed=1)
    clean, labels = one_class(victim, 20, 60)
    slope = (victim.weight[1] - victim.weight[0]).detach().double()
    clean[:, 10:30] = slope[10:30].sign().float()
    labels = torch.zeros_like(labels)
    valid = torch.ones_like(clean, dtype=torch.bool)
    valid[:, 40:] = False
    batches = feed({"audio": clean}, Goal(labels), valid={"audio": valid})
    found = fit_universal(victim, batches, {"audio": Ball("l2", 0.3)}, config=Universal(epochs=30))
    useful = torch.cat([slope[:10], slope[30:40]])
    moved = apply_universal(clean, found.delta["audio"], valid=valid).double() - clean.double()
    assert (moved @ slope).numpy() == pytest.approx(0.3 * float(useful.norm()), rel=5e-3)


def test_a_remainder_makes_a_shorter_step() -> None:
    """12 clips, 8 to a step: one step and a half in each epoch; fewer clips than that: one whole step."""
    victim = LinearVictim((60,), seed=1)
    clean, labels = one_class(victim, 12, 60)
    for per_step, steps in ((8, 1.5), (12, 1.0), (50, 1.0)):
        config = Universal(epochs=1, rel_step=0.1, clips_per_step=per_step, random_start=False)
        batches = feed({"audio": clean}, Goal(labels), 5)
        found = fit_universal(victim, batches, {"audio": Ball("l2", 0.3)}, config=config)
        assert found.realised["audio"] == pytest.approx(0.03 * steps, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_fitted_beats_random_on_clips_never_seen(norm: str) -> None:
    victim, clean = ConvVictim(), waves(120, seed=3)
    labels = predictions(victim, {"audio": clean})
    ball = Ball(norm, {"linf": 0.05, "l2": 0.6, "l1": 4.0}[norm])
    seen, unseen = slice(0, 60), slice(60, 120)
    result = fit_universal(victim, feed({"audio": clean[seen]}, Goal(labels[seen])), {"audio": ball})

    def kept(delta: Tensor) -> float:
        moved = apply_universal(clean[unseen], delta)
        assert ball.around(clean[unseen]).audit(moved).reasons == ()
        return float((predictions(victim, {"audio": moved}) == labels[unseen]).double().mean())

    noise = [kept(random_universal((400,), ball, torch.Generator().manual_seed(seed))) for seed in range(5)]
    assert kept(result.delta["audio"]) < min(noise) - 0.1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(50,), (12, 8), (3, 30)], ids=["waveform", "log-mel", "video features"])
def test_the_budget_always_holds(norm: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    victim = LinearVictim(shape, classes=4)
    low, high = -3.0, 3.0
    for trial in range(6):
        clean = (torch.rand(20, *shape, generator=generator) * 2 - 1) * 3
        goal = Goal(torch.arange(20) % 4)
        radius = float(10 ** (torch.rand((), generator=generator) * 5 - 4))
        ball = Ball(norm, radius, low=low, high=high)
        valid = torch.rand(20, *shape, generator=generator) < 0.8
        config = Universal(epochs=3, clips_per_step=7, rel_step=3.0, clamp_delta=trial % 2 == 1)
        batches = feed({"audio": clean}, goal, valid={"audio": valid})
        found = fit_universal(victim, batches, {"audio": ball}, config=config)
        delta = found.delta["audio"]
        assert delta.shape == shape
        assert norm_of(delta, norm) <= radius * (1 + 1e-6)
        moved = apply_universal(clean, delta, low, high, valid)
        told = audit(clean, moved, norm, torch.full((20,), radius), valid, (low, high))
        assert told.reasons == ()
        assert torch.equal(moved[~valid], clean[~valid])
        if config.clamp_delta:
            straight = clean.double() + delta.double()
            assert bool(((straight >= low) & (straight <= high))[valid].all())


def test_no_value_moves_further_than_the_perturbation_says() -> None:
    """Also by rounding: near 1 a float32 step of 1e-6 is a matter of a few units in the last place."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(50, 100, generator=generator) * 2 - 1
    clean[:, 0] = 1.0
    for size in (1e-8, 1e-6, 1e-3, 1.0):
        delta = torch.randn(100, generator=generator) * size
        delta[5] = 0.0
        moved = apply_universal(clean, delta).double() - clean.double()
        assert bool((moved.abs() <= delta.double().abs()).all())
        assert bool((moved[:, 5] == 0).all())
        assert bool((moved.sign() * delta.sign() >= 0).all())
    torch.testing.assert_close(apply_universal(clean, delta), (clean + delta).clamp(-1, 1), rtol=0, atol=2e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_batches_make_no_difference(norm: str) -> None:
    """Updates come after so many clips, not after so many batches."""
    victim, clean = ConvVictim(), waves(29, seed=5)
    goal = Goal(predictions(victim, {"audio": clean}))
    ball, config = Ball(norm, {"linf": 0.05, "l2": 0.6, "l1": 4.0}[norm]), Universal(epochs=3, clips_per_step=10)
    found = [
        fit_universal(victim, feed({"audio": clean}, goal, size), {"audio": ball}, config=config) for size in (1, 7, 29)
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.delta["audio"], found[0].delta["audio"], rtol=1e-5, atol=1e-7)
        assert other.trace == pytest.approx(found[0].trace, rel=1e-6)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    victim, clean = ConvVictim(), waves(16, seed=5)
    batches = feed({"audio": clean}, Goal(predictions(victim, {"audio": clean})))

    def fit(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        config, threat = Universal(epochs=2), {"audio": Ball("l2", 0.3)}
        return fit_universal(victim, batches, threat, config=config, generator=generator).delta["audio"]

    assert torch.equal(fit(1), fit(1))
    assert not torch.equal(fit(1), fit(2))


def test_two_modalities_each_with_its_budget() -> None:
    victim = TwoSenses().train()
    inputs = {"audio": waves(16), "video": torch.rand(16, 2, 3, 4, 4, generator=torch.Generator().manual_seed(4))}
    goal = Goal(predictions(victim, inputs))
    threat = {"audio": Ball("linf", 0.02), "video": Ball("l2", 0.5, low=0.0, high=1.0)}
    both = fit_universal(victim, feed(inputs, goal), threat, config=Universal(epochs=5))
    assert both.norm == {"audio": "linf", "video": "l2"}
    for name, ball in threat.items():
        assert both.delta[name].shape == inputs[name].shape[1:]
        assert 0.99 * ball.radius < norm_of(both.delta[name], ball.norm) <= ball.radius * (1 + 1e-6)
        alone = fit_universal(victim, feed(inputs, goal), {name: ball}, config=Universal(epochs=5))
        assert set(alone.delta) == {name}
        assert alone.trace[-1] < both.trace[-1]
    assert victim.training


def test_one_ball_over_both() -> None:
    inputs = {"audio": waves(16), "video": torch.rand(16, 2, 3, 4, 4, generator=torch.Generator().manual_seed(4))}
    packing = Packing({"audio": (400,), "video": (2, 3, 4, 4)}, {"video": (0.0, 1.0)}, {"audio": 0.25})
    victim = packed_victim(TwoSenses(), packing)
    joined = packing.join(inputs)
    goal, ball = Goal(predictions(victim, joined)), packing.ball("l2", 0.5)
    found = fit_universal(victim, feed(joined, goal), {JOINT: ball}, config=Universal(epochs=3))
    moved = apply_universal(joined[JOINT], found.delta[JOINT], packing.low, packing.high)
    assert ball.around(joined[JOINT]).audit(moved).reasons == ()
    assert found.realised[JOINT] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_support_holds_for_all_clips(norm: str) -> None:
    for support, shape in ((TimeWindow(0, 0.5), (64,)), (FrequencyBand(40, 100, 400), (64,)), (MelBand(0, 2), (8, 8))):
        victim = LinearVictim(shape, classes=3)
        clean = waves(10, 64).view(10, *shape)
        ball = Ball(norm, {"linf": 0.05, "l2": 0.2}[norm], support=support)
        found = fit_universal(
            victim, feed({"audio": clean}, Goal(torch.arange(10) % 3)), {"audio": ball}, config=Universal(epochs=4)
        )
        delta = found.delta["audio"]
        assert 0.98 * ball.radius < norm_of(delta, norm) <= ball.radius * (1 + 1e-6)
        assert float(out_of_support(delta[None], support)) < 1e-6
        noise = random_universal(shape, ball, torch.Generator().manual_seed(1))
        assert 0.98 * ball.radius < norm_of(noise, norm) <= ball.radius * (1 + 1e-6)
        assert float(out_of_support(noise[None], support)) < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_random_baseline_has_all_of_the_radius(norm: str) -> None:
    draws = torch.stack(
        [random_universal((20, 30), Ball(norm, 0.3), torch.Generator().manual_seed(seed)) for seed in range(50)]
    )
    for draw in draws:
        assert 0.3 * (1 - 1e-5) < norm_of(draw, norm) <= 0.3 * (1 + 1e-6)
    assert abs(float((draws > 0).double().mean()) - 0.5) < 0.02
    # Mean size over mean square root: 1 for signs, (2 / pi)^(1/2) for Gaussian noise, 2^(-1/2) for Laplace noise.
    shape = float(draws.abs().mean() / draws.square().mean().sqrt())
    assert shape == pytest.approx({"linf": 1.0, "l2": (2 / np.pi) ** 0.5, "l1": 0.5**0.5}[norm], rel=0.02)


def test_targeted() -> None:
    victim, clean = LinearVictim((60,), classes=4), waves(30, 60, seed=6)
    labels = predictions(victim, {"audio": clean})
    goal = Goal(labels, torch.full_like(labels, 2))
    found = fit_universal(victim, feed({"audio": clean}, goal), {"audio": Ball("l2", 3.0)})
    moved = apply_universal(clean, found.delta["audio"])
    assert float((predictions(victim, {"audio": moved}) == 2).double().mean()) > 0.9


def test_multilabel() -> None:
    victim, clean = LinearVictim((60,), classes=3), waves(30, 60, seed=6)
    goal = Goal((victim({"audio": clean}) > 0).long())
    found = fit_universal(victim, feed({"audio": clean}, goal), {"audio": Ball("linf", 0.2)})
    after = victim({"audio": apply_universal(clean, found.delta["audio"])}).detach()
    assert float(goal.broken(after).double().mean()) > float(goal.broken(victim({"audio": clean})).double().mean())


def steady(shape: tuple[int, ...]) -> Victim:
    """A multi-label victim whose gradients never change their sign: all weights are negative."""

    def victim(inputs: dict[str, Tensor]) -> Tensor:
        total = inputs["logmel"].flatten(1).sum(1, keepdim=True)
        return -1e-3 * torch.cat([total, total], dim=1)

    return victim


def legacy(shape: tuple[int, ...], batches: int, spread: float = 10.0, **settings: object) -> UniversalResult:
    clean = (torch.rand(batches, *shape, generator=torch.Generator().manual_seed(0)) - 0.5) * spread
    clean[0, 0, 0], clean[1, 0, 0] = -100.0, 100.0  # the range of the data leaves room
    goal = Goal(torch.ones(batches, 2))
    eps = {"logmel": 0.1}
    return legacy_universal(steady(shape), feed({"logmel": clean}, goal, 1), eps, config=Legacy(**settings))


@pytest.mark.parametrize(
    ("settings", "realised"),
    [
        ({"step": 0.1}, 2.00),
        ({"step": 0.01}, 1.86),
        ({"step": 0.01, "step_norm": "l2", "eps_norm": "l2"}, 40.0),
    ],
)
def test_the_authors_variant_leaves_its_budget(settings: dict[str, object], realised: float) -> None:
    """The figures of methods.md 1.3, from 20 passes over many batches: 20 eps, 18.6 eps, and 20 eps in every frame."""
    found = legacy((400, 4), 50, **settings)
    assert found.legacy
    assert found.radius == {"logmel": 0.1}
    assert found.realised["logmel"] == pytest.approx(realised, rel=0.02)
    assert found.realised["logmel"] == pytest.approx(norm_of(found.delta["logmel"], found.norm["logmel"]))
    if found.norm["logmel"] == "l2":
        frames = found.delta["logmel"].double().norm(dim=-1)
        torch.testing.assert_close(frames, torch.full((400,), 2.0).double(), rtol=0.02, atol=0)


def test_only_the_data_range_stops_the_authors_variant() -> None:
    shape = (6, 4)
    clean = (torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 3
    goal = Goal(torch.ones(20, 2))
    free, forced = (
        legacy_universal(
            steady(shape), feed({"logmel": clean}, goal, 5), {"logmel": 0.1}, config=Legacy(delta_force=force)
        )
        for force in (False, True)
    )
    moved = clean + forced.delta["logmel"]
    assert float(moved.min()) >= float(clean.min()) - 1e-6
    assert float(moved.max()) <= float(clean.max()) + 1e-6
    assert float((clean + free.delta["logmel"]).max()) > float(clean.max()) + 0.1
    assert forced.realised["logmel"] < free.realised["logmel"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Universal(epochs=0), "epochs must be 1 or more"),
        (lambda: Universal(clips_per_step=0), "clips_per_step must be 1 or more"),
        (lambda: Universal(rel_step=0.0), "rel_step must be above 0"),
        (lambda: Universal(momentum=1.0), "momentum must be"),
        (lambda: Universal(loss="cee"), "Did you mean 'ce'"),
        (lambda: Legacy(step_norm="l1"), "Unknown norm of the legacy attack 'l1'"),
        (lambda: Legacy(step=0.0), "a step above 0"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        make()


@pytest.mark.parametrize(
    ("threat", "message"),
    [
        ({"audoi": Ball("linf", 0.1)}, "Did you mean 'audio'"),
        ({"audio": Ball("linf", 20.0, "snr_db")}, "one radius for all clips"),
        ({"audio": Ball("linf", torch.tensor([0.1, 0.2]))}, "one radius for all clips"),
        ({"audio": Ball("linf", 0.1, low=-0.1, high=0.1)}, "leaves its declared range"),
    ],
)
def test_budgets_that_cannot_be(threat: dict[str, Ball], message: str) -> None:
    victim, clean = LinearVictim((60,)), waves(4, 60)
    batches = feed({"audio": clean}, Goal(torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(ThreatModelError, match=message):
        fit_universal(victim, batches, threat)
    if "audoi" in threat:
        with pytest.raises(ThreatModelError, match=message):
            fit_universal(victim, batches, threat, config=Universal(clamp_delta=True))
        with pytest.raises(ThreatModelError, match=message):
            legacy_universal(victim, batches, {"audoi": 0.1})


def test_without_clips() -> None:
    nothing = feed({"audio": waves(1, 60)[:0]}, Goal(torch.zeros(0, dtype=torch.int64)))
    victim = LinearVictim((60,))
    for fit in (
        lambda: fit_universal(victim, lambda: iter(()), {"audio": Ball("linf", 0.1)}),
        lambda: legacy_universal(victim, lambda: iter(()), {"audio": 0.1}),
        lambda: legacy_universal(victim, nothing, {"audio": 0.1}),
        lambda: fit_universal(victim, nothing, {"audio": Ball("linf", 0.1)}),
        lambda: fit_universal(victim, nothing, {"audio": Ball("linf", 0.1)}, config=Universal(clamp_delta=True)),
    ):
        with pytest.raises(ThreatModelError, match="there are none"):
            fit()
