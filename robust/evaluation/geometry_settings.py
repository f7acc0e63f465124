"""Which measures of geometry are taken, how, and what one of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.errors import DataError, unknown
from robust.metrics.geometry.estimate import Estimate

GROUPS: Mapping[str, str] = {
    "sharpness": "how much worse the model gets near its weights",
    "curvature": "eigenvalues of the Hessian in weight space",
    "input": "slope and curvature of the loss around clips",
    "density": "how densely clips of a class lie in latent space",
    "convexity": "whether what lies between two clips of a class is recognised",
}
LEAST = {"steps": 1, "draws": 1, "probes": 1, "eigenvalues": 1, "iterations": 2, "pairs": 10, "neighbours": 1}
"""What a smoke run makes of every count."""
WEIGHTS = "weights"
USUAL = ("sharpness", "input", "density", "convexity")
"""All but the Hessian, which takes hundreds of gradients of all clips."""


@dataclass(frozen=True)
class GeometrySettings:
    """What is measured, and how.

    Attributes:
        groups: Names from `GROUPS`.
        sam_rho, asam_rho: Length of one ascent step (Foret et al. 2021; Kwon et al. 2021).
        worst_linf, worst_l2: Radii of worst-case adaptive sharpness (Andriushchenko et al. 2023), over |w|.
        average_rho: Standard deviation of average-case adaptive noise, over |w|.
        keskar: Relative half-width of Keskar's box; it is measured on the loss as it is.
        normalise_logits: Of the adaptive measures: divide each clip's logits by their length first.
        include: Of the same: `matrices` (neither biases nor normalisation layers) or `all` weights.
        sharpness_batch: Clips in each batch of m-sharpness.
        steps: Of worst-case searches and of local linearity.
        draws: Of average-case noise.
        eigenvalues: Top eigenvalues of the Hessian.
        probes: Of its trace.
        linearity_eps: Radius of local linearity, as an amplitude, by modality; usual radii where absent.
        eigenvalue_tolerance, iterations: Of the top eigenvalue of each clip's input Hessian: relative error that ends
            the search, and Hessian-vector products at most.
        neighbours: k of the densities.
        threshold, pairs: Of convexity (methods.md 2.2).
    """

    groups: tuple[str, ...] = USUAL
    sam_rho: float = 0.05
    asam_rho: float = 0.5
    worst_linf: float = 1e-3
    worst_l2: float = 0.1
    average_rho: float = 0.05
    keskar: float = 1e-3
    normalise_logits: bool = True
    include: str = "matrices"
    sharpness_batch: int = 128
    steps: int = 20
    draws: int = 20
    eigenvalues: int = 1
    probes: int = 20
    linearity_eps: Mapping[str, float] | None = None
    eigenvalue_tolerance: float = 1e-2
    iterations: int = 20
    neighbours: int = 10
    threshold: float = 0.1
    pairs: int = 2000

    def __post_init__(self) -> None:
        if not self.groups:
            raise DataError(f"Name a group of measures: {', '.join(GROUPS)}.")
        for name in self.groups:
            if name not in GROUPS:
                raise DataError(unknown("group of measures", name, GROUPS))
        if self.sharpness_batch < 1:
            raise DataError(f"Batches of m-sharpness hold 1 clip or more; given {self.sharpness_batch}.")
        if not isinstance(self.linearity_eps, Mapping | None):
            raise DataError(
                f'linearity_eps takes radii by modality, e.g. {{"audio": 0.001}}; given {self.linearity_eps!r}.'
            )


@dataclass(frozen=True)
class Measure:
    """One measure of a victim.

    Attributes:
        space: `weights`, a modality, or `fused`.
        name: Of the measure.
        overall: Over clips, classes, or what else there is.
        per_class: One for each of K classes; none where classes have none of their own.
        per_clip: (N,), or None where clips have none of their own.
    """

    space: str
    name: str
    overall: Estimate
    per_class: tuple[Estimate, ...] = ()
    per_clip: NDArray[np.float64] | None = None


def make_settings(given: Mapping[str, Any]) -> GeometrySettings:
    """Settings by name, as people write them.

    Raises:
        DataError: If a name is unknown, or a value has not the kind of its default.
    """
    usual = GeometrySettings()
    for name, value in given.items():
        if not hasattr(usual, name):
            raise DataError(unknown("setting of geometry", name, [one.name for one in fields(usual)]))
        default = getattr(usual, name)
        fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
        if default is not None and (not fits or isinstance(value, bool) != isinstance(default, bool)):
            raise DataError(f"{name} takes a value like {default!r}; given {value!r}.")
    return replace(usual, **given)


def groups_of(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """`all`, or names with commas between; the usual ones for None."""
    if text is None:
        return USUAL
    names = text.split(",") if isinstance(text, str) else list(text)
    return tuple(GROUPS) if names == ["all"] else tuple(name.strip() for name in names)


__all__ = ["GROUPS", "LEAST", "USUAL", "WEIGHTS", "GeometrySettings", "Measure", "groups_of", "make_settings"]
