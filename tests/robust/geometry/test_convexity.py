import math
import time

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robust.errors import DataError
from robust.metrics.geometry.convexity import THRESHOLD, convexity

LEVEL = math.log(THRESHOLD / (1 - THRESHOLD))
"""The logit of the threshold."""


def _one_hot_like(logit: Tensor) -> Tensor:
    """Logits of two labels: the one given, and one that is never recognised."""
    return torch.stack([logit, torch.full_like(logit, -20.0)], dim=1)


def _all_of_the_first(count: int) -> Tensor:
    return torch.tensor([[1, 0]]).expand(count, 2)


def test_half_space_is_convex() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(60, 12, generator=generator)
    normal = torch.randn(12, generator=generator)
    latents = latents + ((0.1 - latents @ normal).clamp_min(0) / normal.square().sum())[:, None] * normal
    found = convexity(latents, _all_of_the_first(60), lambda z: _one_hot_like(LEVEL + 5 * z @ normal))
    for share in (found.convexity, found.conditional, found.top):
        assert (share.value, share.low, share.high, share.count) == (1.0, 1.0, 1.0, 60)
    first, second = found.per_class
    assert (first.convexity.value, first.convexity.count, first.convexity.high) == (1.0, 2000, 1.0)
    assert 0.99 < first.convexity.low < 1
    assert math.isnan(second.convexity.value)
    assert found.pairs == 2000


@pytest.mark.parametrize("inner", [0.6, 0.8])
def test_annulus_is_its_integral(inner: float) -> None:
    # Clips evenly on the unit circle, recognised outside radius a. Over angle and r, |z|^2 = 1 - 4 r (1 - r) s with
    # s = sin^2(angle / 2); P(|z| >= a) = 1 - E sqrt(max(0, 1 - (1 - a^2) / s)) = sqrt(1 - a^2).
    angle = torch.arange(400, dtype=torch.float64) * 2 * math.pi / 400
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    found = convexity(
        circle,
        _all_of_the_first(400),
        lambda z: _one_hot_like(LEVEL + 9 * (z.norm(dim=1) - inner)),
        pairs=40_000,
        resamples=200,
    )
    expected = math.sqrt(1 - inner**2)
    assert found.per_class[0].convexity.value == pytest.approx(expected, abs=0.01)
    assert found.per_class[0].conditional.value == found.per_class[0].convexity.value  # all ends are recognised
    assert found.convexity.low < expected < found.convexity.high


def test_conditional_leaves_out_pairs_with_an_unrecognised_end() -> None:
    latents = torch.tensor([[-1000.0], [1.0], [2.0]])
    found = convexity(latents, _all_of_the_first(3), lambda z: _one_hot_like(LEVEL + z[:, 0])).per_class[0]
    # 6 ordered pairs; between -1000 and 1 or 2 hardly any point is positive.
    assert (found.convexity.value, found.convexity.count) == (pytest.approx(2 / 6), 6)
    assert (found.conditional.value, found.conditional.count) == (1.0, 2)


def test_softmax_and_top_for_one_label_a_clip() -> None:
    latents = torch.tensor([[0.0, 1.0], [0.0, 3.0], [1.0, 0.0], [2.0, 0.0]])

    def head(z: Tensor) -> Tensor:
        return torch.cat([z, torch.full((len(z), 1), 4.0)], dim=1)  # the third class is always the highest

    found = convexity(latents, torch.tensor([1, 1, 0, 0]), head, classes=3)
    assert found.top.value == 0.0
    # Class 1 has from e / (e + 1 + e^4) = 0.047 to e^3 / (e^3 + 1 + e^4) = 0.27; class 0 has 0.12 at most.
    assert found.per_class[1].convexity.value < 1
    everything = convexity(latents, torch.tensor([1, 1, 0, 0]), head, classes=3, threshold=0.04)
    assert everything.convexity.value == 1.0
    as_sigmoids = convexity(latents, torch.tensor([1, 1, 0, 0]), head, classes=3, activation="sigmoid")
    assert as_sigmoids.convexity.value == 1.0
    assert convexity(latents, torch.tensor([1, 1, 0, 0]), lambda z: z).top.value == 1.0


