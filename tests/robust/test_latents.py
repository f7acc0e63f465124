"""Latent projections: closed forms for a victim whose latents are its inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from robust.data import load_data
from robust.errors import DataError, VictimError
from robust.evaluation.conditions import Attack
from robust.evaluation.latents import latent_table
from robust.threats import threat_model
from robust.types import Inputs, VictimSpec
from robust.victims import Victim, load_victim
from tests.robust.av_toys import CLIP_SECONDS, LABELS, PICTURE, SAMPLE_RATE, SAMPLES, SOUND, AVData, clips, linear


class Identity(Victim):
    """Latents are the inputs themselves (video flattened), `fused` is the sound; logits are prototypes' shares."""

    def __init__(self, task: str = "multiclass") -> None:
        spec = VictimSpec(
            "identity", LABELS, task, ("audio", "video"), SAMPLE_RATE, CLIP_SECONDS, shapes={"video": PICTURE}
        )
        super().__init__(spec)
        self.register_buffer("prototypes", SOUND)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        audio = inputs["audio"]
        return {"audio": audio, "video": inputs["video"].flatten(1), "fused": torch.stack([audio, 3 * audio], dim=1)}

    def head(self, fused: Tensor) -> Tensor:
        return fused[:, 0] @ self.prototypes.T


