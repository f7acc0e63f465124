"""The five pooling functions against their definitions and gradients in thesis chapter 4.2.2."""

from __future__ import annotations

import pytest
import torch

from robust.errors import VictimError
from robust.victims.pooling import POOLINGS, FrameHead, mix_logits, pool


def frames(count: int = 7, classes: int = 3) -> torch.Tensor:
    return 2 * torch.randn(2, count, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def probability(y: torch.Tensor, pooling: str, weights: torch.Tensor) -> torch.Tensor:
    """The definitions as printed, on probabilities."""
    return {
        "max": lambda: y.amax(dim=1),
        "average": lambda: y.mean(dim=1),
        "linear": lambda: (y * y).sum(dim=1) / y.sum(dim=1),
        "exponential": lambda: (y * y.exp()).sum(dim=1) / y.exp().sum(dim=1),
        "attention": lambda: (y * weights).sum(dim=1),
    }[pooling]()


def printed_gradient(y: torch.Tensor, pooling: str, weights: torch.Tensor) -> torch.Tensor:
    """d pooled / d y_i as derived in the thesis; (B, S, K)."""
    pooled = probability(y, pooling, weights)[:, None]
    exponential = y.exp() / y.exp().sum(dim=1, keepdim=True)
    return {
        "max": lambda: (y == pooled).to(y),
        "average": lambda: torch.full_like(y, 1 / y.shape[1]),
        "linear": lambda: (2 * y - pooled) / y.sum(dim=1, keepdim=True),
        "exponential": lambda: (1 - pooled + y) * exponential,
        "attention": lambda: weights,
    }[pooling]()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_value_and_gradient(pooling):
    logits, attention = frames().requires_grad_(), frames(classes=3).flip(1).clone().requires_grad_()
    pooled = pool(logits, pooling, attention).sigmoid()
    y, weights = logits.detach().sigmoid(), attention.detach().softmax(dim=1)
    torch.testing.assert_close(pooled, probability(y, pooling, weights))
    (by_logit,) = torch.autograd.grad(pooled.sum(), logits, retain_graph=True)
    torch.testing.assert_close(by_logit, printed_gradient(y, pooling, weights) * y * (1 - y))
    if pooling == "attention":
        (by_weight,) = torch.autograd.grad(pooled.sum(), attention)
        torch.testing.assert_close(by_weight, weights * (y - pooled.detach()[:, None]))


def test_the_linear_softmax_pushes_small_frames_down():
    """d y / d y_i is negative exactly where y_i < y / 2 (thesis 4.2.2)."""
    logits = frames().requires_grad_()
    pooled = pool(logits, "linear").sigmoid()
    (gradient,) = torch.autograd.grad(pooled.sum(), logits)
    small = logits.sigmoid() < pooled[:, None] / 2
    assert bool(small.any())
    assert torch.equal(gradient < 0, small)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("level", [-60.0, 60.0])
def test_saturated_frames_keep_their_gradient(pooling, level):
    """In float32 a sigmoid of 60 is 1 and its gradient 0; the logit form must not stop there."""
    logits = (frames().float() + level).requires_grad_()
    pooled = pool(logits, pooling, torch.zeros_like(logits))
    (gradient,) = torch.autograd.grad(pooled.sum(), logits)
    assert bool(pooled.isfinite().all())
    torch.testing.assert_close(gradient.sum(dim=1), torch.ones(2, 3), atol=0.2, rtol=0)


def test_one_frame_is_itself():
    logits = frames(count=1)
    for pooling in POOLINGS:
        torch.testing.assert_close(pool(logits, pooling, logits), logits[:, 0])


def test_mixing_two_answers():
    first, second = frames()[:, 0], frames()[:, 1]
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    mixed = mix_logits(torch.stack([first, second]), weights.log()[:, None, None], dim=0)
    torch.testing.assert_close(mixed.sigmoid(), 0.6 * first.sigmoid() + 0.4 * second.sigmoid())


def test_unknown_names_and_missing_weights():
    with pytest.raises(VictimError, match="attention"):
        FrameHead(4, 2, "atention")
    with pytest.raises(VictimError, match="weights"):
        pool(frames(), "attention")
