"""Point-wise modality thresholds: is a fused victim weaker than its part?

Theorem 1 of "On Adversarial Robustness of Large-scale Audio Visual Learning" (ICASSP 2022; methods.md 2.1): where the
modalities disagree, a perturbation of one of them that its own classifier withstands can flip the fused one. Here every
clip is asked: the smallest radius that breaks the audio-only victim (eps_A), and the smallest perturbation of the audio
alone that breaks the fused victim (eps_A_to_AV); likewise for video.

A radius found is an upper bound of the true one, within the factor `tolerance` as far as the attack is perfect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, frozen
from attacks.losses import Goal
from attacks.minimal import minimal_scale
from attacks.pgd import PGD
from attacks.threat import ORDERS, Ball, Norm
from robust.errors import DataError
from robust.evaluation.engine import UNLABELLED, AlignedData
from robust.evaluation.progress import track
from robust.evaluation.threshold_summary import threshold_summary
from robust.seeds import generators_for
from robust.types import Batch, Dataset, VictimSpec
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

COARSE = (1 / 16, 1 / 4, 1.0)
"""Shares of the largest radius tried first: clips that stand at all of them are not searched any further."""


@dataclass(frozen=True)
class Thresholds:
    """What `thresholds` found.

    Attributes:
        frame: One row per clip: `index`, `id`, `label_name`; `prediction_A`, `prediction_V`, `prediction_AV` and
            `right_A`, `right_V`, `right_AV` before any attack; `agree`, whether the two parts predict the same;
            `eps_A`, `eps_V`, `eps_A_to_AV`, `eps_V_to_AV` in input units, 0 where wrong at first, infinite where
            nothing within the largest radius breaks the clip (right-censored); `backwards`, gradients spent.
        modalities: Names of the modalities that A and V stand for.
        largest: Modality -> largest radius tried.
        norm: Of the radii.
        tolerance: Factor within which radii were searched; nearer ones are ties.
        victims: Names of the fused victim and its parts.
    """

    frame: pd.DataFrame
    modalities: tuple[str, str]
    largest: Mapping[str, float]
    norm: str
    tolerance: float
    victims: Mapping[str, str]

    def summary(self) -> dict[str, Any]:
        """Shares, medians and tests as JSON; see `robust.evaluation.threshold_summary`."""
        limits = {sense: self.largest[name] for sense, name in zip("AV", self.modalities, strict=True)}
        found = threshold_summary(self.frame, limits, self.tolerance)
        return {
            "victims": dict(self.victims),
            "norm": self.norm,
            "tolerance": self.tolerance,
            "largest": dict(self.largest),
            "clips": len(self.frame),
            "backwards_per_clip": float(self.frame["backwards"].mean()),
            **{name: found[sense] for sense, name in zip("AV", self.modalities, strict=True)},
        }


@dataclass(frozen=True)
class _Search:
    """How smallest radii are sought."""

    norm: Norm
    largest: Mapping[str, float]
    config: PGD
    tolerance: float
    seed: int
    known: Mapping[str, Mapping[str, float]]


def thresholds(
    fused: Victim,
    audio: Victim,
    video: Victim,
    data: Dataset | AlignedData,
    *,
    largest: Mapping[str, float],
    norm: str = "linf",
    config: PGD | None = None,
    tolerance: float = 1.05,
    batch_size: int = 32,
    seed: int = 0,
    parts: Thresholds | None = None,
) -> Thresholds:
    """Finds the four thresholds of every clip by bisection, in batches.

    Args:
        fused: Victim of both modalities.
        audio: Victim of the first alone: any one modality of the fused victim's (`audio`, `logmel`...).
        video: Victim of the second alone.
        data: Labelled clips.
        largest: Modality -> largest radius tried, in input units.
        norm: `linf`, `l2` or `l1`.
        config: Settings of each run of PGD.
        tolerance: Stop when success and failure are this factor apart.
        batch_size: Clips at once; changes no result.
        seed: From which, with the clip's id, all randomness is derived.
        parts: An earlier result with the same parts, clips and settings: its eps_A and eps_V are taken over, which
            halves the work where several fused victims are compared.

    Raises:
        ThreatModelError: If the victims do not fit together, a radius is missing, not positive or too large, or the
            earlier result is of other parts, clips or settings.
        DataError: If a clip has no label, or there are none.
    """
    source = data.data if isinstance(data, AlignedData) else data
    _check_victims(fused, audio, video)
    names = (audio.spec.modalities[0], video.spec.modalities[0])
    if not tolerance > 1:
        raise ThreatModelError(f"The tolerance is a factor above 1; given {tolerance}.")
    victims = {"fused": fused.spec.name, names[0]: audio.spec.name, names[1]: video.spec.name}
    radii = _checked_radii(largest, names)
    known = {} if parts is None else _known(parts, victims, radii, norm, tolerance)
    search = _Search(_checked_norm(norm), radii, config or PGD(), tolerance, seed, known)
    aligned = AlignedData(source, fused.spec)
    if len(aligned) == 0:
        raise DataError(f"The data set {source.name!r} is empty.")
    for name in names:
        _ball(fused.spec, name, search).around(aligned.batch([0]).inputs[name])
    device = next((parameter.device for parameter in fused.parameters()), torch.device("cpu"))
    rows: dict[str, list[Any]] = {}
    every = range(len(aligned))
    chunks = [every[first : first + batch_size] for first in every[::batch_size]]
    with closing(aligned.batches(chunks)) as batches:
        for _ in track(chunks, f"{norm} thresholds on {source.name}", by=len):
            indices, batch = next(batches)
            for column, values in _rows(fused, audio, video, batch.to(device), indices, search).items():
                rows.setdefault(column, []).extend(values)
    import pandas as pd

    return Thresholds(pd.DataFrame(rows), names, dict(search.largest), norm, tolerance, victims)


def _rows(
    fused: Victim, audio: Victim, video: Victim, batch: Batch, indices: Sequence[int], search: _Search
) -> dict[str, Sequence[Any]]:
    """The rows of one batch."""
    if batch.labels.ndim == 1 and bool((batch.labels == UNLABELLED).any()):
        missing = batch.ids[int((batch.labels == UNLABELLED).nonzero()[0, 0])]
        raise DataError(f"A threshold needs to know what is right, but {missing!r} has no label.")
    columns: dict[str, Sequence[Any]] = {"index": list(indices), "id": list(batch.ids)}
    columns["label_name"] = _answers(batch.labels, fused.spec)
    answers, spent = {}, torch.zeros(len(batch), dtype=torch.int64)
    for sense, victim in (("A", audio), ("V", video), ("AV", fused)):
        own = _for_part(batch, fused.spec, victim.spec)
        oracle = Oracle(victim, len(batch), batch.labels.device)
        with frozen(victim):
            logits = oracle.logits(own.inputs, torch.arange(len(batch), device=batch.labels.device))
        answers[sense] = _answers(logits, victim.spec)
        columns[f"prediction_{sense}"] = answers[sense]
        columns[f"right_{sense}"] = (~Goal(own.labels).broken(logits)).tolist()
    columns["agree"] = [one == other for one, other in zip(answers["A"], answers["V"], strict=True)]
    for sense, part in (("A", audio), ("V", video)):
        name = part.spec.modalities[0]
        for column, victim in ((f"eps_{sense}", part), (f"eps_{sense}_to_AV", fused)):
            if column in search.known:
                columns[column] = _taken_over(search.known[column], batch.ids)
                continue
            own = _for_part(batch, fused.spec, victim.spec)
            radius, backwards = _smallest(victim, own, name, search)
            columns[column] = radius.cpu().tolist()
            spent += backwards.cpu()
    columns["backwards"] = spent.tolist()
    return columns


def _known(
    parts: Thresholds, victims: Mapping[str, str], largest: Mapping[str, float], norm: str, tolerance: float
) -> dict[str, dict[str, float]]:
    """Column -> clip id -> radius of an earlier result, if it answers the same question about the parts."""
    asked = {**victims, "fused": None}, dict(largest), norm, tolerance
    answered = {**parts.victims, "fused": None}, dict(parts.largest), parts.norm, parts.tolerance
    if asked != answered:
        raise ThreatModelError(
            "The thresholds of the parts are taken over only from the same parts, largest radii, norm and tolerance: "
            f"{answered} there, {asked} here."
        )
    return {name: dict(zip(parts.frame["id"], parts.frame[name], strict=True)) for name in ("eps_A", "eps_V")}


def _taken_over(known: Mapping[str, float], ids: Sequence[str]) -> list[float]:
    lacking = [clip for clip in ids if clip not in known]
    if lacking:
        raise ThreatModelError(f"The earlier result lacks {len(lacking)} of these clips, e.g. {lacking[0]!r}.")
    return [known[clip] for clip in ids]


def _smallest(victim: Victim, batch: Batch, modality: str, search: _Search) -> tuple[Tensor, Tensor]:
    """(B,) smallest breaking radius within the largest, else infinite; and the gradients spent on each clip."""
    ball = _ball(victim.spec, modality, search)
    every = torch.arange(len(batch), device=batch.labels.device)
    coarse, spent = _found(victim, batch, every, modality, ball, search, coarse=True)
    # Clips that stand at all coarse radii are settled, and so are those that were wrong from the start.
    rows = (coarse.isfinite() & (coarse > 0)).nonzero()[:, 0]
    if len(rows):
        fine, more = _found(victim, batch, rows, modality, ball, search, coarse=False)
        coarse[rows] = torch.minimum(coarse[rows], fine)
        spent[rows] += more
    radius = coarse * search.largest[modality]
    return radius, spent


def _found(
    victim: Victim, batch: Batch, rows: Tensor, modality: str, ball: Ball, search: _Search, *, coarse: bool
) -> tuple[Tensor, Tensor]:
    """Scale and gradients of `rows`: on the coarse grid, or to the tolerance."""
    chosen = [batch.ids[row] for row in rows.tolist()]
    word = f"threshold-{modality}-{'coarse' if coarse else 'fine'}"
    result = minimal_scale(
        victim,
        {name: value[rows] for name, value in batch.inputs.items()},
        Goal(batch.labels).select(rows),
        {modality: ball},
        config=search.config,
        grid=torch.tensor(COARSE, dtype=torch.float64) if coarse else None,
        tolerance=search.tolerance,
        valid={name: mask[rows] for name, mask in batch.valid.items()},
        generators=generators_for(search.seed, chosen, word),
    )
    return result.scale.clone(), result.backwards.clone()


def _for_part(batch: Batch, whole: VictimSpec, part: VictimSpec) -> Batch:
    """The batch as another victim takes it: its modalities, labels in its order."""
    labels = batch.labels
    if whole.labels != part.labels:
        if labels.ndim == 2:
            labels = labels[:, [whole.labels.index(name) for name in part.labels]]
        else:
            labels = torch.tensor([part.labels.index(name) for name in whole.labels]).to(labels)[labels]
    inputs = {name: batch.inputs[name] for name in part.modalities}
    return Batch(batch.ids, inputs, labels, {name: batch.valid[name] for name in part.modalities})


def _answers(values: Tensor, spec: VictimSpec) -> list[str]:
    """Names of the labels given or predicted: indices, logits of one label a clip, or all labels above 0."""
    if values.ndim == 1:
        return [spec.labels[index] for index in values.tolist()]
    if spec.task == "multiclass":
        return [spec.labels[index] for index in values.argmax(dim=1).tolist()]
    return [
        ", ".join(sorted(name for name, value in zip(spec.labels, row, strict=True) if value > 0))
        for row in values.tolist()
    ]


def _ball(spec: VictimSpec, modality: str, search: _Search) -> Ball:
    low, high = spec.bounds[modality]
    return Ball(search.norm, search.largest[modality], "amplitude", low, high)


def _checked_norm(norm: str) -> Norm:
    if norm not in ORDERS:
        raise ThreatModelError(unknown("norm", norm, ORDERS))
    return cast(Norm, norm)


def _checked_radii(largest: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    for name in largest:
        if name not in names:
            raise ThreatModelError(unknown("modality", name, names))
    for name in names:
        if not largest.get(name, 0) > 0:
            raise ThreatModelError(f"Give the largest radius to try on {name!r}: a number above 0, in input units.")
    return {name: float(largest[name]) for name in names}


def _check_victims(fused: Victim, audio: Victim, video: Victim) -> None:
    """Raises `ThreatModelError` unless the parts are victims of one modality each of what the fused victim takes."""
    whole = fused.spec
    for part in (audio.spec, video.spec):
        if len(part.modalities) != 1 or part.modalities[0] not in whole.modalities:
            raise ThreatModelError(
                f"Each part takes one modality of {whole.name!r} ({', '.join(whole.modalities)}); {part.name!r} takes "
                f"{', '.join(part.modalities)}."
            )
        name = part.modalities[0]
        if part.task != whole.task or set(part.labels) != set(whole.labels):
            raise ThreatModelError(f"{part.name!r} and {whole.name!r} must know the same classes and do the same task.")
        theirs = replace(part, name="", labels=(), modalities=(), shapes={}, bounds={})
        ours = replace(whole, name="", labels=(), modalities=(), shapes={}, bounds={})
        if theirs != ours or part.shape(name) != whole.shape(name) or part.bounds.get(name) != whole.bounds.get(name):
            raise ThreatModelError(
                f"Radii are comparable only on the same input: {part.name!r} and {whole.name!r} take {name!r} at "
                "another sample rate, length, shape or range."
            )
    if audio.spec.modalities == video.spec.modalities:
        raise ThreatModelError(f"Both parts take {audio.spec.modalities[0]!r}; give one victim for each modality.")
