"""What training defenses share: who learns, what a batch is to teach, and the passes that it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


class Learner(Protocol):
    """A classifier in training.

    `victim` maps modalities to logits (B, K); for mixed latents it also has `embed`, `embed_modalities`, `fuse` and
    `head`.
    """

    @property
    def victim(self) -> Any:
        """The module that learns."""

    @property
    def multilabel(self) -> bool:
        """Whether each label is a yes or no of its own, or one of them is right."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (B, K) against label weights (B, K)."""

    def example_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,) the same for each clip."""


@dataclass
class Passes:
    """What training spent: one clip once through the network, forward or backward, counts as one.

    Attributes:
        forwards, backwards: Sums over all clips so far, those of searches for perturbations included.
    """

    forwards: int = 0
    backwards: int = 0
    _awaited: int = field(default=0, init=False, repr=False)

    def forward(self, clips: int) -> None:
        """Clips went forward; `backward` will see them again."""
        self.forwards += clips
        self._awaited += clips

    def backward(self) -> None:
        """A loss was differentiated: whatever went forward for it went backward."""
        self.backwards += self._awaited
        self._awaited = 0

    def searched(self, forwards: int, backwards: int) -> None:
        """A search for perturbations took so many of each."""
        self.forwards += forwards
        self.backwards += backwards

    def forget(self) -> None:
        """What went forward before was not differentiated."""
        self._awaited = 0


@dataclass
class Lesson:
    """What one batch teaches.

    Attributes:
        inputs: Modality -> (B, ...).
        shown: (B, K) label weights of `inputs`: what an attacker works against.
        targets: (B, K) label weights of what `answer` says of them; another than `shown` where it mixes latents.
        forward: Inputs -> logits (B, K).
        passes: Where passes are counted.
    """

    inputs: dict[str, Tensor]
    shown: Tensor
    targets: Tensor
    forward: Callable[[dict[str, Tensor]], Tensor]
    passes: Passes

    def answer(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of `inputs`, with a graph, in single precision or better; counted."""
        return self.counted(self.forward, inputs)

    def counted(self, forward: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """The same of another way to answer."""
        self.passes.forward(len(self.targets))
        logits = forward(dict(inputs))
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


class Unopposed:
    """Learns from clips as they are; those who attack them first are its subclasses."""

    def loss(self, learner: Learner, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with a graph, and the inputs that were learnt from.

        Args:
            learner: Who learns.
            lesson: From what.
            generator: On the CPU.
        """
        return learner.loss(lesson.answer(lesson.inputs), lesson.targets), lesson.inputs

    def after_backward(self) -> None:
        """Called when the gradients of that loss are there."""

    def state(self) -> dict[str, Tensor]:
        """What must be kept for a training to be taken up again."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes `state` up again."""


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Running statistics of normalisation layers, to the bit, as if nothing had run in training mode within.

    Copies stand in for them: a graph made within stays whole, which it would not if they were written back.
    """
    kept = [
        (part, name, value)
        for part in module.modules()
        for name, value in part._buffers.items()
        if name in RUNNING and value is not None
    ]
    try:
        for part, name, value in kept:
            part._buffers[name] = value.clone()
        yield
    finally:
        for part, name, value in kept:
            part._buffers[name] = value


def generators_from(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """A generator for each example, all drawn from one."""
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


__all__ = ["Learner", "Lesson", "Passes", "Unopposed", "generators_from", "statistics_kept"]
