"""`robust.geometry`: sharpness, density and convexity of a victim on a data set, each number with its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robust.api import make_manifest
from robust.atomic import Folder, clear, open_folder, write_atomically
from robust.errors import DataError, StoreError
from robust.evaluation.engine import AlignedData, checked_batch, fitting_batch
from robust.evaluation.geometry_input import input_measures
from robust.evaluation.geometry_latents import Latents, convexity_measures, density_measures, gather
from robust.evaluation.geometry_settings import WEIGHTS, GeometrySettings, Measure
from robust.evaluation.geometry_weights import curvature_measures, sharpness_measures
from robust.evaluation.landscape import label_name
from robust.evaluation.progress import track
from robust.types import Batch, Dataset
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("table", "classes", "clips")


@dataclass(frozen=True)
class Geometry:
    """What was measured.

    Attributes:
        table: One row for each measure: `group`, `space` (`weights`, a modality or `fused`), `measure`, `value`, `low`,
            `high`, `over`, `count`.
        classes: The same by class, of density and convexity, with `label`.
        clips: One row for each clip: `id`, `label`, and a column `group.space.measure` for what clips have alone.
        victim, data: Names.
        left_out: Group -> why it could not be measured.
    """

    table: pd.DataFrame
    classes: pd.DataFrame
    clips: pd.DataFrame
    victim: str
    data: str
    left_out: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """One JSON object: group -> (space ->) measure -> `value`, `low`, `high`, `over`, `count`."""
        told: dict[str, Any] = {}
        for row in self.table.to_dict("records"):
            place = told.setdefault(row["group"], {})
            if row["space"] != WEIGHTS:
                place = place.setdefault(row["space"], {})
            place[row["measure"]] = {name: _known(row[name]) for name in ("value", "low", "high", "over", "count")}
        return {
            "kind": "geometry",
            "victim": self.victim,
            "data": self.data,
            "clips": len(self.clips),
            **told,
            "left_out": dict(self.left_out),
        }

    def write(self, folder: Folder, manifest: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> None:
        """Writes manifest, tables and, last, the summary."""
        write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2, default=str).encode())
        for name in TABLES:
            write_atomically(folder / f"{name}.parquet", getattr(self, name).to_parquet())
        summary = {**self.summary(), **(more or {}), "run": str(folder)}
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())


def geometry(
    victim: Victim,
    data: Dataset,
    *,
    settings: GeometrySettings | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Geometry:
    """Measures the geometry of a victim on clips.

    Args:
        victim: Density and convexity need one that gives embeddings; without, they are left out and that is told.
        data: From `load_data`; sharpness is usually taken on training clips, convexity on test clips.
        settings: What is measured, and how; the usual when None.
        batch_size: Clips at once where it changes no result; batches of m-sharpness have `settings.sharpness_batch`.
        seed: From which all randomness is derived.
        out: Folder for manifest, tables and summary; none is written when None.
        facts: Further entries of the manifest.

    Raises:
        RobustError: For anything the caller can mend.
    """
    chosen = settings or GeometrySettings()
    aligned = AlignedData(data, victim.spec)
    size = fitting_batch(victim, aligned) if batch_size == "auto" else checked_batch(batch_size)
    folder = None if out is None else _fresh(open_folder(str(out)))
    taken = _Taken(list(_batches(aligned, size, victim)), victim, chosen, seed)
    tables = _Tables(taken)
    left_out: dict[str, str] = {}
    for group in chosen.groups:
        reason = _lacking(group, victim)
        if reason:
            left_out[group] = reason
            continue
        for measure in taken.measures(group):
            tables.note(group, measure)
    found = Geometry(*tables.frames(), victim.spec.name, data.name, left_out)
    if folder is not None:
        described = {"condition": "geometry", "settings": asdict(chosen)}
        found.write(folder, make_manifest(victim, data, described, seed, size, facts or {}))
    return found


@dataclass
class _Taken:
    """What every group of measures is taken of."""

    batches: list[Batch]
    victim: Victim
    settings: GeometrySettings
    seed: int

    def measures(self, group: str) -> Iterator[Measure]:
        """Those of one group."""
        if group in ("sharpness", "curvature"):
            measure = sharpness_measures if group == "sharpness" else curvature_measures
            yield from measure(self.victim, self._regrouped(), self.settings, self.seed)
        elif group == "input":
            yield from input_measures(self.victim, self.batches, self.settings, self.seed)
        elif group == "density":
            yield from density_measures(self.latents, len(self.victim.spec.labels), self.settings, self.seed)
        else:
            yield from convexity_measures(self.victim, self.latents, self.settings, self.seed)

    @cached_property
    def latents(self) -> Latents:
        """Of all clips."""
        return gather(self.victim, self.batches)

    def _regrouped(self) -> list[tuple[dict[str, Tensor], Tensor]]:
        """The clips in the batches of m-sharpness."""
        inputs = {
            name: torch.cat([batch.inputs[name] for batch in self.batches]) for name in self.victim.spec.modalities
        }
        labels, size = torch.cat([batch.labels for batch in self.batches]), self.settings.sharpness_batch
        return [
            ({name: value[first : first + size] for name, value in inputs.items()}, labels[first : first + size])
            for first in range(0, len(labels), size)
        ]


class _Tables:
    """Rows of the three tables, as measures come."""

    def __init__(self, taken: _Taken) -> None:
        self.labels = taken.victim.spec.labels
        self.rows: list[dict[str, Any]] = []
        self.by_class: list[dict[str, Any]] = []
        told = [label_name(label, taken.victim.spec) for batch in taken.batches for label in batch.labels.cpu()]
        self.clips: dict[str, Any] = {"id": [one for batch in taken.batches for one in batch.ids], "label": told}

    def note(self, group: str, measure: Measure) -> None:
        """One more measure."""
        place = {"group": group, "space": measure.space, "measure": measure.name}
        self.rows.append({**place, **asdict(measure.overall)})
        for label, estimate in zip(self.labels, measure.per_class, strict=bool(measure.per_class)):
            self.by_class.append({**place, "label": label, **asdict(estimate)})
        if measure.per_clip is not None:
            self.clips[f"{group}.{measure.space}.{measure.name}"] = measure.per_clip

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """As `Geometry` has them."""
        import pandas as pd

        place, numbers = ["group", "space", "measure"], ["value", "low", "high", "over", "count"]
        return (
            pd.DataFrame(self.rows, columns=[*place, *numbers]),
            pd.DataFrame(self.by_class, columns=[*place, "label", *numbers]),
            pd.DataFrame(self.clips),
        )


def _lacking(group: str, victim: Victim) -> str:
    """Why a victim has no such measures, or nothing."""
    if group not in ("density", "convexity") or type(victim).embed is not Victim.embed:
        return ""
    return f"{victim.spec.name} gives no embeddings; implement embed() and head()"


def _batches(aligned: AlignedData, size: int, victim: Victim) -> Iterator[Batch]:
    """All clips where the victim is, checked for their labels."""
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    groups = [range(first, min(first + size, len(aligned))) for first in range(0, len(aligned), size)]
    with closing(aligned.batches(groups)) as read:
        for _, (_, batch) in zip(track(groups, "Reading clips"), read, strict=True):
            if batch.labels.ndim == 1 and bool((batch.labels < 0).any()):
                raise DataError(
                    f"Some clips of {aligned.data.name} have labels that {victim.spec.name} does not know; geometry "
                    "needs labels that it does."
                )
            yield batch.to(device)


def _fresh(folder: Folder) -> Folder:
    """A folder for new results; none is overwritten."""
    if (folder / "summary.json").is_file():
        raise StoreError(f"{folder} holds results already; choose another --out.")
    clear(folder)
    return folder


def _known(value: Any) -> Any:
    """A number as JSON has it: null instead of NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["Geometry", "GeometrySettings", "geometry"]
