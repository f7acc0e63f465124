"""Perturbations cut down to a support after they were made, the other way of methods.md 1.4.

The usual way is to give the `Ball` a support, so that the attack spends its whole budget there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.projections import per_example
from attacks.threat import Ball

_ROUNDS = 3
"""The data range, or a window that also has a band, takes back some of what scaling up gave: it is repeated."""


def truncate(
    clean: Tensor, adversarial: Tensor, ball: Ball, *, valid: Tensor | None = None, rescale: bool = False
) -> Tensor:
    """Keeps of an attack only what lies in the support of `ball`.

    Args:
        clean: (B, ...) inputs before the attack.
        adversarial: (B, ...) inputs after it.
        ball: The support to cut down to, and the budget that the result keeps: what exceeds it (the peak of a
            waveform may grow when bands are taken away) is scaled down as a whole.
        valid: bool mask of what is not padding.
        rescale: Scale what is left up to the radius, too, as far as the data range admits.

    Returns:
        (B, ...) inputs that the audit of `ball.around(clean, valid)` passes.

    Raises:
        ThreatModelError: If the ball has no support.
    """
    if ball.support is None:
        raise ThreatModelError("There is nothing to cut down to: give the budget a support, e.g. TimeWindow(0, 0.5).")
    region = ball.around(clean, valid)
    point = clean + region.restrict(adversarial - clean)
    for _ in range(_ROUNDS if rescale else 1):
        size = region.size(point)
        factor = region.radius / size.clamp_min(1e-300)
        factor = torch.where(size > 0, factor if rescale else factor.clamp_max(1.0), 0.0)
        point = region.project(clean + (point - clean) * per_example(factor, clean))
    return point
