"""How a model's loss behaves around each clip: gradient norms, departure from linearity, curvature.

Sources: local linearity gamma = max |L(x + d) - L(x) - d . grad L(x)| over a ball - Qin et al. 2019, maximised here by
APGD (Croce & Hein 2020) with the exact gradient of that gap; curvature along the gradient - Moosavi-Dezfooli et al.
2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.losses import Goal
from attacks.pgd import around
from attacks.projections import lengths, per_example
from attacks.schedules import Adaptive
from attacks.threat import Ball, Region
from attacks.walk import Walk
from robust.errors import DataError, unknown
from robust.metrics.geometry.batched_lanczos import extreme_eigenvalues
from robust.metrics.geometry.estimate import RESAMPLES, Estimate, bootstrapped
from robust.metrics.geometry.input_loss import InputLoss, Inputs, Loss, Parts, Product, dot, evaluated, named
from robust.metrics.geometry.krylov import Which
from robust.seeds import generators_for

Floats = NDArray[np.float64]
Direction = Literal["gradient", "sign", "random"]

NORMS: Mapping[str, float] = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
DIRECTIONS: tuple[str, ...] = ("gradient", "sign", "random")
FIRST_STEP, MOMENTUM = 2.0, 0.75
"""Of APGD: the first step over the radius, and its momentum."""


@dataclass(frozen=True)
class PerClip:
    """A number for each clip, and their mean.

    Attributes:
        values: (N,) float64.
        overall: Mean over clips that have one, with its bootstrap interval.
    """

    values: Floats
    overall: Estimate


@dataclass(frozen=True)
class InputCurvature(PerClip):
    """An eigenvalue of each clip's input Hessian.

    Attributes:
        converged: (N,) bool: the value is an eigenvalue to within the tolerance, by the bounds of Lanczos.
        products: (N,) int64 Hessian-vector products made.
    """

    converged: NDArray[np.bool_]
    products: NDArray[np.int64]


class InputSpace:
    """The neighbourhood of each of N clips in the space of a module's inputs.

    Args:
        module: Inputs in the form given (a tensor, or a dict of them) -> logits (B, K), differentiable. A module, or a
            method of one, is put in evaluation mode for the time of a call and restored after; what a closure hides
            must be in it.
        inputs: (N, ...) float, or by modality.
        targets: (N,) int64 class indices, or (N, K) multi-hot.
        loss: `cross-entropy`, `bce` (mean over classes), or a function (logits (B, K) float64, targets) -> (B,); by the
            form of the targets when None.
        modalities: Those that vary, as one long vector; all when None.
        valid: bool mask of what is not padding, (N, ...) or by modality; padding takes no part.
        ids: N names of clips, from which random vectors are derived; their numbers when None.
        batch_size: Clips at once; results do not depend on it.
        resamples: Bootstrap draws of every interval.
        seed: Of random vectors and bootstrap draws.

    Raises:
        DataError: For shapes, types or names that do not fit.
    """

    def __init__(
        self,
        module: Callable[[Any], Tensor],
        inputs: Inputs,
        targets: Tensor,
        *,
        loss: str | Loss | None = None,
        modalities: str | Sequence[str] | None = None,
        valid: Inputs | None = None,
        ids: Sequence[str] | None = None,
        batch_size: int = 32,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self._loss = InputLoss(module, inputs, targets, loss=loss, modalities=modalities, valid=valid)
        self.module, self.batch_size, self.resamples, self.seed = module, batch_size, resamples, seed
        self.ids = [str(place) for place in range(len(targets))] if ids is None else list(ids)
        if len(self.ids) != len(targets) or batch_size < 1:
            raise DataError(
                f"There must be one id for each of {len(targets)} clips and a batch size of 1 or more; given "
                f"{len(self.ids)} ids and {batch_size}."
            )

    def gradient_norms(self) -> dict[str, PerClip]:
        """Norms `l1`, `l2` and `linf` of the gradient of the loss by the input, nats per unit of the input."""
        found: list[Tensor] = []
        with evaluated(self.module):
            for rows in self._batches():
                _, gradients = self._loss.gradients(self._loss.clean(rows), rows)
                flat = torch.cat([value.double().flatten(1) for value in gradients.values()], dim=1)
                found.append(torch.stack([lengths(flat, order) for order in NORMS.values()]))
        return {name: self._per_clip(values) for name, values in zip(NORMS, torch.cat(found, dim=1), strict=True)}

    def local_linearity(self, threat: Ball | Mapping[str, Ball], *, steps: int = 10, restarts: int = 1) -> PerClip:
        """Qin's gamma: the most by which the loss leaves its tangent within a budget, nats; 0 for a linear loss.

        A lower bound, as any search gives: more steps or restarts may find more, never less than fewer restarts.

        Args:
            threat: The budget, or one for each modality; those not named stay as they are.
            steps: Gradient steps of each search.
            restarts: Searches from random points of the ball.

        Raises:
            ThreatModelError: If the budget names a modality that is not there, or cannot hold.
            DataError: If steps or restarts are below 1, or a modality is not among those that vary.
        """
        balls = dict(threat) if isinstance(threat, Mapping) else dict.fromkeys(self._loss.names, threat)
        if steps < 1 or restarts < 1:
            raise DataError(f"A search needs one step and one start or more; given {steps} and {restarts}.")
        frozen_out = [name for name in balls if name in self._loss.inputs and name not in self._loss.names]
        if frozen_out:
            raise DataError(f"The budget moves {', '.join(frozen_out)}, which `modalities` says does not vary.")
        found = []
        with evaluated(self.module):
            for rows in self._batches():
                gap = self._gap(rows)
                regions = self._regions(balls, rows)
                generators = generators_for(self.seed, self._ids(rows), "local-linearity")
                runs = [self._widest(gap, regions, generators, steps) for _ in range(restarts)]
                found.append(torch.stack(runs).amax(dim=0))
        return self._per_clip(torch.cat(found))

    def top_eigenvalue(
        self,
        *,
        which: Which = "largest",
        product: Product = "double",
        step: float | None = None,
        tolerance: float = 1e-3,
        iterations: int = 40,
    ) -> InputCurvature:
        """An extreme eigenvalue of the Hessian of each clip's loss by its input, nats per squared unit of the input.

        Lanczos on all clips of a batch at once: the subspace of power iteration, used in full.

        Args:
            which: The `largest`, or that of largest `magnitude` (signed), which power iteration finds.
            product: `double` (exact, blind to kinks), or `finite` for a smooth module without second derivatives: with
                kinks, differences are no symmetric operator and seldom converge. See `InputLoss.product`.
            step: Of `finite`, over the length of the input.
            tolerance: Relative.
            iterations: Hessian-vector products at most. Basis vectors are kept: memory for so many copies of a batch.

        Raises:
            DataError: If a name is unknown, the tolerance not above 0, or iterations below 1.
        """
        if which not in get_args(Which):
            raise DataError(unknown("eigenvalue", which, get_args(Which)))
        if not tolerance > 0 or iterations < 1:
            raise DataError(f"Give a tolerance above 0 and one iteration or more; given {tolerance:g}, {iterations}.")
        found = []
        with evaluated(self.module):
            for rows in self._batches():
                start = self._random(rows, "top-eigenvalue", 0)
                found.append(
                    extreme_eigenvalues(self._loss.product(rows, product, step), start, which, tolerance, iterations)
                )
        values, converged, products = (torch.cat(part) for part in zip(*found, strict=True))
        clips = self._per_clip(values)
        return InputCurvature(clips.values, clips.overall, converged.cpu().numpy(), products.cpu().numpy())

    def curvature(
        self,
        direction: Direction | Inputs = "gradient",
        *,
        product: Product = "double",
        step: float | None = None,
        draws: int = 10,
    ) -> PerClip:
        """Second derivative of each clip's loss along a unit vector, nats per squared unit of the input.

        Args:
            direction: `gradient` of the loss, its `sign`, or `random` (mean over draws: the Hessian's trace over the
                number of dimensions); or vectors, (N, ...) or by modality, of any length. NaN where it is 0.
            product: `double` (exact, blind to kinks), or `finite`: the mean curvature over a step to either side, kinks
                included, which is what an attack of that length meets.
            step: Of `finite`, over the length of the input; 0.005 in float32 when None.
            draws: Random vectors for each clip.

        Raises:
            DataError: If a name is unknown, vectors do not match the inputs, or draws are below 1.
        """
        if isinstance(direction, str) and direction not in DIRECTIONS:
            raise DataError(unknown("direction", direction, DIRECTIONS))
        if draws < 1:
            raise DataError(f"At least one random vector is needed; given draws={draws}.")
        given = {} if isinstance(direction, str) else self._vectors(direction)
        found = []
        with evaluated(self.module):
            for rows in self._batches():
                times = self._loss.product(rows, product, step)
                vectors = [{name: value[rows] for name, value in given.items()}] if given else []
                vectors = vectors or self._directions(str(direction), rows, draws)
                each = [dot(vector, times(vector)) / dot(vector, vector) for vector in vectors]
                found.append(torch.stack(each).mean(dim=0))
        return self._per_clip(torch.cat(found))

    def _batches(self) -> Iterator[Tensor]:
        device = self._loss.targets.device
        for at in range(0, self._loss.count, self.batch_size):
            yield torch.arange(at, min(at + self.batch_size, self._loss.count), device=device)

    def _ids(self, rows: Tensor) -> list[str]:
        return [self.ids[row] for row in rows.tolist()]

    def _per_clip(self, values: Tensor) -> PerClip:
        known: Floats = values.double().cpu().numpy()
        return PerClip(known, bootstrapped(known, resamples=self.resamples, seed=self.seed))

    def _regions(self, balls: Mapping[str, Ball], rows: Tensor) -> dict[str, Region]:
        inputs = {name: value[rows] for name, value in self._loss.inputs.items()}
        valid = {name: mask[rows] for name, mask in self._loss.valid.items()}
        own = {
            name: replace(ball, radius=ball.radius.expand(self._loss.count)[rows.to(ball.radius.device)])
            if isinstance(ball.radius, Tensor)
            else ball
            for name, ball in balls.items()
        }
        return around(inputs, own, valid)

    def _gap(self, rows: Tensor) -> Callable[[Parts], tuple[Tensor, Parts]]:
        """At points around the clips: distance (A,) of the loss from its tangent, and the gradient of that."""
        clean = self._loss.clean(rows)
        here, slope = self._loss.gradients(clean, rows)

        def gap(points: Parts) -> tuple[Tensor, Parts]:
            there, gradients = self._loss.gradients(points, rows)
            moved = {name: value - clean[name] for name, value in points.items()}
            ahead = there - here - dot(moved, slope)
            rise = {name: per_example(ahead.sign(), value) * (value - slope[name]) for name, value in gradients.items()}
            return ahead.abs(), rise

        return gap

    def _widest(
        self,
        gap: Callable[[Parts], tuple[Tensor, Parts]],
        regions: dict[str, Region],
        generators: Sequence[torch.Generator],
        steps: int,
    ) -> Tensor:
        """(A,) the largest gap that one run of APGD finds, from a random point: at the clip itself it has no slope."""
        start = {name: region.sample(generators) for name, region in regions.items()}
        rows = torch.arange(len(generators), device=next(iter(start.values())).device)
        walk = Walk.begin(start, Goal(rows), regions, start, rows, remember=True)
        schedule = Adaptive(walk, steps, FIRST_STEP, MOMENTUM)
        for step in range(steps + 1):
            walk.arrive(*gap(walk.point))
            if step == steps:
                break
            if step > 0:
                schedule.adapt(walk, step - 1)
            schedule.move(walk, step)
        return walk.best_loss.masked_fill(walk.best_loss == -torch.inf, math.nan)  # no loss there was a number

    def _random(self, rows: Tensor, purpose: str, draw: int) -> Parts:
        """Normal vectors, each drawn on the CPU by its clip's own generator; nothing where there is padding."""
        clean = self._loss.clean(rows)
        generators = generators_for(self.seed, self._ids(rows), f"{purpose} {draw}")
        return self._loss.restricted(
            {
                name: torch.stack(
                    [torch.randn(value.shape[1:], generator=generator, dtype=value.dtype) for generator in generators]
                ).to(value.device)
                for name, value in clean.items()
            },
            rows,
        )

    def _directions(self, direction: str, rows: Tensor, draws: int) -> list[Parts]:
        if direction == "random":
            return [self._random(rows, "direction", draw) for draw in range(draws)]
        _, gradients = self._loss.gradients(self._loss.clean(rows), rows)
        return [gradients if direction == "gradient" else {name: value.sign() for name, value in gradients.items()}]

    def _vectors(self, given: Inputs) -> Parts:
        vectors = named(given)
        wanted = {name: tuple(self._loss.inputs[name].shape) for name in self._loss.names}
        shapes = {name: tuple(value.shape) for name, value in vectors.items()}
        if shapes != wanted:
            raise DataError(f"The directions must have the shapes of the inputs that vary, {wanted}; given {shapes}.")
        alike = {name: value.to(self._loss.inputs[name]) for name, value in vectors.items()}
        return self._loss.restricted(alike, torch.arange(self._loss.count, device=self._loss.targets.device))


__all__ = ["InputCurvature", "InputSpace", "PerClip"]
