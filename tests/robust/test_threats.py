"""Threat models over modalities, from words to what a linear victim must suffer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import robust
from attacks.errors import RobustError
from attacks.supports import MelBand, TimeWindow
from attacks.universal import Universal
from robust.data import load_data
from robust.evaluation.occlusion import Occlusion
from robust.threats import threat_model
from robust.types import Clip, Dataset, VictimSpec
from robust.victims import build_victim
from robust.victims.features import FeatureData, on_features
from tests.robust.av_toys import SIGHT, SOUND, AVData, clips, linear

RADIUS = 0.04
NOISE = 0.2
"""So that margins differ from clip to clip."""


def margins(data: AVData) -> torch.Tensor:
    """(N, K) how far the true label of each clip lies above each other one, in logits."""
    victim = linear(SOUND, SIGHT)
    with torch.no_grad():
        logits = victim({"audio": data.audio, "video": data.video})
    return logits.gather(1, data.target[:, None]) - logits


def slopes(weights: torch.Tensor, labels: torch.Tensor, order: float) -> torch.Tensor:
    """(N, K) norm of the gradient of each margin by one modality."""
    return (weights[labels][:, None] - weights[None]).norm(p=order, dim=2)


def standing(data: AVData, reach: torch.Tensor) -> int:
    """Clips whose every margin exceeds what an attacker can take from it."""
    others = torch.nn.functional.one_hot(data.target, 3) == 0
    return int((((margins(data) > reach) | ~others).all(dim=1) & (margins(data)[others].view(-1, 2) > 0).all(1)).sum())


class TestLinearVictims:
    """A linear victim breaks exactly where its margin falls below radius times dual norm of the gradient."""

    def test_separate_budgets_add_up(self):
        data = clips(48, NOISE)
        eps = {"audio": RADIUS, "video": 0.5 * RADIUS}
        run = robust.attack(linear(SOUND, SIGHT), data, modality="both", eps=eps, steps=20, checks=False)
        reach = sum(
            eps[name] * slopes(weights, data.target, 1) for name, weights in (("audio", SOUND), ("video", SIGHT))
        )
        assert 0 < run.summary["robust"]["score"] < run.summary["clean"]["score"]
        assert round(48 * run.robust.score) == standing(data, reach)

    @pytest.mark.parametrize("scale", [1.0, 4.0])
    def test_a_joint_ball_is_one_radius_over_both(self, scale):
        data = clips(48, NOISE)
        run = robust.attack(
            linear(SOUND, SIGHT),
            data,
            modality="joint",
            norm="l2",
            eps=3 * RADIUS,
            scale={"video": scale},
            steps=40,
            checks=False,
        )
        squares = slopes(SOUND, data.target, 2) ** 2 + (scale * slopes(SIGHT, data.target, 2)) ** 2
        assert abs(round(48 * run.robust.score) - standing(data, 3 * RADIUS * squares.sqrt())) <= 1
        records = run.records[run.records["attacked"]]
        parts = np.hypot(records["l2_audio"], records["l2_video"] / scale)
        np.testing.assert_allclose(parts, records["l2_joint"], rtol=1e-5)
        assert run.summary["audit"]["violations"] == 0

    def test_both_is_at_least_as_strong_as_each(self):
        data = clips(48, NOISE)
        victim, told = linear(SOUND, SIGHT), {"eps": RADIUS, "steps": 20, "checks": False}
        scores = {
            word: robust.attack(victim, data, modality=word, **told).robust.score for word in ("audio", "video", "both")
        }
        assert scores["both"] <= min(scores["audio"], scores["video"])


def test_checks_pass_on_a_joint_budget():
    run = robust.attack(linear(SOUND, SIGHT), clips(24, NOISE), modality="joint", norm="l2", eps=0.1, steps=20)
    assert [check for check in run.checks if check.verdict == "fail"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"modality": "vidoe"}, "video"),
        ({"modality": "both", "eps": {"sound": 0.1}}, "audio"),
        ({"modality": "both", "support": TimeWindow(0, 0.5)}, "one modality"),
        ({"modality": "audio", "scale": {"video": 2.0}}, "joint"),
        ({"modality": "joint", "scale": {"vidoe": 2.0}}, "video"),
        ({"modality": "audio", "norm": "l3"}, "norm"),
        ({"modality": "audio", "unit": "dbfs"}, "--eps"),
        ({"modality": "audio", "unit": "db"}, "unit"),
    ],
)
def test_threats_that_do_not_fit(words, message):
    with pytest.raises(RobustError, match=message):
        threat_model(linear(SOUND, SIGHT), **words)


def test_both_needs_two_senses():
    with pytest.raises(RobustError, match="audio alone"):
        threat_model(linear(SOUND), "both")


def test_a_window_is_kept_and_a_cut_comes_afterwards():
    data, victim = clips(24, NOISE), linear(SOUND, SIGHT)
    window = TimeWindow(0, 0.5)
    inside = robust.attack(victim, data, eps=RADIUS, support=window, steps=20, checks=False)
    after = robust.attack(victim, data, eps=RADIUS, cut=window, steps=20, checks=False)
    free = robust.attack(victim, data, eps=RADIUS, steps=20, checks=False)
    assert free.robust.score <= inside.robust.score <= after.robust.score
    assert float(inside.records["outside_audio"].max()) == 0.0
    assert inside.summary["audit"]["violations"] == after.summary["audit"]["violations"] == 0


class TestManyLabels:
    @pytest.fixture
    def data(self) -> AVData:
        return AVData(
            *[getattr(clips(24, NOISE), name) for name in ("audio", "video")], torch.eye(3)[clips(24, NOISE).target]
        )

    def test_rules_of_success(self, data):
        victim = linear(20 * SOUND, 20 * SIGHT, task="multilabel")
        told = {"modality": "both", "eps": 0.2, "steps": 20, "checks": False}
        every, gone = (robust.attack(victim, data, success=rule, **told) for rule in (None, "all-gone"))
        top = robust.attack(victim, data, success="top-gone", **told)
        appears = robust.attack(victim, data, target="dog", **told)
        only = robust.attack(victim, data, target="dog", success="only", **told)
        # One true label a clip: all of them and the top one are the same.
        assert gone.summary["success"]["score"] == top.summary["success"]["score"] > 0
        assert every.robust.score <= gone.robust.score  # the ranking is attacked best by what aims at it
        attacked = appears.records[appears.records["attacked"]]
        assert not any(label[1] for label in attacked["label"])
        assert appears.summary["success"]["score"] >= only.summary["success"]["score"]
        tables = every.summary["multilabel"]
        assert tables["robust"]["mean_ap"]["score"] < tables["clean"]["mean_ap"]["score"]
        assert {row["class"] for row in tables["classes"]["clean"]} == set(victim.spec.labels)
        json.dumps(every.summary)

    def test_rules_that_do_not_fit(self, data):
        victim = linear(SOUND, SIGHT, task="multilabel")
        for words, message in (({"success": "gone"}, "all-gone"), ({"success": "only"}, "target")):
            with pytest.raises(RobustError, match=message):
                robust.attack(victim, data, **words)
        with pytest.raises(RobustError, match="one label"):
            robust.attack(linear(SOUND, SIGHT), clips(8, NOISE), success="top-gone")


def test_conditions_are_evaluated_in_pairs():
    data, victim = clips(32, NOISE), linear(SOUND, SIGHT)
    gone = robust.evaluate(victim, data, robust.missing(victim, data, "video", "mean"))
    swapped = robust.evaluate(victim, data, robust.swap(victim, data, "video"))
    hidden = robust.evaluate(victim, data, Occlusion("audio", "first-half"))
    assert gone.changed.score < gone.clean.score
    assert swapped.dominance is not None
    assert swapped.summary["dominance"]["pairs"] == swapped.dominance.pairs > 0
    assert gone.dominance is None
    for run in (gone, swapped, hidden):
        assert run.summary["difference"]["difference"] == pytest.approx(run.changed.score - run.clean.score)


def test_universal_perturbation_is_fitted_on_one_part_and_scored_on_another():
    victim = linear(SOUND)
    training, test = clips(64, NOISE), clips(48, NOISE)
    run = robust.universal(victim, training, test, eps=0.1, seed=1)
    assert run.result.realised["audio"] <= 0.1 * (1 + 1e-6)
    assert run.summary["audit"]["violations"] == 0
    assert run.robust.score < run.random.score
    assert run.summary["fitted_on"]["clips"] == 64
    json.dumps(run.summary)


def test_the_legacy_universal_is_labelled_and_its_norm_is_told():
    from attacks.legacy import Legacy

    run = robust.universal(
        linear(SOUND), clips(64, NOISE), clips(24, NOISE), eps=0.1, legacy=Legacy(num_steps=20, step=0.1)
    )
    assert run.summary["legacy"]
    assert run.summary["threat"]["audio"]["realised"] > 0.1
    assert run.summary["audit"]["violations"] > 0


class TestFeatures:
    """The log-mel input of a victim that hears waveforms."""

    @pytest.fixture
    def victim(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            labels = load_data("events", split="validation", clips=16).labels
            return build_victim("av-mid", labels=labels, embedding=96, heads=4, video_width=4).eval()

    def test_the_same_answers(self, victim):
        data = load_data("events", split="validation", clips=16)
        features, taken = on_features(victim), FeatureData(data, victim)
        clip, own = taken.clip(3, features.spec), data.clip(3, victim.spec)
        with torch.no_grad():
            one = features({name: value[None] for name, value in clip.inputs.items()})
            other = victim({name: value[None] for name, value in own.inputs.items()})
        torch.testing.assert_close(one, other)
        assert clip.valid["logmel"].shape == clip.inputs["logmel"].shape == (64, 64)
        assert len(taken) == 16
        assert taken.fingerprint() == data.fingerprint()

    def test_mel_bands_are_attacked_alone(self, victim):
        data = load_data("events", split="validation", clips=16)
        run = robust.attack(victim, data, modality="logmel", support=MelBand(0, 20), steps=3, checks=False)
        assert run.summary["threat"]["logmel"]["radius"] == 0.1
        assert float(run.records["outside_logmel"].max()) == 0.0

    def test_victims_without_such_a_front_end(self):
        with pytest.raises(RobustError, match="front end"):
            robust.attack(linear(SOUND), clips(8, NOISE), modality="logmel")


class FeatureToys(Dataset):
    """Log-mel 400 x 64 and video features 10 x 2048, as the author's networks take them, labelled by `victim`."""

    name, split, labels, modalities = "features", "test", ("a", "b"), ("logmel", "video_features")

    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.logmel = torch.randn(count, 400, 64, generator=draw).clamp(-2, 2)
        self.video = torch.rand(count, 10, 2048, generator=draw)
        self.target = torch.arange(count) % 2
        sign = (2 * self.target - 1).float()
        self.logmel[:, :, :8] = (self.logmel[:, :, :8] + 0.05 * sign[:, None, None]).clamp(-2, 2)

    def __len__(self) -> int:
        return len(self.target)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        inputs = {"logmel": self.logmel[index], "video_features": self.video[index]}
        return Clip(f"features/{index}", {name: inputs[name] for name in spec.modalities}, self.target[index])

    def fingerprint(self) -> str:
        return f"features-{len(self)}"


