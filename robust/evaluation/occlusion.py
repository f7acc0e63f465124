"""The occlusion and noise battery of "Robustness of Neural Architectures for Audio Event Detection" (arXiv 2205.03268).

Stretches of the time axis are replaced by silence. Does a victim need the content, or its continuity? The `concat`
patterns keep as much content as the `alternate` ones, but in one piece.

Patterns are shares of the clip, so that they fit any length. On the author's 10-s clips of 400 frames (methods.md 3.1):

    alternate-5th     every second block of 2 s, "Occ 4s": frames 80-159 and 240-319
    first-half ...    first, middle, last 5 s: frames 0-199, 100-299, 200-399
    alternate-10th    every second block of 1 s; -20th: 0.5 s; -40th: 0.25 s; -80th: 0.125 s
    concat-10th ...   the kept blocks moved together to the front, then 200 frames of silence

The first block of an alternation is always kept. Silence is the clip's own minimum for features, 0 for waveforms and
black for video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Victim
from attacks.projections import lengths
from robust.evaluation.deletions import check_modality, silence
from robust.seeds import generators_for
from robust.types import Batch, Outcome


@dataclass(frozen=True)
class Pattern:
    """Which parts of a clip are hidden.

    Attributes:
        name: As in `PATTERNS`.
        blocks: Into how many equal blocks the clip is cut.
        hidden: The numbers of those that are hidden.
        concat: Whether what is kept moves together to the front, and silence follows.
    """

    name: str
    blocks: int
    hidden: tuple[int, ...]
    concat: bool = False

    def mask(self, length: int) -> Tensor:
        """(length,) bool: true at the steps that are hidden, before anything is moved.

        Args:
            length: Steps on the time axis: frames or samples. Block k begins at step floor(k * length / blocks).

        Raises:
            ThreatModelError: If a block would be shorter than one step.
        """
        if length < self.blocks:
            raise ThreatModelError(
                f"The pattern {self.name!r} cuts a clip into {self.blocks} blocks, but this input has only {length} "
                "steps in time; choose a pattern of longer blocks, or longer clips."
            )
        mask = torch.zeros(length, dtype=torch.bool)
        for block in self.hidden:
            mask[block * length // self.blocks : (block + 1) * length // self.blocks] = True
        return mask

    def apply(self, value: Tensor, fill: Tensor) -> Tensor:
        """`value` (B, T, ...) with the hidden steps filled by `fill`, broadcastable to it."""
        mask = self.mask(value.shape[1]).to(value.device)
        filled = torch.zeros_like(value) + fill
        if self.concat:
            kept = value[:, ~mask]
            return torch.cat([kept, filled[:, kept.shape[1] :]], dim=1)
        return torch.where(mask.view(1, -1, *[1] * (value.ndim - 2)), filled, value)


def _alternate(blocks: int, *, concat: bool = False) -> Pattern:
    name = f"{'concat' if concat else 'alternate'}-{blocks}th"
    return Pattern(name, blocks, tuple(range(1, blocks, 2)), concat)


_ALL = (
    _alternate(5),
    Pattern("first-half", 4, (0, 1)),
    Pattern("middle-half", 4, (1, 2)),
    Pattern("last-half", 4, (2, 3)),
    *(_alternate(blocks) for blocks in (10, 20, 40, 80)),
    *(_alternate(blocks, concat=True) for blocks in (10, 20, 40, 80)),
)
PATTERNS: Mapping[str, Pattern] = {pattern.name: pattern for pattern in _ALL}
"""Tests a to d of the battery, by name."""


@dataclass(frozen=True)
class Occlusion:
    """Parts of one modality are silent, along its first axis (time), padding included.

    Attributes:
        modality: `audio` (B, T), `video` (B, F, ...), or features (B, frames, ...).
        pattern: A name from `PATTERNS`.

    Raises:
        ThreatModelError: If the pattern is unknown; when applied, if the victim has no such modality or it has fewer
            steps in time than the pattern has blocks.
    """

    modality: str
    pattern: str

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ThreatModelError(unknown("occlusion pattern", self.pattern, PATTERNS))

    @property
    def name(self) -> str:
        """E.g. `occlusion-logmel-first-half`."""
        return f"occlusion-{self.modality}-{self.pattern}"

    def describe(self) -> dict[str, Any]:
        """Modality and pattern."""
        return {"condition": self.name, "modality": self.modality, "pattern": self.pattern}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The batch with parts hidden; columns `pattern` and `hidden_share`."""
        check_modality(self.modality, batch.inputs)
        value, pattern = batch.inputs[self.modality], PATTERNS[self.pattern]
        fill = silence(self.modality, value, batch.valid.get(self.modality))
        share = float(pattern.mask(value.shape[1]).double().mean())
        columns: dict[str, Sequence[object]] = {
            "pattern": [self.pattern] * len(batch),
            "hidden_share": [share] * len(batch),
        }
        return Outcome({**batch.inputs, self.modality: pattern.apply(value, fill)}, columns)


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise on every value of one modality that is not padding: tests e (features) and f (waveform).

    As in the author's battery nothing is clipped: a waveform may leave [-1, 1].

    Attributes:
        modality: Which one.
        std: Standard deviation, in the units of the input.

    Raises:
        ThreatModelError: If `std` is not positive; when applied, if the victim has no such modality.
    """

    modality: str
    std: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.std < float("inf"):
            raise ThreatModelError(f"The standard deviation of the noise must be above 0 and finite; given {self.std}.")

    @property
    def name(self) -> str:
        """E.g. `noise-logmel-0.1`."""
        return f"noise-{self.modality}-{self.std:g}"

    def describe(self) -> dict[str, Any]:
        """Modality and standard deviation."""
        return {"condition": self.name, "modality": self.modality, "std": self.std}

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The noisy batch; columns `noise_std` and `noise_snr_db` (realised, over what is not padding)."""
        check_modality(self.modality, batch.inputs)
        value = batch.inputs[self.modality]
        # One draw for all conditions of a clip, whatever the level: levels then differ in nothing but their level.
        generators = generators_for(seed, batch.ids, f"white-noise-{self.modality}")
        draws = [torch.randn(value.shape[1:], generator=generator) for generator in generators]
        noise = self.std * torch.stack(draws).to(value)
        signal = value
        if self.modality in batch.valid:
            noise, signal = noise * batch.valid[self.modality], value * batch.valid[self.modality]
        energies = [lengths(part.flatten(1).double()) for part in (signal, noise)]
        snr_db = 20 * torch.log10(energies[0] / energies[1].clamp_min(1e-300))
        columns = {"noise_std": [self.std] * len(batch), "noise_snr_db": snr_db.cpu().tolist()}
        return Outcome({**batch.inputs, self.modality: value + noise}, columns)


def battery(modality: str, std: float = 0.1) -> list[Occlusion | WhiteNoise]:
    """Tests a to f of methods.md 3.1 on one modality, in the order of the paper; the attacks (g) are not among them."""
    return [*(Occlusion(modality, name) for name in PATTERNS), WhiteNoise(modality, std)]
