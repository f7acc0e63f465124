"""Square: corners of linear victims in closed form, queries counted, and a peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import robust
from attacks.blackbox import Square, square
from attacks.blackbox_square import _width, bump, changed_l2, changed_linf, first_l2, stripes
from attacks.eot import Expectation
from attacks.errors import ThreatModelError
from attacks.gradients import at_most
from attacks.losses import Goal, margin
from attacks.pgd import PGD, AttackResult, pgd
from attacks.supports import FrequencyBand
from attacks.threat import Ball
from robust.types import Batch
from tests.oracles import gains
from tests.oracles.hidden import Detached, Quantised
from tests.oracles.linear import LinearVictim, breaking_radius
from tests.oracles.toy import ConvVictim, TwoSenses, predictions, waves

AUDIO = waves(9)
RADII = {"linf": 0.06, "l2": 0.8}


def unbreakable(inputs: dict[str, Tensor]) -> Tensor:
    """Linear, and class 0 wins by far; the margin is the sum of the clip."""
    total = inputs["audio"].flatten(1).sum(dim=1)
    return torch.stack([torch.full_like(total, 1e3), total], dim=1)


def zeros(count: int) -> Goal:
    return Goal(torch.zeros(count, dtype=torch.int64))


def test_the_corner_of_the_ball_is_reached() -> None:
    """Every value at the end towards which the loss rises, those too that the data range stops."""
    clean = waves(4, 30)
    clean[:, 3] = 0.98
    ball = Ball("linf", 0.1)
    found = square(unbreakable, {"audio": clean}, zeros(4), {"audio": ball}, config=Square(queries=1500))
    corner = (clean + 0.1).clamp_max(1.0)
    assert float((found.inputs["audio"] - corner).abs().max()) < 1e-6
    assert ball.around(clean).audit(found.inputs["audio"]).reasons == ()


def test_in_l2_the_whole_radius_is_used_and_most_of_its_gain() -> None:
    clean, ball = waves(4, 30), Ball("l2", 0.5)
    found = square(unbreakable, {"audio": clean}, zeros(4), {"audio": ball}, config=Square(queries=1500))
    delta = found.inputs["audio"].double() - clean.double()
    assert bool((delta.norm(dim=1) > 0.999 * 0.5).all())
    gain = delta.sum(dim=1) / (0.5 * 30**0.5)  # against the closed form, a constant
    assert bool((gain > 0.75).all())
    assert ball.around(clean).audit(found.inputs["audio"]).reasons == ()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("fill", ["constant", "mixed"])
def test_a_linear_victim_breaks_above_its_closed_form_radius_and_not_below(norm: str, fill: str) -> None:
    victim, clean = LinearVictim((40,)), waves(6, 40)
    labels = predictions(victim, {"audio": clean})
    exact = torch.from_numpy(breaking_radius(victim, clean, labels, norm))
    config = Square(queries=600, fill=fill)
    for factor, broken in ((0.99, False), (1.4, True)):
        ball = Ball(norm, exact * factor)
        found = square(victim, {"audio": clean}, Goal(labels), {"audio": ball}, config=config)
        assert found.broken.tolist() == [broken] * 6, factor
        assert torch.equal(predictions(victim, found.inputs) != labels, found.broken)
        assert ball.around(clean).audit(found.inputs["audio"]).reasons == ()


@pytest.mark.parametrize(
    "ball", [Ball("linf", -30, "dbfs"), Ball("l2", 20, "snr_db"), Ball("linf", 300, "lsb16"), Ball("l2", 25, "snr_db")]
)
def test_every_unit_padding_and_range_are_kept(ball: Ball) -> None:
    victim = ConvVictim().train()
    clean = waves(6, peak=1.0)
    valid = (torch.arange(400) < 250).expand(6, 400)
    goal = Goal(predictions(victim, {"audio": clean}))
    found = square(victim, {"audio": clean}, goal, {"audio": ball}, config=Square(queries=40), valid={"audio": valid})
    assert ball.around(clean, valid).audit(found.inputs["audio"]).reasons == ()
    assert torch.equal(found.inputs["audio"][:, 250:], clean[:, 250:])
    assert bool((found.inputs["audio"] != clean).any(dim=1).all())
    assert torch.equal(predictions(victim, found.inputs) != goal.labels, found.broken)
    assert victim.training


def test_a_band_is_kept() -> None:
    ball = Ball("l2", 0.3, support=FrequencyBand(500, 1500, 8000))
    clean = waves(3)
    found = square(unbreakable, {"audio": clean}, zeros(3), {"audio": ball}, config=Square(queries=30))
    assert ball.around(clean).audit(found.inputs["audio"]).reasons == ()
    spectrum = torch.fft.rfft((found.inputs["audio"] - clean).double()).abs()
    hz = torch.fft.rfftfreq(400, 1 / 8000)
    assert float(spectrum[:, (hz < 490) | (hz > 1510)].max()) < 1e-4 * float(spectrum.max())


def test_queries_are_counted_one_by_one() -> None:
    passes = 0

    def counting(inputs: dict[str, Tensor]) -> Tensor:
        nonlocal passes
        passes += len(inputs["audio"])
        return unbreakable(inputs)

    ball = {"audio": Ball("linf", 0.01)}
    found = square(counting, {"audio": waves(8, 50)}, zeros(8), ball, config=Square(queries=25))
    assert found.forwards.tolist() == [25] * 8
    assert found.backwards.tolist() == [0] * 8
    assert passes == 8 * 25
    assert found.trace.shape == (8, 25)
    assert bool((found.trace.diff(dim=1) >= 0).all())
    assert torch.equal(found.trace[:, -1], found.loss)
    wrong = Goal(torch.ones(8, dtype=torch.int64))
    easy = square(counting, {"audio": waves(8, 50)}, wrong, ball, config=Square(queries=25))
    assert easy.broken.all()
    assert easy.forwards.tolist() == [1] * 8


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("heard", [False, True], ids=["plain", "channel"])
def test_an_example_fares_alike_alone_in_company_and_in_little_memory(norm: str, heard: bool) -> None:
    victim = ConvVictim().eval()
    goal = Goal(predictions(victim, {"audio": AUDIO}))
    expectation = Expectation(gains.Gains(0.9, 1.1), 2, sure=3) if heard else None

    def attacked(rows: Sequence[int]) -> AttackResult:
        index = torch.tensor(list(rows))
        return square(
            victim,
            {"audio": AUDIO[index]},
            goal.select(index),
            {"audio": Ball(norm, RADII[norm])},
            config=Square(queries=40),
            generators=[torch.Generator().manual_seed(row) for row in rows],
            expectation=expectation,
        )

    together = attacked(range(9))
    assert 0 < int(together.broken.sum()) < 9
    with at_most(8):
        small = attacked(range(9))
    for rows, some in (([4], attacked([4])), ([7, 0, 3], attacked([7, 0, 3])), (list(range(9)), small)):
        assert torch.equal(some.inputs["audio"], together.inputs["audio"][rows])
        for name in ("broken", "loss", "forwards", "trace"):
            assert torch.equal(getattr(some, name), getattr(together, name)[rows]), name


@pytest.mark.parametrize("kind", ["quantised", "detached"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_succeeds_where_the_gradient_is_hidden(kind: str, norm: str) -> None:
    bare = LinearVictim((100,), classes=3)
    victim = Quantised(bare, 1 / 128) if kind == "quantised" else Detached(bare)
    clean = waves(8, 100)
    goal, ball = Goal(predictions(victim, {"audio": clean})), {"audio": Ball(norm, {"linf": 0.15, "l2": 1.4}[norm])}
    blind = pgd(victim, {"audio": clean}, goal, ball, config=PGD(steps=40))
    found = square(victim, {"audio": clean}, goal, ball)
    assert int(blind.broken.sum()) <= 2
    assert int(found.broken.sum()) == 8


def test_in_expectation_a_lucky_draw_does_not_win() -> None:
    """The channel moves the loss a thousand times further than a step does: only like compared with like helps."""

    class Offsets(gains.Gains):
        def __call__(self, clips: Tensor, parameters: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
            return clips + 100 * (parameters["gain"][:, None] - 0.6)

    clean, ball = waves(4, 20), Ball("linf", 0.1)
    found = square(
        unbreakable,
        {"audio": clean},
        zeros(4),
        {"audio": ball},
        config=Square(queries=600),
        expectation=Expectation(Offsets(), draws=1),
    )
    assert float(((found.inputs["audio"] - clean) > 0.099).double().mean()) > 0.95
    assert found.forwards.tolist() == [1 + 2 * 599 + 1] * 4
    assert not bool(found.broken.any())


def test_one_sense_is_attacked_and_the_other_left() -> None:
    victim = TwoSenses().eval()
    inputs = {"audio": waves(3), "video": torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))}
    goal, ball = Goal(predictions(victim, inputs)), Ball("linf", 8, "pixel255", low=0.0)
    found = square(victim, inputs, goal, {"video": ball}, config=Square(queries=200), modality="video")
    assert torch.equal(found.inputs["audio"], inputs["audio"])
    start = margin(victim(inputs), goal)
    assert bool((margin(victim(found.inputs), goal) > start).all())
    assert ball.around(inputs["video"]).audit(found.inputs["video"]).reasons == ()


def test_many_labels_are_attacked_too() -> None:
    victim, clean = LinearVictim((40,), classes=4), waves(5, 40)
    said = victim({"audio": clean}).detach()
    goal = Goal((said > 0).float())
    found = square(victim, {"audio": clean}, goal, {"audio": Ball("linf", 0.5)}, config=Square(queries=400))
    assert bool(goal.broken(victim(found.inputs)).equal(found.broken))
    assert int(found.broken.sum()) >= 4


@pytest.mark.parametrize("length", [2, 3, 8, 41])
def test_a_bump_is_a_peak_and_a_trough_of_unit_length(length: int) -> None:
    shape = bump(length)
    half = length // 2
    assert float(shape.norm()) == pytest.approx(1.0, abs=1e-6)
    assert bool((shape[:half] > 0).all())
    assert bool((shape[half:] < 0).all())
    assert int(shape.argmax()) == half // 2
    if length == 8:  # of boxes of half-widths 0, 1, 2 and weights 1, 1/4, 1/9
        expected = torch.tensor([1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9])
        assert torch.allclose(shape[:4] / shape[2], expected / expected[2])


def test_steps_change_one_segment_and_keep_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    delta = first_l2(torch.zeros(100), 0.5, generator)
    assert float(delta.norm()) == pytest.approx(0.5, abs=1e-5)
    for _ in range(50):
        moved = changed_l2(delta, 0.5, 10, "mixed", generator)
        assert float(moved.norm()) == pytest.approx(0.5, abs=1e-5)
        assert 2 <= int((moved != delta).sum()) <= 20
        delta = moved
    flat = changed_linf(torch.zeros(100), 0.2, 10, "constant", generator)
    assert flat.abs().sum() == pytest.approx(2.0, abs=1e-5)
    assert len(flat[flat != 0].unique()) == 1
    signs = stripes(torch.zeros(1), 30, 4, generator)
    assert bool((signs.abs() == 1).all())
    assert bool((signs[:28].view(7, 4).diff(dim=1) == 0).all())
    assert len(signs.unique()) == 2
    widths = [_width(1000, "mixed", generator) for _ in range(400)]
    assert min(widths) <= 2
    assert max(widths) > 800
    assert 20 < sorted(widths)[200] < 50  # log-uniform: the median is the root of the longest


def test_segments_are_halved_as_in_the_paper() -> None:
    config = Square(queries=10_000, share=0.8)
    lengths = [config.length(query, 10_000) for query in (1, 10, 11, 50, 51, 200, 201, 8_000, 8_001, 9_999)]
    assert lengths == [8000, 8000, 4000, 4000, 2000, 2000, 1000, 31, 16, 16]
    assert Square(queries=100).length(99, 30) == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"queries": 0}, "queries must be 1 or more"),
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"share": float("nan")}, "share"),
        ({"fill": "mixd"}, "Did you mean 'mixed'"),
        ({"loss": "margn"}, "Did you mean 'margin'"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ThreatModelError, match=told):
        replace(Square(), **wrong)


def test_l1_is_refused() -> None:
    with pytest.raises(ThreatModelError, match="linf and l2"):
        square(unbreakable, {"audio": waves(2, 20)}, zeros(2), {"audio": Ball("l1", 0.1)})


class AsImage(nn.Module):
    """A waveform victim that takes images (B, 1, 125, 128) in [0, 1]."""

    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, images: Tensor) -> Tensor:
        return self.victim({"audio": images.flatten(1) * 2 - 1})


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.003), ("l2", 0.15)])
def test_a_real_victim_yields_more_than_to_a_peer_that_sees_an_image(norm: str, radius: float) -> None:
    """Torchattacks with the 16,000 samples as rows of an image, at equal queries: here the loss rises further."""
    torchattacks = pytest.importorskip("torchattacks")
    victim, data, queries = robust.load_victim("ast"), robust.load_data("events", split="test", limit=8), 100
    batch = Batch.collate([data.clip(index, victim.spec) for index in range(8)])
    clean, goal = batch.inputs["audio"], Goal(predictions(victim, {"audio": batch.inputs["audio"]}))
    name = {"linf": "Linf", "l2": "L2"}[norm]
    peer = torchattacks.Square(AsImage(victim), norm=name, eps=radius / 2, n_queries=queries, seed=0, p_init=0.8)
    theirs = peer(((clean + 1) / 2).view(-1, 1, 125, 128), goal.labels).flatten(1) * 2 - 1
    ours = square(victim, {"audio": clean}, goal, {"audio": Ball(norm, radius)}, config=Square(queries=queries))
    with torch.no_grad():
        reached, other = (margin(victim({"audio": clips}), goal) for clips in (ours.inputs["audio"], theirs))
    assert float(reached.clamp_max(0).mean()) > float(other.clamp_max(0).mean())
    assert int(ours.broken.sum()) >= int((other > 0).sum())
