"""The kinds of condition that a study file may name, each with its settings.

A kind says what is measured; `robust.study.kinds` holds what runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from attacks.errors import ThreatModelError
from attacks.losses import LOSSES
from robust.corruptions import CORRUPTIONS
from robust.errors import unknown
from robust.evaluation.conditions import SUCCESS
from robust.evaluation.curve_summary import level_range
from robust.evaluation.latents import METHODS
from robust.evaluation.occlusion import PATTERNS
from robust.evaluation.sweeps import SWEEPS

Norm = Literal["linf", "l2", "l1"]
Unit = Literal["amplitude", "dbfs", "lsb16", "snr_db", "pixel255"]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


def levels(given: Any) -> Any:
    """Levels of a curve: a list, or `first:last:count`: evenly in the logarithm upwards, in equal steps downwards."""
    if not isinstance(given, str):
        return given
    parts = given.split(":")
    try:
        first, last, count = float(parts[0]), float(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        raise ValueError("levels are a list, or first:last:count, e.g. 1e-4:1e-1:20") from None
    if len(parts) > 3 or count < 1:
        raise ValueError("levels are a list, or first:last:count with a count from 1, e.g. 1e-4:1e-1:20")
    return level_range(first, last, count)


def _of(what: str, known: Callable[[], Iterable[str]]) -> AfterValidator:
    """A name that must be among those known."""

    def check(given: str) -> str:
        if given not in (names := list(known())):
            raise ValueError(unknown(what, given, names))
        return given

    return AfterValidator(check)


def _odd(given: int) -> int:
    if given % 2 == 0:
        raise ValueError("an odd number, so that the clip itself is a point")
    return given


def _each_once(given: list[str]) -> list[str]:
    if len(set(given)) < len(given):
        raise ValueError("each name once")
    return given


Levels = Annotated[Annotated[list[float], Field(min_length=1)] | None, BeforeValidator(levels)]
Names = Annotated[list[str], Field(min_length=1), AfterValidator(_each_once)]
Loss = Annotated[str, _of("loss", lambda: LOSSES)]
Success = Annotated[str, _of("success", lambda: SUCCESS)]
Against = Annotated[str, _of("sweep", lambda: ("attack", *SWEEPS))]
PatternName = Annotated[str, _of("pattern", lambda: PATTERNS)]
CorruptionName = Annotated[str, _of("corruption", lambda: CORRUPTIONS)]
Method = Annotated[str, _of("method", lambda: METHODS)]


class Condition(BaseModel):
    """What all kinds share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    victims: Names | None = None
    data: Names | None = None
    resources: dict[str, float] | None = None
    modality: str | None = None

    def on(self, data: str) -> Condition:
        """What the condition is on a data set of the study.

        Raises:
            ThreatModelError: If it is nothing there.
        """
        return self


class Optimised(Condition):
    """Settings of PGD."""

    steps: int = Field(40, ge=1)
    restarts: int = Field(1, ge=1)
    loss: Loss | None = None
    schedule: Literal["auto", "apgd", "cosine", "constant"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"


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


class PurifyKind(Optimised):
    """As `robust attack --purify`, at every radius; `purifier` may differ by data set."""

    kind: Literal["purify"]
    purifier: str | dict[str, str]
    norm: Norm = "linf"
    eps: Annotated[Annotated[list[float], Field(min_length=1)], BeforeValidator(levels)]
    unit: Unit = "amplitude"
    attacks: Names | None = None
    steps: int = Field(70, ge=1)
    draws: int = Field(8, ge=1)
    queries: int = Field(300, ge=1)
    sure: int | None = Field(8, ge=1)
    cascade: bool = True
    target: str | None = None
    checks: bool = True

    def on(self, data: str) -> Condition:
        if isinstance(self.purifier, str):
            return self
        if data not in self.purifier:
            raise ThreatModelError(f"There is a purifier for {', '.join(self.purifier)}, but none for {data!r}.")
        return self.model_copy(update={"purifier": self.purifier[data]})


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
    points: Annotated[int, AfterValidator(_odd)] = Field(21, ge=3)
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
    | UniversalKind
    | ThresholdsKind
    | SurfaceKind
    | LatentsKind
    | LatencyKind
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
    if getattr(condition, "inaudible", 0):
        short["inaudible"] = 1
    return condition.model_copy(update=short)
