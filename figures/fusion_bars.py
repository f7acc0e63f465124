"""Which fusion stands which attack: bars for each victim, grouped by the modality attacked.

    python figures/fusion_bars.py STORE --at audio=0.0003,video=0.005

Reads cells of kind `curve` at one level of theirs, the middle one unless told; where there are none, cells of kind
`attack`. Several norms, data sets or seeds: a figure for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.errors import StoreError
from robust.plots import script
from robust.plots.bars import Bar, draw_bars
from robust.plots.script import OUT, Dpi, Out, StoreFolder
from robust.plots.style import NORMS, metric_word, modality_word, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust.study.store import CellRun, StudyStore

NAME = "fusion_bars"
ORDER = ("audio", "logmel", "video", "video_features", "both", "joint")
NEAR = 1.02
"""A level is the one asked for if it is no further than this factor, or as many decibels."""
DECIBELS = ("dbfs", "snr_db")
UNITS = {
    "amplitude": "full scale = 1",
    "dbfs": "dBFS",
    "snr_db": "dB of SNR",
    "lsb16": "steps of 16 bit",
    "pixel255": "steps of 8 bit",
}


@dataclass(frozen=True)
class Attacked:
    """A score under attack, whichever kind of run it comes from; `group` is for `robust.plots.script.grouped`."""

    cell: CellRun
    norm: str
    modality: str
    radius: float
    unit: str
    score: Mapping[str, Any]
    clean: Mapping[str, Any]

    @property
    def data(self) -> str:
        return self.cell.data

    @property
    def seed(self) -> int:
        return self.cell.seed


def main(
    store: StoreFolder,
    out: Out = OUT,
    at: Annotated[
        str | None,
        typer.Option(
            help="Level in the runs' own unit, or audio=0.001,video=0.01; the middle of each curve if absent."
        ),
    ] = None,
    dpi: Dpi = 300,
) -> None:
    """Fusion x attacked modality."""
    study, levels = script.read_study(store), _levels(at)
    found = _from_curves(study, levels) or _from_attacks(study, levels)
    if not found:
        told = "" if at is None else f" at the level {at}"
        raise StoreError(
            f"{store} holds no finished attack in {', '.join(NORMS)}{told}, neither of kind 'curve' nor 'attack'; make "
            "them by `robust curve` or `robust attack`, or give another --at."
        )
    groups = script.grouped(found, NAME, ("norm", "data", "seed"))
    script.save_all({name: _figure(own) for name, own in groups.items()}, out, dpi)


def _levels(at: str | None) -> dict[str, float] | None:
    """Modality -> level; the level of every modality not named stands under an empty name."""
    if at is None:
        return None
    pairs = [pair.rpartition("=") for pair in (at.split(",") if "=" in at else [at])]
    try:
        return {name: float(level) for name, _, level in pairs}
    except ValueError:
        raise typer.BadParameter(f"--at takes a level, or audio=0.001,video=0.01; given {at!r}") from None


def _from_curves(study: StudyStore, levels: Mapping[str, float] | None) -> list[Attacked]:
    found = []
    for cell in study.cells(kind="curve"):
        if cell.state != "done":
            continue
        with script.whole(cell):
            told, axis = cell.summary, cell.summary["axis"]
            if axis["name"] not in NORMS:
                continue
            wanted = _wanted(levels, axis["modality"])
            radii, unit = told["radii"], str(axis["unit"])
            place = len(radii) // 2 if wanted is None else _nearest(radii, wanted, unit)
            if place is None:
                continue
            score = {name: told[key][place] for name, key in (("score", "scores"), ("low", "low"), ("high", "high"))}
            score["metric"] = told["metric"]
            found.append(Attacked(cell, axis["name"], axis["modality"], radii[place], unit, score, told["clean"]))
    return found


def _from_attacks(study: StudyStore, levels: Mapping[str, float] | None) -> list[Attacked]:
    """Attacks that may change everything: those confined to a region, or cut down to it, are left out."""
    found = []
    for cell in study.cells(kind="attack"):
        if cell.state != "done":
            continue
        with script.whole(cell):
            threat, manifest = cell.summary["threat"], cell.manifest
            if "cut" in manifest or any("support" in ball for ball in manifest["threat"].values()):
                continue
            modality = "both" if len(threat) > 1 else next(iter(threat))
            first, told = next(iter(threat.values())), cell.summary
            each = isinstance(first["radius"], list)  # one for each clip: told by the median amplitude
            radius, unit = (first["radius_amplitude"], "amplitude") if each else (first["radius"], str(first["unit"]))
            wanted = _wanted(levels, modality)
            if wanted is None or _nearest([radius], wanted, unit) is not None:
                _one_unit({str(ball["unit"]) for ball in threat.values()})
                found.append(Attacked(cell, first["norm"], modality, radius, unit, told["robust"], told["clean"]))
    return found


def _one_unit(units: set[str]) -> str:
    """The unit of radii that share an axis."""
    if len(units) > 1:
        raise StoreError(
            f"Radii in {', '.join(sorted(units))} cannot stand in one figure; compute the runs in one unit, or name "
            "with --at the modalities of one unit alone, e.g. --at audio=-40."
        )
    return next(iter(units))


def _wanted(levels: Mapping[str, float] | None, modality: str) -> float | None:
    """The level asked for; with none for this modality none is near."""
    return None if levels is None else levels.get(modality, levels.get("", math.nan))


def _nearest(radii: Sequence[float], wanted: float, unit: str) -> int | None:
    """The place of the level asked for, if there is one."""
    if unit in DECIBELS:
        near = [place for place, radius in enumerate(radii) if abs(radius - wanted) <= 20 * math.log10(NEAR)]
    else:
        near = [place for place, radius in enumerate(radii) if wanted > 0 and 1 / NEAR <= radius / wanted <= NEAR]
    return min(near, key=lambda place: abs(radii[place] - wanted)) if near else None


def _figure(found: Sequence[Attacked]) -> Figure:
    places = {name: place for place, name in enumerate(ORDER)}
    ordered = sorted(found, key=lambda one: (places.get(one.modality, len(places)), one.modality, one.radius))
    victims = list(dict.fromkeys(one.cell.victim for one in found))
    bars = [
        Bar(
            group=f"{modality_word(one.modality)}\n{number(one.radius)}",
            series=one.cell.victim,
            score=one.score["score"],
            low=one.score.get("low"),
            high=one.score.get("high"),
            clean=one.clean["score"],
        )
        for one in sorted(ordered, key=lambda one: victims.index(one.cell.victim))
    ]
    groups = list(dict.fromkeys(f"{modality_word(one.modality)}\n{number(one.radius)}" for one in ordered))
    metric, unit = str(found[0].score["metric"]), _one_unit({one.unit for one in found})
    return draw_bars(
        bars,
        groups=groups,
        ylabel=f"robust {metric_word(metric)} (%)",
        xlabel=f"attacked input and {NORMS.get(found[0].norm, found[0].norm)} radius ({UNITS.get(unit, unit)})",
        metric=metric,
    )


if __name__ == "__main__":
    script.run(main)
