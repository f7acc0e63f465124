"""The loss of each clip as a function of its input: values, gradients and Hessian-vector products, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from attacks.gradients import frozen, pad_to_lanes
from attacks.projections import per_example
from robust.errors import DataError, unknown
from robust.metrics.geometry.weights import LOSSES

Parts: TypeAlias = dict[str, Tensor]
Inputs: TypeAlias = Tensor | Mapping[str, Tensor]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Product = Literal["double", "finite"]

WHOLE = "input"
"""Name of inputs that were given without one."""
QUIETEST_RMS = 0.01
"""Finite differences step as if no input were quieter, or a silent one would not be moved at all."""


@contextmanager
def evaluated(function: Callable[..., Tensor]) -> Iterator[None]:
    """`attacks.gradients.frozen` for a module, or for the module whose method this is."""
    with ExitStack() as stack:
        for owner in (function, getattr(function, "__self__", None)):
            stack.enter_context(frozen(owner))
        yield


class InputLoss:
    """The losses of N clips; every method works on the clips `rows` (A,) int64, at any points near them.

    Gradients and products are of each clip's own loss, zero where `valid` is false. Batches are padded to full lanes
    (`attacks.gradients`), so that a clip's numbers do not depend on its neighbours. Call within `evaluated(module)`.

    Attributes:
        inputs: Modality -> (N, ...) clean inputs.
        names: Modalities that vary.
        count: N.
    """

    def __init__(
        self,
        module: Callable[[Any], Tensor],
        inputs: Inputs,
        targets: Tensor,
        *,
        loss: str | Loss | None,
        modalities: str | Sequence[str] | None,
        valid: Inputs | None,
    ) -> None:
        self._whole = isinstance(inputs, Tensor)
        self.inputs, self.module, self.targets = named(inputs), module, targets
        self.valid = {} if valid is None else named(valid)
        self.count = len(targets)
        _check(self.inputs, self.valid, targets)
        self.names = _chosen(modalities, self.inputs)
        self._loss = _found(loss, targets)

    def clean(self, rows: Tensor) -> Parts:
        """Modality -> (A, ...) clean inputs of those that vary."""
        return {name: self.inputs[name][rows].detach() for name in self.names}

    def losses(self, points: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """(A,) float64."""
        fixed = {name: value[rows].detach() for name, value in self.inputs.items() if name not in points}
        padded, count = pad_to_lanes({**fixed, **points})
        logits = self.module(padded[WHOLE] if self._whole else padded)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DataError(f"The module must return logits (batch, classes); it gave {found}. Wrap it in a function.")
        losses = self._loss(logits[:count].double(), self.targets[rows])
        if losses.shape != (count,):
            raise DataError(
                f"The loss must give one value for each of {count} clips; it gave shape {tuple(losses.shape)}. Use "
                "reduction='none'."
            )
        return losses

    def gradients(self, points: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, Parts]:
        """Losses (A,) float64, and modality -> (A, ...) gradient of each by its own input."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in points.items()}
            losses = self.losses(leaves, rows)
            found = _gradients(losses.sum(), leaves)
        return losses.detach(), self.restricted(found, rows)

    def product(
        self, rows: Tensor, kind: Product, step: float | None = None
    ) -> Callable[[Mapping[str, Tensor]], Parts]:
        """The map v -> H v of the Hessian of each clip's loss at its clean input, by modality.

        Args:
            rows: (A,) clips.
            kind: `double`: derivative of the gradient, exact; it sees no kinks, so that of a network of ReLUs only the
                curvature of the loss and of the front end is left. `finite`: how much the gradient changes over a
                central step, divided by it, kinks in its way included. The two agree on smooth networks only: on those
                of ReLUs tried, no step that float32 resolves is free of kinks, and differences over one exceed the
                derivative up to a hundredfold.
            step: Of `finite`, over the length of the input; cbrt(eps) when None, 0.005 in float32.

        Raises:
            DataError: If there is no such kind, or the step is not above 0.
        """
        if kind not in get_args(Product):
            raise DataError(unknown("Hessian-vector product", kind, get_args(Product)))
        if step is not None and not step > 0:
            raise DataError(f"The step of a difference must be above 0; given {step:g}.")
        return self._double(rows) if kind == "double" else self._finite(rows, step)

    def _double(self, rows: Tensor) -> Callable[[Mapping[str, Tensor]], Parts]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaves = {name: value.requires_grad_() for name, value in self.clean(rows).items()}
            first = _gradients(self.losses(leaves, rows).sum(), leaves, create_graph=True)

        def product(vector: Mapping[str, Tensor]) -> Parts:
            along = sum((first[name] * vector[name]).sum() for name in leaves)
            if not (isinstance(along, Tensor) and along.requires_grad):  # a loss that is linear in its input
                return {name: torch.zeros_like(value) for name, value in vector.items()}
            found = _gradients(along, leaves, keep_graph=True)
            # Autograd's symbolic zeros are made real by the copy; arithmetic with them loads the compiler (8 s).
            return self.restricted({name: value.clone() for name, value in found.items()}, rows)

        return product

    def _finite(self, rows: Tensor, share: float | None) -> Callable[[Mapping[str, Tensor]], Parts]:
        clean = self.clean(rows)
        size = sum(value[0].numel() for value in clean.values())
        scale = length(clean).clamp_min(QUIETEST_RMS * size**0.5)
        step = (share or torch.finfo(next(iter(clean.values())).dtype).eps ** (1 / 3)) * scale

        def product(vector: Mapping[str, Tensor]) -> Parts:
            reach = step / length(vector).clamp_min(1e-30)
            ends = [
                self.gradients(
                    {name: clean[name] + sign * per_example(reach, value) * value for name, value in vector.items()},
                    rows,
                )[1]
                for sign in (1, -1)
            ]
            return {name: (ends[0][name] - ends[1][name]) / per_example(2 * reach, clean[name]) for name in clean}

        return product

    def restricted(self, found: Parts, rows: Tensor) -> Parts:
        """Vectors of the clips `rows`, zero where `valid` is false."""
        return {
            name: value * self.valid[name][rows].expand_as(value) if name in self.valid else value
            for name, value in found.items()
        }


