"""Loss surfaces: planes where the victim is linear, and the right corners where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import robust
from attacks.errors import ThreatModelError
from robust.errors import DataError
from robust.evaluation.landscape import loss_surface
from tests.robust.av_toys import SIGHT, SOUND, AVData, clips, linear
from tests.robust.toys import ToyData, victim


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_linear_victim_has_a_plane_in_closed_form(norm: str) -> None:
    # Two classes, so that the margin is one linear function: no other class takes over.
    model = linear(SOUND[:2], labels=("bell", "dog"))
    whole, two = clips(9), [0, 1, 3, 4, 6, 7]
    data = AVData(whole.audio[two], whole.video[two], torch.arange(6) % 2, labels=("bell", "dog"))
    eps = {"linf": 0.02, "l2": 0.1, "l1": 0.4}[norm]
    frame = loss_surface(model, data, norm=norm, eps=eps, points=5, extent=1.0)
    assert (frame["clamped"] == 0).all()
    assert list(frame.columns) == ["clip", "label_name", "x", "y", "margin", "loss", "clamped"]
    steepest = (SOUND[0] - SOUND[1]).double()
    # Closed form: the attack of radius eps lowers a linear margin by eps times the dual norm of its slope.
    dual = {"linf": steepest.abs().sum(), "l2": steepest.norm(), "l1": steepest.abs().max()}[norm]
    for clip, rows in frame.groupby("clip"):
        number = int(clip.split("/")[1])
        label = int(data.target[number])
        slope = steepest if label == 0 else -steepest
        clean = float(data.audio[number].double() @ slope)
        design = np.stack([np.ones(len(rows)), rows["x"], rows["y"]], axis=1)
        fitted, *_ = np.linalg.lstsq(design, rows["margin"], rcond=None)
        np.testing.assert_allclose(rows["margin"], design @ fitted, atol=2e-6)
        assert fitted[0] == pytest.approx(clean, abs=1e-6)
        assert fitted[1] == pytest.approx(-eps * float(dual), rel=0.01)
        assert abs(fitted[2]) < 0.6 * abs(fitted[1])
        np.testing.assert_allclose(rows["loss"], np.log1p(np.exp(-rows["margin"])), atol=1e-6)


def test_corners_are_the_clean_clip_and_the_adversarial_one() -> None:
    model = victim()
    data = ToyData(12, model, padded=True)
    config = robust.PGD(steps=10)
    run = robust.attack(model, data, eps=0.01, config=config, checks=False)
    frame = loss_surface(model, data, eps=0.01, points=5, extent=2.0, clips=6, config=config)
    right = run.records[run.records["clean_correct"]].head(6).set_index("id")
    assert list(frame["clip"].unique()) == list(right.index)
    assert (frame.groupby("clip").size() == 25).all()
    at = frame.set_index(["clip", "x", "y"])["margin"]
    adversarial = at.xs((1.0, 0.0), level=("x", "y"))
    for clip in right.index:
        assert at[clip, 0.0, 0.0] == pytest.approx(right["clean_margin"][clip], abs=1e-6)
    # Another name of the condition, another start: the same end, or as good as.
    broken = ~right["correct"]
    assert ((adversarial < 0) == broken).all()
    assert (at.xs((0.0, 1.0), level=("x", "y")) > adversarial).mean() > 0.8  # at random it is harmless


def test_one_zero_is_the_attack_to_the_bit() -> None:
    from robust.evaluation.conditions import Attack
    from robust.evaluation.engine import AlignedData
    from robust.threats import threat_model

    model = victim()
    data = ToyData(8, model)
    attack = Attack(threat_model(model, "audio", "l2", 0.3).balls, robust.PGD(steps=5), name="surface")
    batch = AlignedData(data, model.spec).batch(range(8))
    with torch.no_grad():
        found = model(attack.run(model, batch, torch.arange(8), 3).inputs)
    expected = found.gather(1, batch.labels[:, None])[:, 0] - found.scatter(1, batch.labels[:, None], -torch.inf).amax(
        1
    )
    frame = loss_surface(model, data, norm="l2", eps=0.3, points=3, extent=1.0, config=robust.PGD(steps=5), seed=3)
    at = frame[(frame["x"] == 1) & (frame["y"] == 0)].set_index("clip")["margin"]
    for clip, value in at.items():
        assert value == float(expected[int(str(clip).split("/")[1])])


@pytest.mark.parametrize("modality", ["audio", "both", "joint"])
def test_batches_change_nothing_and_two_senses_have_a_plane(modality: str) -> None:
    model, data = linear(SOUND, SIGHT), clips(7)
    told = {"modality": modality, "eps": 0.05, "points": 3, "clips": 5, "config": robust.PGD(steps=4)}
    one, other = (loss_surface(model, data, batch_size=size, **told) for size in (1, 16))
    assert one.equals(other)
    assert not one.equals(loss_surface(model, data, seed=1, **told))
    assert one["clip"].nunique() == 5


def test_random_direction_is_orthogonal_and_as_large() -> None:
    from attacks.projections import lengths
    from attacks.threat import Ball
    from robust.evaluation.landscape import _plane
    from robust.types import Batch

    draw = torch.Generator().manual_seed(0)
    clean = torch.rand(1, 500, generator=draw) - 0.5
    valid = torch.ones(1, 500, dtype=torch.bool)
    valid[:, 400:] = False
    adversarial = clean[0] + 0.01 * torch.randn(500, generator=draw) * valid[0]
    batch = Batch(("a",), {"audio": clean}, torch.zeros(1).long(), {"audio": valid})
    for norm, order in (("linf", torch.inf), ("l2", 2), ("l1", 1)):
        _, attack, random = _plane(batch, adversarial, "audio", Ball(norm, 0.1), torch.Generator().manual_seed(1))
        assert float(attack @ random) == pytest.approx(0, abs=1e-12)
        assert float(lengths(random[None], order)) == pytest.approx(float(lengths(attack[None], order)), rel=1e-9)
        assert (random[400:] == 0).all()


def test_what_leaves_the_range_is_clamped_and_told() -> None:
    model = linear(SOUND)
    data = clips(3)
    data.audio[:, :10] = 1.0
    data.target = torch.tensor([int(model({"audio": one[None]}).argmax()) for one in data.audio])
    frame = loss_surface(model, data, eps=0.1, points=3, extent=1.0, config=robust.PGD(steps=3))
    at = frame.set_index(["x", "y"])["clamped"]
    assert (at[0.0, 0.0] == 0).all()
    assert (at[1.0, 0.0] == 0).all()  # the attack is within the range
    assert (at[-1.0, 1.0] >= 5 / 40).all()
    assert (frame["clamped"] <= 1).all()


def test_many_labels_a_clip() -> None:
    model = victim("multilabel")
    frame = loss_surface(model, ToyData(16, model), eps=0.01, points=3, clips=3, config=robust.PGD(steps=3))
    assert (frame[(frame["x"] == 0) & (frame["y"] == 0)]["margin"] > 0).all()
    assert (frame["loss"] > 0).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"points": 4}, "odd"),
        ({"points": 1}, "odd"),
        ({"extent": 0.0}, "above 0"),
        ({"clips": 0}, "at least one"),
        ({"modality": "vidoe"}, "modality"),
        ({"eps": -1.0}, "negative"),
    ],
)
def test_refuses_what_cannot_be(settings: dict, words: str) -> None:
    with pytest.raises(ThreatModelError, match=words):
        loss_surface(linear(SOUND), clips(3), **settings)


def test_refuses_a_victim_that_has_nothing_right() -> None:
    data = clips(3)
    data.target = (data.target + 1) % 3
    with pytest.raises(DataError, match="none of these clips"):
        loss_surface(linear(SOUND), data, points=3)
