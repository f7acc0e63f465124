"""Defenses by name: what combines, what is refused, and that every one of them trains."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from attacks.channel import Channel, Parameters, drawn
from attacks.errors import ThreatModelError
from attacks.threat import Ball
from defenses.defense import GROUPS, NAMES, Defense, DefenseSettings, load_defense
from defenses.defense_settings import APART
from defenses.mixup import mixup
from tests.defenses.pupil import Duet, Pupil, batch, many_labels, one_label, seeded

THREAT = {"audio": Ball("linf", 0.05), "video": Ball("linf", 0.02, low=0.0, high=1.0)}


class Louder(Channel):
    """A gain of its own for each clip."""

    name = "louder"

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> Parameters:
        return {"gain": drawn((0.5, 1.5), generators, clips)}

    def forward(self, clips: Tensor, parameters: Parameters, valid: Tensor | None = None) -> Tensor:
        return clips * parameters["gain"][:, None]


def made(name: str, **settings: object) -> Defense:
    return load_defense(DefenseSettings(name, **{"threat": THREAT, "steps": 2, "channel": Louder(16_000), **settings}))


def trained(defense: Defense, pupil: Pupil, targets: Tensor, steps: int = 2) -> list[float]:
    """Losses of some steps, as Lightning would take them."""
    optimizer, losses = defense.wrap(torch.optim.SGD(pupil.victim.parameters(), lr=0.05)), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = defense.loss(pupil, batch(), targets, seeded(len(losses)))
        loss.backward()
        defense.after_backward()
        return loss

    for _ in range(steps):
        losses.append(optimizer.step(closure).item())
    return losses


def combinations() -> list[str]:
    """Every name, and every pair that combines."""
    pairs = [
        "+".join(pair)
        for first, second in itertools.combinations(GROUPS.values(), 2)
        for pair in itertools.product(first, second)
        if frozenset(pair) not in APART
    ]
    return [*NAMES, *pairs, "pgd+latent-mixup+balanced+asam+margin+gaussian+specaugment"]


@pytest.mark.parametrize(
    ("name", "multilabel"), [*((name, False) for name in combinations()), *((name, True) for name in NAMES)]
)
def test_every_defense_trains_and_leaves_the_global_generator_alone(name: str, multilabel: bool) -> None:
    defense, pupil = made(name), Pupil(Duet(batch_norm=True).train(), multilabel)
    if multilabel and "mart" in name:
        with pytest.raises(ThreatModelError, match="one label"):
            defense.check(["audio", "video"], multilabel=True)
        return
    defense.check(["audio", "video"], multilabel=multilabel)
    state, before = torch.random.get_rng_state(), pupil.victim.last.weight.detach().clone()
    losses = trained(defense, pupil, many_labels() if multilabel else one_label())
    assert all(torch.tensor(losses).isfinite())
    assert not torch.equal(pupil.victim.last.weight, before)
    assert torch.equal(state, torch.random.get_rng_state())
    assert defense.spent.forwards >= defense.spent.backwards >= 2 * 6
    json.dumps(defense.describe())
    again = Pupil(Duet(batch_norm=True).train(), multilabel)
    assert trained(made(name), again, many_labels() if multilabel else one_label()) == losses


def test_none_is_the_plain_loss_and_mixup_what_it_always_was() -> None:
    pupil = Pupil(Duet())
    plain = pupil.loss(pupil.victim(batch()), one_label())
    assert torch.equal(made("none").loss(pupil, batch(), one_label(), seeded()), plain)
    mixed, weights = mixup(batch(), one_label(), 0.2, seeded())
    expected = pupil.loss(pupil.victim(mixed), weights)
    assert torch.equal(made("mixup", alpha=0.2).loss(pupil, batch(), one_label(), seeded()), expected)


def test_passes_by_defense() -> None:
    """Forward and backward passes of one step for each clip."""
    expected = {
        "none": (1, 1),
        "mixup": (1, 1),
        "latent-mixup": (1, 1),
        "free": (1, 1),
        "fast": (2, 2),
        "pgd": (4, 3),
        "trades": (6, 4),
        "mart": (5, 4),
        "sam": (2, 2),
        "margin": (3, 3),
        "pgd+asam": (8, 6),
        "trades+margin": (8, 6),
    }
    for name, (forwards, backwards) in expected.items():
        defense = made(name)
        trained(defense, Pupil(Duet()), one_label(), steps=1)
        assert (defense.spent.forwards, defense.spent.backwards) == (6 * forwards, 6 * backwards), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mixpu"}, "Did you mean 'mixup'"),
        ({"name": "pgd+trades"}, "each is the adversary. Take one of pgd, trades, mart, free, fast, and join"),
        ({"name": "mixup+cutmix"}, "each is the mixing"),
        ({"name": "sam+sam"}, "each is the flatness"),
        ({"name": "none+sam"}, "'none' stands alone"),
        ({"name": "free+sam"}, "two at the same clips"),
        ({"name": "asam+free"}, "two at the same clips"),
        ({"name": "mixup+mart"}, "MART needs one label a clip"),
        ({"name": "pgd", "threat": {}}, "threat of pgd must be a budget"),
        ({"name": "pgd", "steps": 0}, "steps of pgd must be a whole number from 1; given 0"),
        ({"name": "trades", "beta": -1.0}, "beta of trades must be a number above 0"),
        ({"name": "free", "replays": 0}, "replays of free"),
        ({"name": "mixup", "alpha": 0.0}, "alpha of mixup must be a number above 0"),
        ({"name": "mixup", "alpha": float("nan")}, "alpha of mixup"),
        ({"name": "mixup", "pairing": "same_class"}, "Did you mean 'same-class'"),
        ({"name": "latent-mixup", "mix_layer": "fuse"}, "Did you mean 'fused'"),
        ({"name": "latent-mixup", "mix_layer": "input", "coupling": "both"}, "Unknown coupling"),
        ({"name": "latent-mixup", "coupling": "audio"}, "mix_layer 'fused' mixes one latent alone"),
        ({"name": "sam", "rho": 0.0}, "rho of sam"),
        ({"name": "gaussian", "sigma": -0.1}, "sigma of gaussian"),
        ({"name": "noise", "channel": None}, "channel of noise must be what the audio goes through"),
        ({"name": "margin", "margin_weight": "much"}, "margin_weight of margin"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ThreatModelError, match=message):
        made(**settings)


@pytest.mark.parametrize(
    ("settings", "modalities", "message"),
    [
        ({"name": "pgd"}, ["audio"], "Unknown modality in the threat model 'video'"),
        ({"name": "margin"}, ["audio"], "two of them or more"),
        ({"name": "latent-mixup", "mix_layer": "video"}, ["audio"], "no video to mix"),
        ({"name": "gaussian"}, ["logmel"], "gaussian is added to the modality 'audio'; the victim takes logmel"),
    ],
)
def test_what_does_not_suit_the_victim_is_said_before_training(
    settings: dict[str, object], modalities: list[str], message: str
) -> None:
    with pytest.raises(ThreatModelError, match=message):
        made(**settings).check(modalities, multilabel=False)


def test_settings_of_other_defenses_do_not_matter() -> None:
    defense = load_defense(DefenseSettings("mixup", steps=0, rho=-1.0, beta=0.0))
    assert defense.describe() == {"name": "mixup", "alpha": 1.0, "pairing": "random"}
    assert (defense.replays, defense.balanced, defense.adversarial) == (1, False, False)


def test_the_card_tells_what_matters() -> None:
    defense = made("free+noise+balanced", replays=5)
    assert (defense.replays, defense.balanced, defense.adversarial) == (5, True, True)
    assert defense.describe() == {
        "name": "free+noise+balanced",
        "channel": {"channel": "louder"},
        "replays": 5,
        "threat": {
            "audio": {"norm": "linf", "radius": 0.05, "unit": "amplitude"},
            "video": {"norm": "linf", "radius": 0.02, "unit": "amplitude"},
        },
    }
    assert made("asam").describe()["rho"] == 0.5
    assert made("latent-mixup").describe()["mix_layer"] == "fused"


class Recorder(nn.Module):
    """Says what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(40, 4))
        self.shown: list[Tensor] = []

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        self.shown.append(inputs["audio"].detach())
        return inputs["audio"] @ self.weight


