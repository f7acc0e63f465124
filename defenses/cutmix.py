"""CutMix over time: a stretch of each clip is another clip's, the same stretch in every modality (Yun et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.mixup import Pairing, draw_mixture


def cutmix(
    inputs: Mapping[str, Tensor],
    targets: Tensor,
    alpha: float,
    generator: torch.Generator,
    pairing: Pairing = "random",
) -> tuple[dict[str, Tensor], Tensor]:
    """Replaces a stretch of time of every example by that of another of its batch.

    The stretch begins and ends on steps of the modality that has the fewest of them (a frame of video, say): so it is
    the same everywhere, and the label weights are the exact shares of time.

    Args:
        inputs: Modality -> (B, steps, ...) inputs; time is the first dimension after the batch.
        targets: (B, K) label weights, mixed by the share of time that each clip has.
        alpha: The share kept is drawn from Beta(alpha, alpha), one for each example.
        generator: On the CPU.
        pairing: See `defenses.mixup.draw_mixture`.

    Returns:
        Mixed inputs and targets.
    """
    mixture = draw_mixture(targets, alpha, generator, pairing)
    grid = min(value.shape[1] for value in inputs.values())
    cut = ((1 - mixture.weight) * grid).round().long()
    places = torch.rand(len(targets), generator=generator, dtype=torch.float64).to(cut.device)
    first = (places * (grid - cut + 1)).long()

    def stretch(value: Tensor) -> Tensor:
        steps = value.shape[1]
        begin, end = ((edge * steps / grid).round()[:, None] for edge in (first, first + cut))
        time = torch.arange(steps, device=value.device)
        inside = (time >= begin) & (time < end)
        return torch.where(inside.view(*inside.shape, *[1] * (value.ndim - 2)), value[mixture.partner], value)

    kept = (1 - cut.to(targets.dtype) / grid)[:, None]
    labels = kept * targets + (1 - kept) * targets[mixture.partner]
    return {name: stretch(value) for name, value in inputs.items()}, labels


__all__ = ["cutmix"]
