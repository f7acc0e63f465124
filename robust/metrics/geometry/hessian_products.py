"""Products of a loss's Hessian with vectors in weight space, four ways.

Exact: a backward pass through the graph of the gradient (Pearlmutter 1994), or a forward-mode derivative of the
gradient. (The gradient of a forward-mode derivative costs more than either, and with PyTorch 2.14 is wrong by a tenth
on AST.) Approximate: differences of gradients, whose step has to lie between rounding and truncation. Where activations
have kinks (ReLU), differences also see the units that switch, which exact products do not: the two are then different
matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from attacks.gradients import frozen
from robust.metrics.geometry.weights import Inputs, WeightLoss

ONE_SIDED_CHANGES = (4.0, 1.5, 15.0)
CENTRAL_CHANGES = (1.0, 0.3, 4.0, 20.0)
"""By how much a difference changes the gradient, over the gradient's length; in eps^(1/2) and eps^(1/3), likely first.

Measured on AST in single precision: along a random direction and along the sharpest, whose best steps are a hundred
times apart, errors are least where the gradient changes by half a per cent (central; 0.15 per cent one-sided).
"""
FIRST_STEP = 1e-4
"""Length of the first step that is tried, over that of the weights; the next ones go by the change seen."""
LONGEST_STEP = 0.1
TRIES = 5


class Product:
    """H v for the Hessian H of a mean loss over clips at the model's own weights.

    Attributes:
        loss: Whose Hessian.
        name: How it is computed.
        exact: Whether there is no step to choose.
        calls: Products computed so far.
    """

    name = ""
    exact = True

    def __init__(self, loss: WeightLoss) -> None:
        self.loss, self.calls = loss, 0

    def __call__(self, vector: Tensor) -> Tensor:
        """(P,) from (P,)."""
        self.calls += 1
        # The fused attention kernels of the CPU have neither second nor forward derivatives; the plain one has both.
        attention = sdpa_kernel(SDPBackend.MATH) if self.exact else nullcontext()
        with torch.enable_grad(), frozen(self.loss.module), attention:
            return self._product(vector.detach())

    def on(self, loss: WeightLoss) -> Product:
        """The same way of computing the product of another loss."""
        return type(self)(loss)

    def gradient(self) -> Tensor:
        """(P,) of the loss at the same weights; free where products keep it."""
        return self.loss.gradient()[1]

    def _product(self, vector: Tensor) -> Tensor:
        raise NotImplementedError


class DoubleBackward(Product):
    """A backward pass through the graph of the gradient.

    Args:
        loss: Whose Hessian.
        keep: Keep graphs from one product to the next, until this object goes; that of one batch only when None, or
            all activations of all batches would be held.
    """

    name = "double-backward"

    def __init__(self, loss: WeightLoss, keep: bool | None = None) -> None:
        super().__init__(loss)
        self.keep = len(loss.batches) == 1 if keep is None else keep
        self._kept: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._trusted = False

    def _product(self, vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for number in range(len(self.loss.batches)):
            graph = self._kept.get(number) or self._graph(number)
            if self.keep:
                self._kept[number] = graph
            total += self._through(*graph, vector)
        return total

    def gradient(self) -> Tensor:
        if len(self._kept) < len(self.loss.batches):
            return super().gradient()
        parts = [torch.cat([part.detach().reshape(-1) for part in gradients]) for _, gradients in self._kept.values()]
        return torch.stack(parts).sum(dim=0)

    def _graph(self, number: int) -> tuple[list[Tensor], list[Tensor]]:
        pieces = [piece.detach().requires_grad_() for piece in self.loss.split(self.loss.weights)]
        share = self.loss.share(pieces, self.loss.batches[number])
        gradients = torch.autograd.grad(share, pieces, create_graph=True, allow_unused=True, materialize_grads=True)
        if not self._trusted:
            _refuse_gaps(gradients)
            self._trusted = True
        return pieces, list(gradients)

    def _through(self, pieces: list[Tensor], gradients: list[Tensor], vector: Tensor) -> Tensor:
        curved = [(g, v) for g, v in zip(gradients, self.loss.split(vector), strict=True) if g.requires_grad]
        if not curved:  # the loss is linear
            return torch.zeros_like(vector)
        outputs, directions = zip(*curved, strict=True)
        products = torch.autograd.grad(
            outputs, pieces, directions, retain_graph=self.keep, allow_unused=True, materialize_grads=True
        )
        return torch.cat([product.reshape(-1) for product in products])


class ForwardOverReverse(Product):
    """The forward-mode derivative of the gradient along the vector; keeps no second graph."""

    name = "forward-over-reverse"

    def _product(self, vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for batch in self.loss.batches:
            total += jvp(grad(_share_of(self.loss, batch)), (self.loss.weights,), (vector,))[1].detach()
        return total


class Difference(Product):
    """A difference of gradients, whose step follows the gradient's response: along each vector as far as it bears.

    Args:
        loss: Whose Hessian.
        change: By how much the gradient is to change, over its length; met within a factor of three.
    """

    exact = False

    def __init__(self, loss: WeightLoss, change: float) -> None:
        super().__init__(loss)
        self.change = change
        self._base: Tensor | None = None
        self._response = 0.0  # change of the gradient by the length of a step, along the last vector

    def on(self, loss: WeightLoss) -> Product:
        return type(self)(loss, self.change)

    def gradient(self) -> Tensor:
        if self._base is None:
            self._base = self.loss.gradient()[1]
        return self._base

    def _product(self, vector: Tensor) -> Tensor:
        base = self.gradient()
        length = float(vector.norm())
        if length == 0:
            return torch.zeros_like(vector)
        own = float(self.loss.weights.norm()) or 1.0
        target, longest = self.change * float(base.norm()), LONGEST_STEP * own
        step = min(target / self._response, longest) if target and self._response else FIRST_STEP * own
        for _ in range(TRIES):
            ahead = self.loss.gradient(self.loss.weights + step / length * vector)[1]
            moved = float((ahead - base).norm())
            self._response = moved / step
            if not target or target / 3 <= moved <= 3 * target or (step == longest and moved < target):
                break
            step = min(step * min(target / moved if moved else 100.0, 100.0), longest)
        return self._quotient(ahead, vector, step / length)

    def _quotient(self, ahead: Tensor, vector: Tensor, reach: float) -> Tensor:
        raise NotImplementedError


class OneSidedDifference(Difference):
    """(g(w + h v) - g(w)) / h; g(w) is computed once."""

    name = "one-sided-difference"

    def _quotient(self, ahead: Tensor, vector: Tensor, reach: float) -> Tensor:
        return (ahead - self.gradient()) / reach


class CentralDifference(Difference):
    """(g(w + h v) - g(w - h v)) / 2 h."""

    name = "central-difference"

    def _quotient(self, ahead: Tensor, vector: Tensor, reach: float) -> Tensor:
        return (ahead - self.loss.gradient(self.loss.weights - reach * vector)[1]) / (2 * reach)


EXACT: Mapping[str, type[Product]] = {product.name: product for product in (DoubleBackward, ForwardOverReverse)}
DIFFERENCES: Mapping[str, tuple[Callable[[WeightLoss, float], Difference], float, tuple[float, ...]]] = {
    OneSidedDifference.name: (OneSidedDifference, 1 / 2, ONE_SIDED_CHANGES),
    CentralDifference.name: (CentralDifference, 1 / 3, CENTRAL_CHANGES),
}


def _refuse_gaps(gradients: Sequence[Tensor]) -> None:
    """Raises where a part of the graph has no second derivative.

    PyTorch raises by itself only on a path that leads from there to a weight; a function that is differentiable once
    cuts the path, and what came through it would silently be left out.
    """
    ahead = [gradient.grad_fn for gradient in gradients if gradient.grad_fn is not None]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if node.name().endswith("::Error"):
            raise RuntimeError("a function of the module is differentiable only once")
        following = {link for link, _ in node.next_functions if link is not None} - seen
        seen |= following
        ahead.extend(following)


def _share_of(loss: WeightLoss, batch: tuple[Inputs, Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda weights: loss.share(loss.split(weights), batch)


__all__ = [
    "DIFFERENCES",
    "EXACT",
    "CentralDifference",
    "Difference",
    "DoubleBackward",
    "ForwardOverReverse",
    "OneSidedDifference",
    "Product",
]
