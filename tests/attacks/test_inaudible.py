"""Two stages: broken stays broken, inside the ball, and is heard less."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.eot import Expectation, ExpectedOracle
from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, frozen
from attacks.inaudible import Inaudible, InaudibleResult, hide, inaudible
from attacks.losses import Goal
from attacks.masking import masking_loss, threshold
from attacks.pgd import PGD, pgd
from attacks.supports import FrequencyBand, out_of_support
from attacks.threat import Ball
from tests.oracles.toy import ConvVictim, predictions, waves

RATE = 400
VICTIM = ConvVictim()
AUDIO = waves(6) * torch.linspace(0, 1, 400).square()
LABELS = predictions(VICTIM, {"audio": AUDIO})
BALL = Ball("linf", 0.05)
FIRST, SECOND = PGD(steps=10), Inaudible(steps=60, rel_step=0.05)


def attacked(rows: slice = slice(None), ball: Ball = BALL, config: Inaudible = SECOND) -> InaudibleResult:
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)][rows]
    return inaudible(
        VICTIM, {"audio": AUDIO[rows]}, Goal(LABELS[rows]), {"audio": ball}, RATE, first=FIRST, config=config,
        generators=generators,
    )  # fmt: skip


@pytest.mark.parametrize("ball", [BALL, replace(BALL, support=FrequencyBand(20, 80, RATE))], ids=["all", "band"])
def test_less_is_heard_and_clips_stay_broken_inside_the_ball(ball: Ball) -> None:
    result = attacked(ball=ball)
    assert result.broken.sum() >= 3
    point = result.inputs["audio"]
    assert torch.equal(predictions(VICTIM, {"audio": point}) != LABELS, result.broken)
    assert not ball.around(AUDIO).audit(point).violated.any()
    found = masking_loss(point - AUDIO, threshold(AUDIO, RATE))
    assert torch.allclose(found, result.masking_after, rtol=1e-4)
    before, after = result.masking_before[result.broken], result.masking_after[result.broken]
    assert (after <= before).all()
    assert float((after / before).median()) < 0.5
    if ball.support is not None:
        assert float(out_of_support(point - AUDIO, ball.support).max()) < 1e-3


def test_clips_that_stage_one_did_not_break_are_left_as_they_were() -> None:
    tiny = Ball("linf", 1e-6)
    result = attacked(ball=tiny)
    first = pgd(VICTIM, {"audio": AUDIO}, Goal(LABELS), {"audio": tiny}, config=FIRST)
    assert not result.broken.any()
    assert torch.equal(result.inputs["audio"], first.inputs["audio"])
    assert torch.equal(result.masking_after, result.masking_before)
    assert torch.equal(result.forwards, first.forwards + 2)  # asked once at first and once in 16 bits


def test_results_do_not_depend_on_the_batch() -> None:
    whole = attacked()
    parts = [attacked(slice(0, 1)), attacked(slice(1, 6))]
    assert torch.equal(torch.cat([part.inputs["audio"] for part in parts]), whole.inputs["audio"])
    assert torch.equal(torch.cat([part.masking_after for part in parts]), whole.masking_after)


def test_alpha_grows_by_success_and_falls_by_failure() -> None:
    grown = attacked(config=replace(SECOND, alpha=1e-9, alpha_lowest=1e-9, raise_every=10))
    assert torch.allclose(grown.alpha[grown.broken], torch.tensor(1e-9 * 1.2**6), rtol=1e-3)
    # So heavy a masking term drives clips out of success, and alpha falls.
    fallen = attacked(config=replace(SECOND, alpha=1e9, raised=1.0, lower_every=10))
    assert (fallen.alpha[fallen.broken] < 1e9).any()
    assert fallen.broken.equal(grown.broken)  # what is kept was broken


def test_the_16_bit_check_rounds_the_waveform() -> None:
    result = attacked()
    rounded = (result.inputs["audio"] * 32768).round() / 32768
    assert torch.equal(predictions(VICTIM, {"audio": rounded}) != LABELS, result.broken_16_bit)


class Halved:
    """A channel that halves what it hears, whatever was drawn."""

    def draw(self, clips: torch.Tensor, generators: object) -> dict[str, torch.Tensor]:
        return {"gain": torch.full((len(clips),), 0.5)}

    def __call__(
        self, clips: torch.Tensor, parameters: dict[str, torch.Tensor], valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        return clips * parameters["gain"][:, None]


def test_stage_two_stays_broken_in_the_channel_it_is_given() -> None:
    labels = predictions(VICTIM, {"audio": 0.5 * AUDIO})
    goal, valid = Goal(labels), {"audio": torch.ones_like(AUDIO, dtype=torch.bool)}
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    with frozen(VICTIM):
        start = pgd(lambda given: VICTIM({"audio": given["audio"] / 2}), {"audio": AUDIO}, goal, {"audio": BALL})
        oracle = ExpectedOracle(VICTIM, 6, torch.device("cpu"), None, Expectation(Halved(), draws=2), generators, valid)
        heard = hide(oracle, start.inputs, goal, BALL.around(AUDIO), RATE, config=SECOND)
    assert heard.broken.any()
    assert torch.equal(predictions(VICTIM, {"audio": heard.inputs["audio"] / 2}) != labels, heard.broken)
    assert isinstance(oracle, Oracle)
    assert (heard.masking_after < heard.masking_before)[heard.broken].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps"),
        ({"alpha": 0.0}, "alpha"),
        ({"confidence": -1.0}, "confidence"),
        ({"raised": 0.5}, "raised"),
        ({"lowered": 1.5}, "lowered"),
    ],
)
def test_bad_settings(given: dict[str, float], said: str) -> None:
    with pytest.raises(ThreatModelError, match=said):
        Inaudible(**given)


def test_masking_is_about_one_waveform() -> None:
    goal = Goal(torch.tensor([0]))
    for inputs, threat, said in (
        ({"audio": AUDIO[:1]}, {}, "0 modalities"),
        ({"audio": AUDIO[:1]}, {"video": BALL}, "Unknown modality"),
        ({"video": torch.zeros(1, 2, 3, 4, 4)}, {"video": BALL}, "waveforms"),
    ):
        with pytest.raises(ThreatModelError, match=said):
            inaudible(VICTIM, inputs, goal, threat, RATE)
