"""Camera stickers as conditions of the engine, what they achieved, and their blend fitted to photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.sticker import STILL, Stickers, Views, opacity, printable, random_stickers, seen, stuck
from robust.errors import DataError
from robust.evaluation.condition_summary import comparison_dict, score_dict
from robust.evaluation.paired import compare_accuracy
from robust.metrics.classification import Score, accuracy
from robust.seeds import generators_for
from robust.types import Batch, Outcome

if TYPE_CHECKING:
    import pandas as pd

BLENDS = tuple((alpha, beta) for alpha in (0.1, 0.3, 0.5, 0.7, 0.9) for beta in (0.5, 1.0, 2.0, 4.0))
"""Where the fit of the blend begins: at the best of these."""


@dataclass(frozen=True)
class Wearing:
    """Every clip is recorded through a lens with stickers, or through a bare one.

    Attributes:
        stickers: None for a bare lens.
        views: How sheet and camera vary; each clip's view depends on its id and the seed alone, so that all
            conditions show a clip in the same view.
        shuffled: Instead of these stickers, as many at random places in random colours of the palette, a sheet for
            each clip: the control.
        palette: Name -> RGB.
        name: Of the condition.
        low, high: Range of the video.
    """

    stickers: Stickers | None
    views: Views = STILL
    shuffled: bool = False
    palette: Mapping[str, tuple[float, float, float]] = field(default_factory=printable)
    name: str = "stickers"
    low: float = 0.0
    high: float = 1.0

    def describe(self) -> dict[str, Any]:
        """Every dot and how it may be seen."""
        told: dict[str, Any] = {"condition": self.name, "views": asdict(self.views), "shuffled": self.shuffled}
        if self.stickers is not None:
            told["stickers"] = stickers_dict(self.stickers)
        if self.shuffled:
            told["palette"] = dict(self.palette)
        return told

    def apply(self, victim: object, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The clips as recorded; columns are what was drawn, and `covered`, the mean opacity of the lens."""
        video = batch.inputs["video"]
        view = self.views.draw(generators_for(seed, batch.ids, "view"), video.device)
        covered = torch.zeros(len(video), device=video.device)
        if self.stickers is None:
            changed = seen(video, view, low=self.low, high=self.high)
        else:
            sheet = self._sheet(batch, seed).on(video.device)
            changed = stuck(video, sheet, view, low=self.low, high=self.high)
            alpha = opacity(sheet, view.shift, *video.shape[-2:])
            covered = 1 - (1 - alpha).prod(dim=1).mean(dim=(1, 2))
        columns = {
            "shift_down": view.shift[:, 0],
            "shift_right": view.shift[:, 1],
            "blur": view.blur,
            "gain": view.gain,
            "covered": covered.double(),
        }
        told = {name: value.cpu().tolist() for name, value in columns.items()}
        return Outcome({**batch.inputs, "video": changed}, told)

    def _sheet(self, batch: Batch, seed: int) -> Stickers:
        assert self.stickers is not None
        if not self.shuffled:
            return self.stickers
        palette = torch.tensor(list(self.palette.values()))
        return random_stickers(self.stickers, palette, generators_for(seed, batch.ids, "random-stickers"))


def stickers_dict(stickers: Stickers) -> dict[str, Any]:
    """A sheet as JSON; `stickers_from` reads it."""
    return {
        "centres": stickers.centres.cpu().tolist(),
        "colours": stickers.colours.cpu().tolist(),
        "radius": stickers.radius,
        "alpha_max": stickers.alpha_max,
        "beta": stickers.beta,
    }


def stickers_from(told: Mapping[str, Any]) -> Stickers:
    """A sheet from its JSON.

    Raises:
        DataError: If an entry is missing.
    """
    missing = [name for name in Stickers.__dataclass_fields__ if name not in told]
    if missing:
        raise DataError(f"This is no sheet of stickers: {', '.join(missing)} missing.")
    places, inks = (torch.tensor(told[name], dtype=torch.float32) for name in ("centres", "colours"))
    return Stickers(
        places.reshape(-1, 2), inks.reshape(-1, 3), *(float(told[name]) for name in ("radius", "alpha_max", "beta"))
    )


def sticker_rates(
    worn: pd.DataFrame, shuffled: pd.DataFrame, bare: NDArray[np.bool_], target: int | None
) -> dict[str, Any]:
    """What stickers achieved on clips that the victim has right through a bare lens in the same view, as JSON.

    Args:
        worn: Records under the stickers.
        shuffled: Records of the same clips under the control.
        bare: (N,) whether each clip is right through the bare lens.
        target: Index of the class wanted, if any.

    Returns:
        `clean` (accuracy through the bare lens, over all clips); `untargeted` and, with a target, `targeted`: each
        with `rate`, `random` (that of the control), both with 95 % intervals, and `difference` (paired).
    """
    told: dict[str, Any] = {"clean": score_dict(accuracy(bare))}
    for name in ("untargeted",) if target is None else ("targeted", "untargeted"):
        ours, control = (_hits(records, name, target)[bare] for records in (worn, shuffled))
        gap = replace(compare_accuracy(ours[:, None], control[:, None]), metric=f"{name} success")
        told[name] = {
            "rate": score_dict(_rate(ours, name)),
            "random": score_dict(_rate(control, name)),
            "difference": comparison_dict(gap),
        }
    return told


def fit_blend(photographs: Tensor, plain: Tensor, dots: Stickers) -> tuple[float, float]:
    """(alpha_max, beta) with which `dots` look most like photographs of real ones, by structural similarity (SSIM).

    Args:
        photographs: (N, 3, H, W) in [0, 1], at least 11 x 11: taken through the stickers.
        plain: (N, 3, H, W) of the same scenes without them.
        dots: Where the stickers sit, their radius and printed colours; its own alpha_max and beta do not matter.

    Raises:
        DataError: If the pictures are not pairs of this form.
    """
    from scipy.optimize import minimize
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    if photographs.ndim != 4 or photographs.shape != plain.shape or photographs.shape[1] != 3:
        raise DataError(
            "The blend is fitted to pairs of colour photographs (N, 3, H, W) with and without stickers; given "
            f"{tuple(photographs.shape)} and {tuple(plain.shape)}."
        )
    if min(photographs.shape[2:]) < 11 or len(photographs) == 0:
        raise DataError("The blend needs at least one photograph of at least 11 x 11 pixels.")

    def unlike(blend: NDArray[np.float64]) -> float:
        alpha, beta = float(np.clip(blend[0], 0.01, 1.0)), float(np.exp(np.clip(blend[1], -3.0, 3.0)))
        rendered = stuck(plain[:, None], replace(dots, alpha_max=alpha, beta=beta))[:, 0]
        return -float(torch.as_tensor(ssim(rendered, photographs, data_range=1.0)))

    starts = [np.array([alpha, np.log(beta)]) for alpha, beta in BLENDS]
    best = min(starts, key=unlike)
    found = minimize(unlike, best, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6, "maxiter": 200}).x
    return float(np.clip(found[0], 0.01, 1.0)), float(np.exp(np.clip(found[1], -3.0, 3.0)))


def _hits(records: pd.DataFrame, name: str, target: int | None) -> NDArray[np.bool_]:
    """(N,) whether each clip became the target, or anything wrong."""
    found: NDArray[np.bool_] = records["prediction"].to_numpy() == target
    return found if name == "targeted" else ~records["correct"].to_numpy(dtype=bool)


def _rate(hits: NDArray[np.bool_], name: str) -> Score:
    return replace(accuracy(hits), metric=f"{name} success")
