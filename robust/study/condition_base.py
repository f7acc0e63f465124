"""What all kinds of condition in a study share: their keys, and the values that several take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

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


def odd(given: int) -> int:
    """Raises `ValueError` for an even number."""
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
