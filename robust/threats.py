"""Threat models as people name them: which senses, which norm, how much; from words to budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from attacks.audit import ORDERS, Norm
from attacks.errors import ThreatModelError, unknown
from attacks.joint import JOINT, Packing
from attacks.supports import Both, FrequencyBand, MelBand, Support, TimeWindow
from attacks.threat import Ball, Unit
from robust.errors import VictimError
from robust.types import Dataset
from robust.victims.base import Victim
from robust.victims.features import FeatureData, on_features

BOTH = "both"

DEFAULT_EPS: Mapping[str, Mapping[str, float]] = {
    "audio": {"linf": 0.002, "l2": 0.25, "l1": 10.0},
    "video": {"linf": 4 / 255, "l2": 1.0, "l1": 50.0},
    "logmel": {"linf": 0.1, "l2": 1.0, "l1": 20.0},
    "video_features": {"linf": 0.1, "l2": 1.0, "l1": 20.0},
    JOINT: {"linf": 0.002, "l2": 0.25, "l1": 10.0},
}
"""Radii that break undefended classifiers of short clips: AudioPure's for waveforms (methods.md 5.4), the author's for
features (1.3)."""


@dataclass(frozen=True)
class ThreatModel:
    """Budgets by modality; with a packing, one budget of the modality `joint`."""

    balls: Mapping[str, Ball]
    packing: Packing | None = None


def threat_model(
    victim: Victim,
    modality: str = "audio",
    norm: str = "linf",
    eps: float | Mapping[str, float] | None = None,
    unit: str | Mapping[str, str] = "amplitude",
    *,
    support: Support | None = None,
    scale: Mapping[str, float] | None = None,
) -> ThreatModel:
    """What an attacker may do to a victim.

    Args:
        victim: Whose modalities and bounds they are.
        modality: One of the victim's; `both` for a separate budget on each of them; `joint` for one ball over their
            concatenation.
        norm: `linf`, `l2` or `l1`.
        eps: Radius, or modality -> radius; a usual one for modality and norm where absent.
        unit: Of the radius, or modality -> unit; a joint radius is an amplitude.
        support: Where in an example of the one modality attacked the perturbation may live.
        scale: `joint` only: modality -> how many of its units make one unit of the joint norm; 1 where absent.

    Raises:
        ThreatModelError: For what does not fit together.
    """
    if norm not in ORDERS:
        raise ThreatModelError(unknown("norm", norm, ORDERS))
    attacked = _attacked(victim, modality)
    if support is not None and (len(attacked) > 1 or modality == JOINT):
        raise ThreatModelError(
            f"A support (time window, band) belongs to one modality; {modality!r} attacks {' and '.join(attacked)}."
        )
    if scale is not None and modality != JOINT:
        raise ThreatModelError("Scales say how modalities share one joint budget; give them with modality 'joint'.")
    names = (JOINT,) if modality == JOINT else attacked
    radii = _each("radius", eps, names)
    units = _each("unit", unit, names)
    if modality == JOINT:
        packing = Packing({name: victim.spec.shape(name) for name in attacked}, victim.spec.bounds, scale)
        return ThreatModel({JOINT: packing.ball(*_budget(JOINT, norm, radii[JOINT], units[JOINT]))}, packing)
    balls = {
        name: Ball(*_budget(name, norm, radii[name], units[name]), *victim.spec.bounds[name], support)
        for name in attacked
    }
    return ThreatModel(balls)


def make_support(
    sample_rate: int,
    *,
    window: Sequence[float] | None = None,
    band: Sequence[float] | None = None,
    mels: Sequence[float] | None = None,
) -> Support | None:
    """Where a perturbation may live: in all of what is given together; None for everywhere.

    Args:
        sample_rate: Of the sound, in Hz.
        window: First and last share of the clip.
        band: Lowest and highest frequency, in Hz.
        mels: First and last mel band.
    """
    parts: list[Support] = []
    if window is not None:
        parts.append(TimeWindow(window[0], window[1]))
    if band is not None:
        parts.append(FrequencyBand(band[0], band[1], sample_rate))
    if mels is not None:
        parts.append(MelBand(int(mels[0]), int(mels[1])))
    return parts[0] if len(parts) == 1 else Both(tuple(parts)) if parts else None


def make_ball(victim: Victim, modality: str, norm: str, eps: float | None, unit: str) -> Ball:
    """A budget for one modality of a victim, checked."""
    return threat_model(victim, modality, norm, eps, unit).balls[modality]


def posed(victim: Victim, data: Dataset, modality: str) -> tuple[Victim, Dataset]:
    """Victim and data such that `modality` is an input: `logmel` of a victim with a front end takes that off."""
    if modality == "logmel" and "logmel" not in victim.spec.modalities:
        return on_features(victim), FeatureData(data, victim)
    return victim, data


def _attacked(victim: Victim, modality: str) -> tuple[str, ...]:
    """The modalities meant by a word."""
    own = victim.spec.modalities
    if modality in (BOTH, JOINT):
        if len(own) < 2:
            raise ThreatModelError(
                f"The modality {modality!r} is for victims of several; {victim.spec.name!r} takes {own[0]} alone."
            )
        return own
    if modality not in own:
        several = (BOTH, JOINT) if len(own) > 1 else ()
        raise ThreatModelError(unknown(f"modality of {victim.spec.name}", modality, (*own, *several)))
    return (modality,)


def _each(what: str, given: object, names: tuple[str, ...]) -> dict[str, object]:
    """`given` for each of `names`, or its entry for each."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    for name in given:
        if name not in names:
            raise ThreatModelError(unknown(f"modality with a {what}", name, names))
    return {name: given.get(name, "amplitude" if what == "unit" else None) for name in names}


def _budget(name: str, norm: str, eps: object, unit: object) -> tuple[Norm, float, Unit]:
    """Norm, radius and unit, checked; the usual radius where none is given."""
    if unit not in get_args(Unit):
        raise ThreatModelError(unknown("unit", str(unit), get_args(Unit)))
    if eps is not None:
        return cast(Norm, norm), float(cast(float, eps)), cast(Unit, unit)
    if unit != "amplitude":
        raise ThreatModelError(f"Give a radius in {unit} (--eps); the default radii are amplitudes.")
    if name not in DEFAULT_EPS:
        raise VictimError(f"There is no usual radius for the modality {name!r}; give one (--eps).")
    return cast(Norm, norm), DEFAULT_EPS[name][norm], unit
