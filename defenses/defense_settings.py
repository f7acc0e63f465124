"""Which training defenses there are, what combines, and their settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch

from attacks.channel import Channel
from attacks.errors import ThreatModelError, unknown
from attacks.threat import Ball
from defenses.latent_mixup import COUPLINGS, LAYERS, Coupling, Layer
from defenses.mixup import PAIRINGS, Pairing
from defenses.sharpness_aware import RHO

GROUPS: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian", "noise"),
    "masking": ("specaugment",),
    "mixing": ("mixup", "latent-mixup", "cutmix"),
    "adversary": ("pgd", "trades", "mart", "free", "fast"),
    "margin": ("margin",),
    "sampling": ("balanced",),
    "flatness": ("sam", "asam"),
}
"""What a combination takes one of each of; the first four in the order in which they meet a batch."""

NAMES = ("none", *itertools.chain.from_iterable(GROUPS.values()))

APART: Mapping[frozenset[str], str] = {
    frozenset(pair): why
    for pairs, why in (
        (
            (("free", "sam"), ("free", "asam")),
            "free moves its perturbation after every backward pass, of which these take two at the same clips",
        ),
        ((("mart", "mixup"), ("mart", "latent-mixup"), ("mart", "cutmix")), "MART needs one label a clip"),
    )
    for pair in pairs
}
"""Pairs of different groups that do not combine, and why."""


CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "pairing": ("pairing", PAIRINGS),
    "mix_layer": ("layer to mix", LAYERS),
    "coupling": ("coupling", COUPLINGS),
}
"""Setting -> what it is called, and what it may be."""


def _positive(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


def _count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


POSITIVE, COUNT = (_positive, "a number above 0"), (_count, "a whole number from 1")
CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("alpha", "beta", "margin_weight", "rho", "sigma"), POSITIVE),
    **dict.fromkeys(("steps", "replays"), COUNT),
    "threat": (bool, "a budget, a norm and a radius for one modality or more"),
    "channel": (lambda value: value is not None, "what the audio goes through (for white noise take gaussian)"),
}
"""Setting -> whether a value can hold, and what can."""


@dataclass(frozen=True)
class DefenseSettings:
    """Which defense, and its settings; those of other defenses do not matter.

    Attributes:
        name: A name from `NAMES`, or several joined by `+`, one of each of `GROUPS`.
        mix_layer: Of `latent-mixup`: `input`, `unimodal` (the latents of all modalities), `audio`, `video` (the latent
            of that one) or `fused`; when None `fused`.
        coupling: Of `latent-mixup` at `input` or `unimodal`: `same` weight and partner for all modalities,
            `independent` ones, or `audio` or `video` mixed alone. Label weights are the mean over the modalities mixed.
        pairing: Of every mixing: `random`, or `same-class` (with a clip that shares a label).
        alpha: Of every mixing: weights come from Beta(alpha, alpha).
        threat: Of every adversary: modality -> budget.
        steps: Of `pgd`, `trades`, `mart`.
        beta: Of `trades`, `mart`: weight of the divergence.
        replays: Of `free`: how often each batch is given.
        rho: Of `sam`, `asam`: radius; when None the papers' 0.05 and 0.5.
        margin_weight: Of `margin`.
        sigma: Of `gaussian`: standard deviation on the audio, full scale being 1; with an adversary, what
            leaves the data range is cut.
        channel: Of `noise`: what the audio goes through, drawn anew for every clip.
    """

    name: str
    mix_layer: Layer | None = None
    coupling: Coupling = "same"
    pairing: Pairing = "random"
    alpha: float = 1.0
    threat: Mapping[str, Ball] = field(default_factory=dict)
    steps: int = 7
    beta: float = 6.0
    replays: int = 4
    rho: float | None = None
    margin_weight: float = 1.0
    sigma: float = 0.05
    channel: Channel | None = None


def parts_of(name: str) -> dict[str, str]:
    """Group -> name, of what is joined by `+`.

    Raises:
        ThreatModelError: If a name is unknown, or two do not combine.
    """
    named = [part.strip() for part in name.split("+")]
    for part in named:
        if part not in NAMES:
            raise ThreatModelError(unknown("defense", part, NAMES) + " Join several with '+', e.g. mixup+sam.")
    if "none" in named and len(named) > 1:
        raise ThreatModelError(f"'none' stands alone; given {name!r}.")
    for pair in itertools.combinations(named, 2):
        _check_pair(*pair)
    return {group: part for group, members in GROUPS.items() for part in named if part in members}


def _check_pair(first: str, second: str) -> None:
    for group, members in GROUPS.items():
        if first in members and second in members:
            raise ThreatModelError(
                f"{first} and {second} do not combine: each is the {group}. Take one of {', '.join(members)}, and join "
                f"it with one of each other kind: {_others(group)}."
            )
    why = APART.get(frozenset((first, second)))
    if why is not None:
        raise ThreatModelError(f"{first} and {second} do not combine: {why}.")


def _others(group: str) -> str:
    return "; ".join(f"{name}: {', '.join(members)}" for name, members in GROUPS.items() if name != group)


def settings_of(part: str, settings: DefenseSettings) -> dict[str, Any]:
    """The settings that matter to one part."""
    names = {
        "mixup": ("alpha", "pairing"),
        "cutmix": ("alpha", "pairing"),
        "latent-mixup": ("alpha", "pairing", "mix_layer", "coupling"),
        "pgd": ("threat", "steps"),
        "trades": ("threat", "steps", "beta"),
        "mart": ("threat", "steps", "beta"),
        "free": ("threat", "replays"),
        "fast": ("threat",),
        "margin": ("margin_weight",),
        "gaussian": ("sigma",),
        "noise": ("channel",),
    }.get(part, ())
    told = {name: getattr(settings, name) for name in names}
    if "mix_layer" in told:
        told["mix_layer"] = told["mix_layer"] or "fused"
    if part in RHO:
        told["rho"] = RHO[part] if settings.rho is None else settings.rho
    return told


def check_settings(part: str, settings: DefenseSettings) -> None:
    """Whether the settings of one part can hold.

    Raises:
        ThreatModelError: If not.
    """
    for name, value in settings_of(part, settings).items():
        if name in CHOICES:
            kind, allowed = CHOICES[name]
            if value not in allowed:
                raise ThreatModelError(unknown(kind, value, allowed))
        elif name in CHECKS:
            fits, wanted = CHECKS[name]
            if not fits(value):
                raise ThreatModelError(f"{name} of {part} must be {wanted}; given {value!r}.")
    if part == "latent-mixup":
        _check_layer(settings)


def _check_layer(settings: DefenseSettings) -> None:
    layer = settings.mix_layer or "fused"
    if settings.coupling != "same" and layer not in ("input", "unimodal"):
        raise ThreatModelError(
            f"coupling {settings.coupling!r} needs several modalities to mix, which mix_layer 'input' and 'unimodal' "
            f"have; mix_layer {layer!r} mixes one latent alone."
        )


def mixed_senses(settings: DefenseSettings) -> Coupling:
    """The coupling that a layer amounts to: `audio` and `video` mix the latent of that one alone."""
    if settings.mix_layer == "audio" or settings.mix_layer == "video":
        return settings.mix_layer
    return settings.coupling


def as_json(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, Mapping):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, Ball):
        radius = torch.as_tensor(value.radius, dtype=torch.float64).tolist()
        support = {} if value.support is None else {"support": repr(value.support)}
        return {"norm": value.norm, "radius": radius, "unit": value.unit, **support}
    return value.describe() if isinstance(value, Channel) else value


__all__ = [
    "APART",
    "GROUPS",
    "NAMES",
    "DefenseSettings",
    "as_json",
    "check_settings",
    "mixed_senses",
    "parts_of",
    "settings_of",
]
