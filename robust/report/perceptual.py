"""What an attack is to an ear: the medians of perceptual figures, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust.report.formats import NOTHING, decibels, percent, signed
from robust.report.reading import Run

FIGURES = {
    "snr_db": ("Signal-to-noise ratio", "dB", "energy of the clip over that of the perturbation"),
    "segmental_snr_db": ("Segmental SNR", "dB", "the same, frame by frame: quiet passages count"),
    "perturbation_loudness_lu": ("Loudness of the perturbation", "LU", "against the clip; −20 is a quarter as loud"),
    "loudness_difference_lu": ("Change of the clip's loudness", "LU", "1 is just noticeable"),
    "log_spectral_distance_db": ("Log-spectral distance", "dB", "between the spectra before and after"),
    "masking_audible": ("Not masked by the clip", "%", "share of time and frequency in which it can be heard"),
    "masking_mean_db": ("Above the masking threshold", "dB", "on average; what is masked counts as 0"),
    "masking_p95_db": ("Above the threshold, 95th percentile", "dB", "where it sticks out most"),
    "pesq": ("PESQ", "", "1 bad to 4.5 as the original"),
    "stoi": ("STOI", "", "intelligibility of speech, 0 to 1"),
}
"""Figure -> its name, unit, and meaning (`robust.metrics.perceptual`)."""
VERSIONS = {"eot": "PGD with EOT", "plain": "Plain PGD"}


@dataclass(frozen=True)
class PerceptualView:
    """Columns (attacks; one without a name where there is one attack) and rows: name, meaning, a value for each."""

    attacks: list[str]
    rows: list[tuple[str, str, list[str]]]


def perceptual_view(run: Run) -> PerceptualView | None:
    """The table of an attack on sound; None where the run has no such figures."""
    told = run.summary.get("perceptual")
    if not isinstance(told, Mapping):
        return None
    sides = {name: told[name] for name in VERSIONS if isinstance(told.get(name), Mapping)} or {"": told}
    rows = []
    for name, (words, unit, meaning) in FIGURES.items():
        values = [side.get(name) for side in sides.values()]
        if any(value is not None for value in values):
            rows.append((words, meaning, [_value(value, unit) for value in values]))
    return PerceptualView([VERSIONS.get(name, "Median") for name in sides], rows) if rows else None


def _value(value: Any, unit: str) -> str:
    if value is None:
        return NOTHING
    if unit == "%":
        return percent(float(value))
    if unit == "LU":
        return f"{signed(float(value), 1)}\u00a0LU"
    return decibels(float(value)) if unit == "dB" else f"{float(value):.2f}"
