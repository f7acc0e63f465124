"""What claims and tables read from cells: one number for each clip and seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robust.atomic import Folder
from robust.errors import StoreError
from robust.evaluation.air_summary import halfway_by_clip, success_by_clip, success_over_rooms
from robust.evaluation.curve_summary import TIE
from robust.evaluation.paired import clean_view
from robust.evaluation.purification_summary import shares, worst_shares
from robust.evaluation.purifier_versions import UNPERTURBED
from robust.evaluation.radius_search import DECIBELS, level_at
from robust.evaluation.store import Store
from robust.study.claims import AIR, GEOMETRY, Term
from robust.study.store import CellRun, read_table

if TYPE_CHECKING:
    import pandas as pd


class Values:
    """The results of a study's cells, read when asked for.

    Attributes:
        seeds: How many there are; a victim may be taken under some of them alone.
    """

    def __init__(self, cells: Sequence[CellRun], seeds: Sequence[int]) -> None:
        self._cells = {(cell.victim, cell.condition, cell.data, cell.seed): cell for cell in cells}
        self._seeds = list(seeds)
        self._records: dict[Folder, pd.DataFrame] = {}

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self._seeds)

    def problem(self, term: Term, data: str) -> str:
        """Why a term has no value, or nothing."""
        for cell in (cell for one in term.each() for cell in self._own(one, data)):
            if cell.state != "done":
                return f"{cell.victim} under {cell.condition} on {data}, seed {cell.seed}: {cell.state}"
            if cell.kind == GEOMETRY and not len(self._geometry(cell, term.measure)):
                return f"{cell.victim} under {cell.condition} has no {term.measure} of single clips or classes"
        return ""

    def task(self, term: Term, data: str) -> str:
        """`multiclass` or `multilabel`."""
        return str(self._own(term.each()[0], data)[0].summary.get("task", "multiclass"))

    def by_clip(self, term: Term, data: str) -> NDArray[np.float64]:
        """(N, S) of a term: 1 where a clip counts as right, or its area or radius; clips in the order of the data.

        Of a group, (N, 1): means over its members, whose seeds may be as many as they like.
        """
        each = [
            np.stack([self._one(cell, one) for cell in self._own(one, data)], axis=1).astype(np.float64)
            for one in term.each()
        ]
        return each[0] if not term.members else np.mean([one.mean(axis=1, keepdims=True) for one in each], axis=0)

    def by_victim(self, term: Term, data: str) -> NDArray[np.float64]:
        """(V,) means of the members of a group over clips and seeds."""
        return np.array([self.by_clip(one, data).mean() for one in term.each()])

    def by_room(self, term: Term, data: str) -> NDArray[np.float64]:
        """(R, S) of a success over the air: by held-out situation, the same of all victims under one condition."""
        return np.stack([self._over_rooms(cell, term) for cell in self._own(term, data)], axis=1)

    def costs(self, term: Term, data: str) -> bool:
        """Whether the air costs the plain attack any success."""
        cells = [self._of(cell.folder) for cell in self._own(term, data)]
        far, near = (
            np.mean([success_by_clip(records, "plain", place).mean() for records in cells])
            for place in ("held_out_rooms", "no_channel")
        )
        return bool(near > far)

    def searched(self, term: Term, data: str) -> bool:
        """Whether each clip has a radius; with many labels a clip, it has none."""
        return all(self._searched(cell) for cell in self._own(term, data))

    def largest(self, term: Term, data: str) -> float:
        """The largest radius that was tried; of clips that stood it no more is known."""
        return min(self._last(cell) for cell in self._own(term, data))

    def level(self, term: Term, data: str, radius: float) -> float:
        """A radius as `by_clip` tells it in the unit of its axis."""
        unit = self._own(term, data)[0].summary["axis"]["unit"]
        return level_at(radius, 0.0, unit) if unit in DECIBELS else radius

    def views(self, term: Term, data: str) -> list[pd.DataFrame]:
        """Records of each seed as `compare` reads them."""
        return [self._view(cell, term) for cell in self._own(term, data)]

    def _own(self, term: Term, data: str) -> list[CellRun]:
        asked = [(term.victim, term.condition, data, seed) for seed in self._seeds]
        return [self._cells[key] for key in asked if key in self._cells]

    def _one(self, cell: CellRun, term: Term) -> NDArray[np.float64]:
        """(N,) of one cell."""
        if cell.kind == "purify":
            return self._behind(cell, term)
        if cell.kind == GEOMETRY:
            return self._geometry(cell, term.measure)
        if (cell.kind == "curve" and term.measure in ("auc", "radius")) or term.measure == "clean":
            records = self._of(self._first(cell))
            if term.measure == "clean":
                return np.asarray(records["clean_correct"], dtype=np.float64)
            return self._radius(cell, records) if term.measure == "radius" else self._area(cell)
        if term.measure == "halfway":
            return halfway_by_clip(self._of(cell.folder))
        if term.measure in AIR:
            return success_by_clip(self._of(cell.folder), term.measure, "held_out_rooms")
        return np.asarray(self._view(cell, term)["correct"], dtype=np.float64)

    def _geometry(self, cell: CellRun, measure: str) -> NDArray[np.float64]:
        """(N,) of clips, or (K,) of classes for what clips have none of; empty for what neither has."""
        clips = self._table(cell, "clips")
        if measure in clips:
            return np.asarray(clips[measure], dtype=np.float64)
        group, space, name = measure.split(".")
        classes = self._table(cell, "classes")
        own = classes[(classes["group"] == group) & (classes["space"] == space) & (classes["measure"] == name)]
        # Victims may have their classes in other orders.
        return np.asarray(own.sort_values("label")["value"], dtype=np.float64)

    def _table(self, cell: CellRun, name: str) -> pd.DataFrame:
        """A table of a geometry run."""
        place = cell.folder / name
        if place not in self._records:
            self._records[place] = read_table(cell, name)
        return self._records[place]

    def _behind(self, cell: CellRun, term: Term) -> NDArray[np.float64]:
        """(N,) the share of draws in which each clip stands behind a purifier, or whether it does without."""
        place = 0 if term.measure == "clean" else self._place(cell, term.level or 0.0)
        records = self._of(self._level(cell, place))
        if term.measure == "bare":
            return np.asarray(records["bare_stands"], dtype=np.float64)
        if term.measure == "transfer":
            return worst_shares(records, ["transfer"])
        return shares(records, "worst" if term.measure == "robust" else UNPERTURBED)

    def _over_rooms(self, cell: CellRun, term: Term) -> NDArray[np.float64]:
        records = self._of(cell.folder)
        if term.measure != "halfway":
            return success_over_rooms(records, term.measure, "held_out_rooms")
        near = float(success_by_clip(records, "plain", "no_channel").mean())
        return (near + success_over_rooms(records, "plain", "held_out_rooms")) / 2

    def _view(self, cell: CellRun, term: Term) -> pd.DataFrame:
        """Records in which `correct` and `logits` are those of the measure."""
        if term.measure == "clean":
            return clean_view(self._of(self._first(cell)))
        if cell.kind == "universal":
            return self._of(cell.folder / "universal")
        if cell.kind != "curve":
            records = self._of(cell.folder)
            if cell.kind == "attack" and self.task(term, cell.data) == "multiclass":
                return records.assign(correct=records["clean_correct"] & records["correct"])
            return records
        place = self._place(cell, term.level or 0.0)
        if not self._searched(cell):
            return self._of(self._level(cell, place))
        records = self._of(cell.folder)
        return records.assign(correct=records["scale"] > cell.manifest["grid"][place] * TIE)

    def _area(self, cell: CellRun) -> NDArray[np.float64]:
        """(N,) mean over the axis of whether each clip stands; its mean over clips is the curve's area."""
        radii = np.array(cell.summary["radii"], dtype=np.float64)
        if self._searched(cell):
            scale = self._of(cell.folder)["scale"].to_numpy()
            standing = np.stack([scale > share * TIE for share in cell.manifest["grid"]])
        else:
            standing = np.stack([self._of(self._level(cell, place))["correct"] for place in range(len(radii))])
        if len(radii) == 1:
            return np.asarray(standing[0], dtype=np.float64)
        places = np.log(radii) if cell.summary["axis"]["log"] else radii
        found: NDArray[np.float64] = np.trapezoid(standing.astype(np.float64), places, axis=0)
        return found / float(places[-1] - places[0])

    def _radius(self, cell: CellRun, records: pd.DataFrame) -> NDArray[np.float64]:
        """(N,) smallest radius found, as a multiple of what 0 dB is where the axis is in dB."""
        return np.asarray(records["scale"], dtype=np.float64) * self._last(cell)

    def _last(self, cell: CellRun) -> float:
        """The largest radius of a search, as `_radius` tells radii."""
        last, unit = float(cell.summary["radii"][-1]), cell.summary["axis"]["unit"]
        return float(10 ** (DECIBELS[unit] * last / 20)) if unit in DECIBELS else last

    def _place(self, cell: CellRun, level: float) -> int:
        """Which of a curve's levels is meant."""
        radii = np.array(cell.summary["radii"], dtype=np.float64)
        place = int(np.abs(radii - level).argmin())
        if abs(radii[place] - level) > 1e-6 * abs(level):
            raise StoreError(f"{level:g} is no level of {cell.folder}; it has {', '.join(f'{r:g}' for r in radii)}.")
        return place

    def _searched(self, cell: CellRun) -> bool:
        return "grid" in cell.manifest

    def _first(self, cell: CellRun) -> Folder:
        if cell.kind == "universal":
            return cell.folder / "universal"
        return cell.folder if cell.kind != "curve" or self._searched(cell) else self._level(cell, 0)

    def _level(self, cell: CellRun, place: int) -> Folder:
        return cell.folder / "levels" / f"{place:02d}"

    def _of(self, folder: Folder) -> pd.DataFrame:
        if folder not in self._records:
            self._records[folder] = Store.read(folder).records()
        return self._records[folder]