def _two_modalities(count: int = 30) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(count, 4, 3, generator=generator) for name in ("audio", "video")}


def test_only_the_modality_named_moves() -> None:
    latents = _two_modalities()
    video_only = convexity(
        latents, _all_of_the_first(30), lambda parts: _one_hot_like(LEVEL + parts["video"].sum((1, 2))), vary="audio"
    )
    # The video stays that of the first clip: the share of ordered pairs is that of clips recognised.
    share = float((latents["video"].sum((1, 2)) >= 0).double().mean())
    assert video_only.per_class[0].convexity.value == pytest.approx(share)
    assert video_only.per_class[0].conditional.value == 1.0
    assert video_only.per_class[0].conditional.count == round(share * 30 * 29)


def test_second_end_of_one_modality_is_a_hybrid() -> None:
    # Sum of both must be positive: a clip (3, -1) is, its sound with the picture of (-1, 3) is, -1 with -1 is not.
    latents = {"audio": torch.tensor([[3.0], [-1.0]]), "video": torch.tensor([[-1.0], [3.0]])}

    def head(parts: dict[str, Tensor]) -> Tensor:
        return _one_hot_like(LEVEL + (parts["audio"] + parts["video"])[:, 0])

    both = convexity(latents, _all_of_the_first(2), head).per_class[0]
    assert (both.convexity.value, both.conditional.count) == (1.0, 2)
    audio = convexity(latents, _all_of_the_first(2), head, vary="audio").per_class[0]
    # Of (first, second) = (0, 1) the second end is -1 - 1 < 0; of (1, 0) it is 3 + 3.
    assert (audio.conditional.value, audio.conditional.count) == (1.0, 1)


def test_all_modalities_together_are_one_latent() -> None:
    latents = _two_modalities()
    joined = torch.cat([latents["audio"], latents["video"]], dim=2)
    weight = torch.linspace(-1, 1, 24)
    whole = convexity(joined, _all_of_the_first(30), lambda z: _one_hot_like(z.flatten(1) @ weight))
    parts = convexity(
        latents,
        _all_of_the_first(30),
        lambda z: _one_hot_like(torch.cat([z["audio"], z["video"]], dim=2).flatten(1) @ weight),
        vary=["video", "audio"],
    )
    assert whole == parts


def _toy() -> tuple[Tensor, Tensor, nn.Module]:
    generator = torch.Generator().manual_seed(5)
    head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return torch.randn(50, 6, generator=generator), torch.randint(0, 3, (50,), generator=generator), head


def test_batch_size_is_nothing_and_seed_decides() -> None:
    latents, labels, head = _toy()
    found = [convexity(latents, labels, head, batch_size=size, pairs=150, threshold=0.3) for size in (7, 64, 1000)]
    assert found[0] == found[1] == found[2]
    other = convexity(latents, labels, head, pairs=150, threshold=0.3, seed=1)
    assert other.per_class != found[0].per_class


def test_a_class_is_measured_alone() -> None:
    latents, labels, head = _toy()
    turned = torch.where(labels[:, None] == 2, latents * 9, latents)
    before, after = (convexity(points, labels, head, pairs=100).per_class for points in (latents, turned))
    assert before[:2] == after[:2]


@pytest.mark.parametrize("method", [False, True])
def test_head_is_evaluated_and_left_as_it_was(method: bool) -> None:
    latents, labels, head = _toy()
    expected = convexity(latents, labels, head.eval())
    head.train()
    head[0].eval()
    head[3].bias.requires_grad_(False)
    assert convexity(latents, labels, head.forward if method else head) == expected
    assert [part.training for part in head] == [False, True, True, True]
    assert [one.requires_grad for one in head.parameters()] == [True, True, True, False]
    assert all(one.grad is None for one in head.parameters())


