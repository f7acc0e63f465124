"""A run of certificates as a curve and a table: what is certified at each radius, and what an attack leaves there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust.report.charts import Chart, scores_line
from robust.report.defended import attacked_at, mean_radius
from robust.report.formats import Shown, count, decibels, number, percent, shown, with_interval
from robust.report.reading import Run

BY_LABEL = {"pairs": "Of all pairs of clip and label", "present": "Of labels that are present"}


@dataclass(frozen=True)
class Row:
    """One radius: its SNR, what is certified, the least that may be true of new clips, what an attack leaves.

    `by_label` are the shares of `BY_LABEL` that are there, where a clip has many labels.
    """

    radius: str
    snr: str
    certified: Shown | None
    least: str
    attacked: Shown | None
    by_label: list[Shown]


@dataclass(frozen=True)
class CertificateView:
    """What the section shows: headings of the columns by label, rows, facts below, and the chart of several radii."""

    by_label: list[str]
    rows: list[Row]
    facts: list[tuple[str, str]]
    chart: Chart | None


def certificate_view(run: Run, key: str) -> CertificateView | None:
    """The section of a run of `robust certify`; None of another kind.

    Args:
        run: Finished.
        key: Name of its chart.
    """
    if run.kind != "certificate":
        return None
    told = run.summary
    parts = [name for name in BY_LABEL if (told.get("labels") or {}).get(name)]
    return CertificateView([BY_LABEL[name] for name in parts], _rows(told, parts), _facts(told), _chart(run, key))


def _rows(told: Mapping[str, Any], parts: list[str]) -> list[Row]:
    """All radii that were certified or attacked."""
    places = {radius: place for place, radius in enumerate(told["radii"])}
    attacked, noises = attacked_at(told), told.get("snr_db") or []
    beside = dict(zip((told.get("attacked") or {}).get("radii", ()), _attacked_snr(told), strict=False))
    rows = []
    for radius in sorted({*places, *attacked}):
        place = places.get(radius)
        noise = beside.get(radius) if place is None or place >= len(noises) else noises[place]
        least = told.get("high_probability") or []
        rows.append(
            Row(
                number(radius, 3),
                "" if noise is None else decibels(float(noise)),
                None if place is None else shown("robust", told["certified"][place]),
                "" if place is None or place >= len(least) else percent(least[place]),
                shown("changed", attacked[radius]) if radius in attacked else None,
                [] if place is None else [shown("robust", told["labels"][name][place]) for name in parts],
            )
        )
    return rows


def _attacked_snr(told: Mapping[str, Any]) -> list[Any]:
    return list((told.get("attacked") or {}).get("snr_db") or [])


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Ceiling", f"L2 {number(told['ceiling'], 3)}: no more can be shown with these votes")]
    facts += [("In the mean over clips", words) for words in mean_radius(told)]
    if told.get("radius_snr_db_median") is not None:
        level = decibels(float(told["radius_snr_db_median"]))
        facts.append(("As a signal-to-noise ratio", f"{level}, the median over certified clips"))
    for name, words in (("smoothed", "Right in noise"), ("abstained", "Answer withheld for want of votes")):
        if isinstance(told.get(name), Mapping):
            facts.append((words, with_interval(told[name])))
    if told.get("votes_per_clip") is not None:
        votes = f"{told['votes_per_clip']:,.0f} in the mean"
        if told.get("certified_in"):
            votes += f", cast in {', '.join(map(str, told['certified_in']))}"
        facts.append(("Votes for a clip", votes))
    if (told.get("decisions") or 1) > 1:
        facts.append(("Labels", f"{told['decisions']} decisions for each clip share the error probability"))
    attacked = told.get("attacked") or {}
    if attacked.get("steps"):
        noises = count(attacked.get("draws") or 1, "noise")
        facts.append(
            ("Attack", f"PGD on the smoothed model, {count(attacked['steps'], 'step')}, {noises} in each gradient")
        )
    return facts


def _chart(run: Run, key: str) -> Chart | None:
    told = run.summary
    attacked = attacked_at(told)
    if len(told["radii"]) < 2:
        return None
    clean = told.get("smoothed") or told["certified"][0]
    lines = [scores_line("certified", clean, told["radii"], told["certified"])]
    if attacked:
        lines.append(scores_line("under attack", clean, list(attacked), list(attacked.values())))
    return Chart(
        key=key,
        title=f"Certified accuracy of {run.victim}, noise of σ {number(told['sigma'])}",
        axis="L2 radius",
        unit="",
        log=False,
        harder="up",
        metric="accuracy",
        lines=lines,
        marks=[(float(told["ceiling"]), "ceiling of the votes")],
    )