def length(parts: Mapping[str, Tensor]) -> Tensor:
    """(A,) float64 Euclidean length over all modalities together."""
    return dot(parts, parts).sqrt()


def dot(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """(A,) float64 inner products over all modalities together."""
    each = [(first[name].double() * second[name].double()).flatten(1).sum(dim=1) for name in first]
    return torch.stack(each).sum(dim=0)


def named(inputs: Inputs) -> Parts:
    """By modality; a tensor alone is called `input`."""
    return {WHOLE: inputs} if isinstance(inputs, Tensor) else dict(inputs)


def _gradients(scalar: Tensor, leaves: Parts, *, create_graph: bool = False, keep_graph: bool = False) -> Parts:
    found = torch.autograd.grad(
        scalar,
        list(leaves.values()),
        create_graph=create_graph,
        retain_graph=create_graph or keep_graph,
        materialize_grads=True,
    )
    return dict(zip(leaves, found, strict=True))


def _found(loss: str | Loss | None, targets: Tensor) -> Loss:
    if callable(loss):
        return loss
    name = loss or ("bce" if targets.ndim == 2 else "cross-entropy")
    if name not in LOSSES:
        raise DataError(unknown("loss", name, LOSSES))
    if (name == "bce") != (targets.ndim == 2):
        raise DataError(
            f"The loss {name!r} does not go with targets of shape {tuple(targets.shape)}: class indices (clips,) take "
            "'cross-entropy', multi-hot (clips, classes) 'bce'."
        )
    return LOSSES[name]


def _chosen(modalities: str | Sequence[str] | None, inputs: Parts) -> tuple[str, ...]:
    wanted = (
        tuple(inputs) if modalities is None else (modalities,) if isinstance(modalities, str) else tuple(modalities)
    )
    for name in wanted:
        if name not in inputs:
            raise DataError(unknown("modality", name, inputs))
    if not wanted:
        raise DataError(f"Name one modality or more of {', '.join(inputs)}, or leave `modalities` out for all.")
    return wanted


def _check(inputs: Parts, valid: Parts, targets: Tensor) -> None:
    for name, value in inputs.items():
        if value.ndim < 2 or len(value) != len(targets) or not value.is_floating_point():
            raise DataError(
                f"The inputs {name!r} must be floating-point (clips, ...) for the {len(targets)} targets; given "
                f"{value.dtype} of shape {tuple(value.shape)}."
            )
    for name, mask in valid.items():
        if name not in inputs:
            raise DataError(unknown("modality", name, inputs))
        if mask.dtype != torch.bool or len(mask) != len(targets):
            raise DataError(
                f"The mask of {name!r} must be bool for the {len(targets)} clips; given {mask.dtype} of shape "
                f"{tuple(mask.shape)}."
            )


__all__ = ["InputLoss", "Inputs", "Loss", "Parts", "Product", "dot", "evaluated", "length", "named"]
