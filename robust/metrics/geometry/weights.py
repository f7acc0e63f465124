"""A loss as a function of a model's weights: values and gradients anywhere near them, the model itself left alone.

The module is never written to. Its parameters are replaced for the length of a call (`torch.func.functional_call`), its
buffers by copies, and its modes and flags come back with the context manager that attacks use too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

from attacks.gradients import frozen
from robust.errors import VictimError, unknown
from robust.metrics.geometry.estimate import Floats
from robust.metrics.geometry.sharpness import Outcomes, Sharpness

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]
LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Include = Literal["all", "matrices"]

GROUPS = 16
"""Parts into which clips are split for intervals of what is dear to compute for each clip alone."""
NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) cross-entropy of logits (B, K) with class numbers (B,)."""
    return functional.cross_entropy(logits, targets, reduction="none")


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) binary cross-entropy of logits (B, K) with multi-hot targets (B, K), mean over classes."""
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(dim=1)


LOSSES: Mapping[str, LossFunction] = {"cross-entropy": cross_entropy, "bce": binary_cross_entropy}


class WeightLoss:
    """The mean loss of a model over clips, as a function of one flat vector of its weights.

    Everything is in evaluation mode: BatchNorm uses its running statistics, dropout is off.

    Args:
        module: Called with the inputs of a batch; gives logits (B, K).
        batches: Pairs of inputs (a tensor or a mapping of tensors, first dimension B) and targets: (B,) int64, or
            (B, K) multi-hot. What belongs to a batch matters to m-sharpness alone.
        loss: `cross-entropy`, `bce` (mean over classes), or any function of logits and targets that gives (B,).
        normalise_logits: Divide the logits of each clip by their L2 norm first, so that scaling the last layer changes
            nothing (Andriushchenko et al. 2023).
        include: `all` parameters, or `matrices`: neither biases nor normalisation layers, for the same reason.

    Attributes:
        weights: (P,) the model's own, a copy.
        clips: Number of clips N.

    Raises:
        VictimError: If the module has no such weights, there are no clips, or targets do not suit the loss.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Sequence[tuple[Inputs, Tensor]],
        *,
        loss: Literal["cross-entropy", "bce"] | LossFunction = "cross-entropy",
        normalise_logits: bool = False,
        include: Include = "all",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise VictimError(
                f"Sharpness in weight space needs a torch.nn.Module; given {type(module).__name__}. Wrap the function "
                "in a module that holds its weights."
            )
        self.module, self.normalise_logits = module, normalise_logits
        self._loss = loss if callable(loss) else _named_loss(loss)
        chosen = _chosen(module, include)
        self._names = list(chosen)
        self._shapes = [parameter.shape for parameter in chosen.values()]
        self._kinds = [(parameter.device, parameter.dtype) for parameter in chosen.values()]
        self._sizes = [parameter.numel() for parameter in chosen.values()]
        self.weights = _flat([parameter.detach() for parameter in chosen.values()]).clone()
        self.batches = tuple(batches)
        _check_batches(self.batches, loss)

    @property
    def clips(self) -> int:
        """Number of clips in all batches."""
        return sum(len(targets) for _, targets in self.batches)

    def parts(self) -> Iterator[Self]:
        """The same loss over each batch alone."""
        return (self.over([batch]) for batch in self.batches)

    def grouped(self, groups: int = GROUPS) -> list[Self]:
        """The same loss over each of about so many groups of clips; clips of one group come from one batch."""
        size = max(1, math.ceil(self.clips / groups))
        chunks = []
        for inputs, targets in self.batches:
            for first in range(0, len(targets), size):
                here = slice(first, first + size)
                some = inputs[here] if isinstance(inputs, Tensor) else {name: x[here] for name, x in inputs.items()}
                chunks.append(self.over([(some, targets[here])]))
        return chunks

    def over(self, batches: Sequence[tuple[Inputs, Tensor]]) -> Self:
        """The same loss over other batches."""
        other = copy.copy(self)
        other.batches = tuple(batches)
        return other

    def split(self, vector: Tensor) -> list[Tensor]:
        """(P,) -> one tensor for each parameter, in its shape; views."""
        pieces = torch.split(vector, self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    def outcomes(self, point: Tensor | None = None) -> Outcomes:
        """Loss and error of each clip, with the weights `point` (P,) or the model's own."""
        pieces = self.split(self.weights if point is None else point)
        losses, errors = [], []
        with torch.no_grad(), frozen(self.module):
            for inputs, targets in self.batches:
                logits = self._logits(pieces, inputs)
                losses.append(self._losses(logits, targets).double().cpu())
                errors.append(_errors(logits, targets).double().cpu())
        return Outcomes(torch.cat(losses).numpy(), torch.cat(errors).numpy())

    def value(self, point: Tensor | None = None) -> float:
        """Mean loss over clips, with the weights `point` (P,) or the model's own."""
        return float(self.outcomes(point).losses.mean())

    def gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """Mean loss over clips and its gradient (P,) by the weights, at `point` (P,) or the model's own."""
        pieces = [piece.detach().requires_grad_() for piece in self.split(self.weights if point is None else point)]
        value, total = 0.0, torch.zeros_like(self.weights)
        for batch in self.batches:
            with torch.enable_grad(), frozen(self.module):
                loss = self.share(pieces, batch)
                gradients = torch.autograd.grad(loss, pieces, allow_unused=True, materialize_grads=True)
            value += float(loss.detach())
            total += _flat(gradients)
        return value, total

    def curvatures(self, vector: Tensor) -> Floats:
        """(N,) float64 v^T H_i v of each clip's own loss, by two forward-mode derivatives.

        Raises:
            RuntimeError, NotImplementedError: Where the module has no forward-mode derivatives.
        """
        found = []
        with torch.no_grad(), frozen(self.module), sdpa_kernel(SDPBackend.MATH):
            for inputs, targets in self.batches:

                def each(weights: Tensor, inputs: Inputs = inputs, targets: Tensor = targets) -> Tensor:
                    return self._losses(self._logits(self.split(weights), inputs), targets)

                def slopes(weights: Tensor, each: Callable[[Tensor], Tensor] = each) -> Tensor:
                    slope: Tensor = jvp(each, (weights,), (vector,))[1]
                    return slope

                found.append(jvp(slopes, (self.weights,), (vector,))[1].double().cpu())
        return torch.cat(found).numpy()

    def share(self, pieces: Sequence[Tensor], batch: tuple[Inputs, Tensor]) -> Tensor:
        """What one batch adds to the mean loss over clips, differentiable by `pieces`; the module must be frozen."""
        inputs, targets = batch
        return self._losses(self._logits(pieces, inputs), targets).sum() / self.clips

    def _logits(self, pieces: Sequence[Tensor], inputs: Inputs) -> Tensor:
        swapped = {
            name: piece if (piece.device, piece.dtype) == kind else piece.to(*kind)
            for name, piece, kind in zip(self._names, pieces, self._kinds, strict=True)
        }
        # Copies, because some modules write to their buffers in evaluation mode too.
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        given = inputs if isinstance(inputs, Tensor) else dict(inputs)
        logits: Tensor = functional_call(self.module, {**buffers, **swapped}, (given,))
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.normalise_logits:
            size = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
            logits = logits / size.clamp_min(torch.finfo(logits.dtype).tiny)
        return self._loss(logits, targets)


def _named_loss(name: str) -> LossFunction:
    if name not in LOSSES:
        raise VictimError(unknown("loss", name, LOSSES))
    return LOSSES[name]


def _chosen(module: nn.Module, include: Include) -> dict[str, Tensor]:
    """Name -> parameter of those that take part; shared ones once."""
    if include not in get_args(Include):
        raise VictimError(unknown("selection of weights", include, get_args(Include)))
    chosen: dict[str, Tensor] = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point()
        and (include == "all" or (parameter.ndim > 1 and not _in_normalisation(module, name)))
    }
    if not chosen:
        raise VictimError(
            f"{type(module).__name__} has no weights to disturb (include={include!r}); pass include='all', or a module "
            "with floating-point parameters."
        )
    return chosen


