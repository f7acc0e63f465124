"""One perturbation on every clip: a universal perturbation, or a random one beside it, as a condition."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attacks.threat import Ball
from attacks.universal import apply_universal
from robust.evaluation.conditions import audited, described
from robust.types import Batch, Outcome


@dataclass(frozen=True)
class SharedPerturbation:
    """Adds one perturbation of each modality to every clip, clamped to the data range.

    Attributes:
        delta: Modality -> perturbation in the shape of one example.
        threat: Modality -> budget that it declares; records tell whether it was kept.
        name: `universal`, or what else it is.
        legacy: Made by the author's algorithm, which does not keep to its radius.
    """

    delta: Mapping[str, Tensor] = field(compare=False, repr=False)
    threat: Mapping[str, Ball]
    name: str = "universal"
    legacy: bool = False

    def describe(self) -> dict[str, Any]:
        """Budgets, and a hash of the perturbation."""
        return {
            "condition": self.name,
            "threat": {name: described(ball) for name, ball in self.threat.items()},
            "delta": {name: _hash(delta) for name, delta in self.delta.items()},
            "legacy": self.legacy,
        }

    def apply(self, victim: object, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The perturbed clips with their audit."""
        inputs = dict(batch.inputs)
        for name, delta in self.delta.items():
            ball = self.threat[name]
            moved = delta.to(inputs[name].device)
            inputs[name] = apply_universal(inputs[name], moved, ball.low, ball.high, valid=batch.valid.get(name))
        return Outcome(inputs, audited(self.threat, batch, inputs))


def _hash(delta: Tensor) -> str:
    return hashlib.blake2b(delta.cpu().float().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
