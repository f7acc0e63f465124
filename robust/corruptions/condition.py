"""A corruption as a condition of the engine, for studies and `robust.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attacks.gradients import Victim
from robust.channels import check_heard, spec_of
from robust.corruptions.base import Corruption, find_corruption
from robust.corruptions.rendering import VERSION, render
from robust.types import Batch, Outcome


@dataclass(frozen=True)
class Corrupted:
    """Clips under a named corruption, the same to the bit as those of `robust noise` with the same seed.

    Attributes:
        corruption: A name from `CORRUPTIONS`, or a corruption.
        severity: 1 to 5; 0 for a corruption without severities.

    Raises:
        ThreatModelError: If there is no such corruption or severity; when applied, if the victim lacks a modality that
            it damages, or hears at too low a rate.
    """

    corruption: str | Corruption
    severity: int

    def __post_init__(self) -> None:
        self.found.value(self.severity)

    @property
    def found(self) -> Corruption:
        """The corruption itself."""
        return find_corruption(self.corruption) if isinstance(self.corruption, str) else self.corruption

    @property
    def name(self) -> str:
        """E.g. `corruption-white-3`."""
        return f"corruption-{self.found.name}-{self.severity}"

    def describe(self) -> dict[str, Any]:
        """The corruption, its parameter and its version."""
        return {"condition": self.name, **self.found.describe(self.severity), "version": VERSION}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The damaged clips; columns `snr_db`, `psnr_db`, `realised`, `silent` and `over_range` as `robust noise`."""
        for modality in self.found.modalities:
            check_heard(modality, batch)
        spec = spec_of(victim, self.name)
        clean, valid = ({name: value.cpu() for name, value in part.items()} for part in (batch.inputs, batch.valid))
        rendered = render(self.found, self.severity, clean, valid, batch.ids, spec.sample_rate, seed)
        changed = {name: value.to(batch.inputs[name]) for name, value in rendered.inputs(clean).items()}
        columns = {name: value.tolist() for name, value in rendered.columns.items()}
        return Outcome({**batch.inputs, **changed}, columns)
