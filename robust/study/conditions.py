"""The kinds of condition that a study file may name, each with its settings.

A kind says what is measured; `robust.study.kinds` holds what runs it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from robust.errors import DataError
from robust.evaluation.geometry_settings import LEAST, GeometrySettings, groups_of, make_settings
from robust.study.condition_base import (
    Against,
    CorruptionName,
    Levels,
    Method,
    Norm,
    Pair,
    PatternName,
    Success,
    Unit,
    odd,
)
from robust.study.condition_base import (
    Condition as Condition,
)
from robust.study.condition_base import (
    Optimised as Optimised,
)
from robust.study.defended import CertificateKind as CertificateKind
from robust.study.defended import PurifyKind as PurifyKind


class AttackKind(Optimised):
    """As `robust attack`."""

    kind: Literal["attack"]
    norm: Norm = "linf"
    eps: float | dict[str, float] | None = None
    unit: Unit | dict[str, Unit] = "amplitude"
    scale: dict[str, float] | None = None
    window: Pair | None = None
    band: Pair | None = None
    mels: Pair | None = None
    cut: bool = False
    rescale: bool = False
    inaudible: int = Field(0, ge=0)
    target: str | None = None
    success: Success | None = None
    checks: bool = True

    @model_validator(mode="after")
    def _cut_needs_a_region(self) -> AttackKind:
        if self.cut and not (self.window or self.band or self.mels):
            raise ValueError("cut goes with window, band or mels")
        if self.rescale and not self.cut:
            raise ValueError("rescale goes with cut")
        return self


class CurveKind(Optimised):
    """As `robust curve`."""

    kind: Literal["curve"]
    norm: Literal["linf", "l2", "l1", "snr"] = "linf"
    eps: Levels = None
    unit: Unit = "amplitude"
    scale: dict[str, float] | None = None
    against: Against = "attack"
    checks: bool = True
    threshold: float = Field(0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _sweeps_have_no_attack(self) -> CurveKind:
        attacks = ("norm", "unit", "scale", "steps", "restarts", "loss", "schedule", "precision")
        given = [name for name in attacks if getattr(self, name) != type(self).model_fields[name].default]
        if self.against != "attack" and given:
            raise ValueError(f"{', '.join(given)} is of attacks, and this curve is against {self.against}")
        return self


class CleanKind(Condition):
    """Nothing is done."""

    kind: Literal["clean"]


class MissingKind(Condition):
    """A modality is missing."""

    kind: Literal["missing"]
    fill: Literal["zeros", "mean", "silence"] = "zeros"


class SwapKind(Condition):
    """A modality comes from another clip."""

    kind: Literal["swap"]


class OccludeKind(Condition):
    """Parts of a modality are hidden; a name from `robust.evaluation.occlusion.PATTERNS`."""

    kind: Literal["occlude"]
    pattern: PatternName


class NoiseKind(Condition):
    """White noise of one size on every value."""

    kind: Literal["noise"]
    std: float = Field(0.1, gt=0)


class CorruptionKind(Condition):
    """As `robust noise`: one corruption at one severity."""

    kind: Literal["corruption"]
    corruption: CorruptionName
    severity: int = Field(3, ge=1, le=5)


class ChannelKind(Condition):
    """Clips as they are heard through a channel: a preset's name, or a YAML file."""

    kind: Literal["channel"]
    channel: str = "living-room"
    split: Literal["train", "held-out"] = "held-out"


class AirKind(Optimised):
    """As `robust air`: with and without EOT, in rooms of both splits."""

    kind: Literal["air"]
    channel: str = "room"
    norm: Norm = "linf"
    eps: float | None = None
    unit: Unit = "amplitude"
    window: Pair | None = None
    band: Pair | None = None
    steps: int = Field(60, ge=1)
    draws: int = Field(4, ge=1)
    keep_steps: int = Field(1, ge=1)
    situations: int = Field(20, ge=1)
    plain_steps: int | None = Field(None, ge=1)
    inaudible: int = Field(0, ge=0)
    target: str | None = None
    checks: bool = True


