"""Sharpness and curvature of a victim on clips, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from robust.evaluation.geometry_settings import WEIGHTS, GeometrySettings, Measure
from robust.evaluation.progress import track
from robust.metrics.geometry.eigenvalues import top_eigenvalues
from robust.metrics.geometry.estimate import Estimate
from robust.metrics.geometry.sharpness_average import average_sharpness
from robust.metrics.geometry.sharpness_keskar import keskar_sharpness
from robust.metrics.geometry.sharpness_steps import asam_sharpness, sam_sharpness
from robust.metrics.geometry.sharpness_worst import worst_case_sharpness
from robust.metrics.geometry.spectrum import hessian_trace, spectral_density
from robust.metrics.geometry.weights import Sharpness, WeightLoss
from robust.victims.base import Victim

DIRECTIONS = 10
"""Of the Hessian, whose share of the trace is taken exactly."""


def sharpness_measures(
    victim: Victim, batches: Sequence[tuple[Mapping[str, Tensor], Tensor]], settings: GeometrySettings, seed: int
) -> Iterator[Measure]:
    """Every measure of sharpness; `-error` rows are rises of the error instead of the loss."""
    adaptive = _loss(victim, batches, settings.normalise_logits, settings.include)
    plain = _loss(victim, batches, normalise_logits=False, include="all")
    rho = settings.average_rho
    worst: Any = {"steps": settings.steps, "seed": seed}
    measures: dict[str, Callable[[], Sharpness | Estimate]] = {
        "sam": lambda: sam_sharpness(plain, rho=settings.sam_rho),
        "asam": lambda: asam_sharpness(adaptive, rho=settings.asam_rho),
        "worst-linf": lambda: worst_case_sharpness(adaptive, rho=settings.worst_linf, norm="linf", **worst),
        "worst-l2": lambda: worst_case_sharpness(adaptive, rho=settings.worst_l2, norm="l2", **worst),
        "average": lambda: average_sharpness(adaptive, rho=rho, draws=settings.draws, seed=seed),
        "keskar": lambda: keskar_sharpness(plain, epsilon=settings.keskar, seed=seed),
    }
    for name in track(list(measures), "Sharpness"):
        found = measures[name]()
        if isinstance(found, Estimate):
            yield Measure(WEIGHTS, name, found)
        else:
            yield Measure(WEIGHTS, name, found.loss, per_clip=found.per_clip)
            yield Measure(WEIGHTS, f"{name}-error", found.error)


def curvature_measures(
    victim: Victim, batches: Sequence[tuple[Mapping[str, Tensor], Tensor]], settings: GeometrySettings, seed: int
) -> Iterator[Measure]:
    """Every measure of the Hessian of the plain loss."""
    loss = _loss(victim, batches, normalise_logits=False, include="all")
    steps = iter(track(range(3), "Hessian"))
    next(steps)
    top = top_eigenvalues(loss, min(settings.eigenvalues, len(loss.weights)), seed=seed)
    for number, value in enumerate(top.values, start=1):
        yield Measure(WEIGHTS, f"eigenvalue-{number}", value)
    next(steps)
    known: Any = {"product": top.product, "seed": seed}
    trace = hessian_trace(loss, probes=settings.probes, directions=min(DIRECTIONS, len(loss.weights)), **known)
    yield Measure(WEIGHTS, "trace", trace.value)
    next(steps)
    density = spectral_density(loss, **known)
    yield Measure(WEIGHTS, "negative-share", density.share_below(0.0))
    for _ in steps:
        pass


def _loss(victim: Victim, batches: Any, normalise_logits: bool, include: Any) -> WeightLoss:
    loss: Any = "bce" if victim.spec.task == "multilabel" else "cross-entropy"
    return WeightLoss(victim, batches, loss=loss, normalise_logits=normalise_logits, include=include)


__all__ = ["curvature_measures", "sharpness_measures"]
