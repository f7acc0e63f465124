"""The world between a sound and a victim: noise, rooms. Functions on waveforms, and conditions made of them."""

from __future__ import annotations

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim
from robust.types import DEFAULT_BOUNDS, Batch, VictimSpec


def spec_of(victim: Victim, condition: str) -> VictimSpec:
    """What a victim says it takes; a channel must know its sample rate.

    Raises:
        ThreatModelError: If it says nothing.
    """
    spec = getattr(victim, "spec", None)
    if not isinstance(spec, VictimSpec):
        raise ThreatModelError(
            f"{condition} must know the victim's sample rate; wrap it: robust.Victim.wrap(module, sample_rate=...)."
        )
    return spec


def check_heard(modality: str, batch: Batch) -> None:
    """Raises `ThreatModelError` unless the batch has the modality."""
    if modality not in batch.inputs:
        raise ThreatModelError(unknown("modality", modality, batch.inputs))


def range_of(spec: VictimSpec, modality: str) -> tuple[float, float]:
    """The valid range of a modality; endless where nothing is known of it."""
    return spec.bounds.get(modality, DEFAULT_BOUNDS.get(modality, (-float("inf"), float("inf"))))