class UniversalKind(Condition):
    """As `robust universal`: fitted on the train split, scored on the cell's data."""

    kind: Literal["universal"]
    norm: Norm = "linf"
    eps: float | dict[str, float] | None = None
    epochs: int = Field(20, ge=1)
    fit_limit: int = Field(1000, ge=1)


class ThresholdsKind(Condition):
    """As `robust thresholds`: the cell's victim against two others of the study."""

    kind: Literal["thresholds"]
    audio_victim: str
    video_victim: str
    norm: Norm = "linf"
    largest: dict[str, float]
    tolerance: float = Field(1.1, gt=1)
    steps: int = Field(20, ge=1)


class SurfaceKind(Condition):
    """The loss around clips, over the attack's direction and a random one."""

    kind: Literal["surface"]
    norm: Norm = "linf"
    eps: float | None = None
    points: Annotated[int, AfterValidator(odd)] = Field(21, ge=3)
    extent: float = Field(2.0, gt=0)
    clips: int = Field(16, ge=1)
    steps: int = Field(40, ge=1)


class LatentsKind(Condition):
    """Latents of clean and attacked clips in two dimensions."""

    kind: Literal["latents"]
    norm: Norm = "linf"
    eps: float | None = None
    method: Method = "pca"
    steps: int = Field(40, ge=1)


class LatencyKind(Condition):
    """Time in each layer."""

    kind: Literal["latency"]
    batch_size: int = Field(1, ge=1)
    repeats: int = Field(20, ge=1)


class GeometryKind(Condition):
    """As `robust geometry`; `settings` are those of `GeometrySettings`."""

    kind: Literal["geometry"]
    measures: list[str] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _settings_are_known(self) -> GeometryKind:
        try:
            self.chosen()
        except DataError as error:
            raise ValueError(str(error)) from error
        return self

    def chosen(self) -> GeometrySettings:
        """What is measured, and how."""
        return make_settings({"groups": groups_of(self.measures), **self.settings})


AnyCondition = (
    AttackKind
    | CurveKind
    | CleanKind
    | MissingKind
    | SwapKind
    | OccludeKind
    | NoiseKind
    | CorruptionKind
    | ChannelKind
    | AirKind
    | PurifyKind
    | CertificateKind
    | UniversalKind
    | ThresholdsKind
    | SurfaceKind
    | LatentsKind
    | LatencyKind
    | GeometryKind
)
WHERE = frozenset({"victims", "data", "resources"})
"""Keys that say where a condition holds and what it may use; no result depends on them."""
KINDS: dict[str, type[Condition]] = {
    model.model_fields["kind"].annotation.__args__[0]: model for model in AnyCondition.__args__
}

ONE = {
    "steps": 1,
    "restarts": 1,
    "epochs": 1,
    "fit_limit": 8,
    "repeats": 1,
    "points": 3,
    "clips": 4,
    "draws": 1,
    "situations": 1,
    "queries": 1,
    "sure": 1,
    "n0": 1,
    "n": 10,
}
"""What a smoke run makes of every count."""


def shortened(condition: Condition) -> Condition:
    """The same condition with every count at its least; a curve keeps its levels, which claims ask for."""
    sweep = isinstance(condition, CurveKind) and condition.against != "attack"  # it has levels, but no steps
    names = () if sweep else type(condition).model_fields
    short: dict[str, Any] = {name: value for name, value in ONE.items() if name in names}
    if "checks" in type(condition).model_fields:
        short["checks"] = False
    if isinstance(condition, AirKind) and condition.plain_steps is not None:
        short["plain_steps"] = 1
    if isinstance(condition, GeometryKind):
        short["settings"] = {**condition.settings, **LEAST}
    if getattr(condition, "inaudible", 0):
        short["inaudible"] = 1
    return condition.model_copy(update=short)
