"""A purifier under attack at several radii: `robust.purified_curve(victim, data, purifier="waveform:3", eps=[...])`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust.api import make_manifest
from robust.atomic import Folder, open_folder
from robust.errors import DataError
from robust.evaluation.store import Store
from robust.evaluation.transfer_memory import TransferMemory
from robust.purified_attack import BATCH, PurifiedRun, attack_purified
from robust.types import Dataset
from robust.victims.base import Victim


@dataclass(frozen=True)
class PurifiedCurve:
    """Scores behind a purifier against the radius of the attack.

    Attributes:
        radii: In the unit asked for, ascending.
        runs: One at each radius.
        summary: As written beside the runs.
    """

    radii: list[float]
    runs: list[PurifiedRun]
    summary: dict[str, Any]


def purified_curve(
    victim: Victim,
    data: Dataset,
    *,
    purifier: str,
    eps: Sequence[float],
    norm: str = "linf",
    unit: str = "amplitude",
    modality: str = "audio",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    transfers: Mapping[float, TransferMemory] | None = None,
    **settings: Any,
) -> PurifiedCurve:
    """`robust.attack_purified` at every radius.

    Args:
        victim: The bare victim.
        data: From `load_data`.
        purifier: As `--purify` takes it.
        eps: Radii.
        norm: As of `attack_purified`.
        unit: Of the radii.
        modality: The waveform that is attacked and purified.
        seed: From which all randomness is derived.
        out: Folder of the summary; the runs go into `levels/00` and on. Nothing is kept when None.
        resume: Go on with what is in `out`.
        facts: More entries for the manifests.
        transfers: Radius -> what the transfer attack found before, and finds now.
        **settings: Further arguments of `attack_purified`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    radii = sorted(set(eps))
    if not radii or len(radii) < len(eps):
        raise DataError(f"A curve needs one radius or more, each once; given {list(eps)}.")
    folder, store = None if out is None else open_folder(out), None
    if folder is not None:
        told = {"condition": "purified-curve", "purifier": purifier, "norm": norm, "unit": unit, "levels": radii}
        manifest = make_manifest(victim, data, {**told, "modality": modality}, seed, BATCH, facts or {})
        store = Store.open(folder, manifest, resume=resume)
    runs = [
        attack_purified(
            victim,
            data,
            purifier=purifier,
            norm=norm,
            eps=radius,
            unit=unit,
            modality=modality,
            seed=seed,
            out=None if folder is None else folder / "levels" / f"{place:02d}",
            resume=resume,
            facts=facts,
            transfers=None if transfers is None else transfers[radius],
            **settings,
        )
        for place, radius in enumerate(radii)
    ]
    summary = _summary(radii, runs, {"norm": norm, "unit": unit, "modality": modality})
    if store is not None:
        summary["run"] = str(folder)
        store.write_summary(summary)
    return PurifiedCurve(radii, runs, summary)


def _summary(radii: list[float], runs: list[PurifiedRun], axis: dict[str, str]) -> dict[str, Any]:
    """What all radii share, and one entry for each."""
    told = [run.summary for run in runs]
    shared = ("victim", "data", "task", "clips", "purifier", "clean", "bare_clean", "steps", "draws", "cascade")
    missing = list(dict.fromkeys(part for one in told for part in one["missing"]))
    return {
        "kind": "purify",
        **{name: told[0][name] for name in shared},
        "axis": axis,
        "radii": radii,
        "adaptive": not missing,
        "missing": missing,
        "label": "; ".join(sorted({one["label"] for one in told})),
        "levels": [
            {name: one[name] for name in ("robust", "bare_robust", "always", "attacks", "label", "audit", "threat")}
            for one in told
        ],
        "checks": [check for one in told for check in one["checks"]],
        "seconds": sum(one["seconds"] for one in told),
    }


__all__ = ["PurifiedCurve", "purified_curve"]
