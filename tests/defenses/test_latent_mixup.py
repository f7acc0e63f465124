"""Latents mixed: in linear victims mixed latents are mixed logits, so that all can be written down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from defenses.defense import Defense, DefenseSettings, load_defense
from defenses.latent_mixup import Blend, draw_blend, mixed_answer
from defenses.mixup import draw_mixture, mixup
from tests.defenses.pupil import Duet, Pupil, batch, one_label, seeded

INPUTS, TARGETS = batch(), one_label()


def parts(victim: Duet) -> tuple[Tensor, Tensor]:
    """What sound and sight add to the logits."""
    latents = victim.embed_modalities(INPUTS)
    return latents["audio"] @ victim.last.weight.T, latents["video"] @ victim.last.weight.T


def defense(**settings: object) -> Defense:
    return load_defense(DefenseSettings("latent-mixup", **settings))


def test_fused_latents_mix_logits_and_labels_alike() -> None:
    victim, mix = Duet(), draw_mixture(TARGETS, 1.0, seeded())
    expected = Pupil(victim).loss(mix(victim(INPUTS)), mix(TARGETS))
    torch.testing.assert_close(defense().loss(Pupil(victim), INPUTS, TARGETS, seeded()), expected)


@pytest.mark.parametrize("layer", ["audio", "video"])
def test_one_latent_is_mixed_and_the_other_is_not(layer: str) -> None:
    victim, mix = Duet(), draw_mixture(TARGETS, 1.0, seeded())
    heard, seen = parts(victim)
    logits = (mix(heard) + seen if layer == "audio" else heard + mix(seen)) + victim.last.bias
    expected = Pupil(victim).loss(logits, mix(TARGETS))
    torch.testing.assert_close(defense(mix_layer=layer).loss(Pupil(victim), INPUTS, TARGETS, seeded()), expected)
    alone = defense(mix_layer="unimodal", coupling=layer).loss(Pupil(victim), INPUTS, TARGETS, seeded())
    torch.testing.assert_close(alone, expected)


def test_independent_coupling_has_two_partners_and_mean_labels() -> None:
    victim, generator = Duet(), seeded()
    first, second = (draw_mixture(TARGETS, 1.0, generator) for _ in range(2))
    heard, seen = parts(victim)
    labels = (first(TARGETS) + second(TARGETS)) / 2
    expected = Pupil(victim).loss(first(heard) + second(seen) + victim.last.bias, labels)
    mixing = defense(mix_layer="unimodal", coupling="independent")
    torch.testing.assert_close(mixing.loss(Pupil(victim), INPUTS, TARGETS, seeded()), expected)
    assert not torch.equal(first.partner, second.partner)


def test_inputs_with_the_same_coupling_are_plain_mixup() -> None:
    victim = Duet()
    expected = load_defense(DefenseSettings("mixup")).loss(Pupil(victim), INPUTS, TARGETS, seeded())
    assert torch.equal(defense(mix_layer="input").loss(Pupil(victim), INPUTS, TARGETS, seeded()), expected)


@pytest.mark.parametrize(("coupling", "still"), [("audio", "video"), ("video", "audio")])
def test_one_modality_of_the_inputs_can_be_mixed_alone(coupling: str, still: str) -> None:
    blend = draw_blend(INPUTS, TARGETS, alpha=1.0, coupling=coupling, pairing="random", generator=seeded())
    mixed = blend(INPUTS)
    assert mixed[still] is INPUTS[still]
    expected, labels = mixup({coupling: INPUTS[coupling]}, TARGETS, 1.0, seeded())
    assert torch.equal(mixed[coupling], expected[coupling])
    assert torch.equal(blend.labels(TARGETS), labels)


def test_features_are_sound_or_sight_by_their_names() -> None:
    mixture = draw_mixture(TARGETS, 1.0, seeded())
    values = {"logmel": INPUTS["audio"], "video_features": INPUTS["video"]}
    mixed = Blend({"audio": mixture})(values)
    assert torch.equal(mixed["logmel"], mixture(INPUTS["audio"]))
    assert mixed["video_features"] is INPUTS["video"]


def test_latents_of_one_class_stay_in_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same-class pairs: labels as they were, whatever the layer."""
    for layer in ("unimodal", "audio", "fused"):
        victim = Duet()
        told: list[Tensor] = []
        pupil = Pupil(victim)
        monkeypatch.setattr(pupil, "loss", lambda logits, targets, told=told: told.append(targets) or logits.sum())
        defense(mix_layer=layer, pairing="same-class").loss(pupil, INPUTS, TARGETS, seeded())
        torch.testing.assert_close(told[0], TARGETS, rtol=0, atol=1e-7)


def test_victims_without_such_latents_are_refused() -> None:
    class Early(Duet):
        def embed_modalities(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {}

        def embed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"fused": self.audio(inputs["audio"]) + self.video(inputs["video"].flatten(1))}

    with pytest.raises(ThreatModelError, match=r"no latent of audio or video apart.*'fused' or 'input'"):
        defense(mix_layer="unimodal").loss(Pupil(Early()), INPUTS, TARGETS, seeded())
    torch.testing.assert_close(
        defense().loss(Pupil(Early()), INPUTS, TARGETS, seeded()),
        defense().loss(Pupil(Duet()), INPUTS, TARGETS, seeded()),
    )
    with pytest.raises(ThreatModelError, match="Linear has no method embed"):
        mixed_answer(nn.Linear(2, 2), INPUTS, "fused", Blend({}))
    with pytest.raises(ThreatModelError, match="no video to mix: the victim takes audio"):
        draw_blend(["audio"], TARGETS, alpha=1.0, coupling="video", pairing="random", generator=seeded())