def _in_normalisation(module: nn.Module, name: str) -> bool:
    owner = module.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, NORMALISATIONS)


def _flat(pieces: Sequence[Tensor]) -> Tensor:
    """One vector, on the device of the first and in a type that holds all."""
    return torch.cat([piece.reshape(-1).to(pieces[0].device) for piece in pieces])


def _errors(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) 1 where the prediction is wrong, or the share of wrong labels."""
    if targets.ndim == 1:
        return (logits.argmax(dim=1) != targets).float()
    if targets.shape != logits.shape:
        return torch.full((len(logits),), torch.nan)
    return ((logits > 0) != (targets > 0.5)).float().mean(dim=1)


def _check_batches(batches: Sequence[tuple[Inputs, Tensor]], loss: object) -> None:
    if not batches or any(len(targets) == 0 for _, targets in batches):
        raise VictimError("A loss needs one clip or more in every batch; pass [(inputs, targets), ...].")
    for inputs, targets in batches:
        counts = {len(value) for value in ([inputs] if isinstance(inputs, Tensor) else inputs.values())}
        if counts != {len(targets)}:
            raise VictimError(f"A batch has {len(targets)} targets for {sorted(counts)} clips; give one for each.")
        if loss == "cross-entropy" and (targets.ndim != 1 or targets.is_floating_point()):
            raise VictimError(
                f"Cross-entropy needs class numbers (B,) int64; given {targets.dtype} of shape "
                f"{tuple(targets.shape)}. Use loss='bce' for multi-hot targets."
            )
        if loss == "bce" and targets.ndim != 2:
            raise VictimError(
                f"The loss 'bce' needs multi-hot targets (B, K); given shape {tuple(targets.shape)}. Use "
                "loss='cross-entropy' for class numbers."
            )


__all__ = ["GROUPS", "LOSSES", "Floats", "Include", "Inputs", "Outcomes", "Sharpness", "WeightLoss"]
