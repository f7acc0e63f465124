"""The universal attack as its author wrote it, kept to reproduce his figures; it does not keep to its radius.

Only the increment of each batch is bounded, and the increment contains the whole perturbation again: with gradients
that agree, linf 0.1 in steps of 0.1 comes to 2.0 after 20 passes (methods.md 1.3). The result is marked and carries
the norm it really has. For a budget that holds use `attacks.universal.fit_universal`.

Source: notebooks of Li et al., ICASSP 2021, as told in methods.md 1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.audit import ORDERS
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import find_loss
from attacks.projections import lengths, per_example
from attacks.universal import UniversalResult
from attacks.universal_delta import Batches

LegacyNorm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Legacy:
    """Settings under the author's names and defaults.

    Attributes:
        num_steps: Passes over the data.
        step: Step length; L2 steps have it in every frame.
        step_norm, eps_norm: `linf` or `l2`.
        delta_force: Clamp the perturbation to what keeps every clip inside the range of the whole data.
        loss: When None `bce` for many labels a clip, `ce` for one.
    """

    num_steps: int = 20
    step: float = 0.1
    step_norm: LegacyNorm = "linf"
    eps_norm: LegacyNorm = "linf"
    delta_force: bool = False
    loss: str | None = None

    def __post_init__(self) -> None:
        for name in (self.step_norm, self.eps_norm):
            if name not in ("linf", "l2"):
                raise ThreatModelError(unknown("norm of the legacy attack", name, ("linf", "l2")))
        if self.num_steps < 1 or not self.step > 0:
            raise ThreatModelError(
                f"The legacy attack needs num_steps of 1 or more and a step above 0; given {self.num_steps} and "
                f"{self.step}."
            )


@dataclass
class _Data:
    """What the algorithm asks of the data beforehand: how many clips, and their least and greatest values."""

    count: int
    least: dict[str, Tensor]
    most: dict[str, Tensor]


def legacy_universal(
    victim: Victim, batches: Batches, eps: Mapping[str, float], *, config: Legacy | None = None
) -> UniversalResult:
    """The author's universal perturbation of features (frames, bands), without a projection on its budget.

    Padding is perturbed like everything else. Frames are all axes of an example but the last.

    Args:
        victim: Maps modalities to logits (B, K), differentiably.
        batches: Called once for each pass and once before; every call gives the same clips.
        eps: Modality -> nominal radius.
        config: Settings.

    Returns:
        A result with `legacy` set; compare its `realised` with its `radius`.

    Raises:
        ThreatModelError: If there are no clips, or a modality is not among their inputs.
    """
    config = config or Legacy()
    data = _survey(batches, eps)
    delta = {name: torch.zeros_like(least) for name, least in data.least.items()}
    trace, forwards, backwards = [], 0, 0
    with frozen(victim):
        for _ in range(config.num_steps):
            total = 0.0
            for inputs, goal, _ in batches():
                rows = torch.arange(len(goal.labels), device=goal.labels.device)
                oracle = Oracle(victim, len(rows), rows.device)
                moved = {
                    name: (inputs[name] + shift).clamp(data.least[name].min(), data.most[name].max())
                    for name, shift in delta.items()
                }
                loss = find_loss(config.loss or ("bce" if goal.multilabel else "ce"))
                _, losses, gradients = oracle.gradients({**inputs, **moved}, goal, loss, rows, delta)
                for name in delta:
                    increment = _increment(inputs[name], moved[name], gradients[name], eps[name], config)
                    delta[name] = delta[name] + increment.mean(dim=0) * (len(rows) / data.count)
                    if config.delta_force:
                        delta[name] = _forced(delta[name], data.least[name], data.most[name])
                total += float(losses.double().sum())
                forwards, backwards = forwards + int(oracle.forwards.sum()), backwards + int(oracle.backwards.sum())
            trace.append(total / data.count)
    order = ORDERS[config.eps_norm]
    return UniversalResult(
        delta=delta,
        norm=dict.fromkeys(delta, config.eps_norm),
        radius={name: float(eps[name]) for name in delta},
        realised={name: float(lengths(shift.double().flatten()[None], order)) for name, shift in delta.items()},
        trace=trace,
        forwards=forwards,
        backwards=backwards,
        legacy=True,
    )


def _increment(clean: Tensor, moved: Tensor, gradient: Tensor, eps: float, config: Legacy) -> Tensor:
    """Steps 3 to 6: (B, ...) what this batch adds, clip by clip."""
    if config.step_norm == "linf":
        step = gradient.sign()
    else:
        step = gradient / torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).clamp_min(1e-30)
    delta = moved + config.step * step - clean
    if config.eps_norm == "linf":  # clipped, no frame is left to be renormalised
        return delta.clamp(-eps, eps)
    frames = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    too_long = per_example(lengths(delta.flatten(1)) > eps, delta)
    return torch.where(too_long, eps * delta / (frames + 1e-7), delta)


def _forced(delta: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """The author's "delta force": no clip leaves the range of the whole data."""
    return delta.clamp(least.min() - least, most.max() - most)


def _survey(batches: Batches, eps: Mapping[str, float]) -> _Data:
    data = _Data(0, {}, {})
    for inputs, goal, _ in batches():
        data.count += len(goal.labels)
        for name in eps if len(goal.labels) else ():
            if name not in inputs:
                raise ThreatModelError(unknown("modality in the threat model", name, inputs))
            least, most = inputs[name].amin(dim=0), inputs[name].amax(dim=0)
            data.least[name] = torch.minimum(data.least.get(name, least), least)
            data.most[name] = torch.maximum(data.most.get(name, most), most)
    if data.count == 0:
        raise ThreatModelError("A universal perturbation needs clips to be fitted to; there are none.")
    return data