def test_head_is_left_as_it_was_when_it_fails() -> None:
    latents, labels, head = _toy()
    head.train()
    with pytest.raises(DataError, match=r"expected \(batch, 5\)"):
        convexity(latents, labels, head, classes=5)
    assert head.training
    assert head[2].training


def test_pairs_are_drawn_once_each_and_never_of_a_clip_with_itself() -> None:
    seen: list[Tensor] = []

    def head(z: Tensor) -> Tensor:
        seen.append(z)
        return _one_hot_like(z[:, 0])

    # Latents 1, 1000, 1e6: a point between two of them tells which, and whether its first is the first.
    convexity(torch.tensor([[1.0], [1e3], [1e6]], dtype=torch.float64), _all_of_the_first(3), head)
    between = seen[0][:6, 0]
    assert ((between > 1) & (between < 1e3)).sum() == 2
    assert len(between.unique()) == 6


def test_interval_is_as_wide_as_other_clips_make_it() -> None:
    normal = torch.linspace(1, 2, 5)
    values, errors = [], []
    for trial in range(25):
        latents = torch.randn(24, 5, generator=torch.Generator().manual_seed(trial))
        found = convexity(
            latents, _all_of_the_first(24), lambda z: _one_hot_like(LEVEL + z @ normal), resamples=200
        ).convexity
        values.append(found.value)
        errors.append((found.high - found.low) / (2 * 1.96))
    assert 0.6 < np.mean(errors) / np.std(values, ddof=1) < 1.6
    # Wilson's over the 552 pairs would say 0.021.
    assert np.mean(errors) > 0.04


def test_correlation_with_frequency_is_scipys() -> None:
    latents, labels, head = _toy()
    found = convexity(latents, labels, head, threshold=0.4)
    counts = [10, 200, 30]
    shares = [one.convexity.value for one in found.per_class]
    for method, oracle in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        measured = found.frequency_correlation(counts, method=method)
        assert measured.estimate.value == pytest.approx(oracle(np.log(counts), shares).statistic)
        assert measured.estimate.over == "classes"
    assert found.frequency_correlation([0, 5, 9]).estimate.count == 2
    assert found.clips == tuple(torch.bincount(labels).tolist())
    with pytest.raises(DataError, match="each of 3 classes"):
        found.frequency_correlation([1, 2])


def test_a_class_of_one_clip_has_no_pairs() -> None:
    found = convexity(torch.arange(8.0).reshape(4, 2), torch.tensor([0, 0, 0, 1]), lambda z: z)
    assert math.isnan(found.per_class[1].convexity.value)
    assert found.per_class[1].convexity.count == 0
    assert found.convexity.count == 3
    assert found.pairs == 6


def test_four_hundred_clips_of_160_dimensions_in_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, labels = torch.randn(400, 160, generator=generator), torch.arange(400) % 10
    began = time.process_time()
    weight = torch.randn(160, 10, generator=generator)
    found = convexity(latents, labels, lambda z: z @ weight)
    assert time.process_time() - began < 15
    assert found.pairs == 10 * 40 * 39


def test_bad_input_is_refused() -> None:
    latents, labels, head = _toy()
    with pytest.raises(DataError, match="for the 3 labels"):
        convexity(latents, labels[:3], head)
    with pytest.raises(DataError, match="Did you mean 'audio'"):
        convexity({"audio": latents}, labels, head, vary="audo")
    with pytest.raises(DataError, match="Nothing to interpolate"):
        convexity({"audio": latents}, labels, head, vary=[])
    with pytest.raises(DataError, match="between 0 and 1"):
        convexity(latents, labels, head, threshold=1.0)
    with pytest.raises(DataError, match="not all finite"):
        convexity(latents.log(), labels, head)
    with pytest.raises(DataError, match="Did you mean 'sigmoid'"):
        convexity(latents, labels, head, activation="sigmoids")
