"""Purifiers under attack: who stands in which draw, told right, with the worst attack chosen on other draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.bpda import Held
from attacks.channel import Channel
from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, evaluate
from robust.evaluation.purification import Purification
from robust.evaluation.purification_summary import (
    attack_names,
    purification_scores,
    purified_clean,
    purified_robust,
    share_score,
    shares,
    worst_shares,
)
from robust.evaluation.purifier_attacks import check_names, described, nes_settings, planned
from robust.evaluation.purifier_label import label, missing_attacks, missing_of
from robust.evaluation.purifier_versions import Version, worst_of
from robust.evaluation.store import Store
from robust.metrics.classification import wilson
from robust.seeds import derived_seed
from robust.types import Dataset
from robust.victims import Victim
from tests.robust.purifiers import LinearData, Noisy, Rounded, RoundedOpenly, Softer, linear_victim, slope
from tests.robust.toys import SAMPLE_RATE, ToyData, victim

EPS, SIGMA = 0.01, 0.02
EVERY = ("transfer", "bpda", "full-1", "full-3", "fixed", "square", "nes")


def condition(purifier: Channel, *attacks: str, eps: float = EPS, steps: int = 20, **settings: Any) -> Purification:
    target = settings.pop("target", None)
    attack = Attack({"audio": Ball("linf", eps)}, PGD(steps=steps), target=target)
    return Purification(attack, purifier, attacks, **{"queries": 40, **settings})


def records_of(tmp: Any, asked: Purification, model: Victim, data: Dataset, size: int = 8) -> pd.DataFrame:
    store = Store.open(tmp, {})
    evaluate(model, AlignedData(data, model.spec), asked, store, batch_size=size, seed=0)
    return store.records()


def below(values: torch.Tensor) -> torch.Tensor:
    """Distribution function of the standard normal."""
    return (1 + torch.erf(values / math.sqrt(2))) / 2


@pytest.mark.parametrize("name", ["transfer", "bpda", "full-1", "full-3"])
def test_against_noise_a_linear_victim_stands_as_often_as_it_must(name: str, tmp_path: Any) -> None:
    """The strongest perturbation is one corner of the ball, whatever the noise: what is left has a closed form."""
    data, draws = LinearData(), 100
    asked = condition(Noisy(sigma=SIGMA), name, draws=draws, sure=None)
    records = records_of(tmp_path / "run", asked, linear_victim(), data)
    spread = SIGMA * slope().norm()
    for version, margins in (("unperturbed", data.margins), (name, data.margins - EPS * slope().abs().sum())):
        found, known = shares(records, version), below(margins / spread).numpy()
        told = ~np.isnan(found)
        error = np.sqrt(np.clip(known * (1 - known), 1e-3, None) / draws)
        assert told.sum() >= 11
        assert (np.abs(found - known)[told] < 4 * error[told]).all()
    # ... and to the bit where the very draws that score are made once more.
    corner = data.audio - EPS * (1 - 2 * data.target.float())[:, None] * slope().sign()
    batch = AlignedData(data, linear_victim().spec).batch(range(len(data)))
    for number in range(3):
        noise = asked.draw("scoring", number, batch, 0)["noise"]
        stands = ((corner + SIGMA * noise) @ slope() > 0) == (data.target == 0)
        told = [
            stands[row].item() if one is None else one[number] for row, one in enumerate(records[f"{name}_scoring"])
        ]
        assert told == stands.tolist()


def test_choosing_and_scoring_hear_different_draws_and_all_attacks_the_same() -> None:
    asked = condition(Noisy(), "transfer")
    batch = AlignedData(LinearData(), linear_victim().spec).batch([0, 1, 2])
    first, again = (asked.draw("selection", 0, batch, 0)["noise"] for _ in range(2))
    assert torch.equal(first, again)
    others = [asked.draw(*where)["noise"] for where in (("scoring", 0, batch, 0), ("selection", 1, batch, 0))]
    others.append(asked.draw("selection", 0, batch, 1)["noise"])
    assert all(not torch.equal(first, other) for other in others)
    assert not torch.equal(first[0], first[1])  # each clip has its own
    alone = AlignedData(LinearData(), linear_victim().spec).batch([1])
    assert torch.equal(asked.draw("selection", 0, alone, 0)["noise"][0], first[1])


def test_the_worst_is_chosen_on_selection_draws_alone() -> None:
    """An attack that is lucky in the scoring draws is not taken for it."""

    def version(selection: list[list[bool]], scoring: list[list[bool]], gain: list[float], ran: list[bool]) -> Version:
        stands = {"selection": torch.tensor(selection), "scoring": torch.tensor(scoring)}
        first = Version.begin(torch.zeros(3, 4), stands, torch.tensor(gain))
        return Version(**{**vars(first), "ran": torch.tensor(ran)})

    yes, no = [True, True], [False, False]
    versions = {
        "unperturbed": version([yes, yes, yes], [yes, yes, yes], [-3.0, -3.0, -torch.inf], [True] * 3),
        "lucky": version([yes, [True, False], no], [no, no, no], [-1.0, -1.0, 0.0], [True, True, False]),
        "strong": version([[True, False], [True, False], no], [yes, yes, no], [-2.0, -0.5, 0.0], [True, True, False]),
    }
    # Fewest selection draws; of equals the highest gain; an attack that did not work on a clip is none of its attacks.
    assert worst_of(versions).tolist() == [2, 2, 0]


def test_records_do_not_depend_on_batches(tmp_path: Any) -> None:
    model = victim()
    asked = condition(Noisy(SAMPLE_RATE), *EVERY, eps=0.005, steps=6, draws=3, sure=3)
    one, other = (
        records_of(tmp_path / f"{size}", asked, model, ToyData(11, model, padded=True), size) for size in (3, 11)
    )
    pd.testing.assert_frame_equal(one, other)
    assert set(attack_names(one)) == set(EVERY)
    assert not one["violated"].any()


@pytest.mark.parametrize("purifier", [Softer(SAMPLE_RATE), Noisy(SAMPLE_RATE)])
def test_no_attack_alone_leaves_fewer_standing_than_the_cascade(purifier: Channel, tmp_path: Any) -> None:
    """On the draws that choose; where nothing is drawn these are also those that score."""
    model = victim()
    data = ToyData(16, model)
    cascade, single = (
        records_of(
            tmp_path / str(together),
            condition(purifier, *EVERY, eps=0.005, steps=10, draws=6, cascade=together),
            model,
            data,
        )
        for together in (True, False)
    )
    purposes = ("selection",) if isinstance(purifier, Noisy) else ("selection", "scoring")
    for purpose in purposes:
        worst = shares(cascade, "worst", purpose).mean()
        for name in attack_names(single):
            alone = shares(single, name, purpose)
            alone = np.where(np.isnan(alone), shares(single, "unperturbed", purpose), alone)
            assert worst <= alone.mean() + 1e-12
        assert worst == pytest.approx(shares(single, "worst", purpose).mean())
    assert sum(cascade[f"{name}_forwards"].sum() for name in attack_names(cascade)) < single["forwards"].sum()


def test_the_table_of_attacks_ends_at_the_headline(tmp_path: Any) -> None:
    model = victim()
    asked = condition(Noisy(SAMPLE_RATE), "transfer", "full-1", "bpda", eps=0.004, steps=8, draws=5)
    records = records_of(tmp_path / "run", asked, model, ToyData(16, model))
    told = purification_scores(records, {})
    assert list(told["attacks"]) == ["transfer", "bpda", "full-1"]  # from cheap to dear
    np.testing.assert_array_equal(worst_shares(records, attack_names(records)), shares(records, "worst"))
    assert told["attacks"]["full-1"]["left"] == told["robust"]
    assert told["attacks"]["transfer"]["robust"]["score"] >= told["robust"]["score"]
    assert told["attacks"]["full-1"]["robust"] is None  # it met what the others had left
    assert told["clean"]["score"] == purified_clean(records).score > purified_robust(records).score
    assert told["always"]["score"] <= told["robust"]["score"]
    assert sum(row["worst_for"] for row in told["attacks"].values()) == (records["worst"] != "unperturbed").sum()


def test_no_defense_is_the_transfer_attack_without_the_purifier(tmp_path: Any) -> None:
    """Clips that the purifier spoils are attacked for that row, too."""
    data = LinearData()
    records = records_of(tmp_path / "run", condition(Noisy(sigma=0.5), "transfer"), linear_victim(), data)
    stands = data.margins > EPS * slope().abs().sum()
    assert records["bare_stands"].tolist() == stands.tolist()
    without = records_of(tmp_path / "without", condition(Noisy(), "bpda"), linear_victim(), data)
    assert purification_scores(without, {})["bare_robust"] is None


def test_held_noise_is_scored_in_the_very_draw_that_was_attacked(tmp_path: Any) -> None:
    data, sigma = LinearData(), 0.1
    records = records_of(tmp_path / "run", condition(Noisy(sigma=sigma), "fixed"), linear_victim(), data)
    held = Held(Noisy(sigma=sigma), derived_seed(0, "held"))
    noise = held.draw(data.audio, [torch.Generator()] * len(data))["noise"]
    corner = data.audio - EPS * (1 - 2 * data.target.float())[:, None] * slope().sign()
    stands = ((corner + sigma * noise) @ slope() > 0) == (data.target == 0)
    ran = [row is not None for row in records["fixed_scoring"]]
    told = [stand for stand, there in zip(records["fixed_held"], ran, strict=True) if there]
    assert sum(ran) >= 10
    assert told == stands[torch.tensor(ran)].tolist()
    assert 0 < sum(told) < len(told)
    score = purification_scores(records, {})["attacks"]["fixed"]["held"]
    assert score["score"] == pytest.approx(np.mean(told))


def test_a_purifier_that_draws_nothing_is_heard_once_and_attacked_until_success(tmp_path: Any) -> None:
    model = victim()
    asked = condition(Softer(SAMPLE_RATE), "full-5", "fixed", "bpda", eps=0.05, steps=30)
    batch = AlignedData(ToyData(12, model), model.spec).batch([0])
    plan, skipped = asked.plan(batch.inputs["audio"])
    assert plan == ["bpda", "full-1"]
    assert set(skipped) == {"full-5", "fixed"}
    assert "draws nothing" in skipped["fixed"]
    records = records_of(tmp_path / "run", asked, model, ToyData(12, model))
    assert {len(row) for row in records["worst_scoring"]} == {1}
    pd.testing.assert_series_equal(records["worst_scoring"], records["worst_selection"], check_names=False)
    assert records.loc[records["success"], "backwards"].max() < 30


def test_where_the_gradient_is_straight_through_full_and_bpda_are_one() -> None:
    plan, skipped = planned(("full-1", "full-20", "transfer"), RoundedOpenly(), random=False, steps=9, queries=9)
    assert plan == ["transfer", "bpda"]
    assert all("the same as bpda" in why for why in skipped.values())
    assert missing_attacks(plan, "straight-through", 500) == ["no black box"]


def test_rounding_hides_the_gradient_from_the_full_attack_alone(tmp_path: Any) -> None:
    records = records_of(
        tmp_path / "run", condition(Rounded(), "full-1", "bpda", cascade=False), linear_victim(), LinearData()
    )
    full, bpda = (shares(records[records["attacked"]], name) for name in ("full-1", "bpda"))
    assert bpda.mean() < full.mean() - 0.3


@pytest.mark.parametrize(
    ("plan", "gradient", "missing"),
    [
        (("transfer", "bpda", "full-1", "square"), "exact", []),
        (("transfer", "bpda", "full-20", "nes"), "exact", []),
        (("transfer", "bpda", "nes"), "straight-through", []),
        (("transfer", "bpda", "nes"), "exact", ["no full gradient"]),
        (("transfer", "bpda", "fixed", "nes"), "exact", ["no full gradient"]),
        (("bpda", "full-1"), "exact", ["no transfer", "no black box"]),
        (("full-1",), "straight-through", ["no BPDA", "no transfer", "no black box"]),
        (("transfer",), "exact", ["no full gradient", "no BPDA", "no black box"]),
    ],
)
def test_a_partial_suite_is_not_adaptive(plan: tuple[str, ...], gradient: Any, missing: list[str]) -> None:
    assert missing_attacks(plan, gradient, 1000) == missing
    told = label(missing)
    assert told == ("adaptive" if not missing else f"non-adaptive: {', '.join(missing)}")
    assert missing_of([told, "adaptive"]) == missing


def test_few_queries_and_few_steps_are_told(tmp_path: Any) -> None:
    suite = ("transfer", "bpda", "full-1", "square")
    assert missing_attacks(suite, "exact", 99) == ["under 100 queries"]
    found = {
        (steps, eps): records_of(
            tmp_path / f"{steps}-{eps}",
            condition(Noisy(sigma=1e-4), *suite, eps=eps, steps=steps, queries=100, draws=2, sure=2),
            linear_victim(),
            LinearData(),
        )["adaptivity"]
        for steps, eps in ((5, EPS), (5, 0.2), (40, EPS), (70, EPS))
    }
    few = "non-adaptive: under 70 steps and not converged"
    assert set(found[5, EPS]) == {"adaptive", few}  # of what stands the end is not known; what has fallen is told
    assert set(found[5, 0.2]) == set(found[40, EPS]) == set(found[70, EPS]) == {"adaptive"}


def test_a_target_class(tmp_path: Any) -> None:
    """Clips of the class wanted are not attacked; others stand while they are not taken for it."""
    model = victim()
    data = ToyData(18, model)
    target = list(model.spec.labels).index("low")
    records = records_of(
        tmp_path / "run",
        condition(Softer(SAMPLE_RATE), "transfer", "full-1", eps=0.02, target=target),
        model,
        data,
    )
    assert not records.loc[records["label"] == target, "attacked"].any()
    assert records["success"].any()
    assert (records.loc[records["success"], "label"] != target).all()


def test_intervals_of_shares() -> None:
    assert (share_score(np.zeros(9), 0).low, share_score(np.zeros(9), 0).high) == wilson(0, 9)
    assert share_score(np.ones(9), 0).low == wilson(9, 9)[0]
    halves = share_score(np.tile([0.0, 1.0], 200), 0)
    assert halves.score == 0.5
    assert (halves.low, halves.high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)
    narrow = share_score(np.tile([0.4, 0.6], 200), 0)
    assert narrow.high - narrow.low == pytest.approx((halves.high - halves.low) / 5, rel=0.15)


def test_names() -> None:
    check_names(("full-7", "nes"))
    assert described("full-7") == "PGD with the full gradient, losses averaged over 7 fresh draws at every step"
    for wrong, words in (
        (("trasfer",), "transfer"),
        (("full-0",), "attack on a purifier"),
        (("nes", "nes"), "once"),
        ((), "at least one"),
    ):
        with pytest.raises(ThreatModelError, match=words):
            check_names(wrong)
    for queries in (1, 21, 22, 1000):
        assert nes_settings(queries).queries <= max(queries, 4)
    assert nes_settings(1000).queries > 950


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"draws": 0}, "draws must be 1 or more"),
        ({"sure": 0}, "sure must be 1 or more"),
        ({"queries": 0}, "queries must be 1 or more"),
        ({"attacks": ("pgd",)}, "attack on a purifier"),
    ],
)
def test_mistakes(asked: dict[str, Any], words: str) -> None:
    attack = Attack({"audio": Ball("linf", EPS)})
    with pytest.raises(ThreatModelError, match=words):
        Purification(attack, Noisy(), **asked)


def test_what_cannot_be_attacked_behind_a_purifier() -> None:
    two = Attack({"audio": Ball("linf", EPS), "video": Ball("linf", EPS)})
    with pytest.raises(ThreatModelError, match="one waveform"):
        Purification(two, Noisy())
    with pytest.raises(ThreatModelError, match="for l1 take nes"):
        Purification(Attack({"audio": Ball("l1", 1.0)}), Noisy())
    model = victim("multilabel")
    batch = AlignedData(ToyData(4, model), model.spec).batch([0, 1])
    with pytest.raises(ThreatModelError, match="one label a clip"):
        condition(Noisy(SAMPLE_RATE), "transfer").apply(model, batch, torch.zeros(2, 3), 0)
    single = victim()
    with pytest.raises(ThreatModelError, match="made for 44100 Hz"):
        condition(Noisy(44_100), "transfer").apply(single, batch, torch.zeros(2, 3), 0)
