"""Slope and curvature of a victim's loss around clips, modality by modality, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.threat import Ball
from robust.errors import DataError, unknown
from robust.evaluation.geometry_settings import GeometrySettings, Measure
from robust.evaluation.progress import track
from robust.metrics.geometry.input_space import InputSpace, PerClip
from robust.threats import DEFAULT_EPS
from robust.types import Batch
from robust.victims.base import Victim


def input_measures(
    victim: Victim, batches: Sequence[Batch], settings: GeometrySettings, seed: int
) -> Iterator[Measure]:
    """Every measure in the space of every modality; the others stay as they are."""
    inputs = _joined([batch.inputs for batch in batches])
    valid = _joined([batch.valid for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    shared: Any = {
        "valid": valid,
        "ids": [one for batch in batches for one in batch.ids],
        "batch_size": len(batches[0]),
        "seed": seed,
    }
    radii = {**{name: DEFAULT_EPS[name]["linf"] for name in inputs}, **(settings.linearity_eps or {})}
    for name in settings.linearity_eps or {}:
        if name not in inputs:
            raise DataError(unknown(f"modality of {victim.spec.name}", name, victim.spec.modalities))
    for modality in victim.spec.modalities:
        space = InputSpace(victim, inputs, labels, modalities=modality, **shared)
        ball = Ball("linf", radii[modality], "amplitude", *victim.spec.bounds[modality])
        yield from _of(modality, space, ball, settings)


def _of(modality: str, space: InputSpace, ball: Ball, settings: GeometrySettings) -> Iterator[Measure]:
    measures: dict[str, Callable[[], dict[str, PerClip]]] = {
        "gradients": lambda: {f"gradient-{norm}": value for norm, value in space.gradient_norms().items()},
        "linearity": lambda: {"local-linearity": space.local_linearity({modality: ball}, steps=settings.steps)},
        "curvature": lambda: {"curvature-gradient": space.curvature("gradient")},
        "eigenvalue": lambda: {
            "eigenvalue": space.top_eigenvalue(tolerance=settings.eigenvalue_tolerance, iterations=settings.iterations)
        },
    }
    for name in track(list(measures), f"Around clips: {modality}"):
        for measure, found in measures[name]().items():
            yield Measure(modality, measure, found.overall, per_clip=found.values)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


__all__ = ["input_measures"]
