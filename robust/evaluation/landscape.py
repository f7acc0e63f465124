"""Loss surfaces: what a victim says on a plane through a clip and its adversarial example (methods.md 9.2, S11).

A smooth slope towards the adversarial example is what an attack by gradients can climb; where the surface is rugged,
gradients may mislead and a high robust score is not to be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, frozen
from attacks.losses import Goal, find_loss, margin
from attacks.pgd import PGD
from attacks.projections import lengths
from attacks.threat import ORDERS, Ball
from robust.errors import DataError
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, aligned_to, checked_batch, fitting_batch
from robust.evaluation.progress import track
from robust.seeds import generators_for
from robust.threats import posed, threat_model
from robust.types import Batch, Dataset, Inputs, VictimSpec
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd


def loss_surface(
    victim: Victim,
    data: Dataset,
    *,
    norm: str = "linf",
    eps: float | Mapping[str, float] | None = None,
    modality: str = "audio",
    config: PGD | None = None,
    points: int = 21,
    extent: float = 2.0,
    clips: int = 16,
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Margin and loss at `clean + x * attack + y * random` on a square grid, for the first clips that are right.

    `attack` is the perturbation that PGD finds, so that (1, 0) is the adversarial example; `random` has the attack's
    own values in other places and with other signs, made orthogonal to it (L2) and brought to its norm. Every
    modality attacked has its own pair. Inputs beyond the data range are clamped to it, and `clamped` tells how much.

    Args:
        victim: From `load_victim` or `Victim.wrap`.
        data: From `load_data`.
        norm: `linf`, `l2` or `l1`.
        eps: Radius in input units, or modality -> radius; a usual one when None.
        modality: Which input is attacked, as in `robust.attack`.
        config: Settings of PGD. When None it goes on after a clip is broken: the direction is then the steepest found,
            not the first that was enough.
        points: Of the grid along each axis; odd, so that the clean clip is one of them.
        extent: The grid goes from -extent to extent, in perturbations.
        clips: How many clips, each with a surface of its own.
        batch_size: Inputs at once; fitted to their length when None. Changes no result.
        seed: From which all randomness is derived.

    Returns:
        One row per clip and point: `clip` (id), `label_name`, `x`, `y`, `margin` (logits; above 0 is right), `loss`
        (nats: cross-entropy, or the sum of binary ones for many labels a clip), `clamped` (share of values, 0 to 1).

    Raises:
        ThreatModelError: For a grid or budget that cannot be.
        DataError: If no clip is right before the attack.
    """
    _check_grid(points, extent, clips)
    victim, data = posed(victim, data, modality)
    threat = threat_model(victim, modality, norm, eps)
    condition = Attack(threat.balls, config or PGD(stop_when_broken=False), name="surface", packing=threat.packing)
    victim, aligned = aligned_to(victim, data, threat.packing)
    size = fitting_batch(victim, aligned) if batch_size is None else checked_batch(batch_size)
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    axis = np.linspace(-extent, extent, points).round(12)
    places = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2))
    found: list[pd.DataFrame] = []
    with frozen(victim):
        subjects = _right_ones(victim, aligned, clips, size, device)
        starts = range(0, len(subjects), size)
        for start in track(starts, f"{norm} surfaces on {data.name}"):
            rows = torch.arange(start, min(start + size, len(subjects)))
            batch = _rows_of(subjects, rows).to(device)
            attacked = condition.run(victim, batch, torch.arange(len(rows), device=device), seed).inputs
            generators = generators_for(seed, batch.ids, "surface-plane")
            for row, generator in enumerate(generators):
                one = _rows_of(batch, torch.tensor([row], device=device))
                plane = {
                    name: _plane(one, attacked[name][row], name, ball, generator)
                    for name, ball in condition.threat.items()
                }
                found.append(_surface(victim, one, plane, condition.threat, places, size))
    import pandas as pd

    return pd.concat(found, ignore_index=True)


def _check_grid(points: int, extent: float, clips: int) -> None:
    if points < 3 or points % 2 == 0:
        raise ThreatModelError(f"A surface needs an odd number of points along each axis, 3 or more; given {points}.")
    if not 0 < extent < float("inf"):
        raise ThreatModelError(f"The extent of a surface must be above 0 and finite; given {extent}.")
    if clips < 1:
        raise ThreatModelError(f"A surface needs at least one clip; given {clips}.")


