"""A whole robustness curve in one search: `robust.curve(victim, data, eps=robust.geomspace(1e-5, 1e-2, 20))`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.gradients import frozen
from attacks.minimal import minimal_scale
from attacks.pgd import PGD
from robust.api import aligned_to, fitting_batch
from robust.errors import DataError
from robust.evaluation.conditions import Attack
from robust.evaluation.progress import track
from robust.evaluation.seeds import generators_for
from robust.metrics.classification import wilson
from robust.threats import posed, threat_model
from robust.types import Dataset
from robust.victims.base import Victim


@dataclass(frozen=True)
class Curve:
    """Robust accuracy against radius.

    Attributes:
        radii: (G,) ascending radii, in input units.
        scores: (G,) share of clips that no perturbation found breaks.
        low, high: (G,) ends of Wilson's 95 % intervals.
        clean: Score at radius 0.
        smallest: (N,) smallest breaking radius found for each clip, at the resolution of `radii`; 0 where the clip is
            wrong at first, infinite where none was found.
        backwards_per_clip: Mean number of gradients spent on a clip.
        norm: Of the radii.
        victim: Name of the victim.
    """

    radii: NDArray[np.float64]
    scores: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    clean: float
    smallest: NDArray[np.float64]
    backwards_per_clip: float
    norm: str
    victim: str

    @property
    def auc(self) -> float:
        """Mean robust score over log radius, between the first and the last radius; 0 to 1."""
        if len(self.radii) == 1:
            return float(self.scores[0])
        place = np.log(self.radii)
        return float(np.trapezoid(self.scores, place) / (place[-1] - place[0]))

    @property
    def radius_half(self) -> float:
        """Median of the smallest breaking radii: half of all clips break within it."""
        return float(np.median(self.smallest))

    def plot(self, path: str | Path) -> None:
        """Draws the curve with its band into `path` (`.pdf`, `.png` or `.svg`)."""
        from robust.plots.curve import draw_curve, save_figure

        figure = draw_curve(
            self.radii, self.scores, self.low, self.high, clean=self.clean, norm=self.norm, label=self.victim
        )
        save_figure(figure, Path(path))


def geomspace(low: float, high: float, count: int) -> NDArray[np.float64]:
    """`count` radii from `low` to `high`, evenly spaced in their logarithm."""
    return np.geomspace(low, high, count)


def curve(
    victim: Victim,
    data: Dataset,
    *,
    norm: str = "linf",
    eps: Sequence[float] | NDArray[np.float64],
    modality: str = "audio",
    config: PGD | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Curve:
    """Finds between which of the radii each clip breaks, bisecting over all of them at once.

    Args:
        victim: A multiclass victim.
        data: From `load_data`.
        norm: `linf`, `l2` or `l1`.
        eps: Ascending radii in input units.
        modality: Which input is attacked, as in `robust.attack`; with `both` each has the same radius.
        config: Settings of each run.
        batch_size: Clips at once; fitted to their length when None.
        seed: From which all randomness is derived.
    """
    if victim.spec.task != "multiclass":
        raise DataError("A curve by bisection needs one label a clip; attack a multilabel victim radius by radius.")
    radii = torch.from_numpy(np.array(eps, dtype=np.float64))
    victim, data = posed(victim, data, modality)
    threat = threat_model(victim, modality, norm, 1.0)
    condition = Attack(threat.balls, config or PGD(), name="curve", packing=threat.packing)
    victim, aligned = aligned_to(victim, data, threat.packing)
    widest = threat_model(victim, modality, norm, float(radii.max())).balls
    first_clip = aligned.batch([0])
    for name, ball in widest.items():
        ball.around(first_clip.inputs[name])
    size = batch_size or fitting_batch(victim, aligned)
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    smallest, spent = [], 0
    with frozen(victim):
        for first in track(range(0, len(aligned), size), f"{norm} curve"):
            batch = aligned.batch(range(first, min(first + size, len(aligned)))).to(device)
            found = minimal_scale(
                victim,
                batch.inputs,
                condition.goal(batch.labels),
                condition.threat,
                config=condition.config,
                grid=radii,
                valid=batch.valid,
                generators=generators_for(seed, batch.ids, condition.name),
            )
            smallest.append(found.scale.cpu())
            spent += int(found.backwards.sum())
    radius = torch.cat(smallest)
    standing = (radius[None] > radii[:, None] * (1 + 1e-9)).sum(dim=1).tolist()
    ends = np.array([wilson(count, len(radius)) for count in standing])
    return Curve(
        radii=radii.numpy(),
        scores=np.array(standing) / len(radius),
        low=ends[:, 0],
        high=ends[:, 1],
        clean=float((radius > 0).double().mean()),
        smallest=radius.numpy(),
        backwards_per_clip=spent / len(radius),
        norm=norm,
        victim=victim.spec.name,
    )
