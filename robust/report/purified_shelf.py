"""Clips of a run against a purifier: clean, adversarial, and what the purifier makes of the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robust.evaluation.listening import clip_stem
from robust.evaluation.purification_summary import shares
from robust.evaluation.purifier_versions import SCORING, UNPERTURBED
from robust.report.answers import answer
from robust.report.budgets import clip_budgets
from robust.report.clips import Clip, Gallery, Group
from robust.report.reading import Run
from robust.report.shelves import lacking_sounds, players
from robust.report.sound import LSB_16, read_sound

if TYPE_CHECKING:
    import pandas as pd

    from robust.atomic import Folder

KINDS = {"clean": "Clean", "adversarial": "Adversarial", "purified-adversarial": "Adversarial, purified"}


class PurifiedShelf:
    """A few attacked clips, those that stand least often first."""

    def __init__(self, run: Run) -> None:
        self.run, self.gallery = run, Gallery()
        self.rows = self._rows()
        if self.rows:
            self.gallery.tiny = any(self._tiny(stem) for stem, _ in self.rows)
            self.gallery.words = [
                "Each clip as it is, as the attack that does worst to it made it, and what the purifier makes of that. "
                "The spectrograms of a row share their colours; true levels, 0 dB being a full-scale sine."
            ]
        self.gallery.missing = lacking_sounds(run)

    @property
    def count(self) -> int:
        """How many clips there are recordings of."""
        return len(self.rows)

    def _rows(self) -> list[tuple[str, pd.Series]]:
        """Of each clip kept: how its files begin, and its record; in the order in which they were written."""
        records = self.run.records
        if records is None or "worst" not in records or not (self.run.cell.folder / "audio").is_dir():
            return []
        attacked = records[records["attacked"] & (records["worst"] != UNPERTURBED)]
        ordered = attacked.assign(share=shares(attacked, "worst")).sort_values("share", kind="stable")
        stems = [(clip_stem(place, str(row["id"])), row) for place, (_, row) in enumerate(ordered.iterrows())]
        return [(stem, row) for stem, row in stems if any(self._path(stem, kind).is_file() for kind in KINDS)]

    def _path(self, stem: str, kind: str) -> Folder:
        return self.run.cell.folder / "audio" / f"{stem}-{kind}.wav"

    def _tiny(self, stem: str) -> bool:
        """Whether the perturbation is below one step of 16-bit sound."""
        sounds = [read_sound(self._path(stem, kind)) for kind in ("clean", "adversarial")]
        if sounds[0] is None or sounds[1] is None or sounds[0][0].shape != sounds[1][0].shape:
            return False
        return 0 < float(np.abs(sounds[0][0] - sounds[1][0]).max()) < LSB_16

    def clip(self, place: int) -> Clip:
        """The clip at `place`."""
        stem, row = self.rows[place]
        sounds = {kind: read_sound(self._path(stem, kind)) for kind in KINDS}
        facts = [("True", str(row.get("label_name", "")) or "no label")]
        if self.run.labels:
            facts += [
                ("Said before", f"{self._answer(row, 'clean_')} (no purifier)"),
                ("Said after", f"{self._answer(row, '')} (no purifier)"),
            ]
        facts += [("Worst attack", str(row["worst"])), ("Stands behind it", self._standing(row))]
        return Clip(
            id=str(row["id"]),
            facts=facts,
            outcome=self._outcome(row),
            broken=bool(row["success"]),
            budgets=clip_budgets(row.to_dict(), self.run.summary["threat"]),
            groups=[Group("", found)] if (found := players(sounds, KINDS, self.gallery.bits)) else [],
        )

    def _answer(self, row: pd.Series, side: str) -> str:
        return answer(row, side, self.run.labels, self.run.task)

    def _outcome(self, row: pd.Series) -> str:
        """Whether the attacker has what he wants, and how often."""
        found = np.atleast_1d(row[f"worst_{SCORING}"])
        won = "broken" if self.run.manifest.get("target") is None else "target reached"
        if len(found) == 1:
            return "stands" if found[0] else won
        many = "no" if found.all() else "every" if not found.any() else "some"
        return f"{won} in {many} draw{'s' if many == 'some' else ''}"

    @staticmethod
    def _standing(row: pd.Series) -> str:
        """In how many scoring draws, attacked and not."""
        counts = [np.atleast_1d(row[f"{version}_{SCORING}"]) for version in ("worst", UNPERTURBED)]
        attacked, clean = (f"{int(found.sum())} of {len(found)}" for found in counts)
        return f"in {attacked} draws; unattacked in {clean}"
