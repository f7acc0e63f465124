"""Clips after each attack on a purifier, which attack is the worst for each, and their columns in the records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.pgd import AttackResult
from attacks.threat import Ball
from robust.evaluation.conditions import _late_gain, audited
from robust.types import Batch

UNPERTURBED = "unperturbed"
SELECTION, SCORING = PURPOSES = ("selection", "scoring")


@dataclass(frozen=True)
class Version:
    """Clips after one attack and what is heard of them; rows that it left alone are those of the clips as they are.

    Attributes:
        clips: (B, T) waveforms.
        ran: (B,) bool: which of them it worked on.
        stands: Purpose -> (B, D) bool: in which draws the attacker has not what he wants.
        gain: (B,) how far he has it in the selection draws: the mean margin.
        forwards, backwards: (B,) int64 passes through the victim.
        late_gain: (B,) float64 share of the loss gained in the last ten steps; NaN where that is not known.
        gradient_noise: (B,) float64 standard error of gradients over their length; NaN where one draw was made.
    """

    clips: Tensor
    ran: Tensor
    stands: Mapping[str, Tensor]
    gain: Tensor
    forwards: Tensor
    backwards: Tensor
    late_gain: Tensor
    gradient_noise: Tensor

    @classmethod
    def begin(cls, clips: Tensor, stands: Mapping[str, Tensor], gain: Tensor) -> Version:
        """Clips as they are."""
        count = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)
        unknown = torch.full((len(clips),), torch.nan, dtype=torch.float64, device=clips.device)
        return cls(clips, torch.ones_like(count, dtype=torch.bool), stands, gain, count, count, unknown, unknown)

    def untouched(self) -> Version:
        """The same clips under an attack that works on none of them."""
        return replace(self, ran=torch.zeros_like(self.ran))

    def with_rows(
        self, rows: Tensor, found: AttackResult, modality: str, stands: Mapping[str, Tensor], gain: Tensor
    ) -> Version:
        """The same with what an attack found for the clips `rows`, and what is heard of it."""
        late = _late_gain(found.trace) if found.trace.ndim == 2 else torch.full_like(self.late_gain[rows], torch.nan)
        noise = found.gradient_noise if len(found.gradient_noise) else torch.full_like(late, torch.nan)
        return Version(
            self.clips.index_copy(0, rows, found.inputs[modality]),
            self.ran.index_fill(0, rows, value=True),
            {purpose: self.stands[purpose].index_copy(0, rows, one) for purpose, one in stands.items()},
            self.gain.index_copy(0, rows, gain.to(self.gain)),
            self.forwards.index_copy(0, rows, found.forwards),
            self.backwards.index_copy(0, rows, found.backwards),
            self.late_gain.index_copy(0, rows, late.to(self.late_gain)),
            self.gradient_noise.index_copy(0, rows, noise.to(self.gradient_noise)),
        )


def worst_of(versions: Mapping[str, Version]) -> Tensor:
    """(B,) int64 place of the version that stands in the fewest selection draws; of equals, the one of highest gain."""
    shares = torch.stack([one.stands[SELECTION].double().mean(dim=1) for one in versions.values()])
    ran = torch.stack([one.ran for one in versions.values()])
    shares = shares.masked_fill(~ran, torch.inf)
    lowest = shares == shares.min(dim=0).values
    gains = torch.stack([one.gain for one in versions.values()]).nan_to_num(-torch.inf)
    # argmax over what is left in: a margin of -inf must still beat a version that is out.
    order = torch.where(lowest, gains.double().clamp_min(-1e300), -torch.inf)
    return order.argmax(dim=0)


def chosen(values: Mapping[str, Tensor], places: Tensor) -> Tensor:
    """(B, ...) for each clip the row of the version at its place."""
    return torch.stack(list(values.values()))[places, torch.arange(len(places), device=places.device)]


def version_columns(
    versions: Mapping[str, Version], worst: Tensor, threat: Mapping[str, Ball], batch: Batch
) -> dict[str, Any]:
    """Columns of all versions: who stands where, passes, late gain, and each attack's ratio to the budget."""
    (modality,) = threat
    columns: dict[str, Any] = {}
    for purpose in PURPOSES:
        for name, version in versions.items():
            columns[f"{name}_{purpose}"] = _where(version.ran, version.stands[purpose].cpu().tolist())
        stands = chosen({name: version.stands[purpose] for name, version in versions.items()}, worst)
        columns[f"worst_{purpose}"] = stands.cpu().tolist()
    names = list(versions)
    for name, version in versions.items():
        columns[f"{name}_gain"] = version.gain.masked_fill(~version.ran, torch.nan).cpu().tolist()
    columns["worst"] = [names[place] for place in worst.tolist()]
    for name, version in versions.items():
        if name == UNPERTURBED:
            continue
        columns[f"{name}_forwards"] = version.forwards.cpu().tolist()
        columns[f"{name}_backwards"] = version.backwards.cpu().tolist()
        columns[f"{name}_late_gain"] = version.late_gain.cpu().tolist()
        columns[f"{name}_gradient_noise"] = version.gradient_noise.cpu().tolist()
        sizes = audited(threat, batch, {modality: version.clips})
        columns[f"{name}_ratio_{modality}"] = [
            ratio if ran else math.nan
            for ratio, ran in zip(sizes[f"ratio_{modality}"], version.ran.tolist(), strict=True)
        ]
        columns = _with_violations(columns, name, sizes)
    for passes in ("forwards", "backwards"):
        columns[passes] = torch.stack([getattr(one, passes) for one in versions.values()]).sum(dim=0).cpu().tolist()
    return columns


def _with_violations(columns: dict[str, Any], name: str, sizes: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What any attack has exceeded, with its name."""
    before = columns.get("violated", [False] * len(sizes["violated"]))
    reasons = columns.get("violation", [""] * len(before))
    named = [
        f"{name}: {reason}" if bad else "" for reason, bad in zip(sizes["violation"], sizes["violated"], strict=True)
    ]
    return columns | {
        "violated": [a or b for a, b in zip(before, sizes["violated"], strict=True)],
        "violation": ["; ".join(filter(None, pair)) for pair in zip(reasons, named, strict=True)],
    }


def _where(ran: Tensor, values: list[Any]) -> list[Any]:
    return [value if there else None for value, there in zip(values, ran.tolist(), strict=True)]
