"""Point-wise thresholds of linear victims, known in closed form, and theorem 1 of the ICASSP 2022 paper on them.

As in its proof: f = a.g(x_A) + b.h(x_V), label -1 (class 0), a.g = -s and b.h = t. The audio alone withstands
s / ||a||*, the fused victim only (s - t) / ||a||*: less where the modalities disagree (t > 0), more where they agree.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from robust.errors import DataError
from robust.evaluation.engine import AlignedData
from robust.evaluation.threshold_summary import median_radius, threshold_summary, weaker
from robust.evaluation.thresholds import Thresholds, thresholds
from robust.victims import Victim
from tests.robust.av_toys import PICTURE, PIXELS, SAMPLES, AVData, clips, linear, prototypes

NAMES = ("minus", "plus")
A, B = 2 * prototypes(SAMPLES, 1, seed=3)[0], 2 * prototypes(PIXELS, 1, seed=4)[0]
LARGEST = {"audio": 0.5, "video": 0.3}
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
CONFIG = PGD(steps=20)

# (s, t) of clips of class minus: audio says -s, video says +t.
DISAGREE = [(1.0, 0.4), (0.9, 0.7), (0.6, 0.1), (1.1, 0.9)]
ALREADY_WRONG = [(0.4, 0.9), (0.2, 0.6)]
AGREE = [(1.0, -0.4), (0.5, -0.5), (0.3, -0.9)]
AUDIO_WRONG = [(-0.3, -0.8)]
CASES = DISAGREE + ALREADY_WRONG + AGREE + AUDIO_WRONG


def victim(*parts: str, labels: tuple[str, ...] = NAMES, flip: bool = False) -> Victim:
    """Logits -f / 2 and f / 2, or the other way round where the labels are."""
    halves = {"audio": torch.stack([-A / 2, A / 2]), "video": torch.stack([-B / 2, B / 2])}
    if flip:
        halves = {name: half.flip(0) for name, half in halves.items()}
    return linear(
        halves.get("audio") if "audio" in parts else None, halves["video"] if "video" in parts else None, labels=labels
    )


def data(cases: list[tuple[float, float]] = CASES) -> AVData:
    audio = torch.stack([-s * A / A.square().sum() for s, _ in cases])
    video = 0.5 + torch.stack([t * B / B.square().sum() for _, t in cases]).view(-1, *PICTURE)
    return AVData(audio, video, torch.zeros(len(cases), dtype=torch.int64), labels=NAMES)


def found(norm: str = "linf", source: AVData | None = None, **options: object) -> Thresholds:
    options = {"largest": LARGEST, "config": CONFIG, "tolerance": 1.02, **options}
    parts = victim("audio", "video"), victim("audio"), victim("video")
    return thresholds(*parts, source or data(), norm=norm, **options)


@pytest.fixture(scope="module")
def reference() -> Thresholds:
    return found()


def exact(norm: str, largest: dict[str, float]) -> dict[str, np.ndarray]:
    s, t = np.array(CASES).T
    unit = {name: float(torch.linalg.vector_norm(w, DUAL[norm])) for name, w in (("audio", A), ("video", B))}
    margins = {
        "eps_A": (s, "audio"),
        "eps_V": (-t, "video"),
        "eps_A_to_AV": (s - t, "audio"),
        "eps_V_to_AV": (s - t, "video"),
    }
    radii = {name: np.maximum(margin, 0) / unit[modality] for name, (margin, modality) in margins.items()}
    return {name: np.where(r > largest[margins[name][1]], np.inf, r) for name, r in radii.items()}


@pytest.mark.parametrize(
    ("norm", "largest"), [("linf", LARGEST), ("l2", {"audio": 2.0, "video": 2.0})], ids=["linf", "l2"]
)
def test_thresholds_of_linear_victims_are_exact(norm: str, largest: dict[str, float]) -> None:
    frame = found(norm, largest=largest).frame
    for column, expected in exact(norm, largest).items():
        got = frame[column].to_numpy()
        zero, infinite = expected == 0, np.isinf(expected)
        assert (got[zero] == 0).all()
        assert np.isinf(got[infinite]).all()
        ratio = got[~zero & ~infinite] / expected[~zero & ~infinite]
        assert ratio.min() > 1 - 1e-4, column
        assert ratio.max() < 1.02 + 1e-3, column


def test_theorem_1(reference: Thresholds) -> None:
    result = reference
    frame, told = result.frame, result.summary()
    part = frame.head(len(DISAGREE))
    assert (part["eps_A_to_AV"] < part["eps_A"]).all()
    assert (part["eps_A_to_AV"] > 0).all()
    assert frame["agree"].tolist() == [False] * 6 + [True] * 3 + [False]
    assert frame["right_AV"].tolist() == [True] * 4 + [False] * 2 + [True] * 4
    assert frame["right_A"].tolist() == [True] * 9 + [False]
    heard = told["audio"]
    assert heard["disagree"]["weaker"]["score"] == 1.0  # all six, those already wrong among them
    assert heard["agree"]["weaker"]["score"] == 0.0
    assert (heard["all"]["clips"], heard["all"]["weaker"]["score"]) == (9, pytest.approx(6 / 9))
    both = heard["all"]["both_right"]
    assert (both["clips"], both["weaker"]["score"]) == (7, pytest.approx(4 / 7))
    assert both["stronger"]["score"] == pytest.approx(3 / 7)
    assert both["p"] == pytest.approx(binomtest(4, 7).pvalue)
    assert heard["agree"]["both_right"]["stronger"]["score"] == 1.0
    # Video is right where t < 0, and there the audio helps it in three of four.
    seen = told["video"]["all"]["both_right"]
    assert (seen["clips"], seen["stronger"]["score"], seen["weaker"]["score"]) == (4, 0.75, 0.25)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_fusion_that_ignores_a_modality_is_as_strong_as_its_part() -> None:
    deaf = linear(torch.stack([-A / 2, A / 2]), 1e-6 * torch.stack([-B / 2, B / 2]), labels=NAMES)
    result = thresholds(deaf, victim("audio"), victim("video"), data(), largest=LARGEST, config=CONFIG)
    both = result.summary()["audio"]["all"]["both_right"]
    assert both["clips"] == 9
    assert both["weaker"]["score"] == both["stronger"]["score"] == 0.0  # ties, found within the tolerance
    assert both["p"] == 1.0


def test_radii_beyond_the_largest_are_censored() -> None:
    low = {"audio": 0.04, "video": 0.3}
    result = found(largest=low)
    expected = exact("linf", low)["eps_A"]
    assert 0 < np.isinf(expected).sum() < len(expected) - 1
    assert (np.isinf(result.frame["eps_A"]) == np.isinf(expected)).all()
    alone = result.summary()["audio"]["all"]["both_right"]["alone"]
    right = result.frame["right_A"] & result.frame["right_AV"]
    assert alone["censored"] == int(np.isinf(expected[right]).sum()) > alone["clips"] / 2
    assert alone["median"] is None


@pytest.mark.parametrize(("norm", "batch_size"), [("linf", 1), ("l2", 2)])
def test_thresholds_do_not_depend_on_batch_size(norm: str, batch_size: int) -> None:
    some = {"source": data(CASES[2:7]), "config": PGD(steps=6), "tolerance": 1.2}
    one, other = (found(norm, batch_size=size, **some).frame for size in (32, batch_size))
    assert one["eps_A_to_AV"].between(1e-6, 1.0).any()
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_settled_clips_cost_little() -> None:
    low = {"audio": 0.004, "video": 0.004}
    result = found(largest=low)
    standing = result.frame[np.isinf(result.frame["eps_A"]) & result.frame["right_V"] & result.frame["right_AV"]]
    assert len(standing) == 3
    # Four searches: two coarse runs each and one gradient to begin with, none to the tolerance.
    assert (standing["backwards"] <= 4 * (2 * CONFIG.steps + 1)).all()


def test_parts_may_order_their_labels_otherwise(reference: Thresholds) -> None:
    turned = victim("audio", labels=NAMES[::-1], flip=True)
    options = {"largest": LARGEST, "config": CONFIG, "tolerance": 1.02}
    result = thresholds(victim("audio", "video"), turned, victim("video"), data(), **options)
    pd.testing.assert_frame_equal(result.frame, reference.frame, check_exact=True)


def test_many_labels_a_clip() -> None:
    three = torch.stack([A, -A]) / 2, torch.stack([B, -B]) / 2
    fused, heard, seen = (
        linear(*weights, task="multilabel", labels=NAMES) for weights in (three, (three[0], None), (None, three[1]))
    )
    source = data(AGREE + DISAGREE)
    # Logits a.g / 2 for `minus`, which every clip has: a part is right where it is above 0.
    target = torch.tensor([[1.0, 0.0]]).repeat(len(source), 1)
    source = AVData(-source.audio, 1 - source.video, target, labels=NAMES)
    frame = thresholds(fused, heard, seen, source, largest=LARGEST, config=CONFIG, tolerance=1.02).frame
    unit = float(A.abs().sum())
    for got, (s, t) in zip(frame["eps_A_to_AV"], AGREE + DISAGREE, strict=True):
        assert got == pytest.approx((s - t) / unit, rel=0.021)
    assert frame["agree"].tolist() == [True] * 3 + [False] * 4
    assert frame["label_name"].unique().tolist() == ["minus"]


def test_radii_of_the_parts_may_be_taken_over(reference: Thresholds) -> None:
    options = {"config": CONFIG, "tolerance": 1.02}
    fused, heard, seen = victim("audio", "video"), victim("audio"), victim("video")
    again = thresholds(fused, heard, seen, data(), largest=LARGEST, parts=reference, **options)
    one, other = again.frame.drop(columns="backwards"), reference.frame.drop(columns="backwards")
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert again.frame["backwards"].sum() < 0.7 * reference.frame["backwards"].sum()
    with pytest.raises(ThreatModelError, match="same parts, largest radii, norm and tolerance"):
        thresholds(fused, heard, seen, data(), largest=LARGEST, parts=reference, config=CONFIG, tolerance=1.1)
    more = data([*CASES, (1.0, 1.0)])
    with pytest.raises(ThreatModelError, match=r"lacks 1 of these clips, e\.g\. 'av/10'"):
        thresholds(fused, heard, seen, more, largest=LARGEST, parts=reference, **options)


def test_medians_are_order_statistics() -> None:
    radii = np.array([0.4, 0.1, np.inf, 0.2, 0.3])
    told = median_radius(radii)
    assert (told["median"], told["censored"], told["clips"]) == (0.3, 1, 5)
    assert median_radius(np.array([0.1, np.inf]))["median"] == 0.1  # half are broken within it
    assert median_radius(np.array([0.1, np.inf, np.inf]))["median"] is None
    assert median_radius(np.empty(0)) == {"median": None, "low": None, "high": None, "clips": 0, "censored": 0}
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        told = median_radius(draw.exponential(size=41))
        covered += told["low"] <= math.log(2) <= told["high"]
    assert 0.93 <= covered / 500 <= 0.99


def test_ties_within_the_tolerance_are_not_weaker() -> None:
    one = np.array([1.0, 1.0, 1.0, 0.0, np.inf, 1.99, 1.5])
    other = np.array([1.04, 1.06, 0.9, 0.1, np.inf, np.inf, np.inf])
    found = weaker(one, other, largest=2.0, tolerance=1.05)
    assert found.tolist() == [False, True, False, True, False, False, True]


def test_summary_of_nothing_is_json(reference: Thresholds) -> None:
    frame = reference.frame
    told = threshold_summary(frame[frame["agree"]], {"A": 0.5, "V": 0.3}, 1.05)
    assert told["A"]["disagree"]["clips"] == 0
    assert told["A"]["disagree"]["weaker"]["score"] is None
    json.dumps(told, allow_nan=False)


def test_bad_input_is_refused() -> None:
    fused, heard, seen = victim("audio", "video"), victim("audio"), victim("video")
    with pytest.raises(ThreatModelError, match="Both parts take 'audio'"):
        thresholds(fused, heard, heard, data(), largest=LARGEST)
    with pytest.raises(ThreatModelError, match="takes audio, video"):
        thresholds(fused, fused, seen, data(), largest=LARGEST)
    with pytest.raises(ThreatModelError, match="Did you mean 'video'"):
        thresholds(fused, heard, seen, data(), largest={"audio": 0.1, "vido": 0.1})
    with pytest.raises(ThreatModelError, match="largest radius to try on 'video'"):
        thresholds(fused, heard, seen, data(), largest={"audio": 0.1})
    with pytest.raises(ThreatModelError, match="differ by 1 at most"):
        thresholds(fused, heard, seen, data(), largest={"audio": 0.1, "video": 3.0})
    with pytest.raises(ThreatModelError, match="Did you mean 'linf'"):
        thresholds(fused, heard, seen, data(), largest=LARGEST, norm="lif")
    with pytest.raises(ThreatModelError, match="factor above 1"):
        thresholds(fused, heard, seen, data(), largest=LARGEST, tolerance=1.0)
    with pytest.raises(ThreatModelError, match="same classes"):
        thresholds(fused, victim("audio", labels=("minus", "other")), seen, data(), largest=LARGEST)
    other = linear(torch.zeros(2, SAMPLES) + torch.tensor([[1.0], [-1.0]]), labels=NAMES)
    other.spec = type(other.spec)(**{**vars(other.spec), "sample_rate": 800})
    with pytest.raises(ThreatModelError, match="another sample rate"):
        thresholds(fused, other, seen, data(), largest=LARGEST)
    source = data()
    source.target = torch.full((len(source),), -1)
    with pytest.raises(DataError, match="'av/0' has no label"):
        thresholds(fused, heard, seen, source, largest=LARGEST)
    with pytest.raises(DataError, match="does not know"):
        thresholds(fused, heard, seen, clips(3), largest=LARGEST)


def test_aligned_data_is_taken_too(reference: Thresholds) -> None:
    fused = victim("audio", "video")
    aligned = AlignedData(data(), fused.spec)
    options = {"largest": LARGEST, "config": CONFIG, "tolerance": 1.02}
    result = thresholds(fused, victim("audio"), victim("video"), aligned, **options)
    pd.testing.assert_frame_equal(result.frame, reference.frame, check_exact=True)
