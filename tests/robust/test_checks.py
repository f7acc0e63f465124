"""Each check passes on an honest victim and fails on one made to be caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.losses import Goal
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.api import attack
from robust.evaluation import checks
from robust.evaluation.checks import Subject
from robust.evaluation.conditions import Attack
from robust.types import Batch
from robust.victims import Victim
from tests.robust.toys import CLIP_SECONDS, LABELS, SAMPLE_RATE, ToyData, network, victim


class Altered(nn.Module):
    """The toy network with its input or output changed."""

    def __init__(self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.before, self.after = network(), before, after

    def forward(self, audio: Tensor) -> Tensor:
        return self.after(self.inner(self.before(audio)))


def altered(
    before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda z: z
) -> Victim:
    return Victim.wrap(
        Altered(before, after), sample_rate=SAMPLE_RATE, labels=LABELS, clip_seconds=CLIP_SECONDS, name="altered"
    ).eval()


def subject(model: Victim, eps: float = 0.02, standing: Tensor | None = None, **settings: object) -> Subject:
    data = ToyData(24, victim())
    batch = Batch.collate([data.clip(index, model.spec) for index in range(24)])
    with torch.no_grad():
        clean = model(batch.inputs)
    labels = clean.argmax(dim=1)
    labels[::8] = (labels[::8] + 1) % 3
    batch = replace(batch, labels=labels)
    condition = Attack({"audio": Ball("linf", eps)}, PGD(**{"steps": 20, **settings}))  # type: ignore[arg-type]
    first = Subject(model, condition, batch, clean, ~Goal(batch.labels).broken(clean), 0)
    found = first.survivors(condition) if standing is None else standing
    return Subject(model, condition, batch, clean, found, 0)


ON_CLIPS = [
    checks.zero_radius,
    checks.monotone,
    checks.unbounded,
    checks.one_step,
    checks.random_noise,
    checks.gradients,
    checks.deterministic,
    checks.logits,
    checks.evaluation_mode,
]


@pytest.mark.parametrize("check", ON_CLIPS, ids=lambda check: check.__name__)
def test_passes_on_an_honest_victim(check: Callable[[Subject], checks.Check]) -> None:
    found = check(subject(victim()))
    assert found.verdict == "pass", found


def quantised(audio: Tensor) -> Tensor:
    """A front end in steps of 0.05 whose gradient points the wrong way."""
    steps = (audio / 0.05).round() * 0.05
    return steps.detach() - (audio - audio.detach())


def test_s3_and_s8_catch_masked_gradients() -> None:
    masked = subject(altered(before=quantised))
    assert checks.gradients(masked).verdict == "fail"


def test_s3_catches_an_attack_that_finds_nothing() -> None:
    flat = subject(altered(after=lambda z: 0 * z + torch.tensor([9.0, 0.0, 0.0]) + 1e-20 * z))
    assert checks.unbounded(flat).verdict == "fail"


def test_s2_and_s4_and_s7_catch_a_weak_attack() -> None:
    strong = subject(victim(), eps=0.2)
    assert int(strong.standing.sum()) == 0
    everything_stands = subject(victim(), eps=0.2, standing=strong.clean.argmax(1) == strong.batch.labels)
    assert checks.monotone(everything_stands).verdict == "fail"
    assert checks.one_step(everything_stands).verdict in ("warn", "fail")
    loud = subject(victim(), eps=0.9, standing=everything_stands.standing)
    assert checks.random_noise(loud).verdict == "fail"


def test_s9_catches_a_random_victim() -> None:
    noisy = altered(before=lambda x: x + 0.01 * torch.randn(x.shape))
    found = checks.deterministic(subject(noisy))
    assert found.verdict == "fail"
    assert "EOT" in found.detail


def test_s10_warns_of_probabilities() -> None:
    found = checks.logits(subject(altered(after=lambda z: z.softmax(dim=1))))
    assert found.verdict == "warn"
    assert "probabilities" in found.detail


def test_s15_catches_a_module_that_goes_back_to_training() -> None:
    model = victim()
    model.module.train()
    assert checks.evaluation_mode(subject(model)).verdict == "fail"


def test_s12_s13_s16_read_the_records() -> None:
    model = victim()
    result = attack(model, ToyData(24, model), eps=0.01, steps=20)
    records = result.records
    assert checks.audited(records).verdict == "pass"
    loud = records.assign(violated=[True] + [False] * 23, violation=["audio: budget exceeded"] + [""] * 23)
    assert checks.audited(loud).verdict == "fail"
    sample = subject(model)
    assert checks.labels(sample, records).verdict == "pass"
    assert checks.labels(sample, records.assign(attacked=True)).verdict == "fail"
    standing = records.assign(attacked=True, correct=True)
    assert checks.converged(sample, standing.assign(late_gain=0.0)).verdict == "pass"
    assert checks.converged(sample, standing.assign(late_gain=0.3)).verdict == "warn"


def test_all_checks_are_reported_in_order() -> None:
    model = victim()
    names = [check.name.split()[0] for check in attack(model, ToyData(16, model), eps=0.01, steps=20).checks]
    assert names == ["S1", "S2", "S3", "S4", "S7", "S8", "S9", "S10", "S12", "S13", "S15", "S16"]
