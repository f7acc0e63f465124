"""torchattacks on signed waveforms: what it does by itself, and what it does through the adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from attacks.losses import Goal
from attacks.pgd import AttackResult
from attacks.threat import Ball, Region
from attacks.zoo import ZooEntry, list_attacks, run_torchattacks
from tests.oracles.toy import ConvVictim, TwoSenses, predictions, waves

torchattacks = pytest.importorskip("torchattacks")

ENTRIES = {entry.name: entry for entry in list_attacks()}
RUNNING = [
    (entry, norm)
    for entry in list_attacks()
    if entry.supported
    for norm in ([norm for norm in entry.norms if norm != "l0"] or ["linf"])
]
REFUSED = [entry for entry in list_attacks() if not entry.supported]
AUDIO = waves(4)
VICTIM = ConvVictim()
GOAL = Goal(predictions(VICTIM, {"audio": AUDIO}))
RADIUS = {"linf": 0.02, "l2": 0.4, "l1": 8.0}
WIDE = {"linf": 1.5, "l2": 3.0, "l1": 8.0}
"""Where an attack that changes a few values at will has room for them."""


def run(name: str, norm: str, radius: float | None = None, **options: object) -> AttackResult:
    ball = Ball(norm, RADIUS[norm] if radius is None else radius)
    return run_torchattacks(VICTIM, {"audio": AUDIO}, GOAL, {"audio": ball}, name, **options)


def test_every_attack_of_torchattacks_is_listed_once() -> None:
    assert sorted(ENTRIES) == sorted(torchattacks.__all__)
    assert len(list_attacks()) == len(ENTRIES)
    assert all(entry.reason for entry in REFUSED)


@pytest.mark.parametrize(("entry", "norm"), RUNNING, ids=lambda value: getattr(value, "name", value))
def test_stays_in_the_budget(entry: ZooEntry, norm: str) -> None:
    result = run(entry.name, norm)
    point = result.inputs["audio"]
    audit = Ball(norm, RADIUS[norm]).around(AUDIO).audit(point)
    assert audit.reasons == ()
    assert float(audit.ratio.max()) <= 1 + 1e-6
    if entry.kind == "fixed-budget" and norm == "linf":
        assert float((point.double() - AUDIO.double()).abs().max()) <= RADIUS["linf"] * (1 + 1e-6)
    assert torch.equal(predictions(VICTIM, result.inputs) != GOAL.labels, result.broken)
    assert bool((result.forwards >= 2).all())


@pytest.mark.parametrize(
    "name", [entry.name for entry, _ in RUNNING if entry.kind != "baseline" and entry.name not in ("OnePixel", "SPSA")]
)
def test_finds_something_where_there_is_much_to_find(name: str) -> None:
    entry = ENTRIES[name]
    norm = next((norm for norm in entry.norms if norm != "l0"), "linf")
    result = run(name, norm, WIDE[norm] if "l0" in entry.norms else 2 * RADIUS[norm])
    assert int(result.broken.sum()) >= (1 if name == "JSMA" else 2)


def test_by_itself_it_destroys_the_waveform() -> None:
    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = VICTIM

        def forward(self, audio: Tensor) -> Tensor:
            return self.inner({"audio": audio})

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        naive = torchattacks.PGD(Signed(), eps=0.001, alpha=0.00025, steps=10)(AUDIO, GOAL.labels)
    assert float((naive - AUDIO).abs().max()) > 0.45
    ours = run("PGD", "linf", 0.001).inputs["audio"]
    assert float((ours.double() - AUDIO.double()).abs().max()) <= 0.001 * (1 + 1e-6)
    assert bool(((ours < 0) == (AUDIO < 0)).float().mean() > 0.99)


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry.name)
def test_refused_with_a_reason(entry: ZooEntry) -> None:
    with pytest.raises(ThreatModelError, match="does not work on waveforms: it"):
        run(entry.name, entry.norms[0] if "l2" in entry.norms else "linf")


@pytest.mark.parametrize("name", ["DIFGSM", "TIFGSM", "PIFGSM", "PIFGSMPP", "Pixle"])
def test_what_is_refused_really_fails(name: str) -> None:
    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = VICTIM

        def forward(self, images: Tensor) -> Tensor:
            return self.inner({"audio": 2 * images.flatten(2)[:, 0] - 1})

    images = ((AUDIO + 1) / 2)[:, None, None, :]
    before = np.random.get_state()  # noqa: NPY002 - Pixle draws from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attack = getattr(torchattacks, name)(Row().eval())
        with pytest.raises((RuntimeError, IndexError)):
            attack(images, GOAL.labels)
    np.random.set_state(before)  # noqa: NPY002


def test_the_victim_and_the_generators_are_as_before() -> None:
    VICTIM.train().zero_grad()
    state, numbers = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    weights = {name: value.clone() for name, value in VICTIM.state_dict().items()}
    for name in ("APGD", "OnePixel", "DeepFool"):
        run(name, "l2")
        assert VICTIM.training
        assert VICTIM.drop.training
        assert all(parameter.requires_grad for parameter in VICTIM.parameters())
        assert all(parameter.grad is None for parameter in VICTIM.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers[1])  # noqa: NPY002
    assert all(torch.equal(value, weights[name]) for name, value in VICTIM.state_dict().items())


@pytest.mark.parametrize("name", ["PGD", "OnePixel", "APGD", "AutoAttack"])
def test_the_seed_decides(name: str) -> None:
    norm, radius = ("linf", 0.005) if name != "OnePixel" else ("linf", 1.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = run(name, norm, radius, seed=5)
        torch.manual_seed(2)
        second = run(name, norm, radius, seed=5)
    assert torch.equal(first.inputs["audio"], second.inputs["audio"])
    if name == "PGD":
        other = run(name, norm, radius, seed=6, steps=1)
        assert not torch.equal(run(name, norm, radius, seed=5, steps=1).inputs["audio"], other.inputs["audio"])


def test_passes_are_counted() -> None:
    seen = {"forwards": 0, "backwards": 0}

    def counting(inputs: dict[str, Tensor]) -> Tensor:
        logits = VICTIM(inputs)
        seen["forwards"] += 1
        if logits.requires_grad:
            logits.register_hook(lambda _: seen.update(backwards=seen["backwards"] + 1))
        return logits

    VICTIM.eval()
    result = run_torchattacks(counting, {"audio": AUDIO}, GOAL, {"audio": Ball("linf", 0.01)}, "PGD", steps=7)
    assert result.forwards.tolist() == [9] * 4  # seven steps, and the clean and final logits
    assert result.backwards.tolist() == [7] * 4
    assert seen == {"forwards": 9, "backwards": 7}


def test_padding_is_put_back() -> None:
    valid = (torch.arange(400) < 250).expand(4, 400)
    for name, norm in (("PGD", "linf"), ("PGDL2", "l2"), ("CW", "l2")):
        ball = Ball(norm, RADIUS[norm])
        result = run_torchattacks(VICTIM, {"audio": AUDIO}, GOAL, {"audio": ball}, name, valid={"audio": valid})
        assert ball.around(AUDIO, valid).audit(result.inputs["audio"]).reasons == ()
        assert torch.equal(result.inputs["audio"][:, 250:], AUDIO[:, 250:])
        assert torch.equal(predictions(VICTIM, result.inputs) != GOAL.labels, result.broken)


def test_a_radius_for_each_example_and_radius_zero() -> None:
    radius = torch.tensor([0.0, 0.01, 0.02, 0.01])
    result = run("PGD", "linf", radius)
    audit = Ball("linf", radius).around(AUDIO).audit(result.inputs["audio"])
    assert audit.reasons == ()
    assert torch.equal(result.inputs["audio"][0], AUDIO[0])
    torch.testing.assert_close(audit.linf[1:], radius[1:].double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["PGD", "APGD", "PGDL2", "SPSA"])
def test_tiny_radii_survive_the_change_of_range(name: str) -> None:
    norm = ENTRIES[name].norms[0]
    result = run(name, norm, 1e-6 if norm == "linf" else 2e-5)
    assert Ball(norm, 1e-6 if norm == "linf" else 2e-5).around(AUDIO).audit(result.inputs["audio"]).reasons == ()


def test_video_and_a_second_modality() -> None:
    victim = TwoSenses()
    inputs = {"audio": AUDIO, "video": torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
    goal = Goal(predictions(victim, inputs))
    ball = Ball("linf", 0.2, low=0.0, high=1.0)
    result = run_torchattacks(victim, inputs, goal, {"video": ball}, "APGD", modality="video")
    assert result.inputs["video"].shape == inputs["video"].shape
    assert torch.equal(result.inputs["audio"], AUDIO)
    assert ball.around(inputs["video"]).audit(result.inputs["video"]).reasons == ()
    assert int(result.broken.sum()) >= 1


def test_targeted() -> None:
    goal = Goal(GOAL.labels, targets=(GOAL.labels + 1) % 5)
    for name, norm in (("PGD", "linf"), ("PGDL2", "l2"), ("CW", "l2"), ("JSMA", "linf")):
        ball = Ball(norm, WIDE[norm] if name == "JSMA" else 4 * RADIUS[norm])
        result = run_torchattacks(VICTIM, {"audio": AUDIO}, goal, {"audio": ball}, name)
        assert torch.equal(predictions(VICTIM, result.inputs) == goal.targets, result.broken)
        if name.startswith("PGD"):
            assert int(result.broken.sum()) >= 3


@pytest.mark.parametrize("name", ["UPGD", "MIFGSM", "PGDL2", "APGD", "DeepFool", "CW", "FAB"])
def test_a_constant_victim_is_never_broken(name: str) -> None:
    """Where the gradient is zero several of these divide by it."""

    def constant(inputs: dict[str, Tensor]) -> Tensor:
        return inputs["audio"].sum(1, keepdim=True) * 0 + torch.tensor([1.0, 0.0, 0.5, 0.2])

    goal, norm = Goal(torch.zeros(4, dtype=torch.int64)), ENTRIES[name].norms[0]
    result = run_torchattacks(constant, {"audio": AUDIO}, goal, {"audio": Ball(norm, RADIUS[norm])}, name)
    assert not bool(result.broken.any())
    assert bool(result.inputs["audio"].isfinite().all())


def test_an_attack_that_breaks_its_budget_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def cheat(self: object, images: Tensor, labels: Tensor) -> Tensor:
        return (images + 0.05).clamp(0, 1)  # of the range [0, 1]: 0.1 of the waveform's

    monkeypatch.setattr(torchattacks.FGSM, "forward", cheat)
    with pytest.raises(ThreatModelError, match=r"broke its linf budget.*up to 5 times"):
        run("FGSM", "linf", 0.02)
    monkeypatch.setattr(torchattacks.CW, "forward", cheat)
    result = run("CW", "l2", 0.02)
    assert torch.equal(result.inputs["audio"], AUDIO)
    assert not bool(result.broken.any())


@pytest.mark.parametrize(
    ("name", "norm", "options", "message"),
    [
        ("PDG", "linf", {}, "Did you mean 'PGD'"),
        ("PGD", "l2", {}, "PGD bounds linf, not l2.*PGDL2"),
        ("PGD", "linf", {"alhpa": 0.1}, "Unknown option of PGD 'alhpa'. Did you mean 'alpha'"),
        ("PGD", "linf", {"eps": 0.1}, "Unknown option of PGD 'eps'"),
        ("PGD", "linf", {"steps": 0}, "steps must be 1 or more"),
        ("FGSM", "linf", {"steps": 10}, "takes no steps"),
        ("PGD", "linf", {"modality": "video"}, "budget for 'video' alone"),
    ],
)
def test_calls_that_cannot_be(name: str, norm: str, options: dict, message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        run(name, norm, **options)


def test_goals_that_cannot_be() -> None:
    threat, inputs = {"audio": Ball("linf", 0.01)}, {"audio": AUDIO}
    with pytest.raises(ThreatModelError, match="multi-label"):
        run_torchattacks(VICTIM, inputs, Goal(torch.ones(4, 5)), threat, "PGD")
    targeted = Goal(GOAL.labels, targets=(GOAL.labels + 1) % 5)
    for name in ("APGD", "DeepFool", "FAB", "VANILA"):
        norm = next(iter(ENTRIES[name].norms), "linf")
        with pytest.raises(ThreatModelError, match="cannot be targeted"):
            run_torchattacks(VICTIM, inputs, targeted, {"audio": Ball(norm, 0.01)}, name)
    two = ConvVictim(classes=2)
    goal = Goal(predictions(two, inputs))
    with pytest.raises(ThreatModelError, match="at least 4 classes; the victim has 2"):
        run_torchattacks(two, inputs, goal, threat, "APGDT")
    with pytest.raises(ThreatModelError, match="at least 3 classes"):
        run_torchattacks(two, inputs, goal, threat, "APGD", loss="dlr")
    long = waves(1, 3000)
    with pytest.raises(ThreatModelError, match="2048 values at most"):
        run_torchattacks(lambda x: x["audio"][:, :5], {"audio": long}, Goal(torch.tensor([0])), threat, "JSMA")


def test_options_reach_the_attack() -> None:
    """With random start off and one step of the whole radius PGD is FGSM."""
    one = run("PGD", "linf", steps=1, alpha=RADIUS["linf"] / 2, random_start=False)  # in shares of the range [-1, 1]
    assert torch.equal(one.inputs["audio"], run("FGSM", "linf").inputs["audio"])
    region: Region = Ball("linf", RADIUS["linf"]).around(AUDIO)
    few = run("PGD", "linf", steps=1, alpha=RADIUS["linf"] / 8, random_start=False)
    assert float(region.audit(few.inputs["audio"]).ratio.max()) == pytest.approx(0.25, rel=1e-4)
