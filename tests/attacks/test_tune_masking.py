"""What differs between two tunes, as an ear would have it."""

from __future__ import annotations

import torch

from attacks.masking import masking_loss, threshold
from attacks.tune_masking import HiddenIn

RATE = 16_000


def tone(hz: float, level: float) -> torch.Tensor:
    return level * torch.sin(2 * torch.pi * hz * torch.arange(RATE, dtype=torch.float64) / RATE)


def test_what_lies_under_the_tune_is_free_and_what_lies_apart_is_not() -> None:
    plain = tone(1000, 0.3)
    hidden = HiddenIn.under(plain, RATE)
    near, far = (hidden(plain + tone(hz, 0.003)) for hz in (1010, 4000))
    assert float(hidden(plain)) == 0
    assert float(near) < 0.1 * float(far)
    assert float(hidden.excess(plain + tone(4000, 0.003)).audible) > float(hidden.excess(plain).audible) == 0


def test_it_is_the_masking_loss_of_the_difference() -> None:
    plain, loop = tone(500, 0.2), tone(700, 0.1)
    expected = torch.log10(1 + masking_loss((loop - plain)[None], threshold(plain[None], RATE)))[0]
    torch.testing.assert_close(HiddenIn.under(plain, RATE)(loop), expected)


def test_gradients_lead_back_to_the_tune() -> None:
    plain = tone(1000, 0.3)
    hidden = HiddenIn.under(plain, RATE)
    loop = (plain + tone(4000, 0.01)).requires_grad_()
    before = hidden(loop)
    (gradient,) = torch.autograd.grad(before, loop)
    assert float(hidden(loop.detach() - 1e-3 * gradient / gradient.norm())) < float(before.detach())
