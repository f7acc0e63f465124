"""Training defenses as people name them: from words and options to what `defenses` trains with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from robust.channels.presets import load_channel
from robust.errors import DataError, unknown
from robust.threats import threat_model
from robust.victims.base import Victim

if TYPE_CHECKING:
    from defenses.classifier import RobustValidation
    from defenses.defense import DefenseSettings

STOPS = ("clean", "robust")


@dataclass(frozen=True)
class TrainingDefense:
    """A defense and its settings, in words; see `defenses.defense.DefenseSettings` for what each does.

    Attributes:
        name: `none`, `mixup`, `latent-mixup`, `cutmix`, `specaugment`, `balanced`, `pgd`, `trades`, `mart`, `free`,
            `fast`, `sam`, `asam`, `gaussian`, `noise`, `margin`, or several with `+` between: `pgd+mixup`.
        modality: What adversaries attack in training: as for `robust.attack`; `both` where there are two when None.
        norm, eps, unit: Their budget, as for `robust.attack`; `eps` and `unit` may be mappings by modality.
        stop_on: Validation score that stops the training and chooses the weights: `clean`, or `robust` (PGD with the
            same budget); `robust` for defenses with an adversary when None.
        validation_steps: Of that PGD.
        validation_clips: On how many clips.
        options: Further settings of `DefenseSettings`: `steps`, `alpha`, `mix_layer`, `coupling`, `pairing`, `beta`,
            `replays`, `rho`, `sigma`, `margin_weight`; and `channel`, a preset's name or a YAML file.
    """

    name: str = "none"
    modality: str | None = None
    norm: str = "linf"
    eps: float | Mapping[str, float] | None = None
    unit: str | Mapping[str, str] = "amplitude"
    stop_on: str | None = None
    validation_steps: int = 10
    validation_clips: int = 128
    options: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """For the card."""
        return asdict(self)


def settings_for(defense: TrainingDefense, victim: Victim) -> DefenseSettings:
    """What `defenses.defense.load_defense` takes.

    Raises:
        RobustError: For settings that are not there, budgets that cannot be, and channels that are not known.
    """
    from dataclasses import fields

    from defenses.defense import DefenseSettings

    allowed = {one.name for one in fields(DefenseSettings)} - {"name", "threat"}
    for name in defense.options:
        if name not in allowed:
            raise DataError(unknown("setting of a defense", name, sorted(allowed)))
    options = {name: value for name, value in defense.options.items() if value is not None}
    if isinstance(channel := options.get("channel"), str):
        options["channel"] = load_channel(channel, sample_rate=victim.spec.sample_rate, split="train")
    return DefenseSettings(defense.name, threat=_threat(defense, victim), **options)


def watched(defense: TrainingDefense, victim: Victim, *, adversarial: bool) -> RobustValidation | None:
    """How validation attacks, if it does."""
    from defenses.classifier import RobustValidation

    stop_on = defense.stop_on or ("robust" if adversarial else "clean")
    if stop_on not in STOPS:
        raise DataError(unknown("score to stop on", stop_on, STOPS))
    if stop_on == "clean":
        return None
    return RobustValidation(_threat(defense, victim), defense.validation_steps, defense.validation_clips)


def _threat(defense: TrainingDefense, victim: Victim) -> Mapping[str, Any]:
    modality = defense.modality or ("both" if len(victim.spec.modalities) > 1 else victim.spec.modalities[0])
    found = threat_model(victim, modality, defense.norm, defense.eps, defense.unit)
    if found.packing is not None:
        raise DataError("Training knows budgets by modality; give --modality both with one for each, instead of joint.")
    return found.balls


__all__ = ["TrainingDefense", "settings_for", "watched"]