def principal(clean: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) of `other` on the principal axes of `clean`, and their shares: by an eigendecomposition."""
    centred = clean - clean.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return (other - clean.mean(axis=0)) @ vectors[:, ::-1][:, :2], values[::-1][:2] / values.sum()


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Rousseeuw's mean silhouette, by its definition."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    scores = []
    for row, label in enumerate(labels):
        own = (labels == label) & (np.arange(len(labels)) != row)
        if not own.any():
            scores.append(0.0)
            continue
        a = distance[row][own].mean()
        b = min(distance[row][labels == other].mean() for other in set(labels) - {label})
        scores.append((b - a) / max(a, b))
    return float(np.mean(scores))


def test_closed_form_where_latents_are_inputs() -> None:
    victim, data = Identity().eval(), clips(12)
    attack = Attack(threat_model(victim, "audio", "l2", 0.4).balls, PGD(steps=8))
    frame, summary = latent_table(victim, data, attack=attack)
    assert list(frame.columns) == ["clip", "label_name", "correct", "latent", "state", "x", "y"]
    assert len(frame) == 12 * 3 * 2
    from robust.evaluation.engine import AlignedData

    batch = AlignedData(data, victim.spec).batch(range(12))
    with torch.no_grad():
        adversarial = attack.apply(victim, batch, victim(batch.inputs), 0).inputs
        wrong = (victim(adversarial).argmax(dim=1) != data.target).numpy()
    assert wrong.any()
    names = np.array(LABELS)[data.target.numpy()]
    for latent, clean, after in (
        ("audio", data.audio, adversarial["audio"]),
        ("video", data.video.flatten(1), data.video.flatten(1)),
        ("fused", 2 * data.audio, 2 * adversarial["audio"]),  # the mean of the two steps
    ):
        signs = [1.0, 1.0]  # an axis has no sign of its own, but the same one in both states
        for state, value in (("clean", clean), ("adversarial", after)):
            rows = frame[(frame["latent"] == latent) & (frame["state"] == state)]
            assert list(rows["clip"]) == [f"av/{n}" for n in range(12)]
            assert list(rows["label_name"]) == list(names)
            expected, shares = principal(clean.double().numpy(), value.double().numpy())
            found = rows[["x", "y"]].to_numpy()
            for axis in range(2):
                sign = np.sign(found[0, axis] * expected[0, axis]) if state == "clean" else signs[axis]
                signs[axis] = sign
                np.testing.assert_allclose(found[:, axis], sign * expected[:, axis], atol=1e-6)
            np.testing.assert_allclose(summary["explained"][latent], shares, rtol=1e-6)
            by_hand = silhouette(value.double().numpy(), names)
            assert summary["silhouette"][latent][state] == pytest.approx(by_hand, abs=1e-6)
            assert list(rows["correct"]) == ([True] * 12 if state == "clean" else list(~wrong))
    assert summary["silhouette"]["audio"]["adversarial"] < summary["silhouette"]["audio"]["clean"]
    assert {key: summary[key] for key in ("kind", "victim", "method", "clips")} == {
        "kind": "latents",
        "victim": "identity",
        "method": "pca",
        "clips": 12,
    }


@pytest.mark.parametrize("modality", ["audio", "both", "joint"])
def test_batches_change_nothing(modality: str) -> None:
    victim, data = Identity().eval(), clips(7)
    threat = threat_model(victim, modality, "linf", 0.05)
    attack = Attack(threat.balls, PGD(steps=3), packing=threat.packing)
    one, other = (latent_table(victim, data, attack=attack, batch_size=size, clips=6) for size in (1, 8))
    assert one[0].equals(other[0])
    assert one[1] == other[1]
    assert one[0]["clip"].nunique() == 6


def test_without_attack_there_is_one_state() -> None:
    frame, summary = latent_table(Identity().eval(), clips(6))
    assert set(frame["state"]) == {"clean"}
    assert set(summary["silhouette"]["fused"]) == {"clean"}


def test_lda_parts_classes_better_than_pca() -> None:
    # Between-class variance is small, within-class variance lies along another axis.
    draw = torch.Generator().manual_seed(0)
    target = torch.arange(90) % 3
    audio = 0.05 * SOUND[target] + 0.01 * torch.randn(90, SAMPLES, generator=draw)
    audio += 0.2 * torch.randn(90, 1, generator=draw) * SOUND.sum(dim=0)
    data = AVData(audio, torch.rand(90, *PICTURE, generator=draw), target)
    found = {}
    for method in ("pca", "lda"):
        frame, summary = latent_table(Identity().eval(), data, method=method)
        rows = frame[frame["latent"] == "audio"]
        found[method] = silhouette(rows[["x", "y"]].to_numpy(), rows["label_name"].to_numpy())
        assert sum(summary["explained"]["audio"]) <= 1 + 1e-9
    assert found["lda"] > found["pca"] + 0.3


def test_many_labels_a_clip() -> None:
    data = clips(6)
    data.target = torch.nn.functional.one_hot(data.target, 3).float()
    data.target[0, 1] = 1
    data.task = "multilabel"
    frame, _ = latent_table(Identity("multilabel").eval(), data)
    assert frame["label_name"][0] == "bell, dog"
    with pytest.raises(ThreatModelError, match="many labels"):
        latent_table(Identity("multilabel").eval(), data, method="lda")


def test_classes_of_one_clip_each_have_no_silhouette() -> None:
    _, summary = latent_table(Identity().eval(), clips(3))
    assert summary["silhouette"]["audio"]["clean"] is None


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ThreatModelError, match="Did you mean 'pca'"):
        latent_table(Identity().eval(), clips(6), method="pac")
    with pytest.raises(ThreatModelError, match="more clips than classes"):
        latent_table(Identity().eval(), clips(3), method="lda")
    with pytest.raises(DataError, match="two clips"):
        latent_table(Identity().eval(), clips(6), clips=1)
    with pytest.raises(VictimError, match="no embeddings"):
        latent_table(linear(SOUND), clips(6))


@pytest.mark.parametrize("modality", ["both", "logmel"])
def test_a_shipped_victim_of_two_senses(modality: str) -> None:
    from robust.threats import posed

    victim, data = load_victim("av-mid"), load_data("events", limit=10)
    threat = threat_model(posed(victim, data, modality)[0], modality, "linf")
    frame, summary = latent_table(victim, data, attack=Attack(threat.balls, PGD(steps=5)), clips=9)
    assert set(frame["latent"]) == {"audio", "video", "fused"}
    state = frame[frame["latent"] == "fused"].set_index("state")["correct"]
    assert state["adversarial"].mean() < state["clean"].mean()
    assert all(0 < sum(shares) <= 1 + 1e-9 for shares in summary["explained"].values())
