"""Certified radii in one call: `robust.certify(victim, data, sigma=0.25)`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from attacks.weights import weights_hash
from defenses.smoothing import checked_sigma
from defenses.votes import Voter
from robust.api import make_config, make_manifest
from robust.atomic import Folder, open_folder
from robust.channels import check_heard
from robust.evaluation.certificate_checks import certificate_checks
from robust.evaluation.certificate_summary import certificate_scores, certificate_summary, usual_radii
from robust.evaluation.certificates import Certified
from robust.evaluation.checks import Check
from robust.evaluation.engine import AlignedData, checked_batch, evaluate, fitting_batch
from robust.evaluation.store import Store
from robust.types import Dataset
from robust.victims.base import Victim
from robust.victims.denoised import Denoised, Denoiser

if TYPE_CHECKING:
    import pandas as pd

CLIPS_AT_ONCE = 16
"""Clips in one part of the records, attacked together."""
DEFAULT_STEPS = 20


@dataclass(frozen=True)
class CertifyRun:
    """What is proved of a smoothed victim on a data set.

    Attributes:
        radii: L2 radii.
        certified: Share of clips proved right at each, with its interval: `score`, `low`, `high`.
        attacked: The same under attack; None without one.
        summary: Everything that `robust certify --json` prints.
        records: One row per clip.
        checks: Verdicts of the automatic checks.
    """

    radii: list[float]
    certified: list[dict[str, Any]]
    attacked: list[dict[str, Any]] | None
    summary: dict[str, Any]
    records: pd.DataFrame
    checks: list[Check]


def certify(
    victim: Victim,
    data: Dataset,
    *,
    sigma: float = 0.25,
    denoiser: str | Path | Denoiser | None = None,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    radius: float | None = None,
    radii: Sequence[float] | None = None,
    attack: bool | PGD = True,
    draws: int = 8,
    precision: str = "auto",
    batch_size: int | str = "auto",
    seed: int = 0,
    out: str | Folder | None = None,
    resume: bool = False,
    checks: bool = True,
    facts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> CertifyRun:
    """Smooths a victim with Gaussian noise and certifies L2 radii, with an attack on the smoothed victim above them.

    The noise is on the whole waveform, padding too, and is not cut at [-1, 1].

    Args:
        victim: From `load_victim` or `Victim.wrap`; it should know noise of this level, or have a denoiser.
        data: From `load_data`.
        sigma: Standard deviation of the noise; full scale is 1.
        denoiser: What the victim hears noise through: None, `waveform` (the embedded diffusion model), the path of a
            checkpoint of `robust train --diffusion`, or a model.
        n0: Votes that choose the answer.
        n: Votes that test it.
        alpha: Probability with which a clip's certificate may be wrong; shared by its labels, where it has many.
        radius: Ask of this radius alone, clip by clip with as few votes as that takes, `n` at most.
        radii: At which accuracies are told and attacks made; from 0 to the most that `n` votes can show when None, and
            `radius` where one is given.
        attack: Attack the smoothed victim at these radii: 20 steps, or settings of PGD, or none.
        draws: Noises in each gradient of the attack.
        precision: `auto`, `fp32` or `bf16`; changes no vote.
        batch_size: Votes cast at once, and clips attacked at once at most; `auto` fits it to the clips' length. Changes
            no result.
        seed: From which all randomness is derived.
        out: Run folder; records are kept in memory alone when None.
        resume: Go on with the run in `out`.
        checks: Ask whether the numbers are believable.
        facts: More entries for the manifest.
        **settings: Settings of PGD by name, instead of `attack` (`steps=40`).

    Raises:
        RobustError: For anything the caller can mend; where `n` votes cannot certify `radius`, with the number that
            would do.
    """
    checked_sigma(sigma)
    aligned = AlignedData(data, victim.spec)
    base, told = _base(victim, denoiser, sigma)
    decisions = len(victim.spec.labels) if victim.spec.task == "multilabel" else 1
    levels = _levels(radii, radius, sigma, n, alpha / decisions)
    size = fitting_batch(victim, aligned) if batch_size == "auto" else checked_batch(batch_size)
    voter = Voter(lambda noisy: base({"audio": noisy}), sigma, victim.spec.task == "multilabel", size, precision)
    condition = Certified(base, voter, n0, n, alpha, radius, levels, _config(attack, settings), draws, told)
    check_heard("audio", aligned.batch([0]))
    aligned.read_all()
    manifest = make_manifest(victim, data, condition.describe(), seed, size, facts or {})
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(open_folder(out) if out is not None else Path(scratch) / "run", manifest, resume=resume)
        started = time.monotonic()
        evaluate(victim, aligned, condition, store, batch_size=min(size, CLIPS_AT_ONCE), seed=seed)
        seconds = time.monotonic() - started
        records, task = store.records(), victim.spec.task
        scores = certificate_scores(records, condition, task)
        found = certificate_checks(aligned, condition, records, scores, seed) if checks else []
        named = {
            "victim": victim.spec.name,
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint()},
            **told,
            "seconds": seconds,
            "run": str(store.folder) if out is not None else None,
        }
        summary = certificate_summary(records, scores, found, task, named)
        if out is not None:
            store.write_summary(summary)
    attacked = None if scores["attacked"] is None else scores["attacked"]["scores"]
    return CertifyRun(scores["radii"], scores["certified"], attacked, summary, records, found)


def _base(victim: Victim, denoiser: str | Path | Denoiser | None, sigma: float) -> tuple[Victim, dict[str, Any]]:
    """The base classifier, and what is told of its denoiser."""
    if denoiser is None:
        return victim, {"denoiser": None}
    name = str(denoiser) if isinstance(denoiser, str | Path) else getattr(denoiser, "domain", type(denoiser).__name__)
    if isinstance(denoiser, str | Path):
        from robust.diffusion_models import load_diffusion

        model: Any = load_diffusion(denoiser).to(_device(victim))
    else:
        model = denoiser
    base = Denoised(victim, model, sigma).eval()
    hashed = {"weights": weights_hash(model)} if isinstance(model, torch.nn.Module) else {}
    return base, {"denoiser": {**model.describe(), "name": name, **hashed}}


def _levels(
    radii: Sequence[float] | None, radius: float | None, sigma: float, n: int, alpha: float
) -> tuple[float, ...]:
    if radii is None:
        return tuple(usual_radii(sigma, n, alpha)) if radius is None else (float(radius),)
    if radius is not None and float(radius) not in [float(level) for level in radii]:
        raise ThreatModelError(
            f"With one radius ({radius:g}) to decide, attacks are made at it: add it to the radii, or leave those out."
        )
    return tuple(float(level) for level in radii)


def _config(attack: bool | PGD, settings: Mapping[str, Any]) -> PGD | None:
    if isinstance(attack, PGD):
        return attack
    config = make_config({"steps": DEFAULT_STEPS, "random_start": False, **settings})
    return config if attack else None


def _device(victim: Victim) -> torch.device:
    return next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))


__all__ = ["CertifyRun", "certify"]