def test_noise_is_what_it_is_said_to_be() -> None:
    audio = {"audio": torch.zeros(500, 40)}
    recorder = Recorder()
    made("gaussian", sigma=0.3).loss(Pupil(recorder), audio, one_label(500), seeded())
    assert float(recorder.shown[0].std()) == pytest.approx(0.3, rel=0.02)
    sound = {"audio": torch.full((500, 40), 0.5)}
    made("noise").loss(Pupil(recorder), sound, one_label(500), seeded())
    gains = recorder.shown[1][:, 0] / 0.5
    assert bool((recorder.shown[1] == recorder.shown[1][:, :1]).all())
    assert float(gains.min()) < 0.6
    assert float(gains.max()) > 1.4


@pytest.mark.parametrize("name", ["pgd", "trades+margin", "mart", "free", "fast", "latent-mixup+asam"])
def test_bf16_gives_nearly_the_same_loss(name: str) -> None:
    exact = made(name).loss(Pupil(Duet()), batch(), one_label(), seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(name).loss(Pupil(Duet()), batch(), one_label(), seeded())
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)


def test_noise_before_an_attack_is_kept_in_range() -> None:
    audio, recorder = {"audio": torch.full((20, 40), 0.95)}, Recorder()
    threat = {"audio": Ball("linf", 0.01)}
    made("gaussian+pgd", sigma=0.5, threat=threat).loss(Pupil(recorder), audio, one_label(20), seeded())
    assert float(recorder.shown[-1].max()) <= 1.0


def test_mixed_clips_are_attacked_as_what_they_are() -> None:
    """The budget lies around the mixture, and the labels attacked are the mixed ones."""
    recorder, threat = Recorder(), {"audio": Ball("linf", 0.01)}
    clips = {"audio": batch()["audio"]}
    mixed, _ = mixup(clips, one_label(), 1.0, seeded())
    made("pgd+mixup", threat=threat).loss(Pupil(recorder), clips, one_label(), seeded())
    assert not bool(threat["audio"].around(mixed["audio"]).audit(recorder.shown[-1][:6]).violated.any())


def test_training_can_be_taken_up_again() -> None:
    defense, pupil = made("free"), Pupil(Duet())
    trained(defense, pupil, one_label(), steps=3)
    again = made("free")
    again.load(defense.state())
    assert (again.spent.forwards, again.spent.backwards) == (18, 18)
    assert torch.equal(
        again.loss(pupil, batch(), one_label(), seeded()), defense.loss(pupil, batch(), one_label(), seeded())
    )
