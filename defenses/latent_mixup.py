"""Mixup of latents, and of modalities apart: what lies between two clips is taught to lie between their labels.

Convexity (the share of such points that keep their class) is what it raises; methods.md 2.2 and 2.4. Verma et al. 2019
mix hidden layers of one modality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from defenses.mixup import Mixture, Pairing, draw_mixture

Layer = Literal["input", "unimodal", "audio", "video", "fused"]
Coupling = Literal["same", "independent", "audio", "video"]
LAYERS = ("input", "unimodal", "audio", "video", "fused")
COUPLINGS = ("same", "independent", "audio", "video")


@dataclass(frozen=True)
class Blend:
    """How each sense of a batch is mixed.

    Attributes:
        mixtures: Sense (`audio`, `video`) -> mixture; a sense that is not named stays as it is.
    """

    mixtures: Mapping[str, Mixture]

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> (B, ...) mixed, inputs or latents."""
        return {
            name: self.mixtures[sense(name)](value) if sense(name) in self.mixtures else value
            for name, value in values.items()
        }

    def labels(self, targets: Tensor) -> Tensor:
        """(B, K) label weights: the mean over the senses that are mixed."""
        different = {id(mixture): mixture for mixture in self.mixtures.values()}
        return torch.stack([mixture(targets) for mixture in different.values()]).mean(dim=0)


def sense(modality: str) -> str:
    """`video` for what is seen, `audio` for what is heard, whatever form it comes in."""
    return "video" if modality.startswith("video") else "audio"


def draw_blend(
    modalities: Iterable[str],
    targets: Tensor,
    *,
    alpha: float,
    coupling: Coupling,
    pairing: Pairing,
    generator: torch.Generator,
) -> Blend:
    """Draws who is mixed with whom.

    Args:
        modalities: Names of the inputs.
        targets: (B, K) label weights.
        alpha: Of Beta(alpha, alpha), above 0.
        coupling: `same` weight and partner for all senses; `independent` ones; or `audio` or `video` alone.
        pairing: See `defenses.mixup.draw_mixture`.
        generator: On the CPU.

    Raises:
        ThreatModelError: If the sense to be mixed is not among the modalities.
    """
    present = sorted({sense(name) for name in modalities})
    if coupling == "same":
        mixture = draw_mixture(targets, alpha, generator, pairing)
        return Blend(dict.fromkeys(present, mixture))
    check_coupling(coupling, modalities)
    chosen = present if coupling == "independent" else [coupling]
    return Blend({name: draw_mixture(targets, alpha, generator, pairing) for name in chosen})


def check_coupling(coupling: str, modalities: Iterable[str]) -> None:
    """Raises `ThreatModelError` where the one sense to be mixed is not there."""
    names = list(modalities)
    if coupling in ("audio", "video") and coupling not in {sense(name) for name in names}:
        raise ThreatModelError(f"There is no {coupling} to mix: the victim takes {', '.join(names)}.")


def mixed_answer(victim: Any, inputs: dict[str, Tensor], layer: Layer, blend: Blend) -> Tensor:
    """Logits (B, K) of a victim whose latents are mixed on their way.

    Args:
        victim: With `embed`, `embed_modalities`, `fuse` and `head`.
        inputs: Modality -> (B, ...).
        layer: `fused`: the latent before the head; otherwise the latents of the modalities, those that `blend` mixes.
        blend: Of `draw_blend`, with `same` coupling for `fused`.

    Raises:
        ThreatModelError: If the victim keeps no such latents.
    """
    for method in ("embed", "embed_modalities", "fuse", "head"):
        if not hasattr(victim, method):
            raise ThreatModelError(
                f"{type(victim).__name__} has no method {method}(), so there are no latents to mix; use mix_layer "
                "'input'."
            )
    fused = _fused(victim, inputs, blend) if layer == "fused" else victim.fuse(_apart(victim, inputs, blend))
    logits: Tensor = victim.head(fused)
    return logits


def _fused(victim: Any, inputs: dict[str, Tensor], blend: Blend) -> Tensor:
    """The fused latent, mixed."""
    mixture = next(iter(blend.mixtures.values()))
    return mixture(victim.embed(inputs)["fused"])


def _apart(victim: Any, inputs: dict[str, Tensor], blend: Blend) -> dict[str, Tensor]:
    """The latents of the modalities, mixed."""
    latents = victim.embed_modalities(inputs)
    missing = [name for name in blend.mixtures if name not in {sense(latent) for latent in latents}]
    if missing:
        raise ThreatModelError(
            f"The victim keeps no latent of {' or '.join(missing)} apart (it has {', '.join(latents) or 'none'}); use "
            "mix_layer 'fused' or 'input'."
        )
    return blend(latents)


__all__ = [
    "COUPLINGS",
    "LAYERS",
    "Blend",
    "Coupling",
    "Layer",
    "check_coupling",
    "draw_blend",
    "mixed_answer",
    "sense",
]
