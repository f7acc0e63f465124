"""The gradient probe: can this victim be attacked honestly at all?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attacks.gradients import frozen
from robust.errors import VictimError
from robust.types import VictimSpec

EXPLANATION = (
    "A gradient attack on such a victim finds nothing and would make it look robust. Look for torch.no_grad(), "
    ".detach(), .numpy() or an argmax between the input and the logits (many embedding wrappers have one) and wrap the "
    "inner module instead. Scores alone can be asked of it as it is, where it is a subclass of robust.Victim: `robust "
    "attack --attacks square,nes` (black box), `robust noise`."
)


LEVELS = (0.2, 0.02, 0.002)
"""Widths of the noise tried, as shares of the range: a trained network may have nothing to say of noise at one level
(every unit of a layer off, seen on spoken digits), and only of a victim that detaches is that true of all."""


def probe_inputs(spec: VictimSpec, count: int = 2, seed: int = 0, level: float = LEVELS[0]) -> dict[str, Tensor]:
    """Noise in the shape of a batch for `spec`, modality -> (count, ...), inside its bounds."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for name in spec.modalities:
        low, high = spec.bounds[name]
        unit = torch.rand((count, *spec.shape(name)), generator=generator)
        inputs[name] = (low + high) / 2 + (unit - 0.5) * level * (high - low)
    return inputs


def check_answers(victim: nn.Module, spec: VictimSpec) -> None:
    """Runs the victim once, forwards alone, on inputs of its spec.

    Raises:
        VictimError: If it cannot run on inputs of its own spec, or gives logits of the wrong shape.
    """
    device = _device(victim)
    with torch.no_grad():
        _run(victim, spec, {name: value.to(device) for name, value in probe_inputs(spec).items()})


def check_gradients(victim: nn.Module, spec: VictimSpec) -> None:
    """Runs the victim once, forwards and backwards, on inputs of its spec.

    Raises:
        VictimError: If it cannot run on inputs of its own spec, gives logits of the wrong shape, or does not pass
            gradients back to every modality.
    """
    device = _device(victim)
    silent = set(spec.modalities)
    for level in LEVELS:
        inputs = {name: value.to(device).requires_grad_() for name, value in probe_inputs(spec, level=level).items()}
        with frozen(victim), torch.enable_grad():
            logits = _run(victim, spec, inputs)
            if not logits.requires_grad:
                raise VictimError(f"The victim {spec.name!r} detaches gradients from its input. {EXPLANATION}")
            weights = torch.linspace(-1.0, 1.0, logits.numel(), device=device).view_as(logits)
            gradients = torch.autograd.grad((logits * weights).sum(), list(inputs.values()), allow_unused=True)
        answers = zip(inputs, gradients, strict=True)
        silent -= {name for name, gradient in answers if gradient is not None and bool((gradient != 0).any())}
        if not silent:
            return
    missed = " and ".join(repr(name) for name in sorted(silent))
    raise VictimError(f"The victim {spec.name!r} gives no gradient to {missed}. {EXPLANATION}")


def _device(victim: nn.Module) -> torch.device:
    return next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))


def _run(victim: nn.Module, spec: VictimSpec, inputs: dict[str, Tensor]) -> Tensor:
    try:
        logits: Tensor = victim(inputs)
    except VictimError:
        raise
    except Exception as error:
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        raise VictimError(
            f"The victim {spec.name!r} fails on inputs of its own spec, {shapes}: {type(error).__name__}: {error}. "
            "Check sample_rate, clip_seconds, modalities and shapes, and that its forward takes a batch."
        ) from error
    expected = (len(next(iter(inputs.values()))), len(spec.labels))
    if tuple(logits.shape) != expected:
        raise VictimError(
            f"The victim {spec.name!r} returned logits of shape {tuple(logits.shape)}, expected {expected}: one row "
            "for each example and one column for each label."
        )
    return logits
