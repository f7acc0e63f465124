"""One run as the page shows it: a section each, put together from what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from robust.errors import StoreError
from robust.evaluation.geometry_settings import GROUPS
from robust.evaluation.paired import Comparison, compare
from robust.report.air import AirView, air_view
from robust.report.budgets import Budget, budgets
from robust.report.certificates import CertificateView, certificate_view
from robust.report.charts import Chart
from robust.report.classes import ClassTable, Confusion, class_table, confusion, label_changes
from robust.report.command import cell_name, environment, repeat_command, settings, was_typed
from robust.report.corruptions import CorruptionView, corruption_view
from robust.report.formats import Shown, number, p_value, percent, points, shown
from robust.report.geometry import GeometryView, geometry_view
from robust.report.meanings import Check, counted, explained, gathered
from robust.report.music import MusicView, music_view
from robust.report.perceptual import PerceptualView, perceptual_view
from robust.report.purified_noise import PurifiedView, purified_view
from robust.report.purifiers import PurifierView, purifier_view
from robust.report.reading import Run
from robust.report.sheets import StickerView, sticker_view
from robust.report.tellers import TELLERS
from robust.report.words import condition_name, data_name, told_of

SCORES = ("clean", "robust", "changed", "random")
KNOWN = {
    *SCORES, "victim", "data", "run", "kind", "clips", "task", "threat", "checks", "audio", "video", "multilabel",
    "condition", "success", "audit", "difference", "against_random", "trace", "axis", "radii", "scores", "low", "high",
    "metric", "seed", "dominance", "by", "perceptual",
}  # fmt: skip
"""Entries of a summary that have their own place on the page; what else it says goes into a table."""
MEANS = ("mean_error", "degradation", "mce", "relative_mce")
OWN = {
    "air": {
        "channel", "steps", "plain_steps", "draws", "keep_steps", "situations", "plain", "eot", "controls", "recovered",
        "gain", "gradient_noise", "rooms",
    },
    "noise": {
        "weights", "cells", "corruptions", "categories", "silent_clips", "reference", "no_reference", "purified",
        *(f"{name}{end}" for name in MEANS for end in ("", "_low", "_high", "_corruptions")),
    },
    "music": {"wake", "score", "cells", "adversarial_over_plain", "loudness_lufs", "rooms", "fitted_on"},
    "stickers": {"source", "target", "config", "fitted_on", "stickers", "still", "jittered"},
    "purification": {
        "purifier", "steps", "draws", "cascade", "sure", "queries", "always", "bare_clean", "bare_robust", "adaptive",
        "missing", "label", "attacks", "skipped",
    },
    "purify": {
        "purifier", "steps", "draws", "cascade", "bare_clean", "adaptive", "missing", "label", "levels",
    },
    "certificate": {
        "denoiser", "sigma", "n0", "n", "alpha", "decisions", "ceiling", "radius", "smoothed", "abstained", "certified",
        "high_probability", "average_radius", "snr_db", "votes_per_clip", "attacked", "labels", "radius_snr_db_median",
        "certified_in", "recast_share",
    },
    "geometry": {*GROUPS, "left_out"},
}  # fmt: skip
"""Kind -> entries of its own that have their place likewise."""
BUDGETED = ("attack", "air", "universal", "purification")
TABLE_ROWS = 25


@dataclass(frozen=True)
class RunView:
    """Everything that the page shows of one run but its gallery."""

    anchor: str
    name: str
    kind: str
    victim: str
    data: str
    condition: str
    sentences: list[str]
    scores: list[Shown]
    checks: list[Check]
    counted: str
    failed: list[Check]
    warned: list[Check]
    violations: int
    budgets: list[Budget]
    classes: ClassTable | None
    confusion: Confusion | None
    label_changes: list[tuple[str, int, int, int, int]]
    air: AirView | None
    corruptions: CorruptionView | None
    music: MusicView | None
    stickers: StickerView | None
    purifier: PurifierView | None
    certificate: CertificateView | None
    purified: PurifiedView | None
    geometry: GeometryView | None
    perceptual: PerceptualView | None
    extra: list[tuple[str, str]]
    table: tuple[list[str], list[list[str]]] | None
    environment: list[tuple[str, str]]
    settings: list[tuple[str, list[tuple[str, str]]]]
    command: str
    typed: bool
    cell: str

    @property
    def charts(self) -> list[Chart]:
        """Those of its own sections."""
        views = (self.purifier, self.certificate)
        return [view.chart for view in views if view is not None and view.chart is not None]


@dataclass(frozen=True)
class Pair:
    """One run against the first, clip by clip."""

    first: str
    second: str
    scores: str
    difference: str
    interval: str
    p: str
    only_first: str
    only_second: str


def run_view(run: Run, anchor: str, most_rows: int) -> RunView:
    """The sections of a run.

    Args:
        run: Finished.
        anchor: Id of its section.
        most_rows: Rows of the table of classes at most.
    """
    told = run.summary
    checks = checks_of(run)
    return RunView(
        anchor=anchor,
        name=run.name,
        kind=run.kind,
        victim=run.victim,
        data=data_name(run),
        condition=condition_name(run),
        sentences=told_of(run),
        scores=scores(run),
        checks=checks,
        counted=counted(checks),
        failed=[check for check in checks if check.verdict == "fail"],
        warned=[check for check in checks if check.verdict == "warn"],
        violations=int((told.get("audit") or {}).get("violations", 0)),
        budgets=budgets(run.records, told.get("threat", {})) if run.kind in BUDGETED else [],
        classes=class_table(run, most_rows),
        confusion=confusion(run),
        label_changes=label_changes(run),
        air=air_view(run),
        corruptions=corruption_view(run),
        music=music_view(run),
        stickers=sticker_view(run),
        purifier=purifier_view(run, f"chart-{anchor}"),
        certificate=certificate_view(run, f"chart-{anchor}"),
        purified=purified_view(run),
        geometry=geometry_view(run),
        perceptual=perceptual_view(run),
        extra=_extra(told, KNOWN | OWN.get(run.kind, set())),
        table=_table(run),
        environment=environment(run),
        settings=settings(run.manifest),
        command=repeat_command(run),
        typed=was_typed(run),
        cell=cell_name(run),
    )


def checks_of(run: Run) -> list[Check]:
    """The checks of a run, explained; of several radii together."""
    found = run.summary.get("checks") or []
    if run.kind == "purify":
        found = gathered(found, [f"at {number(radius)}" for radius in run.summary["radii"]])
    return explained(found)


def scores(run: Run) -> list[Shown]:
    """The scores of a run: clean first, then what it is about."""
    if run.kind in TELLERS:
        return TELLERS[run.kind].scores(run)
    return [shown(name, run.summary[name]) for name in SCORES if isinstance(run.summary.get(name), Mapping)]


def against_first(runs: Sequence[Run]) -> list[Pair]:
    """Runs with one result a clip against the first of them, where they are of the same clips."""
    paired = [run for run in runs if run.kind in ("attack", "change") and run.records is not None]
    found = []
    for run in paired[1:]:
        first = paired[0]
        try:
            found.append(_pair(first, run, compare(first.records, run.records, first.task)))
        except (StoreError, ValueError):  # other clips or another task: nothing to say
            continue
    return found


def _pair(first: Run, second: Run, found: Comparison) -> Pair:
    counts = ["" if number_of is None else str(number_of) for number_of in (found.only_a, found.only_b)]
    return Pair(
        first.name,
        second.name,
        f"{percent(found.a)} and {percent(found.b)}",
        f"{points(found.difference)} points",
        f"{points(found.low)} to {points(found.high)}",
        f"{p_value(found.p)} ({found.test})",
        *counts,
    )


def _extra(told: Mapping[str, Any], known: Set[str]) -> list[tuple[str, str]]:
    """Numbers and words of a summary that have no other place, flattened."""
    return [(name.replace("_", " "), value) for name, value in _flat({k: v for k, v in told.items() if k not in known})]


def _flat(told: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in told.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name} ")
        elif isinstance(value, (bool, str, int)):
            rows.append((name, str(value)))
        elif isinstance(value, float):
            rows.append((name, number(value)))
    return rows


def _table(run: Run) -> tuple[list[str], list[list[str]]] | None:
    """The first rows of the table of a run that has no records, the longest of a latency first."""
    if run.kind == "geometry" or not (run.cell.folder / "table.parquet").is_file():
        return None
    frame = run.cell.table()
    if "milliseconds" in frame:
        frame = frame.sort_values("milliseconds", ascending=False, kind="stable")
    rows = [[_cell(value) for value in row] for row in frame.head(TABLE_ROWS).itertuples(index=False)]
    return [str(name).replace("_", " ") for name in frame.columns], rows


def _cell(value: Any) -> str:
    return number(float(value)) if isinstance(value, float) else str(value)