class Sum(torch.nn.Module):
    """Two logits from the lowest bands, and a little from the first video features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, logmel: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        level = logmel[:, :, :8].mean(dim=(1, 2)) + 0.05 * (video[:, :, :16] - 0.5).mean(dim=(1, 2))
        return self.scale * torch.stack([-level, level], dim=1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 5.0)])
def test_universal_perturbation_of_the_features_of_audioset(norm, eps):
    victim = robust.Victim.wrap(
        Sum(),
        sample_rate=16_000,
        labels=("a", "b"),
        clip_seconds=10.0,
        modalities=("logmel", "video_features"),
        shapes={"logmel": (400, 64), "video_features": (10, 2048)},
        bounds={"logmel": (-3.0, 3.0), "video_features": (0.0, 23.28)},
    )
    config = Universal(epochs=3, clips_per_step=8)
    told = {"modality": "both", "norm": norm, "eps": eps, "config": config, "target": "a"}
    run = robust.universal(victim, FeatureToys(16, 1), FeatureToys(16, 2), **told)
    assert run.clean.score >= 0.9
    # One perturbation moves all clips towards class a: those of b are lost, the other half cannot be.
    assert run.robust.score == pytest.approx(0.5, abs=0.07)
    assert run.random.score >= 0.9
    for name in victim.spec.modalities:
        assert run.result.delta[name].shape == victim.spec.shape(name)
        assert run.result.realised[name] <= eps * (1 + 1e-6)
    assert run.summary["audit"]["violations"] == 0
