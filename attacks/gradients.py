"""Input gradients of a victim: counted per example, leaving the victim as it was, independent of batch size."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from attacks.losses import Goal, Loss

Victim = Callable[[dict[str, Tensor]], Tensor]
"""Anything that maps modalities to logits (B, K)."""

LANES = 8
"""Batches are padded to a multiple of this.

Matrix and convolution kernels round a remainder of a few rows differently from a full block, and a sign step makes a
visible difference of it. In full blocks an example's result depends neither on its neighbours nor on their number
(measured; tests/attacks/test_gradients.py), and eight clips cost hardly more than one.
"""


_MOST: ContextVar[int | None] = ContextVar("_MOST", default=None)


@contextmanager
def at_most(rows: int) -> Iterator[None]:
    """Gradients within are taken of at most so many examples at once, however many an attack works on.

    A search whose examples finish one by one keeps its batches full that way, in the memory of a small one.

    Args:
        rows: Rounded up to a multiple of `LANES`.
    """
    before = _MOST.set(-(-rows // LANES) * LANES)
    try:
        yield
    finally:
        _MOST.reset(before)


def most_rows() -> int | None:
    """What `at_most` allows here; None outside of it."""
    return _MOST.get()


@contextmanager
def frozen(victim: Any) -> Iterator[None]:
    """Evaluation mode and no parameter gradients within; modes, flags and BatchNorm statistics restored after.

    Without parameter gradients a backward pass costs a third less; torchattacks and foolbox leave both to the user.
    """
    if not isinstance(victim, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in victim.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in victim.parameters()]
    try:
        victim.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


class Oracle:
    """A victim seen from the attack: logits and input gradients, with the passes of each example counted.

    Attributes:
        forwards: (B,) int64 forward passes by example.
        backwards: (B,) int64 backward passes by example.
    """

    def __init__(
        self, victim: Victim, count: int, device: torch.device, search_dtype: torch.dtype | None = None
    ) -> None:
        self.victim = victim
        self.search_dtype = search_dtype
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(count, dtype=torch.int64, device=device)

    def logits(self, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Full-precision logits of `inputs`, which belong to the examples `rows` (their places in the batch)."""
        self.forwards[rows] += 1
        with torch.no_grad():
            padded, count = pad_to_lanes(inputs)
            return self.victim(padded)[:count].float()

    def gradients(
        self,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        loss: Loss,
        rows: Tensor,
        wanted: Container[str] | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Logits (B, K), losses (B,) and the gradient of each loss by each modality, in the search precision.

        `wanted` names the modalities whose gradients are needed (all if None): through what only the others reach,
        a branch of an audio-visual victim say, nothing is kept and no backward pass is made.

        A gradient that is not finite (a victim that divides by zero in silence, say) is returned as zero where it is
        not; check S8 reports it.
        """
        self.forwards[rows] += 1
        self.backwards[rows] += 1
        count, most = len(rows), _MOST.get()
        if most is None or count <= most:
            return self._gradients(inputs, goal, loss, rows, wanted)
        parts = []
        every = torch.arange(count, device=rows.device)
        for chunk in (every[first : first + most] for first in range(0, count, most)):
            some = {name: value[chunk] for name, value in inputs.items()}
            parts.append(self._gradients(some, goal.select(chunk), loss, rows[chunk], wanted))
        logits, losses, gradients = zip(*parts, strict=True)
        joined = {name: torch.cat([part[name] for part in gradients]) for name in gradients[0]}
        return torch.cat(logits), torch.cat(losses), joined

    def _gradients(
        self, inputs: Mapping[str, Tensor], goal: Goal, loss: Loss, rows: Tensor, wanted: Container[str] | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Of as many examples as fit at once."""
        return self._one_pass(self.victim, inputs, goal, loss, wanted)

    def _one_pass(
        self, victim: Victim, inputs: Mapping[str, Tensor], goal: Goal, loss: Loss, wanted: Container[str] | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One forward and one backward pass through `victim`."""
        padded, count = pad_to_lanes(inputs)
        leaves = {
            name: value.detach().requires_grad_() for name, value in padded.items() if wanted is None or name in wanted
        }
        device = next(iter(padded.values())).device.type
        low_precision = self.search_dtype is not None
        with torch.enable_grad():
            with torch.autocast(device, dtype=self.search_dtype) if low_precision else nullcontext():
                logits = victim({**padded, **leaves})[:count]
            logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
            losses = loss(logits, goal)
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        cleaned = {name: grad[:count].nan_to_num(0.0, 0.0, 0.0) for name, grad in zip(leaves, grads, strict=True)}
        return logits.detach(), losses.detach(), cleaned


def pad_to_lanes(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """`inputs` with the last example repeated until the batch is a multiple of `LANES`, and the number of real ones."""
    return {name: in_lanes(value) for name, value in inputs.items()}, len(next(iter(inputs.values())))


def in_lanes(value: Tensor) -> Tensor:
    """`value` (B, ...) with its last row repeated until there are a multiple of `LANES`."""
    missing = -len(value) % LANES
    return value if missing == 0 else torch.cat([value, value[-1:].expand(missing, *value.shape[1:])])
