"""Scene embeddings: one vector of fixed size for a clip from embeddings over time, however many there are.

Source: Morshed et al., "Learning Audio Representations with MLPs", PMLR 166, 2022, sections 3.3 and 6.1 (table 2).
Vectors are flattened feature by feature, with the steps of each in their order, as the authors' package does it. Fewer
steps than are wanted are followed by zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from robust.errors import VictimError, unknown


def halving(steps: Tensor, count: int) -> Tensor:
    """(B, D, count) from (B, D, T): half as many, rounded down, while that leaves `count`; then straight to `count`.

    Every time by linear interpolation between the first and the last step. Downsampling by 2 at a time looks at all
    steps, and at once by far more at some alone.
    """
    while steps.shape[2] >= 2 * count:
        steps = single(steps, steps.shape[2] // 2)
    return single(steps, count)


def single(steps: Tensor, count: int) -> Tensor:
    """(B, D, count) from (B, D, T) by one linear interpolation between the first and the last step."""
    if steps.shape[2] == count:
        return steps
    return functional.interpolate(steps, size=count, mode="linear", align_corners=True)


def group_means(steps: Tensor, count: int) -> Tensor:
    """(B, D, count) from (B, D, T): means of groups of neighbours whose sizes differ by one at most.

    The authors' branch fills up with zeros to a multiple of `count`, which weakens the last groups or empties them; the
    paper does not say so, and it is not done here.
    """
    return torch.stack([group.mean(dim=2) for group in torch.tensor_split(steps, count, dim=2)], dim=2)


SCENES: Mapping[str, Callable[[Tensor, int], Tensor]] = {"halving": halving, "single": single, "mean": group_means}
"""The algorithms of table 2: iterative interpolation, one interpolation, group means."""


def scene_embedding(steps: Tensor, count: int, kind: str = "halving") -> Tensor:
    """One vector for each clip; differentiable.

    Args:
        steps: (B, T, D) embeddings over time.
        count: Steps that are left of them.
        kind: A name from `SCENES`.

    Returns:
        (B, D * count): the `count` values of the first feature, those of the second, ...

    Raises:
        VictimError: If there is no such algorithm, or no step is to be left.
    """
    check_scene(kind, count)
    over_time = steps.transpose(1, 2)
    missing = count - over_time.shape[2]
    reduced = functional.pad(over_time, (0, missing)) if missing >= 0 else SCENES[kind](over_time, count)
    return reduced.flatten(1)


def check_scene(kind: str, count: int) -> None:
    """Raises `VictimError` for an algorithm that there is not, or without a step."""
    if kind not in SCENES:
        raise VictimError(unknown("scene embedding", kind, SCENES))
    if count < 1:
        raise VictimError(f"A scene embedding needs one step or more; given scene_steps={count}.")


__all__ = ["SCENES", "check_scene", "group_means", "halving", "scene_embedding", "single"]