def _right_ones(victim: Victim, data: AlignedData, wanted: int, size: int, device: torch.device) -> Batch:
    """The first `wanted` clips that the victim has right."""
    kept: list[Batch] = []
    groups = [range(first, min(first + size, len(data))) for first in range(0, len(data), size)]
    with closing(data.batches(groups)) as batches:
        for _, batch in batches:
            moved = batch.to(device)
            oracle = Oracle(victim, len(batch), device)
            logits = oracle.logits(moved.inputs, torch.arange(len(batch), device=device))
            right = (~Goal(moved.labels).broken(logits)).cpu()
            kept.append(_rows_of(batch, right.nonzero()[:, 0]))
            if sum(len(part) for part in kept) >= wanted:
                break
    if not any(len(part) for part in kept):
        raise DataError(f"{data.spec.name!r} has none of these clips of {data.data.name!r} right; there is no surface.")
    inputs, valid = (
        {name: torch.cat([part[name] for part in parts])[:wanted] for name in parts[0]}
        for parts in ([part.inputs for part in kept], [part.valid for part in kept])
    )
    ids = tuple(clip for part in kept for clip in part.ids)[:wanted]
    return Batch(ids, inputs, torch.cat([part.labels for part in kept])[:wanted], valid)


def _rows_of(batch: Batch, rows: Tensor) -> Batch:
    inputs, valid = ({name: value[rows] for name, value in part.items()} for part in (batch.inputs, batch.valid))
    return Batch(tuple(batch.ids[row] for row in rows.tolist()), inputs, batch.labels[rows], valid)


def _plane(
    one: Batch, attacked: Tensor, name: str, ball: Ball, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) float64 each: the clean input of one clip, the attack's perturbation, and the random direction."""
    clean = one.inputs[name][0].double().flatten()
    attack = attacked.double().flatten() - clean
    places = one.valid[name].expand_as(one.inputs[name])[0].flatten().nonzero()[:, 0]
    order = torch.randperm(len(places), generator=generator).to(places.device)
    signs = (2 * torch.randint(2, (len(places),), generator=generator) - 1).to(attack)
    random = torch.zeros_like(attack).index_copy(0, places, attack[places[order]] * signs)
    return clean, attack, _orthogonal(random, attack, ORDERS[ball.norm])


def _orthogonal(random: Tensor, attack: Tensor, order: float) -> Tensor:
    """What of `random` is orthogonal to `attack`, at the norm of `attack`; 0 where nothing is (a single value)."""
    along = random @ attack / (attack @ attack).clamp_min(1e-300)
    left = random - along * attack
    wanted, given = (lengths(part[None], order)[0] for part in (attack, left))
    worthless = given <= 1e-9 * wanted
    return torch.where(worthless, torch.zeros_like(left), left * (wanted / given.clamp_min(1e-300)))


def _surface(
    victim: Victim,
    one: Batch,
    plane: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    threat: Mapping[str, Ball],
    places: Tensor,
    size: int,
) -> pd.DataFrame:
    """The rows of one clip."""
    import pandas as pd

    device = one.labels.device
    loss = find_loss("bce" if one.labels.ndim == 2 else "ce")
    columns: dict[str, list[Any]] = {"margin": [], "loss": [], "clamped": []}
    for chunk in (places[start : start + size].to(device) for start in range(0, len(places), size)):
        inputs, clamped = _inputs_at(one, plane, threat, chunk)
        goal = Goal(one.labels.expand(len(chunk), *one.labels.shape[1:]))
        oracle = Oracle(victim, len(chunk), device)
        logits = oracle.logits(inputs, torch.arange(len(chunk), device=device))
        columns["margin"] += (-margin(logits, goal)).tolist()
        columns["loss"] += loss(logits, goal).tolist()
        columns["clamped"] += clamped.tolist()
    x, y = places.T.tolist()
    spec: VictimSpec = victim.spec
    return pd.DataFrame({"clip": one.ids[0], "label_name": label_name(one.labels[0], spec), "x": x, "y": y, **columns})


def _inputs_at(
    one: Batch, plane: Mapping[str, tuple[Tensor, Tensor, Tensor]], threat: Mapping[str, Ball], chunk: Tensor
) -> tuple[Inputs, Tensor]:
    """The clip at some points (P, 2) of its plane, and the share of the attacked values clamped at each (P,)."""
    inputs = {name: value.expand(len(chunk), *value.shape[1:]) for name, value in one.inputs.items()}
    beyond = torch.zeros(len(chunk), dtype=torch.float64, device=chunk.device)
    total = 0
    for name, (clean, attack, random) in plane.items():
        low, high = (
            torch.as_tensor(end, dtype=torch.float64, device=chunk.device)
            .expand(one.inputs[name].shape[1:])
            .reshape(1, -1)
            for end in (threat[name].low, threat[name].high)
        )
        # In double precision, so that the adversarial example comes back to the bit.
        wished = clean + chunk[:, :1] * attack + chunk[:, 1:] * random
        beyond += ((wished < low) | (wished > high)).sum(dim=1)
        total += wished.shape[1]
        inputs[name] = torch.clamp(wished, low, high).to(one.inputs[name].dtype).view_as(inputs[name])
    return inputs, beyond / total


def label_name(label: Tensor, spec: VictimSpec) -> str:
    """The name of a label of a clip, or those of all its labels."""
    indices = [int(label)] if label.ndim == 0 else (label > 0).nonzero()[:, 0].tolist()
    return ", ".join(spec.labels[index] for index in indices)
