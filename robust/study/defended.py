"""Kinds of condition about defenses: attacks behind a purifier, and certificates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from attacks.errors import ThreatModelError
from robust.study.condition_base import Condition, Names, Norm, Optimised, Unit, levels


def _on(data: str, given: str | dict[str, str] | None, what: str) -> str | None:
    """What is named for a data set, where it differs by it."""
    if given is None or isinstance(given, str):
        return given
    if data not in given:
        raise ThreatModelError(f"There is a {what} for {', '.join(given)}, but none for {data!r}.")
    return given[data]


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
        return self.model_copy(update={"purifier": _on(data, self.purifier, "purifier")})


class CertificateKind(Condition):
    """As `robust certify`; `denoiser` may differ by data set."""

    kind: Literal["certificate"]
    sigma: float = Field(0.25, gt=0)
    denoiser: str | dict[str, str] | None = None
    radii: Annotated[Annotated[list[float], Field(min_length=1)] | None, BeforeValidator(levels)] = None
    n0: int = Field(100, ge=1)
    n: int = Field(1000, ge=1)
    alpha: float = Field(0.001, gt=0, lt=1)
    attack: bool = True
    steps: int = Field(20, ge=1)
    draws: int = Field(8, ge=1)
    checks: bool = True

    def on(self, data: str) -> Condition:
        return self.model_copy(update={"denoiser": _on(data, self.denoiser, "denoiser")})
