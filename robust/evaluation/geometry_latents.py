"""Density and convexity of a victim's latent spaces on clips, as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.gradients import frozen, pad_to_lanes
from robust.evaluation.geometry_settings import GeometrySettings, Measure
from robust.evaluation.progress import track
from robust.metrics.geometry.convexity import ClassConvexity, Convexity, convexity
from robust.metrics.geometry.density import LatentSpace
from robust.types import Batch
from robust.victims.base import Victim

FUSED = "fused"


@dataclass(frozen=True)
class Latents:
    """Latents of all clips.

    Attributes:
        parts: Modality -> (N, ...), where they exist apart.
        fused: (N, ...).
        labels: (N,) int64, or (N, K) multi-hot.
    """

    parts: Mapping[str, Tensor]
    fused: Tensor
    labels: Tensor

    @property
    def spaces(self) -> dict[str, Tensor]:
        """Name -> latents; a modality that is all there is counts as `fused` alone."""
        apart = self.parts if len(self.parts) > 1 else {}
        return {**apart, FUSED: self.fused}


def gather(victim: Victim, batches: list[Batch]) -> Latents:
    """Latents of clips, on the CPU.

    Raises:
        VictimError: If the victim gives none.
    """
    found: dict[str, list[Tensor]] = {}
    with frozen(victim), torch.no_grad():
        for batch in track(batches, "Latents"):
            padded, count = pad_to_lanes(batch.inputs)
            for name, latent in victim.embed(padded).items():
                found.setdefault(name, []).append(latent[:count].cpu())
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    labels = torch.cat([batch.labels for batch in batches]).cpu()
    return Latents({name: latent for name, latent in joined.items() if name != FUSED}, joined[FUSED], labels)


def density_measures(latents: Latents, classes: int, settings: GeometrySettings, seed: int) -> Iterator[Measure]:
    """Every density of every space."""
    for name, latent in track(list(latents.spaces.items()), "Density"):
        space = LatentSpace(latent, latents.labels, classes=classes, neighbours=settings.neighbours, seed=seed)
        for density in space.all():
            yield Measure(name, density.measure, density.overall, density.per_class, density.per_clip)


def convexity_measures(victim: Victim, latents: Latents, settings: GeometrySettings, seed: int) -> Iterator[Measure]:
    """Convexity of every space.

    In the space of one modality of several, its latent moves from clip to clip while the others stay at the first:
    what is asked is whether the fused answer holds.
    """
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    shared: Any = {
        "threshold": settings.threshold,
        "pairs": settings.pairs,
        "classes": len(victim.spec.labels),
        "seed": seed,
    }

    def joined(parts: dict[str, Tensor]) -> Tensor:
        return victim.head(victim.fuse({name: part.to(device) for name, part in parts.items()}))

    def whole(fused: Tensor) -> Tensor:
        return victim.head(fused.to(device))

    with frozen(victim):
        for name in track(list(latents.spaces), "Convexity"):
            if name == FUSED:
                found = convexity(latents.fused, latents.labels, whole, **shared)
            else:
                found = convexity(latents.parts, latents.labels, joined, vary=name, **shared)
            yield from _measures(name, found)


def _measures(space: str, found: Convexity) -> Iterator[Measure]:
    for measure in ClassConvexity._fields:
        per_class = tuple(getattr(one, measure) for one in found.per_class)
        yield Measure(space, measure, getattr(found, measure), per_class)


__all__ = ["FUSED", "Latents", "convexity_measures", "density_measures", "gather"]
